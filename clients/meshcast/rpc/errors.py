"""Errors of the mesh: one class per kind of failure. `status.py` turns them into what travels, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

import grpc

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason


class Violation(NamedTuple):
    """One field that breaks its rule: its path from the request's root, and the rule with what was given."""

    field: str
    description: str


class MeshError(Exception):
    """A failure with a meaning that callers can act on. Handlers raise it, clients see the same class again.

    The tree (status code; whether a retry of the same call may help):

    - InvalidInput    INVALID_ARGUMENT     no
    - NotFound        NOT_FOUND            no
    - AlreadyExists   ALREADY_EXISTS       no
    - Conflict        ABORTED              after a re-read
    - NotReady        UNAVAILABLE          yes, after `retry_after_s`
    - Overloaded      RESOURCE_EXHAUSTED   yes, after `retry_after_s` (not when the message was too large)
    - Precondition    FAILED_PRECONDITION  no, the state must change first
    - DeadlineExceeded, Cancelled, Unimplemented, CorruptData: the codes of their names (DATA_LOSS for the last); no
    - Internal        INTERNAL             no; only on the client's side, for a peer's bug

    Args:
        message: one sentence for a person; says what to do where that is known.
        reason: why, for programs; None takes the class's default.
        facts: the metadata keys that `ErrorReason` documents; sent as strings.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    default_reason: ClassVar[ErrorReason.ValueType] = ErrorReason.ERROR_REASON_UNSPECIFIED

    message: str
    reason: ErrorReason.ValueType
    facts: dict[str, str]
    retry_after_s: float | None
    violations: tuple[Violation, ...]

    def __init__(
        self, message: str, *, reason: ErrorReason.ValueType | None = None, **facts: str | int | float
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = self.default_reason if reason is None else reason
        self.facts = {key: str(value) for key, value in facts.items()}
        self.retry_after_s = None
        self.violations = ()

    @property
    def is_retryable(self) -> bool:
        """True when the same call may succeed later, unchanged."""
        return False

    @property
    def reason_name(self) -> str:
        """Full enum name of the reason, as in `ERROR_REASON_FIELD_INVALID`; the number where it is not known here."""
        return reason_name(self.reason)


class InvalidInput(MeshError):
    """The request breaks a documented rule (INVALID_ARGUMENT).

    Args:
        message: one sentence for a person.
        violations: (field path, description) of every field at fault.
        field: shortcut for one violation that is described by `message`.
        reason: why, for programs; a field's rule by default.
        facts: metadata of the reason.
    """

    code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = ErrorReason.ERROR_REASON_FIELD_INVALID

    def __init__(
        self,
        message: str,
        *,
        violations: Iterable[tuple[str, str]] = (),
        field: str | None = None,
        reason: ErrorReason.ValueType | None = None,
        **facts: str | int | float,
    ) -> None:
        super().__init__(message, reason=reason, **facts)
        self.violations = tuple(Violation(*violation) for violation in violations)
        if field is not None:
            self.violations = (*self.violations, Violation(field, message))


class NotFound(MeshError):
    """What the request names does not exist (NOT_FOUND). Give the reason: it says what was looked for."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(MeshError):
    """What was asked for exists already with other content (ALREADY_EXISTS)."""

    code = grpc.StatusCode.ALREADY_EXISTS
    default_reason = ErrorReason.ERROR_REASON_ALREADY_EXISTS


class Conflict(MeshError):
    """The caller's view is stale: read again, then retry (ABORTED)."""

    code = grpc.StatusCode.ABORTED
    default_reason = ErrorReason.ERROR_REASON_STALE


class _Later(MeshError):
    """A failure that passes: carries the time after which a retry may help."""

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        reason: ErrorReason.ValueType | None = None,
        **facts: str | int | float,
    ) -> None:
        super().__init__(message, reason=reason, **facts)
        self.retry_after_s = retry_after_s

    @property
    def is_retryable(self) -> bool:
        """True, except for a message over the limit: it will be as large the next time."""
        return self.reason != ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE


class NotReady(_Later):
    """The service cannot answer now: loading, draining or unreachable (UNAVAILABLE). Retry after `retry_after_s`."""

    code = grpc.StatusCode.UNAVAILABLE
    default_reason = ErrorReason.ERROR_REASON_MODEL_LOADING


class Overloaded(_Later):
    """A bound was reached: a queue is full or a message too large (RESOURCE_EXHAUSTED)."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = ErrorReason.ERROR_REASON_QUEUE_FULL


class Precondition(MeshError):
    """The system's state forbids the request until the state changes (FAILED_PRECONDITION)."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = ErrorReason.ERROR_REASON_MODEL_STATE


class DeadlineExceeded(MeshError):
    """The deadline passed before the work was done (DEADLINE_EXCEEDED)."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = ErrorReason.ERROR_REASON_DEADLINE_PASSED


class Cancelled(MeshError):
    """The caller, or a peer on its behalf, cancelled the work (CANCELLED). Not asyncio's CancelledError."""

    code = grpc.StatusCode.CANCELLED
    default_reason = ErrorReason.ERROR_REASON_CALLER_CANCELLED


class Unimplemented(MeshError):
    """The method or the feature is not part of this server (UNIMPLEMENTED)."""

    code = grpc.StatusCode.UNIMPLEMENTED
    default_reason = ErrorReason.ERROR_REASON_FEATURE_MISSING


class CorruptData(MeshError):
    """Stored data is truncated, altered or fails its gate (DATA_LOSS)."""

    code = grpc.StatusCode.DATA_LOSS
    default_reason = ErrorReason.ERROR_REASON_ARTEFACT_CORRUPT


class Internal(MeshError):
    """A bug in a peer (INTERNAL, UNKNOWN). Raised on the client's side only; servers mask their own bugs."""

    code = grpc.StatusCode.INTERNAL
    default_reason = ErrorReason.ERROR_REASON_INTERNAL


CLASSES: Mapping[grpc.StatusCode, type[MeshError]] = {
    kind.code: kind
    for kind in (
        InvalidInput,
        NotFound,
        AlreadyExists,
        Conflict,
        NotReady,
        Overloaded,
        Precondition,
        DeadlineExceeded,
        Cancelled,
        Unimplemented,
        CorruptData,
        Internal,
    )
}
"""Every error class by the status code that stands for it."""


def reason_name(reason: int) -> str:
    """Full enum name of a reason; its number as text when this build does not know it."""
    try:
        return ErrorReason.Name(reason)  # type: ignore[arg-type]  # any int may come off the wire
    except ValueError:
        return str(reason)


def reason_value(name: str) -> ErrorReason.ValueType:
    """Reason by its full enum name; unspecified when this build does not know it."""
    try:
        return ErrorReason.Value(name)
    except ValueError:
        return ErrorReason.ERROR_REASON_UNSPECIFIED
