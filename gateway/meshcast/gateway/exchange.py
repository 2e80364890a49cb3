"""Exchange: one unary call of encoded messages on its way through the pipeline's stages, and the answer to it."""

from __future__ import annotations

import enum
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import grpc.aio

from .wire import read_varint_field

if TYPE_CHECKING:
    from .backends import Backend
    from .forwarding import Metadata
    from .policy import MethodPolicy


PRIORITY_KEY = "meshcast-priority"
"""Metadata key by which a caller says `high`, `normal` or `low`, for methods whose request has no priority too; another
value is refused at the door."""


class Priority(enum.IntEnum):
    """How much a call matters; the numbers of `meshcast.api.type.v1.Priority`, the one that matters most lowest."""

    HIGH = 1
    NORMAL = 2
    LOW = 3


_PRIORITIES: dict[str | bytes | int, Priority] = {
    **{priority.name.lower(): priority for priority in Priority},
    **{priority.value: priority for priority in Priority},
}


class TryFailed(Exception):
    """A replica has failed a call.

    Attributes:
        error: how its call ended.
        endpoint: of the replica, as `host:port`.
    """

    def __init__(self, error: grpc.aio.AioRpcError, endpoint: str) -> None:
        super().__init__(f"{endpoint}: {error.code().name}")
        self.error = error
        self.endpoint = endpoint


@dataclass(slots=True)
class Exchange:
    """One unary call.

    Attributes:
        policy: of the method.
        backend: route that answers.
        request: encoded.
        metadata: of the caller, to be passed on.
        started: when it arrived, on `time.perf_counter()`.
        ends_at: when a replica must have answered, on the same clock; the gateway's margin is off already.
        default_ms: the route's deadline where the caller set none, else 0.
        attempts: tries on replicas so far.
        hedged: whether a second replica was asked before the first had answered.
        is_hasty: whether the caller goes on without the answer, so that the call must not wait for a restart.
    """

    policy: MethodPolicy
    backend: Backend
    request: bytes
    metadata: Metadata
    started: float
    ends_at: float
    default_ms: int
    attempts: int = 0
    hedged: bool = False
    is_hasty: bool = False
    _priority: Priority | None = None

    def remaining_s(self) -> float:
        """Seconds that are left for replicas."""
        return self.ends_at - time.perf_counter()

    @property
    def priority(self) -> Priority:
        """What the caller says, in its metadata or else in its request; normal where it says nothing sensible."""
        if self._priority is None:
            self._priority = _priority_of(self.metadata, self.request, self.policy.contract.priority_field)
        return self._priority


@dataclass(slots=True)
class Answer:
    """What became of a call that was answered.

    Attributes:
        response: encoded, as a replica sent it; without the gateway's part of the receipt.
        head: initial metadata that the caller may see.
        trailers: trailing metadata that the caller may see.
        endpoint: replica that answered; empty where none was asked.
        from_cache: whether the cache had it.
        fallback: what stands in for the answer that was asked for, as a number of `meshcast.api.type.v1.Fallback`.
        notes: for the receipt, such as why the answer is degraded.
    """

    response: bytes
    head: Metadata = ()
    trailers: Metadata = ()
    endpoint: str = ""
    from_cache: bool = False
    fallback: int = 0
    notes: tuple[str, ...] = ()


Stage: TypeAlias = Callable[[Exchange], Awaitable[Answer]]
"""A stage of the pipeline: answers a call, mostly by handing it to the next one.

Raises `TryFailed` with a replica's word, or a `MeshError` of the gateway's own.
"""


def _priority_of(metadata: Metadata, request: bytes, field: int | None) -> Priority:
    for key, value in metadata:
        if key == PRIORITY_KEY:
            return _PRIORITIES.get(value, Priority.NORMAL)
    if field is None:
        return Priority.NORMAL
    return _PRIORITIES.get(read_varint_field(request, field), Priority.NORMAL)
