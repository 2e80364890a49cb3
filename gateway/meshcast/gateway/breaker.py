"""Circuit breaker: keeps calls away from a replica that fails, and lets a few through to see whether it is back."""

from __future__ import annotations

import enum
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import NotReady

from .exchange import Answer, Exchange, Stage

if TYPE_CHECKING:
    from .backends import Backend

_BUCKETS = 10  # of the window; what has left it is forgotten a tenth at a time
NOT_COUNTED = -1
"""In place of a turn, of a try that says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """When a replica gets no calls. The table `[gateway.breaker]`."""

    window_s: float = 5.0
    """Seconds of tries that count."""
    tries_min: int = 10
    """Tries in the window below which a breaker never opens."""
    failure_share: float = 0.4
    """Share of failures in the window that opens it."""
    failures_in_row: int = 5
    """Failures without a success between that open it too: a dead replica is left before its share has grown."""
    pause_s: float = 0.5
    """Seconds without calls after it has opened; twice as many each time that a probe fails, less up to a half by
    chance."""
    pause_s_max: float = 2.0
    """Longest of these pauses, so that a replica that is back has calls again within seconds."""
    probes_max: int = 2
    """Tries under way at a time once the pause is over."""
    probes_to_close: int = 3
    """Successes in a row among them that close it."""
    given_ms_min: float = 20.0
    """A try that was given less time than this, or less than an answer of its method usually takes, and ran out of it,
    is no failure of the replica."""

    def __post_init__(self) -> None:
        """Checks the values; raises ValueError naming the field."""
        for name in ("window_s", "tries_min", "failures_in_row", "pause_s", "probes_max", "probes_to_close"):
            if not getattr(self, name) > 0:  # NaN is none
                raise ValueError(f"{name} must be more than 0, is {getattr(self, name)}")
        if not 0 < self.failure_share <= 1:
            raise ValueError(f"failure_share must be more than 0 and at most 1, is {self.failure_share}")
        if not self.pause_s_max >= self.pause_s:
            raise ValueError(f"pause_s_max must be at least pause_s ({self.pause_s}), is {self.pause_s_max}")
        if not self.given_ms_min >= 0:
            raise ValueError(f"given_ms_min must be 0 or more, is {self.given_ms_min}")


class BreakerState(enum.IntEnum):
    """The numbers of `meshcast.api.gateway.v1.BreakerState`."""

    CLOSED = 1
    OPEN = 2
    HALF_OPEN = 3


class Outcome(enum.Enum):
    """What a try says about the replica."""

    OK = "ok"
    FAILED = "failed"
    IGNORED = "ignored"
    """Nothing: it was cancelled, refused for load, or the caller's own fault."""


class Breaker:
    """The circuit breaker of one replica. Time comes in as an argument, on one monotonic clock in seconds.

    Closed, it counts the outcomes of a sliding window. It opens at a share of failures or at failures in a row, never
    on fewer tries than the floor. Open, it admits nothing until a pause is over; then it is half open and admits a few
    probes at a time: enough successes close it, one failure opens it again, and an ignored one gives its place back.
    A try that began before the last change of state says nothing about the state after it.

    Source: M. Nygard, Release It! (2nd edition, Pragmatic Bookshelf, 2018), section 5.2.

    Args:
        settings: when it opens and closes.
        rng: for the jitter of the pauses; None for one of its own.
        on_change: called after each change of its state.

    Attributes:
        settings: when it opens and closes.
        state: now; open until the first try after the pause.
        opened: how often it has opened.
    """

    __slots__ = (
        "_bucket",
        "_bucket_s",
        "_buckets",
        "_failed",
        "_in_row",
        "_on_change",
        "_openings",
        "_probes",
        "_rng",
        "_successes",
        "_total",
        "_turn",
        "_until",
        "opened",
        "settings",
        "state",
    )

    def __init__(
        self,
        settings: BreakerSettings | None = None,
        rng: random.Random | None = None,
        *,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self.state = BreakerState.CLOSED
        self.opened = 0
        self.settings = settings or BreakerSettings()
        self._rng = rng or random.Random()
        self._on_change = on_change
        self._bucket_s = self.settings.window_s / _BUCKETS
        self._buckets: deque[list[int]] = deque()  # [number, tries, failures], the oldest first
        self._bucket: list[int] = [NOT_COUNTED, 0, 0]
        self._total = 0
        self._failed = 0
        self._in_row = 0
        self._turn = 0
        self._until = 0.0
        self._openings = 0  # since it was closed last
        self._probes = 0
        self._successes = 0

    @property
    def probes(self) -> int:
        """Probes under way."""
        return self._probes

    def admits(self, now: float) -> bool:
        """True when a try may begin."""
        if self.state is BreakerState.CLOSED:
            return True
        if self.state is BreakerState.OPEN:
            return now >= self._until
        return self._probes < self.settings.probes_max

    def begin(self, now: float) -> int:
        """Notes that a try begins; returns what `end` wants. One that is not admitted may begin, and is not counted."""
        if self.state is BreakerState.CLOSED:
            return self._turn
        if not self.admits(now):
            return NOT_COUNTED
        if self.state is BreakerState.OPEN:
            self._enter(BreakerState.HALF_OPEN)
        self._probes += 1
        return self._turn

    def end(self, turn: int, outcome: Outcome, now: float) -> None:
        """Takes what a try says. Each `begin` must be followed by one `end`.

        Args:
            turn: what `begin` has returned.
            outcome: of the try.
            now: the time.
        """
        if turn != self._turn:
            return
        if self.state is BreakerState.HALF_OPEN:
            self._probes -= 1
            if outcome is Outcome.FAILED:
                self._open(now)
            elif outcome is Outcome.OK:
                self._successes += 1
                if self._successes >= self.settings.probes_to_close:
                    self._openings = 0
                    self._enter(BreakerState.CLOSED)
        elif outcome is not Outcome.IGNORED:
            self._count(outcome, now)

    def retry_after_s(self, now: float) -> float:
        """Seconds after which a try may be admitted."""
        if self.state is BreakerState.OPEN:
            return max(0.0, self._until - now)
        return 0.0 if self.admits(now) else self.settings.pause_s

    def _count(self, outcome: Outcome, now: float) -> None:
        number = int(now / self._bucket_s)
        if number != self._bucket[0]:
            self._roll(number)
        self._bucket[1] += 1
        self._total += 1
        if outcome is Outcome.OK:
            self._in_row = 0
            return
        self._bucket[2] += 1
        self._failed += 1
        self._in_row += 1
        settings = self.settings
        if self._total >= settings.tries_min and (
            self._failed >= settings.failure_share * self._total or self._in_row >= settings.failures_in_row
        ):
            self._open(now)

    def _roll(self, number: int) -> None:
        self._bucket = [number, 0, 0]
        self._buckets.append(self._bucket)
        while self._buckets[0][0] <= number - _BUCKETS:
            _, tries, failures = self._buckets.popleft()
            self._total -= tries
            self._failed -= failures

    def _open(self, now: float) -> None:
        settings = self.settings
        pause_s = min(settings.pause_s_max, settings.pause_s * 2.0 ** min(self._openings, 32))
        self._until = now + pause_s * (0.5 + self._rng.random() / 2)
        self._openings += 1
        self.opened += 1
        self._enter(BreakerState.OPEN)

    def _enter(self, state: BreakerState) -> None:
        self.state = state
        self._turn += 1
        self._probes = self._successes = self._in_row = self._total = self._failed = 0
        self._buckets.clear()
        self._bucket = [NOT_COUNTED, 0, 0]
        if self._on_change is not None:
            self._on_change()


class BreakerGate:
    """Stage: refuses a call at once when the breakers of all replicas that would take it are open.

    Args:
        inner: the next stage.
        backend: the route.
        service: full name of the gRPC service.
    """

    def __init__(self, inner: Stage, backend: Backend, service: str) -> None:
        self._inner = inner
        self._backend = backend
        self._service = service

    async def __call__(self, exchange: Exchange) -> Answer:
        """Hands the call on.

        Raises:
            NotReady: CIRCUIT_OPEN, with the time after which a replica may be tried again.
        """
        replicas = self._backend.ready(self._service)
        now = time.perf_counter()
        for replica in replicas:
            if replica.breaker.admits(now):
                break
        else:
            if replicas:  # where there is none at all, the stage that asks says why
                self._backend.load.counts.broken += 1
                raise NotReady(
                    f"every replica of {self._backend.name} has failed too often lately",
                    reason=ErrorReason.ERROR_REASON_CIRCUIT_OPEN,
                    retry_after_s=min(replica.breaker.retry_after_s(now) for replica in replicas),
                    service=self._service,
                )
        return await self._inner(exchange)
