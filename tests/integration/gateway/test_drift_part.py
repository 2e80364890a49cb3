"""Drift behind the gateway: a part of a composite answer, a question by its kind, and a watch that may last."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from meshcast.api.drift.v1 import drift_pb2
from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.api.predictor.v1 import predictor_pb2
from meshcast.rpc import NotFound, NotReady, from_item, mesh_errors

BOTH = [pb.PART_ENGAGEMENT, pb.PART_DRIFT]


def question(subject: str = "predictor") -> pb.PredictComprehensiveRequest:
    return pb.PredictComprehensiveRequest(
        engagement=predictor_pb2.PredictEngagementRequest(),
        drift=drift_pb2.DetectDataDriftRequest(subject=subject),
        parts=BOTH,
        request_id="q-1",
    )


async def parts_of(gateway: Any, request: pb.PredictComprehensiveRequest) -> tuple[dict[int, Any], Any]:
    *parts, last = [part async for part in gateway.mesh.PredictComprehensive(request, timeout=10)]
    return {part.part: part for part in parts}, last


async def test_drift_is_answered_beside_the_others(run_predictor: Any, run_drift: Any, run_gateway: Any) -> None:
    async with (
        run_predictor() as predictor,
        run_drift() as drift,
        run_gateway([predictor.address], drifts=[drift.address]) as gateway,
    ):
        parts, last = await parts_of(gateway, question())
    found = parts[pb.PART_DRIFT]
    assert (found.drift.report.subject, found.drift.report.is_drift) == ("predictor", True)
    assert (found.drift.receipt.prediction_id, found.receipt.gateway.endpoint) == ("q-1", drift.address)
    assert (list(last.summary.answered), list(last.summary.failed)) == (BOTH, [])


@pytest.mark.parametrize(
    ("subject", "code"), [("stall", grpc.StatusCode.DEADLINE_EXCEEDED), ("refuse", grpc.StatusCode.NOT_FOUND)]
)
async def test_drift_that_fails_costs_its_own_part(
    run_predictor: Any, run_drift: Any, run_gateway: Any, subject: str, code: grpc.StatusCode
) -> None:
    async with (
        run_predictor() as predictor,
        run_drift() as drift,
        run_gateway([predictor.address], drifts=[drift.address], part_deadline_s=1.5) as gateway,
    ):
        parts, last = await parts_of(gateway, question(subject))
    status = parts[pb.PART_DRIFT].status
    assert status.code == code.value[0]
    assert isinstance(from_item(status), NotFound) is (subject == "refuse")
    assert (list(last.summary.answered), list(last.summary.failed)) == ([pb.PART_ENGAGEMENT], [pb.PART_DRIFT])


async def test_a_question_is_routed_by_its_kind_with_the_time_that_it_takes(run_drift: Any, run_gateway: Any) -> None:
    async with run_drift() as drift, run_gateway(drifts=[drift.address]) as gateway:
        routed = await gateway.mesh.RoutePrediction(pb.RoutePredictionRequest(drift=question().drift))
        direct = await gateway.drift.DetectDataDrift(question().drift)
    assert routed.drift.report.is_drift and routed.receipt.gateway.endpoint == drift.address
    assert (routed.receipt.deadline_ms, routed.receipt.deadline_default) == (30_000, True)
    assert direct.report.is_drift and direct.receipt.gateway.endpoint == drift.address
    assert all(25 < seconds <= 30.1 for seconds in drift.script.seconds_left)


async def test_alarms_pass_as_they_come_and_a_watch_may_last(run_drift: Any, run_gateway: Any) -> None:
    async with run_drift() as drift, run_gateway(drifts=[drift.address]) as gateway:
        watch = gateway.drift.WatchDrift(drift_pb2.WatchDriftRequest())
        async with asyncio.timeout(20):
            for number in (1, 2):
                drift.script.alarms.put_nowait(number)
                answer = await watch.read()
                assert (answer.alarm.alarm_id, answer.cursor) == (number, number)
            watch.cancel()
            await drift.script.cancelled.wait()
    assert drift.script.seconds_left[0] > 29 * 86_400


async def test_a_watch_ends_with_the_drain_and_does_not_hold_it(run_drift: Any, run_gateway: Any) -> None:
    async with run_drift() as drift, run_gateway(drifts=[drift.address]) as gateway:
        watch = gateway.drift.WatchDrift(drift_pb2.WatchDriftRequest())
        drift.script.alarms.put_nowait(1)
        async with asyncio.timeout(30):
            await watch.read()
            draining = asyncio.create_task(gateway.server.drain(), name="test-drain")
            with pytest.raises(NotReady, match="watch again") as caught, mesh_errors(watch):
                await watch.read()
            await draining
            await drift.script.cancelled.wait()
    assert caught.value.retry_after_s is not None
