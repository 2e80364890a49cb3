"""Callers of a gateway whose replicas die, freeze, vanish or fail: they notice nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import numpy as np
import pytest

from backend_process import BackendProcess
from fault_proxy import FaultProxy
from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.rpc import ChannelSettings, channel
from scripted_answers import log_engagement
from scripted_backend import Script, ScriptedBackend, change

CALLERS = 6
DEADLINE_S = 2.0
FAULT_S = 1.0
RETURN_S = 5.0


@dataclass
class Tally:
    """What callers have seen: calls that ended well, and the others; wrong answers; which replicas answered."""

    ok: int = 0
    failed: list[str] = field(default_factory=list)
    wrong: int = 0
    answered_by: set[str] = field(default_factory=set)

    async def call(self, stub: Any, first: int) -> None:
        """Asks one question after the other until it is cancelled."""
        length = first
        while True:
            length = (length + 7) % 400
            question = pb.PredictEngagementRequest(channel="faults")
            question.planned.content_length, question.planned.hour_of_day = length, length % 24
            try:
                answer = await stub.PredictEngagement(question, timeout=DEADLINE_S)
            except grpc.aio.AioRpcError as error:
                self.failed.append(f"{error.code().name}: {error.details()}")
                continue
            self.ok += 1
            self.answered_by.add(answer.receipt.gateway.endpoint)
            self.wrong += not np.isclose(answer.prediction.log_engagement, log_engagement(length, length % 24))


@dataclass
class Replicas:
    """Four scripted processes, the last behind a fault proxy."""

    processes: list[BackendProcess]
    proxy: FaultProxy

    @property
    def addresses(self) -> list[str]:
        """Where the gateway finds them."""
        return [*(process.address for process in self.processes[:3]), self.proxy.address]

    async def fail(self, share: float) -> None:
        """Makes the third replica fail a share of its calls."""
        async with channel(self.processes[2].address, settings=ChannelSettings(plain=True)) as to:
            await change(to, failure_share=share)


@pytest.fixture
async def replicas() -> AsyncIterator[Replicas]:
    """Starts them."""
    async with AsyncExitStack() as stack:
        processes = [BackendProcess(Script(latency_ms=5.0, seed=number)) for number in range(4)]
        await asyncio.gather(*(stack.enter_async_context(process) for process in processes))
        proxy = await stack.enter_async_context(FaultProxy(processes[3].address))
        yield Replicas(processes, proxy)


async def test_faults_of_one_replica_or_two_cost_callers_nothing_and_it_is_soon_in_use_again(
    replicas: Replicas, run_gateway: Any
) -> None:
    one, two, _, _ = replicas.processes

    async def kill() -> None:
        await one.kill()

    async def freeze() -> None:
        two.freeze()

    async def thaw() -> None:
        two.thaw()

    async def vanish() -> None:
        replicas.proxy.blackhole()

    async def appear() -> None:
        replicas.proxy.heal()

    dies, freezes = (kill, one.start), (freeze, thaw)
    vanishes, fails = (vanish, appear), (lambda: replicas.fail(0.5), lambda: replicas.fail(0.0))
    faults: list[list[tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]]] = [
        [dies],
        [freezes],
        [vanishes],
        [fails],
        [freezes, fails],
    ]
    tally = Tally()
    async with run_gateway(replicas.addresses) as gateway, asyncio.TaskGroup() as group:
        callers = [group.create_task(tally.call(gateway.predictor, 50 * number)) for number in range(CALLERS)]
        await asyncio.sleep(0.5)  # so that the gateway knows how long answers take
        for together in faults:
            for break_it, _ in together:
                await break_it()
            await asyncio.sleep(FAULT_S)
            for _, mend in together:
                await mend()
            tally.answered_by.clear()
            async with asyncio.timeout(RETURN_S):
                while tally.answered_by != set(replicas.addresses):  # noqa: ASYNC110  # each caller adds to it
                    await asyncio.sleep(0.02)
        for caller in callers:
            caller.cancel()
    assert tally.wrong == 0
    assert tally.ok > 200
    assert len(tally.failed) <= tally.ok / 500, tally.failed  # a loaded machine may cost a few


async def test_stragglers_are_outrun_at_the_cost_of_a_few_extra_calls(run_gateway: Any) -> None:
    calls, straggler_s = 400, 1.0
    usual = Script(latency_ms=5.0)
    straggling = replace(usual, straggler_share=0.05, straggler_ms=straggler_s * 1e3)
    took_s: list[float] = []
    async with AsyncExitStack() as stack:
        backends = [await stack.enter_async_context(ScriptedBackend(usual)) for _ in range(4)]
        gateway = await stack.enter_async_context(run_gateway([backend.address for backend in backends]))

        async def call(count: int) -> None:
            for _ in range(count):
                began = asyncio.get_running_loop().time()
                await gateway.predictor.PredictEngagement(pb.PredictEngagementRequest(), timeout=10)
                took_s.append(asyncio.get_running_loop().time() - began)

        await asyncio.gather(*(call(10) for _ in range(CALLERS)))
        for backend in backends:
            backend.script = straggling
        took_s.clear()
        await asyncio.gather(*(call(calls // CALLERS) for _ in range(CALLERS)))
        (service,) = (await gateway.health()).services
    assert sorted(took_s)[int(0.98 * len(took_s))] < straggler_s  # without hedging it is so for 95 of 100
    assert 0 < service.counts.hedges <= 0.08 * (calls + 10 * CALLERS) + 20
    assert service.counts.hedges_won > 0
