"""The cache and the single flight before real servers: what a caller sees of them, and when the service is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from meshcast.api.gateway.v1 import gateway_pb2
from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.gateway import RouteSettings
from meshcast.rpc import ServingStatus
from scripted_backend import Script, ScriptedBackend

PREDICTOR = "meshcast.api.predictor.v1.PredictorService"


@asynccontextmanager
async def cached(run_gateway: Any, script: Script) -> AsyncIterator[tuple[ScriptedBackend, Any]]:
    async with ScriptedBackend(script) as backend:
        route = RouteSettings(
            services=(PREDICTOR,), endpoints=(backend.address,), cached_s={"PredictEngagement": 600.0}
        )
        async with run_gateway(routes={"predictor": route}) as gateway:
            yield backend, gateway


async def ask(gateway: Any, request_id: str, channel: str = "c") -> pb.PredictEngagementResponse:
    request = pb.PredictEngagementRequest(channel=channel, request_id=request_id)
    answer: pb.PredictEngagementResponse = await gateway.predictor.PredictEngagement(request, timeout=10)
    return answer


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # a script tells nobody
            await asyncio.sleep(0.005)


async def test_a_cached_answer_keeps_its_first_id_and_says_so(run_gateway: Any) -> None:
    async with cached(run_gateway, Script()) as (backend, gateway):
        first, again = await ask(gateway, "one"), await ask(gateway, "two")
        assert again.prediction == first.prediction
        assert again.receipt.prediction_id == first.receipt.prediction_id
        assert not first.receipt.gateway.from_cache and first.receipt.gateway.attempts == 1
        assert again.receipt.gateway.from_cache and again.receipt.gateway.attempts == 0
        assert not again.receipt.gateway.degraded
        await ask(gateway, "three", channel="d")
        assert backend.counts.begun == 2
        counts = (await gateway.health()).services[0].counts
        assert (counts.cache_hits, counts.cache_misses) == (1, 2)


async def test_equal_questions_at_one_time_are_one_call(run_gateway: Any) -> None:
    async with cached(run_gateway, Script(latency_ms=300)) as (backend, gateway):
        answers = await asyncio.gather(*(ask(gateway, f"id {number}") for number in range(64)))
        assert backend.counts.begun == 1
        assert len({answer.receipt.prediction_id for answer in answers}) == 1
        assert sum(answer.receipt.gateway.from_cache for answer in answers) == 63
        assert (await gateway.health()).services[0].counts.shared == 63


async def test_the_one_that_asks_may_leave_without_harm_to_the_others(run_gateway: Any) -> None:
    async with cached(run_gateway, Script(latency_ms=10_000)) as (backend, gateway):
        first = asyncio.create_task(ask(gateway, "first"))
        await until(lambda: backend.counts.begun == 1)
        others = [asyncio.create_task(ask(gateway, f"id {number}")) for number in range(3)]
        async with asyncio.timeout(5):
            while (await gateway.health()).services[0].calls_in_flight < 4:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.005)
        backend.script = Script(latency_ms=1)
        first.cancel()
        answers = await asyncio.gather(*others)
        assert first.cancelled()
        assert all(answer.HasField("prediction") for answer in answers)
        assert (backend.counts.begun, backend.counts.cancelled) == (2, 1)


@pytest.mark.parametrize("stays", [True, False])
async def test_answers_of_other_versions_are_not_given_any_more(run_gateway: Any, stays: bool) -> None:
    async with cached(run_gateway, Script()) as (backend, gateway):
        await ask(gateway, "one")
        backend.health.set("model/predictor/2", ServingStatus.SERVING)
        if not stays:
            backend.health.remove("model/predictor/1")

        def has_changed(health: gateway_pb2.MeshHealth) -> bool:
            models = health.services[0].replicas[0].models
            return "model/predictor/2" in models and ("model/predictor/1" in models) == stays

        await gateway.until(has_changed)
        assert not (await ask(gateway, "two")).receipt.gateway.from_cache
        assert (await ask(gateway, "three")).receipt.gateway.from_cache
        assert backend.counts.begun == 2
