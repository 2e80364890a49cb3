"""The limit and the bulkhead before real servers: who is answered, who is refused, and with what words."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.type.v1 import priority_pb2
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.gateway.bulkhead import BulkheadSettings
from meshcast.gateway.concurrency import LimitSettings
from meshcast.rpc import Overloaded, from_rpc_error
from scripted_backend import Script, ScriptedBackend

NARROW = LimitSettings(calls_initial=4, calls_min=4, calls_max=4, headroom=0.0, waiting_max=2)


async def test_sixty_four_calls_at_once_are_answered_by_a_fresh_gateway(run_gateway: Any) -> None:
    async with ScriptedBackend(Script(latency_ms=20)) as backend, run_gateway([backend.address]) as gateway:
        asked = pb.PredictEngagementRequest(channel="c")
        answers = await asyncio.gather(*(gateway.predictor.PredictEngagement(asked, timeout=10) for _ in range(64)))
        assert len(answers) == 64
        # 32 to begin with, and 48 where the first answers take long; one more where the metadata of the first is late.
        assert backend.counts.in_flight_max <= 49


async def test_one_too_many_is_refused_and_those_that_matter_more_take_the_places(run_gateway: Any) -> None:
    async with (
        ScriptedBackend(Script(batch_ms=300, batch_rows=4)) as backend,
        run_gateway([backend.address], limit=NARROW) as gateway,
    ):
        low = pb.PredictEngagementRequest(channel="c", priority=priority_pb2.PRIORITY_LOW)
        high = pb.PredictEngagementRequest(channel="c", priority=priority_pb2.PRIORITY_HIGH)
        calls = [gateway.predictor.PredictEngagement(low, timeout=10) for _ in range(6)]
        async with asyncio.timeout(5):
            while not (await gateway.health()).services[0].calls_waiting == 2:  # noqa: ASYNC110  # no state to watch
                await asyncio.sleep(0.01)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await gateway.predictor.PredictEngagement(low, timeout=10)
        error = from_rpc_error(refused.value)
        assert isinstance(error, Overloaded)
        assert error.reason == ErrorReason.ERROR_REASON_LIMIT_REACHED
        assert error.facts == {
            "service": "meshcast.api.predictor.v1.PredictorService",
            "priority": "low",
            "limit": "4",
        }
        assert error.retry_after_s is not None and error.retry_after_s > 0
        assert (await gateway.predictor.PredictEngagement(high, timeout=10)).prediction
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(end, grpc.aio.AioRpcError) for end in ends) == 1  # it made room
        health = (await gateway.health()).services[0]
        assert health.counts.shed == {"low": 2}
        assert (health.limit, health.calls_waiting) == (4, 0)
        assert backend.counts.begun == 6


async def test_nothing_is_executed_after_its_deadline_at_three_times_the_capacity(run_gateway: Any) -> None:
    async with (
        ScriptedBackend(Script(batch_ms=20)) as backend,
        run_gateway([backend.address], limit=LimitSettings(calls_initial=8)) as gateway,
    ):
        codes: list[grpc.StatusCode] = []

        async def call(priority: Any) -> None:
            asked = pb.PredictEngagementRequest(channel="c", priority=priority)
            try:
                await gateway.predictor.PredictEngagement(asked, timeout=2.0)
                codes.append(grpc.StatusCode.OK)
            except grpc.aio.AioRpcError as error:
                codes.append(error.code())
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    assert from_rpc_error(error).retry_after_s is not None

        async with asyncio.TaskGroup() as group:
            for number in range(300):
                group.create_task(call(number % 3 + 1))
                await asyncio.sleep(0.0066)
        assert codes.count(grpc.StatusCode.OK) > 20
        assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) > 20
        assert backend.counts.executed_late == 0


async def test_a_full_bulkhead_refuses_at_once(run_gateway: Any) -> None:
    async with (
        ScriptedBackend(Script(latency_ms=300)) as backend,
        run_gateway([backend.address], bulkhead=BulkheadSettings(calls_max=2)) as gateway,
    ):
        asked = pb.PredictEngagementRequest(channel="c")
        calls = [gateway.predictor.PredictEngagement(asked, timeout=10) for _ in range(5)]
        ends = await asyncio.gather(*calls, return_exceptions=True)
        refused = [from_rpc_error(end) for end in ends if isinstance(end, grpc.aio.AioRpcError)]
        assert len(refused) == 3
        assert {error.reason for error in refused} == {ErrorReason.ERROR_REASON_LIMIT_REACHED}
        assert backend.counts.begun == 2
