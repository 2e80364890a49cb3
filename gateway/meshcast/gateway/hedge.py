"""Hedge: asks a second replica when the first is slow, and another at once when one has failed; the first one wins."""

from __future__ import annotations

import asyncio
import math
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .allowance import Allowance
from .attempt import Try
from .breaker import BreakerState
from .budget import unreachable
from .exchange import Answer, Exchange, TryFailed
from .forwarding import never_began
from .percentiles import Percentiles
from .retry import LASTING, RetrySettings, may_try_again, pause

if TYPE_CHECKING:
    from .backends import Backend
    from .policy import MethodPolicy
    from .replica import Replica

_SAMPLES_MAX = 256  # latencies that the delay is taken from
_URGENT_DELAYS = 2.0  # after so many of them a call may take what is kept for silent replicas
_SAMPLES_A_LOOK = 16  # new ones after which it is worked out again


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeSettings:
    """When a second replica is asked beside a slow one; the table `[gateway.hedge]`."""

    share_max: float = 0.08
    """Second tries a call on average: each call pays in so much, and each second try takes 1."""
    burst: int = 20
    """Second tries of a method that may come before any call has paid for them. Half of them are kept for calls that
    have waited twice the delay, and for replicas that say nothing at all, until their breakers have opened."""
    tries_max: int = 3
    """Replicas that may be busy with one call at a time."""
    percentile: float = 0.9
    """The delay: so large a share of the method's recent tries is answered by then."""
    delay_medians_max: float = 3.0
    """Longest delay, in medians of the same tries."""
    delay_ms_min: float = 5.0
    """Shortest delay, in milliseconds; below it, delays of our own process would look like a replica's."""
    first_delay_ms: float = 100.0
    """Delay while too little is known of a method, in milliseconds; 0 for no second try."""
    samples_min: int = 20
    """Tries from which enough is known."""

    def __post_init__(self) -> None:
        """Checks the values; raises ValueError naming the field."""
        if not 0 <= self.share_max <= 1:  # NaN is none
            raise ValueError(f"hedge.share_max must be between 0 and 1, is {self.share_max}")
        if not 0 < self.percentile <= 1:
            raise ValueError(f"hedge.percentile must be more than 0 and at most 1, is {self.percentile}")
        for name, least in (("burst", 0), ("tries_max", 1), ("samples_min", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"hedge.{name} must be {least} or more, is {getattr(self, name)}")
        for name in ("delay_medians_max", "delay_ms_min", "first_delay_ms"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"hedge.{name} must be 0 or more, is {getattr(self, name)}")


class HedgeDelay:
    """How long to wait for a replica before another is asked: a high percentile of the method's recent tries.

    Tries that were cut short count with the time they had, so that slow ones are not forgotten. As the allowance of
    second tries gets low the delay grows towards its cap, so that what is left goes to the slowest calls.

    Args:
        settings: percentile, caps and what to do with few samples.
    """

    __slots__ = ("_cap_s", "_looked_at", "_percentile_s", "_settings", "_tries")

    def __init__(self, settings: HedgeSettings) -> None:
        self._settings = settings
        self._tries = Percentiles(_SAMPLES_MAX)
        self._looked_at = 0
        self._percentile_s = self._cap_s = 0.0

    def add(self, latency_s: float) -> None:
        """Takes the latency of a try that was answered, or the time that a slow one had before it was cut short."""
        self._tries.add(latency_s)

    def seconds(self, fill: float) -> float | None:
        """The delay now, in seconds; None for no second try.

        Args:
            fill: how much of the allowance is left, 0 to 1.
        """
        settings, tries = self._settings, self._tries
        if tries.added < settings.samples_min:
            return settings.first_delay_ms / 1e3 or None
        if tries.added - self._looked_at >= _SAMPLES_A_LOOK or not self._looked_at:
            self._looked_at = tries.added
            median_s, high_s = tries.at(0.5), tries.at(settings.percentile)
            assert median_s is not None and high_s is not None
            self._cap_s = max(settings.delay_ms_min / 1e3, median_s * settings.delay_medians_max)
            self._percentile_s = min(self._cap_s, max(settings.delay_ms_min / 1e3, high_s))
        return self._cap_s - (self._cap_s - self._percentile_s) * fill


class Hedge:
    """Stage: asks one replica, a second one when that is slow, and another at once where one has failed.

    For methods that may be asked any number of times. The first answer wins, and the other tries are cancelled; a
    failure that another replica would repeat ends the call at once. A call that is answered before the delay is over
    costs no task.

    Args:
        policy: of the method.
        settings: of the second tries.
        retry: settings of tries after a failure.
        retries: budget of the route for them.
        retry_after_s: seconds after which callers may ask again when no replica can be reached.
        rng: draws the pauses before a replica that has failed a call is asked again.

    Attributes:
        delay: after which a second replica is asked.
    """

    def __init__(
        self,
        policy: MethodPolicy,
        settings: HedgeSettings,
        retry: RetrySettings,
        retries: Allowance,
        *,
        retry_after_s: float,
        rng: random.Random,
    ) -> None:
        self.delay = HedgeDelay(settings)
        self._service = policy.service
        self._settings = settings
        self._retry_settings = retry
        self._allowance = Allowance(settings.share_max, settings.burst)
        self._kept = settings.burst / 2
        self._retries = retries
        self._retry_after_s = retry_after_s
        self._rng = rng

    async def __call__(self, exchange: Exchange) -> Answer:
        """Answers the call.

        Raises:
            TryFailed: the failure that ended it.
            NotReady: no replica can be reached.
            DeadlineExceeded: no time is left.
        """
        backend = exchange.backend
        replica = backend.pick(self._service)
        if replica is None:
            raise unreachable(backend, self._service, retry_after_s=self._retry_after_s)
        self._allowance.earn()
        self._retries.earn()
        race = _Race()
        race.add(Try(exchange, replica))
        delay_s = self.delay.seconds(self._allowance.fill(self._kept))
        fair_s = math.inf
        try:
            answer = await self._run(race, exchange, backend, delay_s)
            fair_s = delay_s or math.inf
            return answer
        finally:
            for loser in race.tries:
                ran_s = loser.abandon(fair_s)
                if ran_s >= fair_s:
                    self.delay.add(ran_s)

    async def _run(self, race: _Race, exchange: Exchange, backend: Backend, delay_s: float | None) -> Answer:
        """The answer of the try that answers first; the others are left in the race."""
        asked = [race.tries[0].replica]
        wait_s = delay_s if len(backend.ready(self._service)) > 1 else None
        failed = 0
        while True:
            # Where nothing can come between, its answer is awaited itself.
            ended = race.tries[0] if wait_s is None and len(race.tries) == 1 else await race.first(wait_s)
            if ended is None:
                wait_s = self._hedge(race, exchange, backend, asked, delay_s or 0.0)
                continue
            race.tries.remove(ended)
            try:
                answer = await ended.answer()
            except TryFailed as failure:
                if not may_try_again(failure.error, is_idempotent=True):
                    raise
                failed += not never_began(failure.error)
                if not race.tries:
                    race.add(await self._retry(exchange, backend, asked, failed, failure))
                continue
            self.delay.add(time.perf_counter() - ended.began)
            if ended in race.hedges:
                backend.load.counts.hedges_won += 1
            return answer

    def _hedge(
        self, race: _Race, exchange: Exchange, backend: Backend, asked: list[Replica], delay_s: float
    ) -> float | None:
        """Asks another replica beside the slow ones where that is allowed; returns how long to wait then."""
        now = time.perf_counter()
        for each in race.tries:
            if now - each.began >= delay_s:
                each.question()
        ran_s = now - race.tries[0].began
        is_silent = all(each.is_silent for each in race.tries)
        is_urgent = is_silent or ran_s >= _URGENT_DELAYS * delay_s
        wait_s = max(delay_s, ran_s / 4)
        other = None
        if len(race.tries) < self._settings.tries_max and exchange.ends_at > now:
            other = backend.pick_admitted(self._service, avoid=asked)
        if other is None:
            return wait_s  # one may come back, and silence says something
        counts, limit = backend.load.counts, backend.load.limit
        # While calls wait for a place it is load that makes answers late, and a second try would add to it.
        may_hedge = is_silent or limit is None or not limit.waiting
        is_hedge = may_hedge and self._allowance.spend(keep=0.0 if is_urgent else self._kept)
        if is_hedge:
            counts.hedges += 1
        elif all(_is_given_up(each.replica) for each in race.tries) and self._retries.spend():
            counts.retries += 1
        else:
            return wait_s
        exchange.hedged = True
        asked.append(other)
        hedge = Try(exchange, other)
        race.add(hedge)
        if is_hedge:
            race.hedges.append(hedge)
        return delay_s

    async def _retry(
        self, exchange: Exchange, backend: Backend, asked: list[Replica], failed: int, failure: TryFailed
    ) -> Try:
        """Asks another replica after all that were asked have failed, or the same again where there is no other.

        Args:
            exchange: the call.
            backend: the route.
            asked: replicas that were asked.
            failed: tries that have failed after their replica had begun.
            failure: the last one.

        Raises:
            TryFailed: the failure, where no replica, no time or no budget is left.
        """
        has_begun = not never_began(failure.error)
        other = backend.pick(self._service, avoid=asked)
        may_again = has_begun and failure.error.code() not in LASTING
        if (other is None and not (may_again and backend.ready(self._service))) or exchange.remaining_s() <= 0:
            raise failure
        if has_begun and (failed >= self._retry_settings.attempts_max or not self._retries.spend()):
            raise failure
        if other is None:
            await pause(exchange, self._retry_settings, failed, self._rng)
            other = backend.pick(self._service)  # not before: replicas come and go meanwhile
            if other is None:
                raise failure
        backend.load.counts.retries += has_begun
        asked.append(other)
        return Try(exchange, other)


def _is_given_up(replica: Replica) -> bool:
    return replica.breaker.state is BreakerState.OPEN or replica.inquiry.is_unanswered


class _Race:
    """Tries of one call that are under way.

    Attributes:
        tries: that have not ended, the first one first.
        hedges: those that began beside a slow one, ended or not.
    """

    __slots__ = ("_loop", "_woken", "hedges", "tries")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] | None = None
        self.tries: list[Try] = []
        self.hedges: list[Try] = []

    def add(self, added: Try) -> None:
        """Adds a try that has just begun."""
        self.tries.append(added)
        added.call.add_done_callback(self._wake)

    async def first(self, wait_s: float | None) -> Try | None:
        """The first try whose call has ended; None when none has within the time.

        Args:
            wait_s: seconds; None waits for ever.
        """
        ended = self._ended()
        if ended is not None:
            return ended
        self._woken = self._loop.create_future()
        timer = None if wait_s is None else self._loop.call_later(wait_s, self._wake)
        try:
            await self._woken
        finally:
            self._woken = None
            if timer is not None:
                timer.cancel()
        return self._ended()

    def _ended(self) -> Try | None:
        for each in self.tries:
            if each.call.done():
                return each
        return None

    def _wake(self, _call: Any = None) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)
