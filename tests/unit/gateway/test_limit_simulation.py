"""The limit before simulated services, in virtual time: it finds their capacity, and keeps it when things change."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import grpc
import grpc.aio
import pytest

from meshcast.gateway import Backend, RouteSettings
from meshcast.gateway.concurrency import LimitSettings
from meshcast.gateway.contracts import MethodContract, MethodKind
from meshcast.gateway.exchange import PRIORITY_KEY, Answer, Exchange, TryFailed
from meshcast.gateway.limit import Limit, RouteLimit
from meshcast.gateway.policy import MethodPolicy, Tries
from meshcast.rpc import Overloaded
from virtual_time import run_virtually

CONTRACT = MethodContract(path="/a.B/C", kind=MethodKind.UNARY, has_receipt=True)
POLICY = MethodPolicy(contract=CONTRACT, tries=Tries.ONCE, deadline_s=1.0)
DEADLINE_S = 1.0
MIX = {"high": 0.2, "normal": 0.4, "low": 0.4}


class Service:
    """A service that works on so many calls at once, and takes `draw()` seconds for them.

    Args:
        at_once: calls of a batch, or workers.
        draw: gives the seconds of a batch, or of a call.
        is_batched: whether calls that came together also end together.
    """

    def __init__(self, at_once: int, draw: Callable[[], float], *, is_batched: bool) -> None:
        self.executed_late = 0
        self.slowness = 1.0
        self._at_once = at_once
        self._draw = draw
        self._is_batched = is_batched
        self._queue: list[tuple[asyncio.Future[None], float]] = []
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, exchange: Exchange) -> Answer:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        job = (done, exchange.ends_at)
        self._queue.append(job)
        self._run()
        try:
            async with asyncio.timeout_at(exchange.ends_at):
                await done
        except TimeoutError:
            if job in self._queue:
                self._queue.remove(job)
            empty = grpc.aio.Metadata()
            error = grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, empty, empty)
            raise TryFailed(error, "a:1") from None
        return Answer(b"")

    def _run(self) -> None:
        slots, size = (1, self._at_once) if self._is_batched else (self._at_once, 1)
        while self._queue and self._running < slots:
            batch, self._queue = self._queue[:size], self._queue[size:]
            self._running += 1
            task = asyncio.create_task(self._execute(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _execute(self, batch: Sequence[tuple[asyncio.Future[None], float]]) -> None:
        self.executed_late += sum(asyncio.get_running_loop().time() > ends_at for _, ends_at in batch)
        await asyncio.sleep(self._draw() * self.slowness)
        for done, _ in batch:
            if not done.done():
                done.set_result(None)
        self._running -= 1
        self._run()


class World:
    """A service behind a limit, and what became of the calls to it."""

    def __init__(self, service: Service) -> None:
        loop = asyncio.get_running_loop()
        self.service = service
        self.route = Backend("echo", RouteSettings(services=("a.B",)))
        self.limit = RouteLimit("echo", LimitSettings(), clock=loop.time, rng=random.Random(0))
        self.stage = Limit(service, self.limit)
        self.answered: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.refused: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._rng = random.Random(1)
        self._clock = loop.time

    async def call(self, priority: str = "normal", *, deadline_s: float = DEADLINE_S) -> None:
        """One call; what became of it is counted."""
        began = self._clock()
        metadata = ((PRIORITY_KEY, priority),)
        try:
            await self.stage(Exchange(POLICY, self.route, b"", metadata, began, began + deadline_s, 0))
            self.answered[priority].append((self._clock(), self._clock() - began))
        except Overloaded:
            self.refused[priority] += 1
        except TryFailed:
            self.failed[priority] += 1

    async def arrivals(self, per_s: float, seconds: float) -> None:
        """Calls that come at random, whether others are answered or not."""
        ends = self._clock() + seconds
        async with asyncio.TaskGroup() as group:
            while self._clock() < ends:
                await asyncio.sleep(self._rng.expovariate(per_s))
                group.create_task(self.call(self._rng.choices(list(MIX), list(MIX.values()))[0]))

    def goodput(self, since_s: float = 0.0) -> float:
        """Answers a second, all priorities together."""
        counted = [at for answers in self.answered.values() for at, _ in answers if at >= since_s]
        return len(counted) / (self._clock() - since_s)

    def latency_s(self, priority: str, share: float) -> float:
        """Latency that so great a share of the answers stayed below."""
        ordered = sorted(latency for _, latency in self.answered[priority])
        return ordered[int(share * len(ordered))]


def lognormal(mean_s: float, sigma: float) -> Callable[[], float]:
    """Draws of a skewed distribution."""
    rng = random.Random(2)
    return lambda: mean_s * math.exp(rng.gauss(0, sigma) - sigma**2 / 2)


@pytest.mark.parametrize("size", [1, 2, 8])
def test_at_three_times_the_capacity_of_a_service_with_batches_none_of_it_is_lost(size: int) -> None:
    async def run() -> None:
        world = World(Service(size, lambda: 0.01, is_batched=True))
        await world.arrivals(3 * size / 0.01, 8.0)
        assert world.goodput(2.0) >= 0.95 * size / 0.01
        assert world.latency_s("high", 0.99) < 0.5 * DEADLINE_S
        assert not world.failed
        assert world.refused["high"] < 0.01 * len(world.answered["high"])
        assert world.refused["low"] > 0.9 * (len(world.answered["low"]) + world.refused["low"])
        assert world.service.executed_late == 0
        assert size <= world.limit.calls_max <= 8 * size + 8

    run_virtually(run())


@pytest.mark.parametrize(("at_once", "sigma"), [(4, 0.5), (4, 1.0), (16, 1.0)])
def test_latencies_that_vary_hide_no_capacity(at_once: int, sigma: float) -> None:
    async def run() -> None:
        world = World(Service(at_once, lognormal(0.02, sigma), is_batched=False))
        await world.arrivals(3 * at_once / 0.02, 8.0)
        assert world.goodput(2.0) >= 0.9 * at_once / 0.02
        assert world.latency_s("high", 0.99) < DEADLINE_S

    run_virtually(run())


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_below_capacity_nobody_is_refused(load: float) -> None:
    async def run() -> None:
        world = World(Service(8, lambda: 0.01, is_batched=True))
        await world.arrivals(load * 800, 8.0)
        assert not world.refused and not world.failed

    run_virtually(run())


def test_a_service_without_a_bound_of_its_own_is_not_held_back() -> None:
    async def run() -> None:
        world = World(Service(10_000, lambda: 0.05, is_batched=False))
        await world.arrivals(2_000, 5.0)
        assert world.goodput(2.0) > 0.95 * 2_000
        assert world.refused.total() < 200  # of 10,000: it has to grow first

    run_virtually(run())


def test_a_jump_of_the_latencies_passes() -> None:
    async def run() -> None:
        world = World(Service(8, lambda: 0.01, is_batched=True))
        loop = asyncio.get_running_loop()
        loop.call_later(4.0, setattr, world.service, "slowness", 10.0)
        loop.call_later(5.0, setattr, world.service, "slowness", 1.0)
        await world.arrivals(0.8 * 800, 5.0)
        refused = world.refused.total()
        await world.arrivals(0.8 * 800, 6.0)
        assert world.goodput(6.0) > 0.97 * 0.8 * 800
        assert world.refused.total() - refused < 0.02 * 0.8 * 800 * 6

    run_virtually(run())


def test_a_service_that_has_become_slower_for_good_is_still_used_in_full() -> None:
    async def run() -> None:
        world = World(Service(8, lambda: 0.01, is_batched=True))
        await world.arrivals(3 * 800, 3.0)
        world.service.slowness = 5.0
        await world.arrivals(3 * 160, 20.0)
        assert world.goodput(8.0) >= 0.9 * 160

    run_virtually(run())


def test_a_slow_service_is_found_out_before_many_calls_are_lost() -> None:
    async def run() -> None:
        world = World(Service(2, lambda: 0.5, is_batched=False))

        async def caller() -> None:
            while asyncio.get_running_loop().time() < 60.0:
                await world.call(deadline_s=20.0)

        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(caller())
        assert world.goodput() > 0.9 * 4
        assert not world.failed
        assert world.limit.calls_max < 16

    run_virtually(run())


def test_callers_of_one_priority_get_equal_shares() -> None:
    async def run() -> None:
        world = World(Service(4, lambda: 0.01, is_batched=True))
        answered: Counter[int] = Counter()

        async def caller(number: int) -> None:
            while asyncio.get_running_loop().time() < 5.0:
                await world.call(deadline_s=5.0)
                answered[number] += 1

        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(caller(number))
        assert not world.refused
        assert min(answered.values()) > 0.8 * max(answered.values())

    run_virtually(run())
