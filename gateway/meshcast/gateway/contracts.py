"""Contract: methods of the routed services and their kinds, learnt from the stubs at hand or a backend's reflection."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError

from meshcast.api.reflection.v1 import reflection_pb2
from meshcast.rpc import Descriptions, FirstStatus, send

_RECEIPT = "meshcast.api.type.v1.Receipt"
_RECEIPT_FIELD = 15
_REFLECTION_METHODS = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
_FILES_MAX = 256  # a service with its imports has about ten files; a peer that never ends must not fill the memory


class MethodKind(enum.Enum):
    """Which sides of a call send a stream."""

    UNARY = "unary"
    CLIENT_STREAM = "client_stream"
    SERVER_STREAM = "server_stream"
    BIDI_STREAM = "bidi_stream"


@dataclass(frozen=True, slots=True)
class MethodContract:
    """What the gateway must know to relay a method.

    Attributes:
        path: as in `/meshcast.api.predictor.v1.PredictorService/PredictEngagement`.
        kind: which sides stream.
        has_receipt: whether field 15 of the response is a receipt, so that the gateway may append its part.
    """

    path: str
    kind: MethodKind
    has_receipt: bool


class Contracts:
    """Methods of the routed services, and the descriptor files that backends gave.

    Attributes:
        revision: goes up whenever something new was learnt.
        descriptions: takes the backends' files, for the gateway's own reflection.
    """

    def __init__(self) -> None:
        self.revision = 0
        self.descriptions = Descriptions()
        self._services: dict[str, Mapping[str, MethodContract]] = {}

    def methods(self, service: str) -> Mapping[str, MethodContract] | None:
        """Methods of a service by path; None while nothing is known about the service."""
        known = self._services.get(service)
        if known is None:
            try:
                descriptor = descriptor_pool.Default().FindServiceByName(service)
            except KeyError:
                return None
            known = self._services[service] = _methods_of(descriptor)
        return known

    def learn(self, service: str, files: Iterable[FileDescriptorProto]) -> None:
        """Takes a service's methods from the files that a backend's reflection gave.

        Raises:
            ValueError: the files are incomplete or contradict each other.
        """
        ordered = _in_import_order(files)
        pool = descriptor_pool.DescriptorPool()
        try:
            for file in ordered:
                pool.Add(file)
            descriptor = pool.FindServiceByName(service)
        except (KeyError, TypeError) as error:
            raise ValueError(f"reflection of {service} cannot be used: {error}") from error
        # Replicas of two releases may serve together: what either of them has is routed.
        merged = {**(self.methods(service) or {}), **_methods_of(descriptor)}
        self.descriptions.add(ordered)
        if merged != self._services.get(service):
            self._services[service] = merged
            self.revision += 1


async def read_files(channel: grpc.aio.Channel, service: str, *, timeout_s: float) -> list[FileDescriptorProto]:
    """Reads the descriptor files of a service and their imports from a backend's reflection, v1 or else v1alpha.

    Raises:
        grpc.aio.AioRpcError: the backend cannot be reached or has no reflection.
        LookupError: its reflection does not know the service.
        ValueError: what it gave cannot be read.
    """
    failure: grpc.aio.AioRpcError | None = None
    for path in _REFLECTION_METHODS:
        try:
            return await _read_files(channel, path, service, timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            failure = error
    assert failure is not None
    raise failure


async def _read_files(
    channel: grpc.aio.Channel, path: str, service: str, timeout_s: float
) -> list[FileDescriptorProto]:
    info = channel.stream_stream(
        path,
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    call: Any = info(timeout=timeout_s)
    status = FirstStatus(call)
    files: dict[str, FileDescriptorProto] = {}
    try:
        wanted = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)]
        asked: set[str] = set()
        while wanted and len(files) < _FILES_MAX:
            question = wanted.pop()
            await send(call, question, question.SerializeToString())  # when the call has ended, reading says why
            response = await call.read()
            # None is grpc's word for bytes that are no message of the type.
            if response is None or response is grpc.aio.EOF or not response.HasField("file_descriptor_response"):
                raise LookupError(f"reflection does not know {service}")
            for encoded in response.file_descriptor_response.file_descriptor_proto:
                file = FileDescriptorProto.FromString(encoded)
                files[file.name] = file
            for name in {name for file in files.values() for name in file.dependency} - files.keys() - asked:
                asked.add(name)
                wanted.append(reflection_pb2.ServerReflectionRequest(file_by_filename=name))
        await call.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
        restored = status.restored(error)
        if restored is None:
            raise
        raise restored from error
    except DecodeError as error:
        raise ValueError(f"reflection of {service} gave a file that cannot be read") from error
    finally:
        call.cancel()
    return list(files.values())


def _methods_of(service: ServiceDescriptor) -> dict[str, MethodContract]:
    contracts = (_contract_of(service, method) for method in service.methods)
    return {contract.path: contract for contract in contracts}


def _contract_of(service: ServiceDescriptor, method: MethodDescriptor) -> MethodContract:
    kind = {
        (False, False): MethodKind.UNARY,
        (True, False): MethodKind.CLIENT_STREAM,
        (False, True): MethodKind.SERVER_STREAM,
        (True, True): MethodKind.BIDI_STREAM,
    }[method.client_streaming, method.server_streaming]
    receipt = method.output_type.fields_by_number.get(_RECEIPT_FIELD)
    return MethodContract(
        path=f"/{service.full_name}/{method.name}",
        kind=kind,
        has_receipt=receipt is not None
        and receipt.message_type is not None
        and receipt.message_type.full_name == _RECEIPT,
    )


def _in_import_order(files: Iterable[FileDescriptorProto]) -> list[FileDescriptorProto]:
    by_name = {file.name: file for file in files}
    ordered: dict[str, FileDescriptorProto] = {}
    entered: set[str] = set()

    def visit(name: str) -> None:
        if name in entered or name not in by_name:
            return  # an import that was not sent fails when the pool is built, with the pool's own words
        entered.add(name)
        for imported in by_name[name].dependency:
            visit(imported)
        ordered[name] = by_name[name]

    for name in by_name:
        visit(name)
    return list(ordered.values())
