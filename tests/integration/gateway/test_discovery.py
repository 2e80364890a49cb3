"""Replicas that are added, drained and removed under load: nothing is dropped, nothing is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.gateway import RouteSettings
from meshcast.gateway.dns_endpoints import DnsEndpoints
from meshcast.gateway.endpoints import DiscoverySettings
from meshcast.rpc import RpcSettings
from meshcast.rpc.orca import TRAILER, parse
from scripted_answers import log_engagement
from scripted_backend import Script, ScriptedBackend

PREDICTOR = "meshcast.api.predictor.v1.PredictorService"
CALLERS = 8


class Load:
    """Callers that ask without a pause, and check each answer."""

    def __init__(self, gateway: Any) -> None:
        self._gateway = gateway
        self._ends = False
        self.answered = 0

    async def ask(self, number: int) -> None:
        """One caller, until the end."""
        while not self._ends:
            length = self.answered % 1_000
            request = pb.PredictEngagementRequest(
                request_id=f"{number}-{self.answered}", planned=pb.PlannedPost(content_length=length, hour_of_day=7)
            )
            answer = await self._gateway.predictor.PredictEngagement(request, timeout=10)
            assert answer.prediction.log_engagement == log_engagement(length, 7)
            self.answered += 1

    async def more(self, calls: int = 100) -> None:
        """Waits for so many further answers."""
        goal = self.answered + calls
        while self.answered < goal:  # noqa: ASYNC110  # a counter
            await asyncio.sleep(0.005)

    def end(self) -> None:
        self._ends = True


@asynccontextmanager
async def under_load(gateway: Any) -> AsyncIterator[Load]:
    load = Load(gateway)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            group.create_task(load.ask(number), name=f"test-caller:{number}")
        await load.more(20)
        yield load
        load.end()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # counters
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("once", [False, True])
async def test_replicas_that_a_list_adds_drains_and_removes_drop_nothing(
    run_gateway: Any, tmp_path: Path, once: bool
) -> None:
    path = tmp_path / "predictors"

    def list_(*backends: ScriptedBackend) -> None:
        newer = path.with_suffix(".new")
        newer.write_text("\n".join(backend.address for backend in backends), "utf-8")
        newer.rename(path)

    backends = [
        ScriptedBackend(Script(latency_ms=2), settings=RpcSettings(drain_delay_s=0.1, drain_s=5.0)) for _ in range(3)
    ]
    one, two, three = backends
    route = RouteSettings(
        services=(PREDICTOR,), endpoints=(f"file://{path}",), once=("PredictEngagement",) if once else ()
    )
    discovery = DiscoverySettings(file_poll_s=0.02)
    async with three:
        async with two:
            async with one:
                list_(one)
                async with run_gateway(routes={"predictor": route}, discovery=discovery) as gateway:
                    async with under_load(gateway) as load:
                        list_(one, two)
                        await until(lambda: two.counts.answered > 20)
                        list_(two)  # while `one` still answers
                        await gateway.until(lambda mesh: len(mesh.services[0].replicas) == 1)
                        await load.more(3 * CALLERS)  # what was on its way
                        asked = one.counts.begun
                        await load.more()
                        assert one.counts.begun == asked
                        list_(one, two, three)
                        await until(lambda: three.counts.answered > 20 and one.counts.begun > asked)
                        await two.server.drain()  # as at SIGTERM
                        await load.more()
                        list_(one, three)
                        await one.server.drain()
                        await load.more()
    begun = sum(backend.counts.begun for backend in backends)
    assert sum(backend.counts.answered for backend in backends) >= load.answered
    if once:
        assert begun == load.answered


async def test_the_addresses_behind_a_name_are_followed(run_gateway: Any) -> None:
    """Three loopback addresses on one port stand for the replicas of a name."""
    answer: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        assert host == "predictor"
        return [f"{one}:{port}" for one in answer]

    served = [RpcSettings(host=f"127.0.0.{number}", drain_delay_s=0.1, drain_s=5.0) for number in (1, 2)]
    async with ScriptedBackend(settings=served[0]) as one:
        port = one.server.port
        async with ScriptedBackend(settings=served[1], port=port) as two:
            source = DnsEndpoints("predictor", port, poll_s=0.02, gone_s=0.05, resolve=resolve)
            answer.append("127.0.0.1")
            async with run_gateway([], sources={"predictor": source}) as gateway, under_load(gateway) as load:
                answer.append("127.0.0.2")
                await until(lambda: two.counts.answered > 20)
                answer.remove("127.0.0.1")
                await gateway.until(lambda mesh: len(mesh.services[0].replicas) == 1)
                await load.more(3 * CALLERS)  # what was on its way
                asked = one.counts.begun
                await load.more()
                assert one.counts.begun == asked


async def test_a_name_of_this_machine_is_resolved_by_the_system(run_gateway: Any) -> None:
    async with ScriptedBackend() as backend:
        endpoint = f"dns:///localhost:{backend.server.port}"
        async with run_gateway([endpoint]) as gateway:
            await gateway.until(lambda mesh: mesh.serving)
            answer = await gateway.predictor.PredictEngagement(pb.PredictEngagementRequest(), timeout=5)
            assert answer.receipt.gateway.endpoint == backend.address


async def test_the_gateway_reads_what_replicas_say_of_their_load_and_tells_its_own(run_gateway: Any) -> None:
    async with ScriptedBackend(Script(utilization=0.625)) as backend, run_gateway([backend.address]) as gateway:
        call = gateway.predictor.PredictEngagement(pb.PredictEngagementRequest(), timeout=5)
        await call
        loads = [value for key, value in await call.trailing_metadata() if key == TRAILER]
        report = parse(loads[0])
        assert len(loads) == 1 and report is not None
        assert 0 <= report.application_utilization < 0.6
        (replica,) = (await gateway.health()).services[0].replicas
        assert replica.load.utilization == 0.625
