"""Ids of questions that name none: all tries of one call are the same question."""

from __future__ import annotations

from typing import Any

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.gateway import RouteSettings

PREDICTOR = "meshcast.api.predictor.v1.PredictorService"


async def test_a_question_without_an_id_gets_one_before_the_first_try(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        one = await gateway.predictor.PredictEngagement(pb.PredictEngagementRequest(channel="a"), timeout=5)
        other = await gateway.predictor.PredictEngagement(pb.PredictEngagementRequest(channel="a"), timeout=5)
    # The scripted predictor answers with the id that it was asked under.
    assert len(one.receipt.prediction_id) == len(other.receipt.prediction_id) == 32
    assert one.receipt.prediction_id != other.receipt.prediction_id


async def test_an_id_of_the_callers_stays(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        request = pb.PredictEngagementRequest(request_id="mine", channel="a")
        answer = await gateway.predictor.PredictEngagement(request, timeout=5)
    assert answer.receipt.prediction_id == "mine"


async def test_what_is_asked_once_is_passed_on_as_it_came(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica:
        route = RouteSettings(services=(PREDICTOR,), endpoints=(replica.address,), once=("PredictEngagement",))
        async with run_gateway(routes={"predictor": route}) as gateway:
            answer = await gateway.predictor.PredictEngagement(pb.PredictEngagementRequest(channel="a"), timeout=5)
    assert answer.receipt.prediction_id == ""


async def test_a_request_as_large_as_may_be_does_not_outgrow_the_limit(run_predictor: Any, run_gateway: Any) -> None:
    request = pb.PredictEngagementRequest()
    request.channel = "x" * (4 * 1024 * 1024 - 5)
    assert request.ByteSize() == 4 * 1024 * 1024
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        answer = await gateway.predictor.PredictEngagement(request, timeout=5)
    assert answer.receipt.prediction_id == ""
