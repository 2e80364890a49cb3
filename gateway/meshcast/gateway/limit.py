"""Limit: lets no more calls of a route be under way than it can answer, those that matter most first; the others wait,
or are refused while there is time to ask elsewhere."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import grpc
import grpc.aio

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import Overloaded, from_rpc_error

from .concurrency import Concurrency, LimitSettings
from .exchange import Answer, Exchange, Priority, Stage, TryFailed
from .waiting_room import Waiter, WaitingRoom

_RETRY_AFTER_S = (0.05, 5.0)
_EXPECTED_SHARE = 0.5  # of the time that a call may wait: with twice that, few wait in vain
_OVERLOAD = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED})


class RouteLimit:
    """The limit of one route and the calls that wait under it, shared by the stages of its methods.

    Args:
        name: of the route.
        settings: of the limit.
        clock: gives seconds that never go back; `Exchange.ends_at` is on it.
        rng: spreads the retries of those that are refused.
    """

    def __init__(
        self,
        name: str,
        settings: LimitSettings,
        *,
        clock: Callable[[], float] = time.perf_counter,
        rng: random.Random | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.clock = clock
        self.concurrency = Concurrency(settings, clock())
        self.room = WaitingRoom(settings.waiting_max)
        self._rng = rng or random.Random()

    @property
    def calls_max(self) -> int:
        """Calls that may be under way now."""
        return round(self.concurrency.limit)

    @property
    def share(self) -> float:
        """Share of them that are under way; more than 1 where calls wait."""
        return (self.concurrency.in_flight + self.room.waiting) / max(1, self.calls_max)

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn."""
        return self.room.waiting

    def admit(self) -> None:
        """Lets those go whose turn has come."""
        concurrency, room = self.concurrency, self.room
        while room.waiting:
            waiter = room.let_go(concurrency.bounds, concurrency.in_flight, self.clock())
            if waiter is None:
                return
            waiter.is_quiet = concurrency.begin()  # at once, so that nobody takes its place before it runs
            waiter.turn.set_result(True)

    def refusal(self, exchange: Exchange, wait_s: float) -> Overloaded:
        """The error of a call that is refused; counts it.

        Args:
            exchange: the call.
            wait_s: how long it would have to wait, in seconds.
        """
        priority = exchange.priority.name.lower()
        exchange.backend.load.counts.shed[priority] += 1
        least_s, most_s = _RETRY_AFTER_S
        return Overloaded(
            f"{self.name} takes no more calls of {priority} priority now: {self.concurrency.in_flight} are under way, "
            f"{self.room.waiting} wait",
            reason=ErrorReason.ERROR_REASON_LIMIT_REACHED,
            # Spread, as those who are refused together would come back together.
            retry_after_s=max(least_s, min(most_s, wait_s)) * self._rng.uniform(0.75, 1.25),
            service=exchange.policy.service,
            priority=priority,
            limit=self.calls_max,
        )


class Limit:
    """Stage: holds the calls of a method to the route's limit.

    A call that finds the limit reached waits, but no longer than leaves it the time that calls take of late, and only
    if the line moves so fast that it may get its turn; otherwise it is refused at once. A waiting call whose time is
    over is refused and never sent on. What replicas refuse for their load and deadlines that pass lower the limit.

    Args:
        inner: the next stage.
        limit: of the route.
    """

    def __init__(self, inner: Stage, limit: RouteLimit) -> None:
        self._inner = inner
        self._limit = limit
        self._latency = limit.concurrency.latency()

    async def __call__(self, exchange: Exchange) -> Answer:
        """Answers the call.

        Raises:
            Overloaded: the limit is reached, and the call cannot wait.
        """
        limit, concurrency = self._limit, self._limit.concurrency
        if concurrency.in_flight < concurrency.bounds[Priority.LOW] and not limit.room.waiting:
            is_quiet = concurrency.begin()  # whatever its priority, which so need not be read
        else:
            is_quiet = await self._turn(exchange)
        began = limit.clock()
        try:
            answer = await self._inner(exchange)
        except TryFailed as failure:
            if failure.error.code() in _OVERLOAD:
                self._failed(failure.error, limit.clock() - began, is_quiet=is_quiet)
            raise
        else:
            if exchange.attempts <= 1 or exchange.hedged:  # else it is the pauses of a retry that would be measured
                now = limit.clock()
                concurrency.answered(self._latency, now - began, now, is_quiet=is_quiet)
            return answer
        finally:
            concurrency.in_flight -= 1
            if limit.room.waiting:
                limit.admit()

    async def _turn(self, exchange: Exchange) -> bool:
        """Waits until the call may begin; returns whether little is under way beside it."""
        limit, concurrency, room = self._limit, self._limit.concurrency, self._limit.room
        priority = exchange.priority
        if concurrency.in_flight < concurrency.bounds[priority] and not room.is_behind(priority):
            return concurrency.begin()
        now = limit.clock()
        left_s = exchange.ends_at - now
        may_wait_s = min(left_s * limit.settings.wait_share, left_s - self._latency.expected_s)
        wait_s = room.wait_s(priority, now)
        if wait_s > _EXPECTED_SHARE * may_wait_s or may_wait_s <= 0:
            raise limit.refusal(exchange, wait_s)
        loop = asyncio.get_running_loop()
        waiter = Waiter(priority, loop.create_future())
        if not room.enter(waiter, now):
            raise limit.refusal(exchange, wait_s)
        timer = loop.call_later(may_wait_s, self._expire, waiter)
        try:
            may_go = await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.cancelled():
                room.leave(waiter, limit.clock(), in_vain=False)
            elif waiter.turn.result():  # it had just got its turn
                concurrency.end()
                limit.admit()
            raise
        finally:
            timer.cancel()
        if not may_go:
            raise limit.refusal(exchange, max(wait_s, limit.clock() - now))
        return waiter.is_quiet

    def _expire(self, waiter: Waiter) -> None:
        if not waiter.turn.done():
            self._limit.room.leave(waiter, self._limit.clock(), in_vain=True)
            waiter.turn.set_result(False)

    def _failed(self, error: grpc.aio.AioRpcError, elapsed_s: float, *, is_quiet: bool) -> None:
        """Takes what a failure says of the load."""
        limit, concurrency, latency = self._limit, self._limit.concurrency, self._latency
        now = limit.clock()
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            if from_rpc_error(error).reason != ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE:
                concurrency.refused(now)
        elif elapsed_s > limit.settings.tolerance * latency.base_s:
            # A call that was given too little time says nothing; one that was given enough took at least so long.
            concurrency.answered(latency, elapsed_s, now, is_quiet=is_quiet)
            concurrency.refused(now)
