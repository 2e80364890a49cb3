"""A service that restarts: its calls wait for it, within bounds."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from meshcast.api.forecaster.v1 import forecaster_pb2
from meshcast.api.gateway.v1 import gateway_pb2
from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.gateway import RouteSettings
from meshcast.rpc import NotReady, from_item, mesh_errors

PREDICTOR = "meshcast.api.predictor.v1.PredictorService"


async def asked(gateway: Any, timeout_s: float) -> pb.PredictEngagementResponse:
    with mesh_errors():
        answer: pb.PredictEngagementResponse = await gateway.predictor.PredictEngagement(
            pb.PredictEngagementRequest(channel="fox"), timeout=timeout_s
        )
        return answer


async def test_a_restart_of_the_only_replica_fails_no_call(run_predictor: Any, run_gateway: Any) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(run_predictor("one"))
        async with run_gateway([one.address], restart_s=10.0) as gateway:
            await asked(gateway, 5)
            ending = asyncio.Event()

            async def call_on() -> list[str]:
                names = []
                while not ending.is_set():
                    names.append((await asked(gateway, 10)).receipt.model)
                return names

            callers = [asyncio.create_task(call_on(), name="caller") for _ in range(4)]
            port = one.server.port
            await stack.aclose()
            async with run_predictor("two", port=port) as two:
                async with asyncio.timeout(10):
                    await two.script.began.wait()
                ending.set()
                names = [await caller for caller in callers]
                health = await gateway.health()
    assert all(seen[-1] == "two" for seen in names)
    assert {*health.services[0].calls_by_code} == {"OK"}


async def test_a_call_waits_no_longer_than_its_deadline_and_then_says_why(run_predictor: Any, run_gateway: Any) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(run_predictor("one"))
        async with run_gateway([one.address], restart_s=10.0) as gateway:
            await stack.aclose()
            with pytest.raises(NotReady) as caught:
                await asked(gateway, 2.0)
    assert caught.value.retry_after_s is not None


async def test_what_has_another_answer_does_not_wait(run_predictor: Any, run_forecaster: Any, run_gateway: Any) -> None:
    async with AsyncExitStack() as stack, run_forecaster() as forecaster:
        one = await stack.enter_async_context(run_predictor("one"))
        route = RouteSettings(
            services=(PREDICTOR,), endpoints=(one.address,), fallbacks={"PredictEngagement": ("cache",)}
        )
        async with run_gateway(
            routes={"predictor": route}, forecasters=[forecaster.address], restart_s=10.0
        ) as gateway:
            await stack.aclose()
            with pytest.raises(NotReady):  # nothing is cached yet
                await asked(gateway, 30)
            request = gateway_pb2.PredictComprehensiveRequest(
                parts=[gateway_pb2.PART_ENGAGEMENT, gateway_pb2.PART_GROWTH],
                engagement=pb.PredictEngagementRequest(),
                growth=forecaster_pb2.ForecastGrowthRequest(),
            )
            parts = {part.part: part async for part in gateway.mesh.PredictComprehensive(request, timeout=30)}
    assert isinstance(from_item(parts[gateway_pb2.PART_ENGAGEMENT].status), NotReady)
    assert not parts[gateway_pb2.PART_GROWTH].status.code


async def test_a_service_that_was_never_there_is_not_waited_for(run_gateway: Any) -> None:
    async with run_gateway(["127.0.0.1:1"], restart_s=10.0) as gateway:
        with pytest.raises(NotReady):
            await asked(gateway, 30)


async def test_patience_can_be_turned_off(run_predictor: Any, run_gateway: Any) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(run_predictor("one"))
        async with run_gateway([one.address], restart_s=0.0) as gateway:
            await stack.aclose()
            with pytest.raises(NotReady):
                await asked(gateway, 30)
