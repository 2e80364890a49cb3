"""Status: what travels of an error, as google.rpc.Status beside a call or as an item's Status inside a message."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from meshcast.api.type.v1 import status_pb2 as item_pb
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason

from .errors import (
    CLASSES,
    Internal,
    InvalidInput,
    MeshError,
    NotReady,
    Overloaded,
    Precondition,
    Violation,
    reason_value,
)

DOMAIN = "meshcast"
"""Domain of every `google.rpc.ErrorInfo` that the mesh sends."""

VIOLATIONS_MAX = 50
"""Violations sent with one error. 400 of them (21 kB) turned the status into "Stream removed"."""

VIOLATIONS_BYTES_MAX = 8_192
"""Bytes of violations in an item of a message, so that the items of one chunk stay small beside its rows."""

DETAILS_BYTES_MAX = 6_144
"""Bytes of a status's details. grpc refuses trailers over 8 KiB at random and over 16 KiB always ("Stream removed",
the status is lost), and 1,000 for the sentence and the handler's own trailers come on top."""

MESSAGE_BYTES_MAX = 1_000
"""Bytes of the sentence that are sent, in UTF-8 in the details and percent-encoded in `grpc-message`."""

_FACT_BYTES_MAX = 500
_ENVELOPE_BYTES = 200  # type URLs, domain, reason, RetryInfo and the count of violations

DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"


# Codes that we never send; a foreign server, a proxy or a plain grpc peer may.
_FOREIGN: Mapping[grpc.StatusCode, type[MeshError]] = {
    grpc.StatusCode.UNKNOWN: Internal,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInput,
    grpc.StatusCode.PERMISSION_DENIED: Precondition,
    grpc.StatusCode.UNAUTHENTICATED: Precondition,
}
# What a code means when no ErrorInfo of ours came with it, so grpc itself or a foreign server wrote it.
_BARE_REASONS: Mapping[grpc.StatusCode, ErrorReason.ValueType] = {
    grpc.StatusCode.UNAVAILABLE: ErrorReason.ERROR_REASON_BACKEND_UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: ErrorReason.ERROR_REASON_DEADLINE_PASSED,
    grpc.StatusCode.CANCELLED: ErrorReason.ERROR_REASON_CALLER_CANCELLED,
    grpc.StatusCode.UNIMPLEMENTED: ErrorReason.ERROR_REASON_METHOD_UNKNOWN,
    grpc.StatusCode.INTERNAL: ErrorReason.ERROR_REASON_INTERNAL,
    grpc.StatusCode.UNKNOWN: ErrorReason.ERROR_REASON_INTERNAL,
}
_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_WRITE_FAILED = "Internal error from Core"
_AWAY = re.compile(r"(?:connections to all backends failing|failed to connect to all addresses)")
_AWAY_TAIL = re.compile(r"ipv[46]:(\S+): (?:Failed to connect to remote host: )?(.*)", re.DOTALL)
_HTTP_1 = ("Expected SETTINGS frame", "http1.x server")
_TOO_LARGE = re.compile(
    r"(CLIENT|SERVER)?:? ?(Received|Sent|Decompressed) message larger than max \((\d+) vs\.? (\d+)\)"
)


def to_status(error: MeshError) -> status_pb2.Status:
    """The error as google.rpc.Status, with ErrorInfo, BadRequest and RetryInfo where they apply.

    At most `VIOLATIONS_MAX` violations are kept, and what fits into `DETAILS_BYTES_MAX`; when some were left out, the
    fact `violations_total` says how many there were.
    """
    message = _cut(error.message, MESSAGE_BYTES_MAX)
    facts = {key: _cut(value, _FACT_BYTES_MAX) for key, value in error.facts.items()}
    taken = _ENVELOPE_BYTES + _bytes(message) + sum(_bytes(key) + _bytes(value) + 8 for key, value in facts.items())
    kept = _sendable(error.violations, DETAILS_BYTES_MAX - taken)
    if len(kept) < len(error.violations):
        facts["violations_total"] = str(len(error.violations))
    details: list[any_pb2.Any] = []
    if error.reason != ErrorReason.ERROR_REASON_UNSPECIFIED:
        details.append(_pack(error_details_pb2.ErrorInfo(reason=error.reason_name, domain=DOMAIN, metadata=facts)))
    if kept:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description) for v in kept
        ]
        details.append(_pack(error_details_pb2.BadRequest(field_violations=violations)))
    if error.retry_after_s is not None:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        details.append(_pack(info))
    return status_pb2.Status(code=error.code.value[0], message=message, details=details)


def head_message(error: MeshError) -> str:
    """The sentence for `grpc-message`, which is percent-encoded on its way: short enough when it is."""
    text = _cut(error.message, MESSAGE_BYTES_MAX)
    size = 0
    for end, character in enumerate(text):
        size += 1 if " " <= character <= "~" and character != "%" else 3 * _bytes(character)
        if size > MESSAGE_BYTES_MAX:
            return text[:end]
    return text


def from_status(status: status_pb2.Status) -> MeshError:
    """The error that a google.rpc.Status stands for; the inverse of `to_status`.

    Raises:
        ValueError: the status is OK.
    """
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    if code is grpc.StatusCode.OK:
        raise ValueError("an OK status is no error")
    reason: ErrorReason.ValueType | None = None
    facts: dict[str, str] = {}
    violations: list[Violation] = []
    retry_after_s: float | None = None
    for detail in status.details:
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            facts = dict(info.metadata)
            if info.domain == DOMAIN:
                reason = reason_value(info.reason)
            else:
                facts |= {"domain": info.domain, "reason": info.reason}
        elif detail.Unpack(bad):
            violations += [Violation(v.field, v.description) for v in bad.field_violations]
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    return _make(code, status.message, reason, facts, violations, retry_after_s)


def to_item(error: MeshError) -> item_pb.Status:
    """The error as an in-message Status, for a stream's item, a row or a part of a composite answer."""
    kept = _sendable(error.violations, VIOLATIONS_BYTES_MAX)
    item = item_pb.Status(
        code=error.code.value[0],
        message=_cut(error.message, MESSAGE_BYTES_MAX),
        reason=error.reason,
        metadata=error.facts,
        violations=[item_pb.FieldViolation(field=v.field, description=v.description) for v in kept],
    )
    if error.retry_after_s is not None:
        item.retry_after_ms = round(error.retry_after_s * 1e3)
    return item


def from_item(status: item_pb.Status) -> MeshError:
    """The error that an in-message Status stands for; the inverse of `to_item`.

    Raises:
        ValueError: the status is OK.
    """
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    if code is grpc.StatusCode.OK:
        raise ValueError("an OK status is no error")
    retry_after_s = status.retry_after_ms / 1e3 if status.HasField("retry_after_ms") else None
    violations = [Violation(v.field, v.description) for v in status.violations]
    return _make(code, status.message, status.reason, dict(status.metadata), violations, retry_after_s)


def from_rpc_error(error: grpc.RpcError) -> MeshError:
    """The error class behind a failed call: rich when a mesh server sent it, by its code alone otherwise.

    For calls that stream their requests, `mesh_errors(call)` knows more than the error does.

    Args:
        error: what a call of grpc or grpc.aio raised.
    """
    call: Any = error
    code = call.code() if hasattr(call, "code") else grpc.StatusCode.UNKNOWN
    text = (call.details() if hasattr(call, "details") else None) or ""
    trailing = (call.trailing_metadata() if hasattr(call, "trailing_metadata") else None) or ()
    for key, value in trailing:
        if key == DETAILS_KEY:
            try:
                status = status_pb2.Status.FromString(value)
            except Exception:  # foreign bytes: the bare code still stands
                break
            if _CODES.get(status.code) is code and code is not grpc.StatusCode.OK:
                return from_status(status)
    if code is grpc.StatusCode.INTERNAL and text == _WRITE_FAILED:
        return _broken_off()
    too_large = _TOO_LARGE.search(text)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and too_large:
        return _transport_limit(too_large)
    if code is grpc.StatusCode.UNAVAILABLE and _AWAY.match(text):
        return _away(text)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:  # the transport's own words differ by where it noticed
        text = "the deadline passed before the answer was there; give the call more time if it needs it"
    return _make(code, text or code.name, None, {}, [], None)


class _MeshErrors(AbstractContextManager[None]):
    """Turns what grpc raises in a block."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, grpc.RpcError):
            raise from_rpc_error(error) from error


class FirstStatus:
    """The status that a call ended with first, for calls that stream their requests.

    When a server ends a call whose caller still writes, grpc.aio lets the failed write's status, INTERNAL "Internal
    error from Core", replace the server's (open grpc/grpc#36066; nine of ten early refusals here).

    Args:
        call: just made, not ended.
    """

    __slots__ = ("_first",)

    def __init__(self, call: grpc.aio.Call) -> None:
        self._first: tuple[grpc.StatusCode, str, Any] | None = None
        call.add_done_callback(self._keep)

    def restored(self, error: Exception | None) -> grpc.aio.AioRpcError | None:
        """The error with the server's own status, where grpc has replaced that; None where it has not.

        Args:
            error: what reading or writing the call raised.
        """
        is_replaced = isinstance(error, grpc.aio.AioRpcError) and error.details() == _WRITE_FAILED
        if self._first is None or not (is_replaced or isinstance(error, asyncio.InvalidStateError)):
            return None
        code, details, trailing = self._first
        if code is grpc.StatusCode.OK:  # it wanted no more; what the caller had left to say is lost
            code, details = grpc.StatusCode.INTERNAL, _WRITE_FAILED
        return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details)

    def _keep(self, ended: Any) -> None:
        if self._first is None:
            trailing = answer_now(ended.trailing_metadata()) or grpc.aio.Metadata()
            self._first = (answer_now(ended.code()), answer_now(ended.details()) or "", trailing)


class _StreamErrors(_MeshErrors):
    """Turns what grpc raises for one call that streams its requests."""

    def __init__(self, call: grpc.aio.Call) -> None:
        self._status = FirstStatus(call)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        restored = self._status.restored(error) if isinstance(error, Exception) else None
        if restored is not None:
            raise from_rpc_error(restored) from error
        super().__exit__(kind, error, trace)


_MESH_ERRORS = _MeshErrors()


def mesh_errors(call: Any = None) -> AbstractContextManager[None]:
    """A block in which failed calls raise their MeshError instead of grpc's error. Awaits inside are fine.

    Local cancellation stays asyncio's CancelledError.

    Args:
        call: the call that the block reads and writes. Give it wherever requests are streamed, right after the call
            was made: a server that refuses early is otherwise seen as broken, because grpc loses its status.
    """
    return _MESH_ERRORS if call is None else _StreamErrors(call)


def answer_now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that does not wait, as those of a call that has ended; None when it would wait."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    finally:
        coroutine.close()
    return None


def _away(text: str) -> MeshError:
    """The error for a target that no connection leads to, from grpc's own sentence; its words stay behind."""
    tail = _AWAY_TAIL.search(text)
    target, cause = (unquote(tail[1]), tail[2]) if tail is not None else ("the target", "no connection")
    if any(sign in cause for sign in _HTTP_1):
        told = f"{target} is an HTTP port; the gateway's gRPC port is [gateway] port, 8001 by default"
        return InvalidInput(told, field="target")
    if cause == "backend unhealthy":
        cause = "its health says NOT_SERVING"
    return NotReady(
        f"{target} cannot be reached ({cause}): it is away or restarting; "
        "settings=ChannelSettings(wait_for_ready=True) waits for it within the deadline",
        reason=ErrorReason.ERROR_REASON_BACKEND_UNREACHABLE,
        target=target,
        cause=cause,
    )


def _broken_off() -> NotReady:
    return NotReady(
        "the server ended the stream before everything was sent, and its reason is lost",
        reason=ErrorReason.ERROR_REASON_BACKEND_UNREACHABLE,
    )


def message_too_large(size_bytes: int, limit_bytes: int, setting: str, *, what: str = "the request") -> Overloaded:
    """The error for a message over a limit, which names the setting that raises it."""
    return Overloaded(
        f"{what} has {size_bytes:,} bytes, the limit is {limit_bytes:,}: send less in a message, or raise {setting}",
        reason=ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE,
        limit_bytes=limit_bytes,
        size_bytes=size_bytes,
        setting=setting,
    )


def trailers(error: MeshError) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata that carry the error beside its code and message."""
    details = (DETAILS_KEY, to_status(error).SerializeToString())
    if error.retry_after_s is not None and error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # Clients that retry this code natively then wait as long as we ask them to.
        return (details, (PUSHBACK_KEY, str(round(error.retry_after_s * 1e3))))
    return (details,)


def _make(
    code: grpc.StatusCode,
    message: str,
    reason: ErrorReason.ValueType | None,
    facts: dict[str, str],
    violations: Sequence[Violation],
    retry_after_s: float | None,
) -> MeshError:
    kind = CLASSES.get(code) or _FOREIGN.get(code, Internal)
    if reason is None:
        reason = _BARE_REASONS.get(code, ErrorReason.ERROR_REASON_UNSPECIFIED)
    error = kind(message, reason=reason)
    error.facts = facts if code in CLASSES else {**facts, "code": code.name}
    error.violations = tuple(violations)
    error.retry_after_s = retry_after_s
    return error


def _transport_limit(match: re.Match[str]) -> Overloaded:
    side, verb, size, limit = match.group(1) or "CLIENT", match.group(2), int(match.group(3)), int(match.group(4))
    is_answer = (side, verb) in {("CLIENT", "Received"), ("SERVER", "Sent")}
    setting = "channel.message_bytes_max" if side == "CLIENT" else "rpc.message_bytes_max"
    return message_too_large(size, limit, setting, what="the answer" if is_answer else "the request")


def _sendable(violations: Sequence[Violation], bytes_max: int) -> Sequence[Violation]:
    size = 0
    for count, violation in enumerate(violations):
        size += _bytes(violation.field) + _bytes(violation.description) + 8
        if count == VIOLATIONS_MAX or size > bytes_max:
            return violations[:count]
    return violations


def _cut(text: str, bytes_max: int) -> str:
    encoded = text.encode(errors="replace")  # a lone surrogate, as of an odd file name, cannot travel
    if len(encoded) <= bytes_max:
        return encoded.decode()
    return encoded[: bytes_max - 3].decode(errors="ignore") + "…"


def _bytes(text: str) -> int:
    return len(text.encode(errors="replace"))


def _pack(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
