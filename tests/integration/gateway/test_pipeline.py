"""The pipeline's stages over real calls: tries again, budgets, answers that stand in, and what receipts say of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from meshcast.api.forecaster.v1 import forecaster_pb2
from meshcast.api.gateway.v1 import gateway_pb2
from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.type.v1 import receipt_pb2
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.gateway import RouteSettings
from meshcast.rpc import DeadlineExceeded, NotReady, Overloaded, ServingStatus, from_item, mesh_errors
from scripted_backend import Script, ScriptedBackend

PREDICTOR = "meshcast.api.predictor.v1.PredictorService"
FORECASTER = "meshcast.api.forecaster.v1.ForecasterService"
METHOD = "PredictEngagement"


def route(*backends: Any, **settings: Any) -> dict[str, RouteSettings]:
    endpoints = tuple(backend.address for backend in backends)
    return {"predictor": RouteSettings(services=(PREDICTOR,), endpoints=endpoints, **settings)}


def question(**fields: Any) -> pb.PredictEngagementRequest:
    return pb.PredictEngagementRequest(**{"request_id": "q-1", "channel": "fox", **fields})


def with_history() -> pb.PredictEngagementRequest:
    request = question()
    request.planned.published_time.FromSeconds(1_700_000_000)
    request.planned.hour_of_day, request.planned.day_of_week, request.planned.content_length = 12, 3, 80
    for number in range(24):
        post = request.history.add(hour_of_day=12, day_of_week=3, content_length=80)
        post.published_time.FromSeconds(1_690_000_000 + 3600 * number)
        post.forwards, post.replies, post.reactions = number, 1, 2
    return request


async def asked(gateway: Any, **fields: Any) -> pb.PredictEngagementResponse:
    with mesh_errors():
        answer: pb.PredictEngagementResponse = await gateway.predictor.PredictEngagement(question(**fields), timeout=5)
        return answer


async def counts(gateway: Any, name: str = "predictor") -> gateway_pb2.PipelineCounts:
    (service,) = (each for each in (await gateway.health()).services if each.name == name)
    found: gateway_pb2.PipelineCounts = service.counts
    return found


@pytest.mark.parametrize("settings", [{}, {"retried": (METHOD,)}], ids=["hedged", "retried"])
async def test_a_replica_that_fails_costs_no_call(settings: dict[str, Any], run_gateway: Any) -> None:
    async with ScriptedBackend(Script(failure_share=1.0)) as broken, ScriptedBackend() as well:
        async with run_gateway(routes=route(broken, well, **settings)) as gateway:
            answers = [await asked(gateway) for _ in range(20)]
            told = await counts(gateway)
    assert {answer.receipt.gateway.endpoint for answer in answers} == {well.address}
    assert {answer.receipt.gateway.attempts for answer in answers} == {1, 2}
    assert told.retries == broken.counts.failed
    assert not told.hedges and not told.fallbacks


async def test_a_method_that_is_asked_once_fails_as_its_replica_does(run_gateway: Any) -> None:
    async with ScriptedBackend(Script(failure_share=1.0)) as one, ScriptedBackend(Script(failure_share=1.0)) as other:
        async with run_gateway(routes=route(one, other, once=(METHOD,))) as gateway:
            with pytest.raises(NotReady):
                await asked(gateway)
            assert (await counts(gateway)).retries == 0
    assert one.counts.begun + other.counts.begun == 1


async def test_a_broken_mesh_is_not_asked_thrice(run_gateway: Any) -> None:
    async with ScriptedBackend(Script(failure_share=1.0)) as one, ScriptedBackend(Script(failure_share=1.0)) as other:
        async with run_gateway(routes=route(one, other, retried=(METHOD,))) as gateway:
            for _ in range(100):
                with pytest.raises(NotReady):
                    await asked(gateway)
            told = await counts(gateway)
    begun = one.counts.begun + other.counts.begun
    assert 0 < told.retries <= 30  # a fifth of the calls, and the burst
    assert begun + told.broken <= 130
    assert told.broken > 0  # breakers keep the rest away


async def test_a_full_replica_is_left_for_another_within_the_deadline(run_gateway: Any) -> None:
    full = Script(batch_ms=300.0, queue_rows_max=1)
    async with ScriptedBackend(full) as busy, ScriptedBackend() as idle:
        async with run_gateway(routes=route(busy, idle, retried=(METHOD,))) as gateway, asyncio.TaskGroup() as group:
            calls = [group.create_task(asked(gateway)) for _ in range(12)]
    assert {call.result().receipt.prediction_id for call in calls} == {"q-1"}
    assert idle.counts.answered >= busy.counts.refused


def fails_without_version(request: bytes) -> bytes:
    asked_for = pb.PredictEngagementRequest.FromString(request)
    if not asked_for.model_version:
        raise ValueError("the newest version is broken")
    answer = pb.PredictEngagementResponse(prediction=pb.Prediction(log_engagement=1.0))
    answer.receipt.model_version = asked_for.model_version
    return answer.SerializeToString()


async def test_the_previous_version_stands_in_for_a_broken_one_and_the_receipt_says_so(run_gateway: Any) -> None:
    async with ScriptedBackend(Script(model_version=2), answers={METHOD: fails_without_version}) as backend:
        backend.health.set("model/predictor/3", ServingStatus.SERVING)
        async with run_gateway(routes=route(backend, fallbacks={METHOD: ("version",)})) as gateway:
            await gateway.until(lambda mesh: len(mesh.services[0].replicas[0].models) == 3)
            receipt = (await asked(gateway)).receipt
            assert (await counts(gateway)).fallbacks == {"version": 1}
    assert receipt.model_version == 2
    assert (receipt.gateway.degraded, receipt.gateway.fallback) == (True, receipt_pb2.FALLBACK_VERSION)
    assert receipt.gateway.endpoint == backend.address
    assert receipt.notes == ["version 2 answered, which was not asked for: INTERNAL, internal"]


async def test_an_earlier_answer_stands_in_for_a_dead_service(run_gateway: Any) -> None:
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(ScriptedBackend())
        async with run_gateway(routes=route(backend, fallbacks={METHOD: ("cache",)})) as gateway:
            first = (await asked(gateway)).receipt
            await stack.aclose()
            again = (await asked(gateway, request_id="q-2")).receipt
            with pytest.raises(NotReady):
                await asked(gateway, channel="hen")
            told = await counts(gateway)
    assert not first.gateway.degraded
    assert (again.gateway.degraded, again.gateway.from_cache) == (True, True)
    assert again.gateway.fallback == receipt_pb2.FALLBACK_CACHE
    assert again.prediction_id == "q-1"  # of its first computation
    assert again.deadline_ms > 0 and not again.deadline_default
    assert "UNAVAILABLE, backend unreachable" in again.notes
    assert told.fallbacks == {"cache": 1}


async def test_the_statistical_baseline_stands_in_for_a_dead_predictor(run_gateway: Any) -> None:
    request = with_history()
    async with run_gateway(["127.0.0.1:1"], routes=route_to_nobody(("version", "cache", "baseline"))) as gateway:
        with mesh_errors():
            answer = await gateway.predictor.PredictEngagement(request, timeout=5)
        assert (await counts(gateway)).fallbacks == {"baseline": 1}
    assert answer.prediction.engagement > 0
    assert answer.receipt.gateway.fallback == receipt_pb2.FALLBACK_BASELINE
    assert (answer.receipt.gateway.degraded, answer.receipt.gateway.attempts) == (True, 0)
    assert any(note.startswith("the statistical baseline, no model was asked") for note in answer.receipt.notes)


@pytest.mark.parametrize("way", ["cache", "baseline"])
async def test_replicas_that_all_freeze_still_leave_time_for_what_stands_in(way: str, run_gateway: Any) -> None:
    request = with_history()
    async with ScriptedBackend() as backend:
        routes = route(backend, fallbacks={METHOD: (way,)})
        async with run_gateway(routes=routes, deadline_margin_ms=100.0) as gateway:  # for machines that are busy
            await gateway.predictor.PredictEngagement(request, timeout=5)
            backend.script = Script(latency_ms=60_000.0)
            answer = await gateway.predictor.PredictEngagement(request, timeout=1)
    assert answer.receipt.gateway.fallback == receipt_pb2.Fallback.Value(f"FALLBACK_{way.upper()}")
    assert any("DEADLINE_EXCEEDED" in note for note in answer.receipt.notes)


def route_to_nobody(fallbacks: tuple[str, ...] = ()) -> dict[str, RouteSettings]:
    return {
        "predictor": RouteSettings(
            services=(PREDICTOR,), endpoints=("127.0.0.1:1",), fallbacks={METHOD: fallbacks} if fallbacks else {}
        )
    }


async def test_without_a_fallback_a_dead_service_is_unavailable(run_gateway: Any) -> None:
    async with run_gateway(routes=route_to_nobody()) as gateway:
        with pytest.raises(NotReady) as caught:
            await asked(gateway)
    assert caught.value.reason == ErrorReason.ERROR_REASON_BACKEND_UNREACHABLE
    assert caught.value.retry_after_s is not None


async def test_a_call_that_no_replica_could_answer_in_time_is_refused_at_once_and_counted(run_gateway: Any) -> None:
    async with ScriptedBackend(Script(latency_ms=40.0)) as slow, run_gateway(routes=route(slow)) as gateway:
        async with asyncio.timeout(10):
            while not (told := await counts(gateway)).late:
                async with asyncio.TaskGroup() as group:
                    for _ in range(10):
                        group.create_task(asked(gateway))
                with pytest.raises(DeadlineExceeded), mesh_errors():
                    await gateway.predictor.PredictEngagement(question(), timeout=0.03)
        begun = slow.counts.begun
        with pytest.raises(DeadlineExceeded, match=r"too little to ask|deadline"), mesh_errors():
            await gateway.predictor.PredictEngagement(question(), timeout=0.03)
    assert told.late > 0
    assert slow.counts.begun in (begun, begun + 1)  # the last one may have come a window later


async def test_a_fresh_answer_is_given_again_with_the_id_of_its_first_computation(run_gateway: Any) -> None:
    async with ScriptedBackend() as backend, run_gateway(routes=route(backend, cached_s={METHOD: 60.0})) as gateway:
        first = await asked(gateway, request_id="q-1")
        again = await asked(gateway, request_id="q-2")
    assert backend.counts.begun == 1
    assert (again.receipt.gateway.from_cache, again.receipt.gateway.degraded) == (True, False)
    assert again.receipt.prediction_id == first.receipt.prediction_id == "q-1"
    assert (again.receipt.gateway.attempts, again.receipt.gateway.endpoint) == (0, "")


async def test_each_part_of_a_composite_answer_has_its_own_policy_and_receipt(run_gateway: Any) -> None:
    """The predictor is broken for its newest version, one forecaster of two always fails: both parts are answered."""
    async with (
        ScriptedBackend(Script(model_version=2), answers={METHOD: fails_without_version}) as predictor,
        ScriptedBackend(Script(service="forecaster", failure_share=1.0)) as broken,
        ScriptedBackend(Script(service="forecaster")) as well,
    ):
        predictor.health.set("model/predictor/3", ServingStatus.SERVING)
        routes = route(predictor, fallbacks={METHOD: ("version",)})
        async with run_gateway(routes=routes, forecasters=[broken.address, well.address]) as gateway:
            await gateway.until(lambda mesh: len(mesh.services[-1].replicas[0].models) == 3)
            for _ in range(8):
                parts = [part async for part in gateway.mesh.PredictComprehensive(composite(), timeout=5)]
                assert [*parts[-1].summary.answered] == [gateway_pb2.PART_ENGAGEMENT, gateway_pb2.PART_GROWTH]
                by_part = {part.part: part.receipt for part in parts[:-1]}
                engagement, growth = by_part[gateway_pb2.PART_ENGAGEMENT], by_part[gateway_pb2.PART_GROWTH]
                assert engagement.gateway.fallback == receipt_pb2.FALLBACK_VERSION
                assert engagement.notes
                assert growth.gateway.endpoint == well.address
                assert not growth.gateway.degraded
            assert (await counts(gateway, "forecaster")).retries == broken.counts.failed


def composite(**fields: Any) -> gateway_pb2.PredictComprehensiveRequest:
    return gateway_pb2.PredictComprehensiveRequest(
        request_id="q-1",
        parts=[gateway_pb2.PART_ENGAGEMENT, gateway_pb2.PART_GROWTH],
        engagement=question(request_id=""),
        growth=forecaster_pb2.ForecastGrowthRequest(series="fox"),
        **fields,
    )


async def test_a_part_may_have_a_time_of_its_own(run_gateway: Any) -> None:
    async with (
        ScriptedBackend(Script(latency_ms=5_000.0)) as predictor,
        ScriptedBackend(Script(service="forecaster")) as forecaster,
        run_gateway(
            routes=route(predictor), forecasters=[forecaster.address], part_deadlines_s={"engagement": 0.1}
        ) as gateway,
    ):
        parts = [part async for part in gateway.mesh.PredictComprehensive(composite(), timeout=5)]
    by_part = {part.part: part for part in parts[:-1]}
    assert isinstance(from_item(by_part[gateway_pb2.PART_ENGAGEMENT].status), DeadlineExceeded)
    assert not by_part[gateway_pb2.PART_GROWTH].status.code


async def test_callers_that_leave_take_everything_with_them(run_gateway: Any) -> None:
    """Single calls and composite ones against a replica that never answers; the fixture looks for tasks."""
    script = Script(latency_ms=60_000.0)
    async with ScriptedBackend(script) as one, ScriptedBackend(script) as other:
        async with run_gateway(routes=route(one, other, cached_s={METHOD: 60.0})) as gateway:
            calls = [gateway.predictor.PredictEngagement(question(channel=str(n % 5)), timeout=20) for n in range(20)]
            streams = [gateway.mesh.PredictComprehensive(composite(), timeout=20) for _ in range(5)]
            await until_true(lambda: one.counts.in_flight + other.counts.in_flight >= 5)
            for call in (*calls, *streams):
                call.cancel()
            await asyncio.gather(*(ended(call) for call in calls))
            await until_true(lambda: one.counts.in_flight + other.counts.in_flight == 0)
            await gateway.until(lambda mesh: mesh.services[0].calls_in_flight == 0)


def large_answer(request: bytes) -> bytes:
    answer = pb.PredictEngagementResponse()
    answer.receipt.notes.append("x" * 200_000)
    return answer.SerializeToString()


async def test_a_reader_that_stalls_holds_up_its_own_questions_only(run_gateway: Any) -> None:
    async with ScriptedBackend(answers={METHOD: large_answer}) as backend:
        async with run_gateway(routes=route(backend), questions_max=4) as gateway:
            asked_for = gateway_pb2.PredictComprehensiveRequest(
                parts=[gateway_pb2.PART_ENGAGEMENT], engagement=question()
            )
            stream = gateway.mesh.PredictComprehensiveStream(timeout=30)

            async def ask() -> None:
                for sequence in range(200):
                    await stream.write(
                        gateway_pb2.PredictComprehensiveStreamRequest(sequence=sequence, request=asked_for)
                    )

            asking = asyncio.create_task(ask(), name="asking")
            await until_true(lambda: backend.counts.answered >= 4)
            begun = -1
            while begun != backend.counts.begun:  # until nothing moves any more
                begun = backend.counts.begun
                await asyncio.sleep(0.2)
            assert begun < 100
            assert (await asked(gateway)).receipt.notes  # others are served
            stream.cancel()
            await asyncio.gather(asking, return_exceptions=True)


async def ended(call: Awaitable[Any]) -> None:
    with pytest.raises(asyncio.CancelledError):
        await call


async def until_true(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # counters of a server that tells nobody when they change
            await asyncio.sleep(0.01)


async def test_what_the_limit_refuses_is_overload_and_never_degraded(run_gateway: Any) -> None:
    async with ScriptedBackend(Script(failure_share=1.0, failure_code="RESOURCE_EXHAUSTED")) as full:
        routes = route(full, fallbacks={METHOD: ("version", "cache", "baseline")})
        async with run_gateway(routes=routes) as gateway:
            with pytest.raises(Overloaded):
                await asked(gateway)
            assert not (await counts(gateway)).fallbacks
