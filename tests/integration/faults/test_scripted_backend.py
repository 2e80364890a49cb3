"""Scripted backends: what they answer, how long they take, what they count."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest

from backend_process import BackendProcess
from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.predictor.v1 import predictor_pb2_grpc as pb_grpc
from meshcast.api.type.v1.priority_pb2 import Priority
from meshcast.rpc import ChannelSettings, ServingStatus, channel, probe
from scripted_answers import log_engagement
from scripted_backend import Script, ScriptedBackend, change, read_counts, reset

PLAIN = ChannelSettings(plain=True)


def question(length: int = 100, **fields: object) -> pb.PredictEngagementRequest:
    return pb.PredictEngagementRequest(planned=pb.PlannedPost(content_length=length, hour_of_day=7), **fields)  # type: ignore[arg-type]


def chunk(sequence: int, lengths: list[float]) -> pb.PredictEngagementStreamRequest:
    planned = pb.PlannedPostColumns(posts=len(lengths))
    planned.content_length = np.array(lengths, np.float32).tobytes()
    planned.hour_of_day = np.full(len(lengths), 7, np.float32).tobytes()
    return pb.PredictEngagementStreamRequest(sequence=sequence, planned=planned)


async def test_answers_follow_from_the_request_alone() -> None:
    async with ScriptedBackend() as backend, channel(backend.address, settings=PLAIN) as to_backend:
        stub = pb_grpc.PredictorServiceStub(to_backend)
        answer = await stub.PredictEngagement(question(100, request_id="r1"), timeout=5)
        assert answer.prediction.log_engagement == log_engagement(100, 7)
        assert answer.receipt.prediction_id == "r1"

        async def chunks() -> AsyncIterator[pb.PredictEngagementStreamRequest]:
            yield chunk(4, [100, 50])
            yield chunk(5, [20])

        answers = [answer async for answer in stub.PredictEngagementStream(chunks(), timeout=5)]
        assert [(answer.sequence, answer.rows) for answer in answers] == [(4, 2), (5, 1)]
        assert np.frombuffer(answers[0].log_engagement, "<f4").tolist() == log_engagement([100, 50], [7, 7]).tolist()
        assert backend.counts.answered == 3
        assert backend.counts.rows == 4
        assert await probe(backend.address, "meshcast.api.predictor.v1.PredictorService") is ServingStatus.SERVING


@pytest.mark.parametrize(
    ("service", "method"),
    [
        ("forecaster", "meshcast.api.forecaster.v1.ForecasterService/ForecastGrowth"),
        ("analyzer", "meshcast.api.analyzer.v1.AnalyzerService/AnalyzeContent"),
        ("drift", "meshcast.api.drift.v1.DriftService/DetectDataDrift"),
        ("drift", "meshcast.api.drift.v1.DriftService/SetReference"),
        ("some.other.Service", "some.other.Service/Ask"),
    ],
)
async def test_any_service_can_be_stood_in_for(service: str, method: str) -> None:
    script = Script(service=service)
    async with ScriptedBackend(script) as backend, channel(backend.address, settings=PLAIN) as to_backend:
        ask: Any = to_backend.unary_unary(f"/{method}")
        await ask(b"", timeout=5)
        assert backend.counts.answered == 1
        with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
            ask = to_backend.unary_unary("/another.Service/Ask")
            await ask(b"", timeout=5)


async def test_the_script_sets_speed_and_failures_at_run_time() -> None:
    async with ScriptedBackend(Script(latency_ms=50)) as backend:
        async with channel(backend.address, settings=PLAIN) as to_backend:
            stub = pb_grpc.PredictorServiceStub(to_backend)
            began = time.monotonic()
            await stub.PredictEngagement(question(), timeout=5)
            assert time.monotonic() - began >= 0.05
            await change(to_backend, latency_ms=0, failure_share=1.0, failure_code="ABORTED")
            with pytest.raises(grpc.aio.AioRpcError, match="ABORTED"):
                await stub.PredictEngagement(question(), timeout=5)
            await change(to_backend, failure_share=0.5, failure_code="UNAVAILABLE")
            ends = await asyncio.gather(
                *(stub.PredictEngagement(question(), timeout=5) for _ in range(100)), return_exceptions=True
            )
            assert 20 < sum(isinstance(end, grpc.aio.AioRpcError) for end in ends) < 80
            counts = await read_counts(to_backend)
            assert counts["begun"] == 102
            assert counts["answered"] + counts["failed"] == 102
            assert (await reset(to_backend))["begun"] == 0


async def test_stragglers_are_a_share_of_the_calls() -> None:
    script = Script(straggler_share=0.3, straggler_ms=200)
    async with ScriptedBackend(script) as backend, channel(backend.address, settings=PLAIN) as to_backend:
        stub = pb_grpc.PredictorServiceStub(to_backend)

        async def timed() -> float:
            began = time.monotonic()
            await stub.PredictEngagement(question(), timeout=5)
            return time.monotonic() - began

        took = sorted(await asyncio.gather(*(timed() for _ in range(40))))
        assert took[0] < 0.2 <= took[-1]


async def test_one_batch_at_a_time_is_a_known_capacity() -> None:
    script = Script(batch_ms=20, batch_rows=4)
    async with ScriptedBackend(script) as backend, channel(backend.address, settings=PLAIN) as to_backend:
        stub = pb_grpc.PredictorServiceStub(to_backend)
        began = time.monotonic()
        await asyncio.gather(*(stub.PredictEngagement(question(), timeout=5) for _ in range(16)))
        assert time.monotonic() - began >= 4 * 0.02
        assert backend.counts.executed == 16
        assert 4 <= backend.counts.batches <= 16
        assert backend.counts.executed_late == 0


async def test_what_waits_too_long_is_not_executed_and_a_full_queue_refuses() -> None:
    script = Script(batch_ms=200, queue_rows_max=2)
    async with ScriptedBackend(script) as backend, channel(backend.address, settings=PLAIN) as to_backend:
        stub = pb_grpc.PredictorServiceStub(to_backend)
        calls = [stub.PredictEngagement(question(), timeout=0.3) for _ in range(5)]
        ends = await asyncio.gather(*calls, return_exceptions=True)
        codes = [end.code().name if isinstance(end, grpc.aio.AioRpcError) else "OK" for end in ends]
        assert codes.count("OK") == 1
        assert codes.count("RESOURCE_EXHAUSTED") >= 2
        async with asyncio.timeout(5):
            while backend.counts.in_flight:  # noqa: ASYNC110  # a counter
                await asyncio.sleep(0.01)
        assert backend.counts.executed_late == 0
        assert backend.counts.begun == 5
        assert backend.counts.answered + backend.counts.refused + backend.counts.cancelled == 5


async def test_the_higher_priority_is_executed_first() -> None:
    script = Script(batch_ms=20)
    async with ScriptedBackend(script) as backend, channel(backend.address, settings=PLAIN) as to_backend:
        stub = pb_grpc.PredictorServiceStub(to_backend)
        order: list[str] = []

        async def ask(name: str, **options: object) -> None:
            priority = {"field": Priority.PRIORITY_HIGH}.get(name, Priority.PRIORITY_UNSPECIFIED)
            await stub.PredictEngagement(question(priority=priority), timeout=5, **options)  # type: ignore[arg-type]
            order.append(name)

        async with asyncio.TaskGroup() as group:
            group.create_task(ask("first"))
            while not backend.counts.executed:  # noqa: ASYNC110  # a counter
                await asyncio.sleep(0.001)
            group.create_task(ask("low", metadata=(("meshcast-priority", "low"),)))
            group.create_task(ask("normal"))
            group.create_task(ask("field"))
        assert order == ["first", "field", "normal", "low"]
        assert {name: counts["begun"] for name, counts in backend.by_priority.items()} == {
            "high": 1,
            "normal": 2,
            "low": 1,
        }


async def test_a_cancelled_call_is_counted_as_such() -> None:
    script = Script(latency_ms=60_000)
    async with ScriptedBackend(script) as backend, channel(backend.address, settings=PLAIN) as to_backend:
        call = pb_grpc.PredictorServiceStub(to_backend).PredictEngagement(question())
        async with asyncio.timeout(5):
            while not backend.counts.in_flight:  # noqa: ASYNC110  # a counter
                await asyncio.sleep(0.01)
            call.cancel()
            while backend.counts.in_flight:  # noqa: ASYNC110  # a counter
                await asyncio.sleep(0.01)
        assert backend.counts.cancelled == 1
        assert backend.counts.wasted == 1


async def test_a_process_is_frozen_killed_and_started_again_on_its_port() -> None:
    async with BackendProcess(Script(latency_ms=1)) as process:
        port = process.port
        async with channel(process.address, settings=PLAIN) as to_backend:
            stub = pb_grpc.PredictorServiceStub(to_backend)
            await stub.PredictEngagement(question(), timeout=10)
            assert (await read_counts(to_backend))["answered"] == 1
            process.freeze()
            with pytest.raises(grpc.aio.AioRpcError, match="DEADLINE_EXCEEDED"):
                await stub.PredictEngagement(question(), timeout=0.2)
            process.thaw()
            await stub.PredictEngagement(question(), timeout=10)
            await process.kill()
            with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                await stub.PredictEngagement(question(), timeout=10)
            await process.start()
            assert process.port == port
            await stub.PredictEngagement(question(), timeout=10, wait_for_ready=True)
            await process.terminate()
