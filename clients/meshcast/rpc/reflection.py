"""Reflection: describes a server's services to tools such as `buf curl`, under grpc.reflection v1 and v1alpha alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor

from meshcast.api.reflection.v1 import reflection_pb2 as pb

SERVICE_NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""Names under which reflection answers; v1alpha differs from v1 in its package name only, not on the wire."""


class Descriptions:
    """Files that describe services: those that this process has imported, and foreign ones that are added.

    A gateway adds its backends' files, so that its reflection shows contracts that it never imported. A foreign file
    stands in only where this process has none of that name.

    Args:
        pool: descriptors of this process; None for the default pool.
    """

    def __init__(self, pool: descriptor_pool.DescriptorPool | None = None) -> None:
        self._pool = pool or descriptor_pool.Default()
        self._foreign: dict[str, bytes] = {}
        self._imports: dict[str, tuple[str, ...]] = {}
        self._symbols: dict[str, str] = {}

    def add(self, files: Iterable[descriptor_pb2.FileDescriptorProto | bytes]) -> None:
        """Adds foreign files, as FileDescriptorProtos or encoded ones; a file of the same name is replaced."""
        for given in files:
            encoded = given if isinstance(given, bytes) else given.SerializeToString()
            file = descriptor_pb2.FileDescriptorProto.FromString(encoded)
            self._foreign[file.name] = encoded
            self._imports[file.name] = tuple(file.dependency)
            self._symbols |= dict.fromkeys(_symbols(file), file.name)

    def file(self, name: str) -> bytes | None:
        """The encoded FileDescriptorProto of this name; None when it is not known."""
        try:
            return self._pool.FindFileByName(name).serialized_pb
        except KeyError:
            return self._foreign.get(name)

    def file_of_symbol(self, symbol: str) -> str | None:
        """Name of the file that declares a service, method, message, field, enum or value; None if there is none."""
        try:
            return self._pool.FindFileContainingSymbol(symbol).name
        except KeyError:
            pass
        service_name, _, method = symbol.rpartition(".")
        try:  # the pool does not look methods up
            service = self._pool.FindServiceByName(service_name)
        except KeyError:
            return self._symbols.get(symbol)
        return service.file.name if method in service.methods_by_name else None

    def file_of_extension(self, message: str, number: int) -> str | None:
        """Name of the file that declares an extension; None when it is not known."""
        try:
            extension: Any = self._pool.FindExtensionByNumber(self._pool.FindMessageTypeByName(message), number)
        except KeyError:
            return None
        return str(extension.file.name)

    def extension_numbers(self, message: str) -> list[int] | None:
        """Numbers of the known extensions of a message, ascending; None when the message is not known."""
        try:
            found = self._pool.FindAllExtensions(self._pool.FindMessageTypeByName(message))
        except KeyError:
            return [] if message in self._symbols else None
        return sorted(extension.number for extension in found)

    def imports(self, name: str) -> tuple[str, ...]:
        """Names of the files that a file imports."""
        try:
            file: FileDescriptor = self._pool.FindFileByName(name)
        except KeyError:
            return self._imports.get(name, ())
        return tuple(dependency.name for dependency in file.dependencies)


class ReflectionServicer:
    """Answers questions about services; one servicer for both versions of the protocol.

    Args:
        service_names: full names that `list_services` shows; a callable when they change.
        descriptions: files to answer from.
    """

    def __init__(self, service_names: Callable[[], Iterable[str]], descriptions: Descriptions) -> None:
        self._service_names = service_names
        self._descriptions = descriptions

    async def ServerReflectionInfo(
        self,
        requests: AsyncIterator[pb.ServerReflectionRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[pb.ServerReflectionResponse]:
        """Answers in the order asked; a file is sent once a stream."""
        sent: set[str] = set()
        async for request in requests:
            answer = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
            self._answer(request, answer, sent)
            yield answer

    def _answer(self, request: pb.ServerReflectionRequest, answer: pb.ServerReflectionResponse, sent: set[str]) -> None:
        files = self._descriptions
        match request.WhichOneof("message_request"):
            case "file_by_filename":
                name = request.file_by_filename
                self._send_files(name if files.file(name) is not None else None, name, answer, sent)
            case "file_containing_symbol":
                symbol = request.file_containing_symbol
                self._send_files(files.file_of_symbol(symbol), symbol, answer, sent)
            case "file_containing_extension":
                wanted = request.file_containing_extension
                name_of_file = files.file_of_extension(wanted.containing_type, wanted.extension_number)
                what = f"extension {wanted.extension_number} of {wanted.containing_type}"
                self._send_files(name_of_file, what, answer, sent)
            case "all_extension_numbers_of_type":
                message = request.all_extension_numbers_of_type
                numbers = files.extension_numbers(message)
                if numbers is None:
                    _not_found(answer, message)
                    return
                answer.all_extension_numbers_response.base_type_name = message
                answer.all_extension_numbers_response.extension_number.extend(numbers)
            case "list_services":
                names = sorted({*self._service_names()})
                answer.list_services_response.service.extend(pb.ServiceResponse(name=name) for name in names)
            case _:
                answer.error_response.error_code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
                answer.error_response.error_message = "the question is empty"

    def _send_files(self, name: str | None, what: str, answer: pb.ServerReflectionResponse, sent: set[str]) -> None:
        if name is None:
            _not_found(answer, what)
            return
        out = answer.file_descriptor_response.file_descriptor_proto
        for reached in _closure(name, self._descriptions):
            encoded = self._descriptions.file(reached)
            # The file asked for goes out each time: a tool that asks again has a reason.
            if encoded is not None and (reached == name or reached not in sent):
                sent.add(reached)
                out.append(encoded)


def add_reflection(
    server: grpc.aio.Server, service_names: Callable[[], Iterable[str]], descriptions: Descriptions | None = None
) -> None:
    """Registers reflection under v1 and v1alpha on the server.

    Args:
        server: not started yet.
        service_names: full names to list.
        descriptions: files to answer from; None for those that this process has imported.
    """
    servicer = ReflectionServicer(service_names, descriptions or Descriptions())
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=pb.ServerReflectionRequest.FromString,
        response_serializer=pb.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}) for name in SERVICE_NAMES]
    )


def _closure(name: str, descriptions: Descriptions) -> Iterator[str]:
    """The file and everything that it imports, breadth first, each once."""
    seen, queue = {name}, [name]
    for current in queue:
        yield current
        for imported in descriptions.imports(current):
            if imported not in seen:
                seen.add(imported)
                queue.append(imported)


def _symbols(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    """Full names of everything that a file declares."""
    scope = file.package
    for service in file.service:
        full = _join(scope, service.name)
        yield full
        yield from (f"{full}.{method.name}" for method in service.method)
    for message in file.message_type:
        yield from _message_symbols(scope, message)
    for enum in file.enum_type:
        yield from _enum_symbols(scope, enum)
    yield from (_join(scope, extension.name) for extension in file.extension)


def _message_symbols(scope: str, message: descriptor_pb2.DescriptorProto) -> Iterator[str]:
    full = _join(scope, message.name)
    yield full
    yield from (f"{full}.{field.name}" for field in message.field)
    yield from (f"{full}.{oneof.name}" for oneof in message.oneof_decl)
    for nested in message.nested_type:
        yield from _message_symbols(full, nested)
    for enum in message.enum_type:
        yield from _enum_symbols(full, enum)


def _enum_symbols(scope: str, enum: descriptor_pb2.EnumDescriptorProto) -> Iterator[str]:
    yield _join(scope, enum.name)
    yield from (_join(scope, value.name) for value in enum.value)  # values live in the scope around their enum


def _join(scope: str, name: str) -> str:
    return f"{scope}.{name}" if scope else name


def _not_found(answer: pb.ServerReflectionResponse, what: str) -> None:
    answer.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
    answer.error_response.error_message = f"{what[:500]} is not known here"
