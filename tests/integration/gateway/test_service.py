"""GatewayService: composite answers in parts, and the state of the mesh."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.api.predictor.v1 import predictor_pb2
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.gateway import RouteSettings
from meshcast.rpc import Internal, InvalidInput, NotReady, from_item, mesh_errors

PREDICTOR = "meshcast.api.predictor.v1.PredictorService"
OTHERS = {pb.PART_GROWTH, pb.PART_CONTENT, pb.PART_DRIFT}


def question(script: str = "", **fields: Any) -> pb.PredictComprehensiveRequest:
    return pb.PredictComprehensiveRequest(
        engagement=predictor_pb2.PredictEngagementRequest(channel=script), request_id="q-1", **fields
    )


async def answered(gateway: Any, request: pb.PredictComprehensiveRequest, **options: Any) -> list[Any]:
    options.setdefault("timeout", 10)
    return [part async for part in gateway.mesh.PredictComprehensive(request, **options)]


async def test_the_engagement_is_answered_and_missing_services_are_parts(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        *parts, last = await answered(gateway, question())
    by_part = {part.part: part for part in parts}
    engagement = by_part[pb.PART_ENGAGEMENT]
    assert engagement.status.code == 0
    assert engagement.engagement.prediction.log_engagement == 2.5
    assert engagement.engagement.receipt.prediction_id == "q-1"
    assert engagement.receipt.gateway.endpoint == replica.address
    for part in OTHERS:
        error = from_item(by_part[part].status)
        assert isinstance(error, NotReady)
        assert "not part of this mesh" in error.message
    assert (list(last.summary.answered), {*last.summary.failed}) == ([pb.PART_ENGAGEMENT], OTHERS)
    assert last.receipt.gateway.attempts == 1
    assert last.receipt.deadline_ms > 0 and not last.receipt.deadline_default


async def test_only_the_wanted_parts_are_answered(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        parts = await answered(gateway, question(parts=[pb.PART_ENGAGEMENT]))
    assert [part.part for part in parts] == [pb.PART_ENGAGEMENT, pb.PART_UNSPECIFIED]


async def test_a_request_id_inside_a_part_wins(run_predictor: Any, run_gateway: Any) -> None:
    request = question(parts=[pb.PART_ENGAGEMENT])
    request.engagement.request_id = "mine"
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        part, _ = await answered(gateway, request)
    assert part.engagement.receipt.prediction_id == "mine"


async def test_a_slow_part_is_not_waited_for_by_the_others(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        call = gateway.mesh.PredictComprehensive(question("slow"), timeout=10)
        parts = [part.part async for part in call]
    assert {*parts[:3]} == OTHERS
    assert parts[3:] == [pb.PART_ENGAGEMENT, pb.PART_UNSPECIFIED]


async def test_a_part_has_a_deadline_of_its_own(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address], part_deadline_s=0.6) as gateway:
        part, last = await answered(gateway, question("stall", parts=[pb.PART_ENGAGEMENT]))
        await asyncio.wait_for(replica.script.cancelled.wait(), 5)
    assert part.status.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert list(last.summary.failed) == [pb.PART_ENGAGEMENT]


async def test_a_part_carries_the_services_own_error(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        part, _ = await answered(gateway, question("refuse", parts=[pb.PART_ENGAGEMENT]))
    error = from_item(part.status)
    assert isinstance(error, InvalidInput)
    assert error.violations[0].field == "planned.hour_of_day"


async def test_a_part_of_a_replica_that_vanishes_says_when_to_come_back(run_predictor: Any, run_gateway: Any) -> None:
    async with AsyncExitStack() as stack:
        replica = await stack.enter_async_context(run_predictor(drain_s=0.05))
        async with run_gateway([replica.address]) as gateway:
            asked = asyncio.create_task(answered(gateway, question("stall", parts=[pb.PART_ENGAGEMENT])), name="asked")
            await replica.script.began.wait()
            await stack.aclose()
            part, last = await asked
    error = from_item(part.status)
    assert isinstance(error, NotReady)
    assert error.reason == ErrorReason.ERROR_REASON_BACKEND_UNREACHABLE
    assert error.retry_after_s
    assert error.facts == {"service": PREDICTOR}
    assert (part.receipt.gateway.endpoint, last.receipt.gateway.attempts) == (replica.address, 1)


async def test_a_bug_behind_a_part_keeps_its_words_to_itself(run_gateway: Any) -> None:
    async def leak(request: bytes, context: Any) -> bytes:
        raise ValueError("secret db password")

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers: dict[str, Any] = {"PredictEngagement": grpc.unary_unary_rpc_method_handler(leak)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(PREDICTOR, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with run_gateway([f"127.0.0.1:{port}"]) as gateway:
        part, _ = await answered(gateway, question(parts=[pb.PART_ENGAGEMENT]))
    await server.stop(None)
    error = from_item(part.status)
    assert isinstance(error, Internal)
    assert error.message == "internal error"
    assert error.facts["request_id"]


async def test_a_wanted_part_without_its_question_is_invalid(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        part, _ = await answered(gateway, pb.PredictComprehensiveRequest(parts=[pb.PART_ENGAGEMENT]))
    assert from_item(part.status).violations[0].field == "engagement"


async def test_a_dead_service_is_a_part_and_not_a_failed_call(run_gateway: Any) -> None:
    async with run_gateway(["127.0.0.1:1"]) as gateway:
        *_, last = await answered(gateway, question())
    assert {*last.summary.failed} == {*OTHERS, pb.PART_ENGAGEMENT}


async def test_an_unknown_part_is_refused(run_predictor: Any, run_gateway: Any) -> None:
    request = question()
    request.parts.append(pb.PART_UNSPECIFIED)
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        with pytest.raises(InvalidInput) as caught, mesh_errors():
            await answered(gateway, request)
    assert caught.value.violations[0].field == "parts[0]"


async def test_a_stream_answers_every_question_and_survives_a_bad_one(run_predictor: Any, run_gateway: Any) -> None:
    async def questions() -> AsyncIterator[pb.PredictComprehensiveStreamRequest]:
        for sequence in range(20):
            request = question("slow" if sequence == 3 else "", parts=[pb.PART_ENGAGEMENT])
            if sequence == 7:
                request.parts.append(pb.PART_UNSPECIFIED)
            yield pb.PredictComprehensiveStreamRequest(sequence=sequence, request=request)

    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        call = gateway.mesh.PredictComprehensiveStream(questions(), timeout=20)
        answers = [answer async for answer in call]
    summaries = {a.sequence: a.response for a in answers if a.response.HasField("summary")}
    assert {*summaries} == {*range(20)}
    # The transport rounds a timeout up, by at most 1 %, when it encodes it.
    assert all(0 < answer.response.receipt.deadline_ms <= 20_200 for answer in answers)
    assert from_item(summaries[7].status).violations[0].field == "parts[1]"
    order = [answer.sequence for answer in answers if answer.response.HasField("summary")]
    assert order.index(3) > order.index(5)  # the slow one held nobody up
    assert all(list(s.summary.answered) == [pb.PART_ENGAGEMENT] for n, s in summaries.items() if n != 7)


async def test_a_bounded_number_of_questions_is_under_way(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address], questions_max=2) as gateway:
        call = gateway.mesh.PredictComprehensiveStream(timeout=20)
        for sequence in range(6):
            request = question("stall", parts=[pb.PART_ENGAGEMENT])
            await call.write(pb.PredictComprehensiveStreamRequest(sequence=sequence, request=request))
        await gateway.until(lambda mesh: mesh.services[0].calls_in_flight == 2)
        await asyncio.sleep(0.1)
        assert replica.script.calls == 2
        call.cancel()
        await gateway.until(lambda mesh: mesh.services[0].calls_in_flight == 0)


async def test_a_routed_question_is_answered_with_both_receipts(run_predictor: Any, run_gateway: Any) -> None:
    request = pb.RoutePredictionRequest(engagement=predictor_pb2.PredictEngagementRequest(request_id="q-2"))
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        answer = await gateway.mesh.RoutePrediction(request, timeout=5)
    assert answer.engagement.receipt.prediction_id == "q-2"
    assert answer.receipt.gateway.endpoint == replica.address


async def test_a_routed_question_fails_as_its_service_fails(run_predictor: Any, run_gateway: Any) -> None:
    request = pb.RoutePredictionRequest(engagement=predictor_pb2.PredictEngagementRequest(channel="refuse"))
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        with pytest.raises(InvalidInput) as caught, mesh_errors():
            await gateway.mesh.RoutePrediction(request, timeout=5)
        assert caught.value.facts == {"asked": "24"}
        with pytest.raises(InvalidInput) as caught, mesh_errors():
            await gateway.mesh.RoutePrediction(pb.RoutePredictionRequest(), timeout=5)
        assert caught.value.violations[0].field == "question"


async def test_a_mesh_without_predictor_says_so(run_gateway: Any) -> None:
    route = RouteSettings(services=("acme.EchoService",), endpoints=("127.0.0.1:1",))
    request = pb.RoutePredictionRequest(engagement=predictor_pb2.PredictEngagementRequest())
    async with run_gateway(routes={"echo": route}) as gateway:
        with pytest.raises(NotReady, match="not part of this mesh"), mesh_errors():
            await gateway.mesh.RoutePrediction(request, timeout=5)


async def test_services_are_listed_with_methods_and_replicas(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        listed = await gateway.mesh.ListServices(pb.ListServicesRequest(), timeout=5)
    (entry,) = listed.services
    assert (entry.name, list(entry.grpc_services), list(entry.endpoints)) == (
        "predictor",
        [PREDICTOR],
        [replica.address],
    )
    assert f"/{PREDICTOR}/PredictEngagementStream" in entry.methods
    assert listed.receipt.HasField("gateway")


async def test_services_that_were_never_reached_list_no_methods(run_gateway: Any) -> None:
    async with run_gateway(["127.0.0.1:1"]) as gateway:
        listed = await gateway.mesh.ListServices(pb.ListServicesRequest(), timeout=5)
    assert not listed.services[0].methods


async def test_the_mesh_tells_calls_by_code_and_latencies(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        assert not (await gateway.health()).services[0].HasField("latency_ms_p50")
        for _ in range(3):
            await gateway.predictor.PredictEngagement(predictor_pb2.PredictEngagementRequest(), timeout=5)
        with pytest.raises(grpc.aio.AioRpcError):
            await gateway.predictor.PredictEngagement(
                predictor_pb2.PredictEngagementRequest(channel="refuse"), timeout=5
            )
        health = await gateway.health()
    (service,) = health.services
    assert dict(service.calls_by_code) == {"OK": 3, "INVALID_ARGUMENT": 1}
    assert 0 < service.latency_ms_p50 <= service.latency_ms_p99
    assert service.state == pb.SERVING_STATE_SERVING and health.serving
    assert health.meshcast_version
    assert health.read_time.ToMicroseconds() >= health.started_time.ToMicroseconds()
    assert dict(service.replicas[0].models)["model/predictor/1"] == pb.SERVING_STATE_SERVING


async def test_a_watch_of_the_mesh_goes_on_in_its_interval_and_ends_with_the_drain(
    run_predictor: Any, run_gateway: Any
) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        watch = gateway.mesh.WatchMesh(pb.WatchMeshRequest(interval_ms=200), timeout=10)
        for _ in range(3):
            assert (await watch.read()).health.serving
        draining = asyncio.create_task(gateway.server.drain(), name="test-drain")
        with pytest.raises(NotReady) as caught, mesh_errors():
            while True:
                await watch.read()
        await draining
    assert caught.value.retry_after_s is not None


async def test_an_interval_out_of_range_is_refused(run_gateway: Any) -> None:
    async with run_gateway(["127.0.0.1:1"]) as gateway:
        for interval_ms in (199, 60_001, -1):
            watch = gateway.mesh.WatchMesh(pb.WatchMeshRequest(interval_ms=interval_ms), timeout=5)
            with pytest.raises(InvalidInput, match="interval_ms"), mesh_errors():
                await watch.read()
