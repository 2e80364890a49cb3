"""Mesh health: what happens to calls, replicas and breakers can be read, and is told to who watches."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest

from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.api.predictor.v1 import predictor_pb2
from meshcast.api.type.v1 import priority_pb2, receipt_pb2
from meshcast.gateway import RouteSettings
from meshcast.gateway.breaker import BreakerSettings
from meshcast.gateway.bulkhead import BulkheadSettings
from meshcast.rpc.orca import TRAILER, LoadReport, encode

SENSITIVE = BreakerSettings(tries_min=2, failures_in_row=2, pause_s=30.0, pause_s_max=30.0)
RARELY_MS = 60_000
PREDICTOR = "meshcast.api.predictor.v1.PredictorService"


def asked(script: str = "", **fields: Any) -> predictor_pb2.PredictEngagementRequest:
    return predictor_pb2.PredictEngagementRequest(channel=script, **fields)


async def fails(gateway: Any, script: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await gateway.predictor.PredictEngagement(asked(script), timeout=5)


async def test_calls_and_their_latency_show(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        for _ in range(4):
            await gateway.predictor.PredictEngagement(asked(), timeout=5)
        await fails(gateway, "refuse")
        await fails(gateway, "bug")
        health = await gateway.health()
    (service,) = health.services
    assert service.calls_by_code == {"OK": 4, "INVALID_ARGUMENT": 1, "INTERNAL": 1}
    assert 0 < service.latency_ms_p50 <= service.latency_ms_p90 <= service.latency_ms_p99
    assert 0 < service.calls_per_s <= 0.6
    assert 0 < service.error_share < 0.5
    (one,) = service.replicas
    assert sum(one.tries_by_code.values()) == 6
    assert one.breaker == pb.BREAKER_STATE_CLOSED
    assert 0 < one.latency_ms_p50 <= one.latency_ms_p99


async def test_the_gateways_own_process_shows(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        asking = gateway.predictor.PredictEngagement(asked("stall"), timeout=10)
        await asyncio.wait_for(replica.script.began.wait(), 5)
        health = await gateway.health()
        asking.cancel()
    assert health.calls_in_flight == 2  # the one that stalls, and the question itself
    assert health.services[0].calls_in_flight == 1 == health.services[0].replicas[0].calls_in_flight
    assert health.rss_bytes == 0 or health.rss_bytes > 10 * 2**20
    assert health.started_time.seconds <= health.read_time.seconds <= time.time() + 1


async def test_without_calls_nothing_is_made_up(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        (service,) = (await gateway.health()).services
    for name in ("latency_ms_p50", "latency_ms_p90", "latency_ms_p99", "error_share"):
        assert not service.HasField(name)
    assert not service.replicas[0].HasField("load")
    assert (service.calls_per_s, service.chunks_in_flight) == (0.0, 0)


async def test_who_watches_is_told_of_an_open_breaker_at_once(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address], breaker=SENSITIVE) as gateway:
        watch = gateway.mesh.WatchMesh(pb.WatchMeshRequest(interval_ms=RARELY_MS), timeout=20)
        async for update in watch:
            states = [one.breaker for one in update.health.services[0].replicas]
            if states == [pb.BREAKER_STATE_OPEN]:
                break
            if states == [pb.BREAKER_STATE_CLOSED] and not replica.script.calls:
                for _ in range(2):
                    await fails(gateway, "bug")
        watch.cancel()
        await fails(gateway, "")
        (service,) = (await gateway.health()).services
    assert service.counts.broken >= 1
    assert service.calls_by_code["UNAVAILABLE"] >= 1


async def test_a_hedge_shows(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor("one") as one, run_predictor("two") as two:
        async with run_gateway([one.address, two.address]) as gateway:
            for _ in range(40):
                await gateway.predictor.PredictEngagement(asked(), timeout=5)
            await gateway.predictor.PredictEngagement(asked("slow"), timeout=5)
            (service,) = (await gateway.health()).services
    assert service.counts.hedges >= 1
    assert service.counts.hedges_won <= service.counts.hedges
    assert sum(sum(each.tries_by_code.values()) for each in service.replicas) >= 42


async def test_chunks_under_way_show(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        stream = gateway.predictor.PredictEngagementStream(timeout=10)
        await stream.write(predictor_pb2.PredictEngagementStreamRequest(channel="stall", sequence=1))
        await asyncio.wait_for(replica.script.began.wait(), 5)
        during = (await gateway.health()).services[0].chunks_in_flight
        stream.cancel()
        await asyncio.wait_for(replica.script.ended.wait(), 5)
        await gateway.until(lambda mesh: mesh.services[0].chunks_in_flight == 0)
    assert during == 1


async def test_a_call_over_the_bound_shows_with_its_priority(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica:
        async with run_gateway([replica.address], bulkhead=BulkheadSettings(calls_max=1)) as gateway:
            stalled = gateway.predictor.PredictEngagement(asked("stall"), timeout=10)
            await asyncio.wait_for(replica.script.began.wait(), 5)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await gateway.predictor.PredictEngagement(asked(priority=priority_pb2.PRIORITY_LOW), timeout=5)
            (service,) = (await gateway.health()).services
            stalled.cancel()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert service.counts.shed == {"low": 1}
    assert service.calls_by_code == {"RESOURCE_EXHAUSTED": 1}
    assert service.error_share == 1.0


async def test_the_routes_limit_shows_once_it_was_asked(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        before = (await gateway.health()).services[0].limit
        await gateway.predictor.PredictEngagement(asked(), timeout=5)
        (service,) = (await gateway.health()).services
    assert before == 0 < service.limit
    assert service.calls_waiting == 0


async def test_a_replicas_own_word_of_its_load_shows(run_gateway: Any) -> None:
    report = LoadReport(application_utilization=0.75, named_metrics={"queue_rows": 12.0})

    async def answer(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata(((TRAILER, encode(report)),))
        return b""

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers: dict[str, Any] = {"PredictEngagement": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(PREDICTOR, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with run_gateway([f"127.0.0.1:{port}"]) as gateway:
        await gateway.predictor.PredictEngagement(asked(), timeout=5)
        health = await gateway.health()
    await server.stop(None)
    load = health.services[0].replicas[0].load
    assert (load.utilization, load.queue_rows) == (0.75, 12.0)
    assert abs(load.reported_time.ToSeconds() - health.read_time.ToSeconds()) <= 5


async def test_a_degraded_answer_shows_by_what_stood_in(run_predictor: Any, run_gateway: Any) -> None:
    request = asked("bug")
    for number in range(20):
        post = request.history.add(hour_of_day=12, day_of_week=number % 7, reactions=number)
        post.published_time.seconds = 86_400 * number
    request.planned.hour_of_day = request.planned.day_of_week = 3
    request.planned.published_time.seconds = 86_400 * 30
    async with run_predictor() as replica:
        route = RouteSettings(
            services=(PREDICTOR,), endpoints=(replica.address,), fallbacks={"PredictEngagement": ("baseline",)}
        )
        async with run_gateway(routes={"predictor": route}) as gateway:
            answer = await gateway.predictor.PredictEngagement(request, timeout=5)
            (service,) = (await gateway.health()).services
    assert answer.prediction.engagement == pytest.approx(9.5, rel=0.01)
    assert answer.receipt.model == "baseline/predictor"
    assert answer.receipt.gateway.degraded
    assert answer.receipt.gateway.fallback == receipt_pb2.FALLBACK_BASELINE
    assert any("statistical baseline" in note for note in answer.receipt.notes)
    assert service.counts.fallbacks == {"baseline": 1}
    assert service.calls_by_code == {"OK": 1}
