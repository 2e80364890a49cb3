"""Errors over HTTP: a gRPC status as the Connect error that says the same, and the HTTP status that goes with it."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
import structlog
from connectrpc.code import Code
from connectrpc.errors import ConnectError, ErrorDetail
from google.protobuf import any_pb2, descriptor_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from protobuf import Message
from protobuf.wkt import Any as AnyDetail
from protobuf.wkt import FileDescriptorSet

from meshcast.rpc import Internal, MeshError, from_status, to_status

from ..forwarding import Metadata

log = structlog.get_logger()

# As the Connect protocol has them: https://connectrpc.com/docs/protocol#error-codes
HTTP_STATUS: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}
"""HTTP status of a call that failed, by its gRPC status, on every route of the door."""

_DETAILS = "grpc-status-details-bin"
_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
_CONNECT: Mapping[grpc.StatusCode, Code] = {
    code: Code("canceled" if code is grpc.StatusCode.CANCELLED else code.name.lower())
    for code in grpc.StatusCode
    if code is not grpc.StatusCode.OK
}


class CallFailed(ConnectError):
    """A call that has ended with a status other than OK, as each protocol of the door can tell it.

    Attributes:
        status: with its details, as gRPC's own door sends it.
        trailers: trailing metadata that the caller may see, the status's own left out.
    """

    def __init__(self, status: status_pb2.Status, trailers: Metadata = ()) -> None:
        grpc_code = _BY_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN)
        super().__init__(_CONNECT[grpc_code], status.message, [_Detail(detail) for detail in status.details])
        self.status = status
        self.trailers = trailers
        self.grpc_code = grpc_code

    @classmethod
    def of(cls, error: MeshError) -> CallFailed:
        """The failure that an error of the mesh is."""
        return cls(to_status(error))

    @classmethod
    def ended(cls, code: grpc.StatusCode, message: str, trailers: Iterable[tuple[str, str | bytes]]) -> CallFailed:
        """The failure of a call that a handler has aborted."""
        status = status_pb2.Status(code=code.value[0], message=message)
        kept = []
        for key, value in trailers:
            if key == _DETAILS and isinstance(value, bytes):
                try:
                    told = status_pb2.Status.FromString(value)
                except Exception:  # foreign bytes: the bare code still stands
                    continue
                if told.code == status.code:
                    status = told
            else:
                kept.append((key, value))
        return cls(status, tuple(kept))

    @property
    def http_status(self) -> int:
        """HTTP status that goes with it."""
        return HTTP_STATUS[self.grpc_code]

    @property
    def retry_after_s(self) -> int | None:
        """Whole seconds after which a retry may help, at least 1; None where nothing is known."""
        for detail in self.status.details:
            info = error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                return max(1, math.ceil(int(info.retry_delay.ToNanoseconds()) / 1e9))
        return None

    def to_json(self) -> dict[str, Any]:
        """As Connect's JSON has it: `code`, `message` and `details`."""
        told: dict[str, Any] = {"code": self.code.value, "message": self.message}
        if self.status.details:
            from connectrpc._protocol import ConnectWireError  # the one place that knows how a detail is written

            told = ConnectWireError.from_exception(self).to_dict()
        return told

    def to_rest(self) -> dict[str, Any]:
        """As the Open Inference Protocol has it: `error` is the sentence; the rest is for programs."""
        error = from_status(self.status)
        told: dict[str, Any] = {"error": self.message, "code": self.code.value, "reason": error.reason_name}
        if error.violations:
            told["violations"] = [{"field": v.field, "description": v.description} for v in error.violations]
        if error.retry_after_s is not None:
            told["retry_after_s"] = error.retry_after_s
        return told


def masked(error: Exception, path: str) -> CallFailed:
    """What a caller is told of a bug of the door's own: nothing but an id, under which the log has it all."""
    request_id = secrets.token_hex(8)
    log.error("bug in the HTTP door", path=path[:200], request_id=request_id, exc_info=error)
    return CallFailed.of(Internal("internal error", request_id=request_id))


class _Detail(ErrorDetail):
    """A detail whose content the JSON form shows as well, under `debug`."""

    def __init__(self, detail: any_pb2.Any) -> None:
        super().__init__(AnyDetail(type_url=detail.type_url, value=detail.value))

    def value(self, *_: Any) -> Message | None:  # type: ignore[override]  # every overload asks the same of us
        """The message, where its type is one of google.rpc's error details."""
        described = _REGISTRY.message(self.type_name)
        return (
            None
            if described is None
            else AnyDetail(value=self.message_bytes, type_url=_URL + self.type_name).unpack(described)
        )


_URL = "type.googleapis.com/"


def _registry() -> Any:
    """Types of google.rpc's error details, for the library's own protobuf."""
    files = descriptor_pb2.FileDescriptorSet()
    for module in (any_pb2, duration_pb2, error_details_pb2):
        file = files.file.add()
        module.DESCRIPTOR.CopyToProto(file)
        for message in file.message_type:
            _name_fields(message)
    return FileDescriptorSet.from_binary(files.SerializeToString()).to_registry()


def _name_fields(message: descriptor_pb2.DescriptorProto) -> None:
    """Fills the JSON names in, which descriptors of generated code do not carry."""
    for field in message.field:
        head, *rest = field.name.split("_")
        field.json_name = head + "".join(word.capitalize() for word in rest)
    for inner in message.nested_type:
        _name_fields(inner)


_REGISTRY = _registry()
