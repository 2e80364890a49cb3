"""Composite answers of several services: what one of them does costs the others nothing."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from meshcast.api.analyzer.v1 import analyzer_pb2
from meshcast.api.forecaster.v1 import forecaster_pb2
from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.api.predictor.v1 import predictor_pb2
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.client import GrowthQuestion, MeshClient, Question
from meshcast.rpc import InvalidInput, NotReady, from_item, mesh_errors
from meshcast.series import SeriesTable

FORECASTER = "meshcast.api.forecaster.v1.ForecasterService"
BOTH = [pb.PART_ENGAGEMENT, pb.PART_GROWTH]
THREE = [*BOTH, pb.PART_CONTENT]


def question(*, channel: str = "", series: str = "", **fields: Any) -> pb.PredictComprehensiveRequest:
    fields = {"parts": BOTH, "request_id": "q-1", **fields}
    return pb.PredictComprehensiveRequest(
        engagement=predictor_pb2.PredictEngagementRequest(channel=channel),
        growth=forecaster_pb2.ForecastGrowthRequest(series=series, horizon_days=3),
        **fields,
    )


def three(*, title: str = "", **fields: Any) -> pb.PredictComprehensiveRequest:
    """A question to three services; `title` says what the analyzer does, all else is as in `question`."""
    request = question(**{"parts": THREE, **fields})
    request.content.content.text, request.content.content.title = "Goal!", title
    return request


async def parts_of(gateway: Any, request: pb.PredictComprehensiveRequest) -> list[Any]:
    return [part async for part in gateway.mesh.PredictComprehensive(request, timeout=10)]


def one(parts: list[Any], part: int) -> Any:
    (found,) = (each for each in parts if each.part == part)
    return found


async def test_both_parts_are_answered_under_the_one_request_id(
    run_predictor: Any, run_forecaster: Any, run_gateway: Any
) -> None:
    async with (
        run_predictor() as predictor,
        run_forecaster() as forecaster,
        run_gateway([predictor.address], forecasters=[forecaster.address]) as gateway,
    ):
        parts = await parts_of(gateway, question())
    engagement, growth, last = one(parts, pb.PART_ENGAGEMENT), one(parts, pb.PART_GROWTH), parts[-1]
    assert list(growth.growth.forecast.median) == [7.0] * 3
    assert engagement.engagement.prediction.log_engagement == 2.5
    assert engagement.engagement.receipt.prediction_id == growth.growth.receipt.prediction_id == "q-1"
    assert growth.receipt.gateway.endpoint == forecaster.address
    assert engagement.receipt.gateway.endpoint == predictor.address
    assert (list(last.summary.answered), list(last.summary.failed)) == (BOTH, [])
    assert last.receipt.gateway.attempts == 2 and not last.receipt.gateway.degraded


async def test_a_request_id_inside_one_part_wins_there_only(
    run_predictor: Any, run_forecaster: Any, run_gateway: Any
) -> None:
    request = question()
    request.growth.request_id = "mine"
    async with (
        run_predictor() as predictor,
        run_forecaster() as forecaster,
        run_gateway([predictor.address], forecasters=[forecaster.address]) as gateway,
    ):
        parts = await parts_of(gateway, request)
    assert one(parts, pb.PART_GROWTH).growth.receipt.prediction_id == "mine"
    assert one(parts, pb.PART_ENGAGEMENT).engagement.receipt.prediction_id == "q-1"


@pytest.mark.parametrize(("script", "order"), [({"channel": "slow"}, BOTH[::-1]), ({"series": "slow"}, BOTH)])
async def test_the_slow_part_comes_last_whichever_it_is(
    run_predictor: Any, run_forecaster: Any, run_gateway: Any, script: dict[str, str], order: list[int]
) -> None:
    async with (
        run_predictor() as predictor,
        run_forecaster() as forecaster,
        run_gateway([predictor.address], forecasters=[forecaster.address]) as gateway,
    ):
        parts = await parts_of(gateway, question(**script))
    assert [part.part for part in parts] == [*order, pb.PART_UNSPECIFIED]
    assert not [part for part in parts if part.status.code]


async def test_a_stalled_part_ends_in_time_and_the_other_is_there(
    run_predictor: Any, run_forecaster: Any, run_gateway: Any
) -> None:
    async with (
        run_predictor() as predictor,
        run_forecaster() as forecaster,
        run_gateway([predictor.address], forecasters=[forecaster.address], part_deadline_s=1.5) as gateway,
    ):
        first, second, last = await parts_of(gateway, question(series="stall"))
    assert first.engagement.prediction.log_engagement == 2.5
    assert second.status.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert (list(last.summary.answered), list(last.summary.failed)) == ([pb.PART_ENGAGEMENT], [pb.PART_GROWTH])
    assert last.receipt.gateway.degraded


async def test_a_dead_service_costs_its_own_part_and_nothing_else(
    run_predictor: Any, run_forecaster: Any, run_gateway: Any
) -> None:
    async with AsyncExitStack() as stack:
        forecaster = await stack.enter_async_context(run_forecaster(drain_s=0.1))
        async with (
            run_predictor() as predictor,
            run_gateway([predictor.address], forecasters=[forecaster.address]) as gateway,
        ):
            await stack.aclose()
            await gateway.until(lambda mesh: any(r.problem for s in mesh.services for r in s.replicas))
            parts = await parts_of(gateway, question())
            assert one(parts, pb.PART_ENGAGEMENT).status.code == 0
            error = from_item(one(parts, pb.PART_GROWTH).status)
            assert isinstance(error, NotReady) and error.reason == ErrorReason.ERROR_REASON_BACKEND_UNREACHABLE
            assert (error.facts["service"], error.retry_after_s is not None) == (FORECASTER, True)
            with pytest.raises(NotReady), mesh_errors():
                await gateway.mesh.RoutePrediction(pb.RoutePredictionRequest(growth=question().growth), timeout=5)
            routed = await gateway.mesh.RoutePrediction(
                pb.RoutePredictionRequest(engagement=question().engagement), timeout=5
            )
    assert routed.engagement.prediction.log_engagement == 2.5


async def test_only_growth_is_asked_where_only_growth_is_wanted(
    run_predictor: Any, run_forecaster: Any, run_gateway: Any
) -> None:
    async with (
        run_predictor() as predictor,
        run_forecaster() as forecaster,
        run_gateway([predictor.address], forecasters=[forecaster.address]) as gateway,
    ):
        parts = await parts_of(gateway, question(parts=[pb.PART_GROWTH]))
    assert [part.part for part in parts] == [pb.PART_GROWTH, pb.PART_UNSPECIFIED]
    assert (predictor.script.calls, forecaster.script.calls) == (0, 1)


async def test_a_part_whose_question_is_missing_is_refused_in_its_place(
    run_predictor: Any, run_forecaster: Any, run_gateway: Any
) -> None:
    request = question()
    request.ClearField("growth")
    async with (
        run_predictor() as predictor,
        run_forecaster() as forecaster,
        run_gateway([predictor.address], forecasters=[forecaster.address]) as gateway,
    ):
        parts = await parts_of(gateway, request)
    error = from_item(one(parts, pb.PART_GROWTH).status)
    assert isinstance(error, InvalidInput) and error.violations[0].field == "growth"
    assert one(parts, pb.PART_ENGAGEMENT).status.code == 0
    assert forecaster.script.calls == 0


async def test_the_client_asks_for_the_parts_whose_questions_it_was_given(
    run_forecaster: Any, run_analyzer: Any, run_gateway: Any
) -> None:
    growth = GrowthQuestion(history=SeriesTable.of(range(100, 140), range(40)), horizon_days=3)
    async with (
        run_forecaster() as forecaster,
        run_analyzer() as analyzer,
        run_gateway(["127.0.0.1:1"], forecasters=[forecaster.address], analyzers=[analyzer.address]) as gateway,
        MeshClient(gateway.server.address) as mesh,
    ):
        text = [part async for part in mesh.predict_comprehensive(content="Goal!")]
        both = [part async for part in mesh.predict_comprehensive(content="Goal!", growth=growth)]
        one_of_both = [
            part async for part in mesh.predict_comprehensive(content="Goal!", growth=growth, parts=["growth"])
        ]
        streamed = [
            part
            async for part in mesh.predict_comprehensive_stream([Question(content="Goal!"), Question(growth=growth)])
        ]
        with_drift = [part async for part in mesh.predict_comprehensive(content="Goal!", drift="predictor")]
    assert [part.part for part in text] == ["content", ""] and text[0].judgement is not None
    assert {part.part for part in both} == {"growth", "content", ""}
    assert [part.part for part in one_of_both] == ["growth", ""]
    assert {(part.sequence, part.part) for part in streamed} == {(0, "content"), (0, ""), (1, "growth"), (1, "")}
    for parts in (text, both, one_of_both, streamed):
        assert not [part for part in parts if part.error is not None or (part.summary and part.summary.failed)]
    (failed,) = (part for part in with_drift if part.error is not None)
    assert failed.part == "drift"


async def test_a_violation_keeps_the_path_that_its_service_gave(
    run_predictor: Any, run_forecaster: Any, run_gateway: Any
) -> None:
    async with (
        run_predictor() as predictor,
        run_forecaster() as forecaster,
        run_gateway([predictor.address], forecasters=[forecaster.address]) as gateway,
    ):
        parts = await parts_of(gateway, question(channel="refuse", series="refuse"))
        with pytest.raises(InvalidInput) as caught, mesh_errors():
            await gateway.mesh.RoutePrediction(
                pb.RoutePredictionRequest(growth=question(series="refuse").growth), timeout=5
            )
    fields = {part.part: from_item(part.status).violations[0].field for part in parts[:2]}
    # As a call to the service itself says it: the part tells which question it stands in.
    assert fields == {pb.PART_ENGAGEMENT: "planned.hour_of_day", pb.PART_GROWTH: "history[3].date"}
    assert caught.value.violations[0].field == "history[3].date"


async def test_a_question_is_routed_by_its_kind(run_predictor: Any, run_forecaster: Any, run_gateway: Any) -> None:
    async with (
        run_predictor() as predictor,
        run_forecaster() as forecaster,
        run_gateway([predictor.address], forecasters=[forecaster.address]) as gateway,
    ):
        request = forecaster_pb2.ForecastGrowthRequest(request_id="q-2", horizon_days=2)
        routed = await gateway.mesh.RoutePrediction(pb.RoutePredictionRequest(growth=request), timeout=5)
        empty = forecaster_pb2.ForecastGrowthRequest(series="empty")
        blank = await gateway.mesh.RoutePrediction(pb.RoutePredictionRequest(growth=empty), timeout=5)
        by_default = await gateway.mesh.RoutePrediction(pb.RoutePredictionRequest(growth=request))
    assert routed.WhichOneof("answer") == "growth"
    assert routed.growth.receipt.prediction_id == "q-2" and list(routed.growth.forecast.median) == [7.0] * 2
    assert routed.receipt.gateway.endpoint == forecaster.address
    assert blank.WhichOneof("answer") == "growth"
    assert by_default.receipt.deadline_default and by_default.receipt.deadline_ms == 5_000
    assert 4 < forecaster.script.seconds_left[-1] <= 5.1
    assert predictor.script.calls == 0


async def test_streams_of_questions_carry_both_parts_of_each(
    run_predictor: Any, run_forecaster: Any, run_gateway: Any
) -> None:
    questions = [
        pb.PredictComprehensiveStreamRequest(
            sequence=number, request=question(series="slow" if number == 1 else "", request_id=f"q-{number}")
        )
        for number in range(6)
    ]
    async with (
        run_predictor() as predictor,
        run_forecaster() as forecaster,
        run_gateway([predictor.address], forecasters=[forecaster.address]) as gateway,
    ):
        async with asyncio.timeout(10):
            call = gateway.mesh.PredictComprehensiveStream(iter(questions), timeout=10)
            answers = [answer async for answer in call]
    for number in range(6):
        own = [answer.response for answer in answers if answer.sequence == number]
        assert {part.part for part in own} == {*BOTH, pb.PART_UNSPECIFIED}
        assert one(own, pb.PART_GROWTH).growth.receipt.prediction_id == f"q-{number}"
    ends = [answer.sequence for answer in answers if answer.response.HasField("summary")]
    assert ends.index(1) > ends.index(2)  # the slow part held up its own question only


async def test_both_services_are_relayed_listed_and_healthy(
    run_predictor: Any, run_forecaster: Any, run_gateway: Any
) -> None:
    async with (
        run_predictor() as predictor,
        run_forecaster() as forecaster,
        run_gateway([predictor.address], forecasters=[forecaster.address]) as gateway,
    ):
        request = forecaster_pb2.ForecastGrowthRequest(request_id="q-3")
        answer = await gateway.forecaster.ForecastGrowth(request, timeout=5)
        listed = await gateway.mesh.ListServices(pb.ListServicesRequest(), timeout=5)
        health = await gateway.health()
    assert answer.receipt.prediction_id == "q-3" and answer.receipt.gateway.attempts == 1
    assert [entry.name for entry in listed.services] == ["forecaster", "predictor"]
    assert f"/{FORECASTER}/RecordActuals" in listed.services[0].methods
    assert {service.name: service.state for service in health.services} == {
        "forecaster": pb.SERVING_STATE_SERVING,
        "predictor": pb.SERVING_STATE_SERVING,
    }


async def test_three_services_answer_and_the_one_that_is_not_here_is_a_part(
    run_predictor: Any, run_forecaster: Any, run_analyzer: Any, run_gateway: Any
) -> None:
    async with (
        run_predictor() as predictor,
        run_forecaster() as forecaster,
        run_analyzer() as analyzer,
        run_gateway([predictor.address], forecasters=[forecaster.address], analyzers=[analyzer.address]) as gateway,
    ):
        parts = await parts_of(gateway, three(parts=[]))
    content, last = one(parts, pb.PART_CONTENT), parts[-1]
    assert (content.content.judgement.viral, content.content.judgement.characters_read) == (0.25, 5)
    assert content.content.receipt.prediction_id == "q-1"
    assert content.receipt.gateway.endpoint == analyzer.address
    error = from_item(one(parts, pb.PART_DRIFT).status)
    assert isinstance(error, NotReady) and "drift is not part of this mesh" in error.message
    assert (list(last.summary.answered), list(last.summary.failed)) == (THREE, [pb.PART_DRIFT])


@pytest.mark.parametrize(
    ("title", "code"), [("stall", grpc.StatusCode.DEADLINE_EXCEEDED), ("refuse", grpc.StatusCode.INVALID_ARGUMENT)]
)
async def test_an_analyzer_that_fails_costs_its_own_part_and_nothing_else(
    run_predictor: Any, run_forecaster: Any, run_analyzer: Any, run_gateway: Any, title: str, code: grpc.StatusCode
) -> None:
    async with (
        run_predictor() as predictor,
        run_forecaster() as forecaster,
        run_analyzer() as analyzer,
        run_gateway(
            [predictor.address],
            forecasters=[forecaster.address],
            analyzers=[analyzer.address],
            part_deadline_s=1.5,
        ) as gateway,
    ):
        *parts, last = await parts_of(gateway, three(title=title))
    failed = one(parts, pb.PART_CONTENT)
    assert failed.status.code == code.value[0]
    assert [violation.field for violation in getattr(from_item(failed.status), "violations", ())] == (
        ["content.hour_of_day"] if title == "refuse" else []
    )
    assert (list(last.summary.answered), list(last.summary.failed)) == (BOTH, [pb.PART_CONTENT])


async def test_a_text_is_routed_by_its_kind_and_judged_in_streams(run_analyzer: Any, run_gateway: Any) -> None:
    async with run_analyzer() as analyzer, run_gateway(analyzers=[analyzer.address]) as gateway:
        request = three().content
        request.request_id = "q-4"
        routed = await gateway.mesh.RoutePrediction(pb.RoutePredictionRequest(content=request), timeout=5)
        assert routed.content.judgement.viral == 0.25 and routed.content.receipt.prediction_id == "q-4"
        assert routed.receipt.gateway.endpoint == analyzer.address
        questions = [
            pb.PredictComprehensiveStreamRequest(
                sequence=number, request=three(parts=[pb.PART_CONTENT], request_id=f"q-{number}")
            )
            for number in range(4)
        ]
        async with asyncio.timeout(10):
            call = gateway.mesh.PredictComprehensiveStream(iter(questions), timeout=10)
            answers = [answer async for answer in call]
    found = {a.sequence: a.response.content for a in answers if a.response.part == pb.PART_CONTENT}
    assert {number: content.receipt.prediction_id for number, content in found.items()} == {
        number: f"q-{number}" for number in range(4)
    }


async def test_methods_that_take_long_get_longer_when_their_caller_sets_no_deadline(
    run_analyzer: Any, run_gateway: Any
) -> None:
    async with run_analyzer() as analyzer, run_gateway(analyzers=[analyzer.address]) as gateway:
        answers = [
            await gateway.analyzer.AnalyzeContent(three().content),
            await gateway.analyzer.EmbedTexts(analyzer_pb2.EmbedTextsRequest(texts=["a", "b"])),
        ]
        await gateway.analyzer.EmbedTexts(analyzer_pb2.EmbedTextsRequest(), timeout=2)
    assert answers[1].rows == 2
    assert [answer.receipt.deadline_ms for answer in answers] == [5_000, 10_000]
    assert all(answer.receipt.deadline_default for answer in answers)
    given = analyzer.script.seconds_left
    assert given[0] <= 5.1 < 9 < given[1] <= 10.1 and given[2] <= 2.1  # the transport rounds up
