"""Budget: what a call may take of its deadline, and the calls that are refused because it cannot be kept any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import DeadlineExceeded, NotReady

if TYPE_CHECKING:
    from .backends import Backend

_RECENT_S = 1.0  # length of one of the two windows; long enough for the volume below at 20 calls a second
_VOLUME = 20  # answers that a window must have before its fastest says anything


@dataclass(slots=True)
class Budget:
    """What a call may take.

    Attributes:
        timeout_s: seconds that replicas have; the gateway's margin is off already.
        default_ms: the route's deadline in milliseconds where the caller set none, else 0.
    """

    timeout_s: float
    default_ms: int


class Fastest:
    """The fastest answer of the last one to two seconds: what no call can beat.

    It forgets, so that a method that was slow for a while is asked again soon. Where few answers came it is 0.
    """

    __slots__ = ("_before_s", "_ends_at", "_has_tried", "_now_s", "_seen")

    def __init__(self) -> None:
        self._ends_at = float("-inf")
        self._before_s = 0.0
        self._now_s = float("inf")
        self._seen = 0
        self._has_tried = False

    def record(self, seconds: float, now: float) -> None:
        """Takes the time of an answer.

        Args:
            seconds: from the request's arrival to the answer.
            now: of the answer, on any clock that only goes forward.
        """
        if now >= self._ends_at:
            self._turn(now)
        self._seen += 1
        if seconds < self._now_s:
            self._now_s = seconds

    def seconds(self, now: float) -> float:
        """The fastest recent answer in seconds; 0.0 where nothing can be said."""
        if now >= self._ends_at:
            self._turn(now)
        before_s = self._before_s
        return before_s if before_s < self._now_s else self._now_s

    def bound_s(self, timeout_s: float, now: float) -> float:
        """What a call is held against: the fastest recent answer in seconds, but nothing, 0.0, for one call of each
        window that has less time. So small questions with little time are not refused for ever for the sake of large
        ones, which are all that is answered then.

        Args:
            timeout_s: what the call has.
            now: its arrival, on the same clock.
        """
        fastest_s = self.seconds(now)
        if 0 < timeout_s <= fastest_s and not self._has_tried:
            self._has_tried = True
            return 0.0
        return fastest_s

    def _turn(self, now: float) -> None:
        self._has_tried = False
        is_next = now < self._ends_at + _RECENT_S
        self._before_s = self._now_s if is_next and self._seen >= _VOLUME else 0.0
        self._now_s = float("inf")
        self._seen = 0
        self._ends_at = now + _RECENT_S


def budget(
    backend: Backend, remaining_s: float | None, *, default_s: float, margin_s: float, fastest_s: float = 0.0
) -> Budget:
    """The budget of a call; counts the call as late when it is refused.

    Args:
        backend: the route.
        remaining_s: what is left of the caller's deadline, in seconds; None when it set none.
        default_s: the whole budget in that case.
        margin_s: what the gateway keeps for its own hop.
        fastest_s: what the fastest of the method's recent answers took; 0.0 where nothing is known.

    Raises:
        DeadlineExceeded: what is left is not enough for any answer.
    """
    if remaining_s is None:
        return Budget(default_s, round(default_s * 1e3))
    timeout_s = remaining_s - margin_s
    if timeout_s > fastest_s:
        return Budget(timeout_s, 0)
    backend.load.counts.late += 1
    left = f"the deadline leaves {max(0.0, remaining_s) * 1e3:.1f} ms, too little to ask {backend.name}"
    if timeout_s > 0:
        left += f", whose fastest answer of late took {fastest_s * 1e3:.1f} ms"
    raise DeadlineExceeded(left, where="gateway")


def unreachable(backend: Backend, service: str, *, retry_after_s: float) -> NotReady:
    """The error of a call for which no replica can be asked.

    Args:
        backend: the route.
        service: full name of the gRPC service.
        retry_after_s: seconds after which one may have come back.
    """
    problems = "; ".join(f"{r.endpoint}: {r.problem}" for r in backend.replicas.values()) or "it has none"
    return NotReady(
        f"no replica of {backend.name} can be reached ({problems})",
        reason=ErrorReason.ERROR_REASON_BACKEND_UNREACHABLE,
        retry_after_s=retry_after_s,
        service=service,
    )
