"""What a server says about itself: descriptors by reflection (grpc.reflection.v1), and calls built from them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from typing import Any

import grpc
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from meshcast.api.reflection.v1 import reflection_pb2 as pb
from meshcast.api.reflection.v1 import reflection_pb2_grpc as pb_grpc
from meshcast.cli.problem import ExitCode, Problem
from meshcast.rpc import Unimplemented, mesh_errors, send, sending

__all__ = ["Reflected"]

Symbol = ServiceDescriptor | MethodDescriptor | Descriptor | EnumDescriptor


class Reflected:
    """Services of one server, learned from itself.

    Args:
        channel: to the server; stays the caller's to close.
        timeout_s: longest wait for one answer about descriptors.
    """

    def __init__(self, channel: grpc.aio.Channel, *, timeout_s: float) -> None:
        self._channel = channel
        self._timeout_s = timeout_s
        self._stub = pb_grpc.ServerReflectionStub(channel)
        self._files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
        self._pool = DescriptorPool()
        self._pooled: set[str] = set()

    @property
    def pool(self) -> DescriptorPool:
        """Every descriptor that was learned so far."""
        return self._pool

    async def services(self) -> list[str]:
        """Full names of the server's services, ascending.

        Raises:
            Problem: the server does not reflect.
            MeshError: it cannot be reached.
        """
        answer = await self._ask(pb.ServerReflectionRequest(list_services="*"))
        return sorted(service.name for service in answer.list_services_response.service)

    async def service(self, name: str) -> ServiceDescriptor:
        """The service of this name: the full one, or its last part where only one service ends so.

        Raises:
            Problem: there is none, or several.
        """
        names = await self.services()
        matching = [name] if name in names else [one for one in names if one.endswith(f".{name}")]
        if len(matching) != 1:
            what = "no service" if not matching else "several services"
            raise Problem(
                f"{what} {name!r} on this server",
                details=matching or names,
                way_out="`meshcast call list`; give the full name",
            )
        await self._learn(pb.ServerReflectionRequest(file_containing_symbol=matching[0]))
        return self._pool.FindServiceByName(matching[0])

    async def method(self, path: str) -> MethodDescriptor:
        """The method behind `Service/Method` (a leading slash, or a dot instead of the slash, is fine).

        Raises:
            Problem: there is none.
        """
        service_name, _, name = path.strip("/").replace("/", ".").rpartition(".")
        if not service_name:
            raise Problem(f"{path!r} is not SERVICE/METHOD", way_out="`meshcast call list` shows the services")
        service = await self.service(service_name)
        if name not in service.methods_by_name:
            raise Problem(f"{service.full_name} has no method {name!r}", details=[m.name for m in service.methods])
        return service.methods_by_name[name]

    async def symbol(self, name: str) -> Symbol:
        """The service, method, message or enum of this name.

        Raises:
            Problem: the server knows none.
        """
        dotted = name.strip("/").replace("/", ".")
        try:
            await self._learn(pb.ServerReflectionRequest(file_containing_symbol=dotted))
        except Problem:
            if "." in dotted and not dotted.rpartition(".")[0].islower():
                return await self.method(dotted)
            return await self.service(dotted)
        for find in (
            self._pool.FindServiceByName,
            self._pool.FindMethodByName,
            self._pool.FindMessageTypeByName,
            self._pool.FindEnumTypeByName,
        ):
            try:
                found: Symbol = find(dotted)
            except KeyError:
                continue
            return found
        raise Problem(f"{name!r} is neither a service, a method, a message nor an enum")

    async def call(
        self,
        method: MethodDescriptor,
        requests: Sequence[Message],
        *,
        metadata: Sequence[tuple[str, str]] = (),
        timeout_s: float,
    ) -> AsyncIterator[Message]:
        """Calls a method of any kind and yields its answers as they come.

        Args:
            method: as `method` gave it.
            requests: exactly one unless the method takes a stream.
            metadata: to be sent.
            timeout_s: deadline of the call.

        Raises:
            MeshError: the call failed.
        """
        path = f"/{method.containing_service.full_name}/{method.name}"
        answer_type = GetMessageClass(method.output_type)
        kinds: dict[tuple[bool, bool], Any] = {  # four call kinds share no type in grpc's stubs
            (False, False): self._channel.unary_unary,
            (False, True): self._channel.unary_stream,
            (True, False): self._channel.stream_unary,
            (True, True): self._channel.stream_stream,
        }
        opened = kinds[method.client_streaming, method.server_streaming](
            path, request_serializer=_to_bytes, response_deserializer=answer_type.FromString
        )
        options = {"timeout": timeout_s, "metadata": tuple(metadata)}
        call = opened(**options) if method.client_streaming else opened(requests[0], **options)
        writes = sending(call, _each(requests)) if method.client_streaming else nullcontext()
        try:
            with mesh_errors(call):
                async with writes:
                    if method.server_streaming:
                        async for answer in call:
                            yield answer
                    else:
                        yield await call
        finally:
            call.cancel()  # an abandoned call is never collected

    async def _learn(self, request: pb.ServerReflectionRequest) -> None:
        """Puts the file that answers the request into the pool, after everything that it imports."""
        answer = await self._ask(request)
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(raw)
            for raw in answer.file_descriptor_response.file_descriptor_proto
        ]
        self._files |= {file.name: file for file in files}
        for file in files:
            await self._add(file)

    async def _add(self, file: descriptor_pb2.FileDescriptorProto) -> None:
        if file.name in self._pooled:
            return
        self._pooled.add(file.name)
        for needed in file.dependency:
            if needed not in self._files:
                # A server may answer with the one file alone.
                await self._learn(pb.ServerReflectionRequest(file_by_filename=needed))
            await self._add(self._files[needed])
        self._pool.Add(file)

    async def _ask(self, request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        try:
            call = self._stub.ServerReflectionInfo(timeout=self._timeout_s)
            with mesh_errors(call):
                try:
                    await send(call, request, request.SerializeToString())  # when it has ended, reading says why
                    answer = await call.read()
                finally:
                    call.cancel()
        except Unimplemented as error:
            raise Problem(
                "this server does not describe itself",
                exit_code=ExitCode.REFUSED,
                way_out="set rpc.reflection = true in its settings",
            ) from error
        if not isinstance(answer, pb.ServerReflectionResponse):
            raise Problem("this server ended its description of itself without an answer", exit_code=ExitCode.REFUSED)
        if answer.HasField("error_response"):
            asked = request.file_containing_symbol or request.file_by_filename
            raise Problem(f"the server knows no {asked!r}: {answer.error_response.error_message}")
        return answer


async def _each(messages: Sequence[Message]) -> AsyncIterator[Message]:
    for message in messages:
        yield message


def _to_bytes(message: Message) -> bytes:
    return message.SerializeToString()
