"""Streams of chunks over several replicas: shared, in order, none lost when replicas come, leave, die or stall."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from backend_process import BackendProcess
from chunk_stream import PREDICTOR, ChunkStream, chunk
from fault_proxy import FaultProxy
from meshcast.gateway import RouteSettings
from meshcast.gateway.endpoints import DiscoverySettings
from meshcast.gateway.window import StreamSettings
from meshcast.rpc import DeadlineExceeded, InvalidInput, NotReady, Overloaded, RpcSettings, ServingStatus, mesh_errors
from scripted_backend import Script, ScriptedBackend

DRAINING = RpcSettings(drain_delay_s=0.1, drain_s=2.0)


@asynccontextmanager
async def backends(count: int, script: Script | None = None) -> AsyncIterator[list[ScriptedBackend]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(ScriptedBackend(script or Script(latency_ms=3), settings=DRAINING))
            for _ in range(count)
        ]


def stream(gateway: Any, *, first: int = 1, rows: int = 8, timeout_s: float = 20) -> ChunkStream:
    return ChunkStream(gateway.predictor.PredictEngagementStream(timeout=timeout_s), first=first, rows=rows)


@asynccontextmanager
async def streaming(gateway: Any) -> AsyncIterator[ChunkStream]:
    """A stream beside the block, which ends it."""
    running = stream(gateway)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(running.run(), name="test-stream")
        await running.more(20)
        yield running
        running.end()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # counters
            await asyncio.sleep(0.005)


async def resent(gateway: Any) -> int:
    return int((await gateway.health()).services[0].counts.chunks_resent)


async def test_replicas_share_one_stream_and_its_answers_keep_their_order(run_gateway: Any) -> None:
    async with backends(3) as three, run_gateway([one.address for one in three]) as gateway:
        running = stream(gateway, first=-3)  # any start will do
        await running.run(150)
        assert await resent(gateway) == 0
    assert sum(running.by_endpoint.values()) == 150
    assert min(running.by_endpoint[one.address] for one in three) >= 20
    assert running.attempts == 1


async def test_a_slow_replica_gets_fewer_chunks(run_gateway: Any) -> None:
    async with backends(2) as two, run_gateway([one.address for one in two]) as gateway:
        two[0].script = Script(latency_ms=60)
        running = stream(gateway)
        await running.run(200)
    assert 0 < running.by_endpoint[two[0].address] < 50


async def test_a_caller_that_asks_one_chunk_at_a_time_stays_with_one_replica(run_gateway: Any) -> None:
    async with backends(2) as two, run_gateway([one.address for one in two]) as gateway:
        running = stream(gateway)
        await running.run(30, window=1)
    assert len(running.by_endpoint) == 1


async def test_a_stream_can_be_kept_on_one_replica(run_gateway: Any) -> None:
    async with backends(2) as two:
        async with run_gateway([one.address for one in two], streams=StreamSettings(spread=False)) as gateway:
            running = stream(gateway)
            await running.run(60)
    assert len(running.by_endpoint) == 1


async def test_replicas_that_are_added_drained_and_removed_drop_no_chunk(run_gateway: Any, tmp_path: Path) -> None:
    path = tmp_path / "predictors"

    def list_(*listed: ScriptedBackend) -> None:
        newer = path.with_suffix(".new")
        newer.write_text("\n".join(backend.address for backend in listed), "utf-8")
        newer.rename(path)

    route = RouteSettings(services=(PREDICTOR,), endpoints=(f"file://{path}",))
    async with backends(3) as (one, two, three):
        list_(one)
        async with run_gateway(routes={"predictor": route}, discovery=DiscoverySettings(file_poll_s=0.02)) as gateway:
            async with streaming(gateway) as running:
                list_(one, two)
                await until(lambda: two.counts.answered > 20)
                list_(two, three)  # while `one` still answers
                await until(lambda: three.counts.answered > 20)
                asked = one.counts.begun
                await running.more(50)
                assert one.counts.begun - asked <= 8  # what was on its way
                await three.server.drain()  # as at SIGTERM
                await running.more(50)
            assert await resent(gateway) == 0
        assert one.server.interceptor.in_flight == 0
    assert one.counts.answered + two.counts.answered + three.counts.answered == running.answered


async def test_a_killed_replica_loses_no_chunk_and_is_used_again_when_it_is_back(run_gateway: Any) -> None:
    async with BackendProcess(Script(latency_ms=3)) as dying, backends(1) as (well,):
        async with run_gateway([dying.address, well.address]) as gateway:
            async with streaming(gateway) as running:
                await dying.kill()
                await running.more(20)
                await dying.start()
                before = running.by_endpoint[dying.address]
                await running.until(lambda: running.by_endpoint[dying.address] > before + 20)
            assert await resent(gateway) > 0


async def test_a_frozen_replica_holds_up_no_stream_and_is_used_again_when_it_goes_on(run_gateway: Any) -> None:
    async with BackendProcess(Script(latency_ms=3)) as freezing, backends(1) as (well,):
        settings = StreamSettings(stall_s=0.2)
        async with run_gateway([freezing.address, well.address], streams=settings) as gateway:
            async with streaming(gateway) as running:
                freezing.freeze()
                try:
                    await running.more(200)
                finally:
                    freezing.thaw()
                before = running.by_endpoint[freezing.address]
                await running.until(lambda: running.by_endpoint[freezing.address] > before + 20)
            assert 0 < await resent(gateway) <= 32


@pytest.mark.parametrize("fault", ["reset", "blackhole", "half_close"])
async def test_a_broken_connection_loses_no_chunk(run_gateway: Any, fault: str) -> None:
    async with backends(2) as (one, two), FaultProxy(one.address) as proxy:
        settings = StreamSettings(stall_s=0.2)
        async with run_gateway([proxy.address, two.address], streams=settings) as gateway:
            async with streaming(gateway) as running:
                getattr(proxy, fault)()
                await running.more(100)
                proxy.heal()


async def test_a_full_queue_of_one_replica_sends_its_chunks_to_the_other(run_gateway: Any) -> None:
    full = Script(batch_ms=20, batch_rows=8, queue_rows_max=8)
    async with backends(2) as (one, two):
        one.script = full
        async with run_gateway([one.address, two.address]) as gateway:
            running = stream(gateway)
            await asyncio.wait_for(running.run(300), 10)
    assert running.answered == 300


async def test_replicas_that_are_all_full_refuse_the_stream(run_gateway: Any) -> None:
    full = Script(failure_share=1.0, failure_code="RESOURCE_EXHAUSTED")
    async with backends(2, full) as two, run_gateway([one.address for one in two]) as gateway:
        with pytest.raises(Overloaded), mesh_errors():
            await stream(gateway).run(5)


async def test_a_stream_fails_as_its_last_replica_failed(run_gateway: Any) -> None:
    failing = Script(failure_share=1.0, failure_code="UNAVAILABLE")
    async with backends(3, failing) as three:
        async with run_gateway([one.address for one in three], streams=StreamSettings(sends_max=2)) as gateway:
            call = gateway.predictor.PredictEngagementStream(timeout=10)
            await call.write(chunk(1))
            with pytest.raises(NotReady) as caught, mesh_errors(call):
                await call.read()
            assert caught.value.retry_after_s is not None
            assert await resent(gateway) == 1


async def test_a_bad_chunk_ends_the_stream_after_the_answers_before_it(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor("one") as one, run_predictor("two") as two:
        async with run_gateway([one.address, two.address]) as gateway:
            for _ in range(20):
                call = gateway.predictor.PredictEngagementStream(timeout=10)
                for sequence in range(8):
                    request = chunk(sequence)
                    request.channel = "refuse" if sequence == 5 else ""
                    await call.write(request)
                answers = []
                with pytest.raises(InvalidInput), mesh_errors(call):
                    while True:
                        answers.append((await call.read()).sequence)
                assert answers == [0, 1, 2, 3, 4]


async def test_a_deadline_ends_the_stream_and_frees_the_replicas(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor("one") as one, run_predictor("two") as two:
        async with run_gateway([one.address, two.address]) as gateway:
            call = gateway.predictor.PredictEngagementStream(timeout=0.3)
            for sequence in range(2):
                request = chunk(sequence)
                request.channel = "stall"
                await call.write(request)
            with pytest.raises(DeadlineExceeded), mesh_errors(call):
                await call.read()
            await asyncio.wait_for(asyncio.gather(one.script.ended.wait(), two.script.ended.wait()), 5)
            await gateway.until(lambda mesh: mesh.services[0].calls_in_flight == 0)


async def test_callers_that_cancel_by_the_dozen_free_every_replica(run_gateway: Any) -> None:
    async with backends(3, Script(latency_ms=20)) as three, run_gateway([one.address for one in three]) as gateway:
        for _ in range(30):
            call = gateway.predictor.PredictEngagementStream(timeout=20)
            for sequence in range(6):
                await call.write(chunk(sequence))
            await call.read()
            call.cancel()
        await gateway.until(lambda mesh: mesh.services[0].calls_in_flight == 0)
        assert (await gateway.health()).services[0].calls_by_code["CANCELLED"] == 30
        await until(lambda: not any(one.server.interceptor.in_flight for one in three))


async def test_a_reader_that_stalls_is_held_up_over_all_replicas(run_predictor: Any, run_gateway: Any) -> None:
    """64 answers of 1 MB are asked for and none is read: the gateway keeps no more than its window of them."""

    def large(sequence: int) -> Any:
        request = chunk(sequence, 1)
        request.channel = "large"
        return request

    async with run_predictor("one") as one, run_predictor("two") as two:
        settings = StreamSettings(window_min=4, window_max=4)
        async with run_gateway([one.address, two.address], streams=settings) as gateway:
            stalled = gateway.predictor.PredictEngagementStream((large(n) for n in range(64)), timeout=30)
            await asyncio.wait_for(asyncio.gather(one.script.began.wait(), two.script.began.wait()), 5)
            await asyncio.sleep(0.3)
            before = one.script.taken + two.script.taken
            await asyncio.sleep(0.2)
            assert one.script.taken + two.script.taken - before <= 2  # it has come to rest
            assert before < 40  # and not because all was buffered
            assert [answer.sequence async for answer in stalled] == [*range(64)]  # nothing was lost


async def test_a_replica_that_stops_serving_gets_nothing_more_and_its_stream_is_closed(run_gateway: Any) -> None:
    async with backends(2) as (one, two):
        settings = StreamSettings(stall_s=0.2)
        async with run_gateway([one.address, two.address], streams=settings) as gateway:
            async with streaming(gateway) as running:
                one.health.set(PREDICTOR, ServingStatus.NOT_SERVING)
                await until(lambda: one.server.interceptor.in_flight == 0)
                asked = one.counts.begun
                await running.more(50)
                assert one.counts.begun == asked
            assert await resent(gateway) == 0


async def test_a_stream_that_no_replica_can_take_is_refused_at_once(run_gateway: Any) -> None:
    async with run_gateway(["127.0.0.1:1"]) as gateway:
        call = gateway.predictor.PredictEngagementStream(timeout=5)
        with pytest.raises(NotReady), mesh_errors(call):
            await call.read()
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
