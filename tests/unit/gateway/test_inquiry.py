"""The inquiry into a replica's silence."""

from __future__ import annotations

import asyncio
import random
import time

from meshcast.gateway.breaker import Breaker, BreakerSettings, BreakerState
from meshcast.gateway.inquiry import Inquiry
from virtual_time import run_virtually


class Replica:
    """Answers questions as it is told; after the last word it answers as the last time.

    Attributes:
        asked: questions so far.
        is_reachable: as its health Watch says.
    """

    def __init__(self, *answers: bool, tries_min: int = 3) -> None:
        self.asked = 0
        self.is_reachable = True
        self.breaker = Breaker(BreakerSettings(tries_min=tries_min, failures_in_row=3), random.Random(1))
        self.inquiry = Inquiry("one", self.ask, lambda: self.is_reachable, self.breaker)
        self._answers = answers

    async def ask(self) -> bool:
        await asyncio.sleep(0.2)
        self.asked += 1
        return self._answers[min(self.asked, len(self._answers)) - 1]

    def accuse(self, count: int) -> None:
        for _ in range(count):
            self.inquiry.accuse(self.breaker.begin(time.perf_counter()))

    def state(self) -> BreakerState:
        return self.breaker.state

    async def until_over(self) -> None:
        while self.inquiry.is_under_way:  # noqa: ASYNC110  # in virtual time
            await asyncio.sleep(0.05)


def test_an_answer_clears_every_try_that_waited() -> None:
    async def main() -> None:
        replica = Replica(True, tries_min=1)
        replica.accuse(10)
        assert replica.inquiry.is_under_way
        await replica.until_over()
        assert replica.asked == 1
        assert replica.state() is BreakerState.CLOSED

    run_virtually(main())


def test_without_an_answer_every_try_that_waited_is_a_failure() -> None:
    async def main() -> None:
        replica = Replica(False)
        replica.accuse(3)
        await replica.until_over()
        assert replica.asked == 1
        assert replica.state() is BreakerState.OPEN

    run_virtually(main())


def test_it_asks_until_the_breaker_has_opened() -> None:
    async def main() -> None:
        replica = Replica(False)
        replica.accuse(1)
        await asyncio.sleep(0.25)
        assert replica.inquiry.is_unanswered
        await replica.until_over()
        assert replica.asked == 3  # the first decides over the try, each further one counts itself
        assert replica.state() is BreakerState.OPEN
        assert not replica.inquiry.is_unanswered

    run_virtually(main())


def test_it_ends_when_the_replica_answers_again_or_is_known_to_be_lost() -> None:
    async def main() -> None:
        back = Replica(False, True, tries_min=100)
        back.accuse(1)
        await back.until_over()
        assert back.asked == 2
        lost = Replica(False, tries_min=100)
        lost.accuse(1)
        lost.is_reachable = False
        await lost.until_over()
        assert lost.asked == 1
        assert {each.breaker.state for each in (back, lost)} == {BreakerState.CLOSED}

    run_virtually(main())


def test_it_is_closed_without_a_verdict_and_gives_every_place_back() -> None:
    async def main() -> None:
        replica = Replica(False)
        replica.accuse(3)
        now = time.perf_counter()
        await replica.until_over()
        assert replica.state() is BreakerState.OPEN
        for _ in range(2):
            replica.inquiry.accuse(replica.breaker.begin(now + 10.0))  # probes
        assert replica.breaker.probes == 2
        await asyncio.sleep(0.1)
        await replica.inquiry.close()
        assert not replica.inquiry.is_under_way
        assert replica.breaker.probes == 0
        assert replica.state() is BreakerState.HALF_OPEN

    run_virtually(main())
