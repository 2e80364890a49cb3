"""Contract: methods of the routed services and their kinds, learnt from the stubs at hand or a backend's reflection."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, MethodOptions
from google.protobuf.message import DecodeError

from meshcast.api.reflection.v1 import reflection_pb2
from meshcast.rpc import Descriptions, FirstStatus, send

_RECEIPT = "meshcast.api.type.v1.Receipt"
_RECEIPT_FIELD = 15
_PRIORITY = "meshcast.api.type.v1.Priority"
_STATUS = "meshcast.api.type.v1.Status"
_OIP = "/inference.GRPCInferenceService/"
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


class Idempotency(enum.Enum):
    """What a second call of the same request does: `idempotency_level` of the contract."""

    UNKNOWN = "unknown"
    NO_SIDE_EFFECTS = "no_side_effects"
    IDEMPOTENT = "idempotent"


# The Open Inference Protocol says nothing of it in its contract. A model that keeps state between requests is none of
# its stateless part; whoever serves one names ModelInfer in the route's `once`.
_FOREIGN = {
    f"{_OIP}ModelInfer": Idempotency.IDEMPOTENT,
    **dict.fromkeys(
        (
            f"{_OIP}{name}"
            for name in (
                *("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig"),
                *("ModelStatistics", "RepositoryIndex"),
            )
        ),
        Idempotency.NO_SIDE_EFFECTS,
    ),
}
# These store what they answered under the call's id, so their contract says IDEMPOTENT; no later answer depends on it.
# What else is IDEMPOTENT changes something, and a call that is not made leaves it as it was.
_PREDICTIONS = frozenset(
    {
        "/meshcast.api.predictor.v1.PredictorService/PredictEngagement",
        "/meshcast.api.forecaster.v1.ForecasterService/ForecastGrowth",
        f"{_OIP}ModelInfer",
    }
)
_LEVELS = {
    MethodOptions.NO_SIDE_EFFECTS: Idempotency.NO_SIDE_EFFECTS,
    MethodOptions.IDEMPOTENT: Idempotency.IDEMPOTENT,
}


@dataclass(frozen=True, slots=True)
class MethodContract:
    """What the gateway must know to relay a method.

    Attributes:
        path: as in `/meshcast.api.predictor.v1.PredictorService/PredictEngagement`.
        kind: which sides stream.
        has_receipt: whether field 15 of the response is a receipt, so that the gateway may append its part.
        idempotency: whether a call may be made again.
        request_id_field: number of the request's string `request_id`; None where it has none.
        version_field: number of the request's integer `model_version`; None where it has none.
        priority_field: number of the request's field of type `meshcast.api.type.v1.Priority`; None where it has none.
        sequence_fields: numbers of the integer `sequence` in request and response of a method that streams both ways;
            None where one of them has none.
        status_field: number of the response's `status` of type `meshcast.api.type.v1.Status`; None where it has none.
    """

    path: str
    kind: MethodKind
    has_receipt: bool
    idempotency: Idempotency = Idempotency.UNKNOWN
    request_id_field: int | None = None
    version_field: int | None = None
    priority_field: int | None = None
    sequence_fields: tuple[int, int] | None = None
    status_field: int | None = None

    @property
    def is_question(self) -> bool:
        """Whether a call only asks for an answer, so that another may stand in and the call need not be made at all.

        True of methods without side effects and of predictions. That a repeat is harmless does not suffice: between a
        write and its repeat there may have been another write.
        """
        if self.idempotency is Idempotency.IDEMPOTENT:
            return self.path in _PREDICTIONS
        return self.idempotency is Idempotency.NO_SIDE_EFFECTS


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
    contracts = (contract_of(service, method) for method in service.methods)
    return {contract.path: contract for contract in contracts}


def contract_of(service: ServiceDescriptor, method: MethodDescriptor) -> MethodContract:
    """What the gateway must know of a method, from its descriptor."""
    kind = {
        (False, False): MethodKind.UNARY,
        (True, False): MethodKind.CLIENT_STREAM,
        (False, True): MethodKind.SERVER_STREAM,
        (True, True): MethodKind.BIDI_STREAM,
    }[method.client_streaming, method.server_streaming]
    path = f"/{service.full_name}/{method.name}"
    request, response = method.input_type, method.output_type
    receipt = response.fields_by_number.get(_RECEIPT_FIELD)
    sequences = _integer(request, "sequence"), _integer(response, "sequence")
    return MethodContract(
        path=path,
        kind=kind,
        has_receipt=receipt is not None
        and receipt.message_type is not None
        and receipt.message_type.full_name == _RECEIPT,
        idempotency=_FOREIGN.get(path) or _LEVELS.get(method.GetOptions().idempotency_level, Idempotency.UNKNOWN),
        request_id_field=_number(request, "request_id", FieldDescriptor.TYPE_STRING),
        version_field=_integer(request, "model_version"),
        priority_field=next(
            (f.number for f in request.fields if f.enum_type is not None and f.enum_type.full_name == _PRIORITY), None
        ),
        sequence_fields=(sequences[0], sequences[1])
        if kind is MethodKind.BIDI_STREAM and sequences[0] is not None and sequences[1] is not None
        else None,
        status_field=next(
            (
                f.number
                for f in response.fields
                if f.name == "status" and f.message_type is not None and f.message_type.full_name == _STATUS
            ),
            None,
        ),
    )


def _number(message: Descriptor, name: str, *types: int) -> int | None:
    """Number of a single field of this name and of one of the types; None where there is none."""
    field = message.fields_by_name.get(name)
    return field.number if field is not None and field.type in types and not field.is_repeated else None


def _integer(message: Descriptor, name: str) -> int | None:
    return _number(message, name, FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_INT32)


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
