"""The gateway's own rpcs through the client, against a small gateway that answers some parts and fails others."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from meshcast.api.analyzer.v1 import analyzer_pb2
from meshcast.api.drift.v1 import drift_pb2
from meshcast.api.forecaster.v1 import forecaster_pb2
from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.api.gateway.v1 import gateway_pb2_grpc as pb_grpc
from meshcast.api.predictor.v1 import predictor_pb2
from meshcast.api.type.v1 import receipt_pb2
from meshcast.client import Content, GrowthQuestion, MeshClient, Question, SyncMeshClient, prediction_id
from meshcast.rpc import InvalidInput, NotReady, Server, to_item
from meshcast.series import SeriesTable

Context = grpc.aio.ServicerContext[Any, Any]


def engagement(request: predictor_pb2.PredictEngagementRequest) -> predictor_pb2.PredictEngagementResponse:
    prediction = predictor_pb2.Prediction(log_engagement=request.planned.content_length)
    return predictor_pb2.PredictEngagementResponse(prediction=prediction)


def growth(request: forecaster_pb2.ForecastGrowthRequest) -> forecaster_pb2.ForecastGrowthResponse:
    days = request.history_columns.days
    forecast = forecaster_pb2.Forecast(first_date="2016-06-01", median=[days] * request.horizon_days)
    receipt = receipt_pb2.Receipt(prediction_id=prediction_id(request.request_id))
    return forecaster_pb2.ForecastGrowthResponse(forecast=forecast, receipt=receipt)


def content(request: analyzer_pb2.AnalyzeContentRequest) -> analyzer_pb2.AnalyzeContentResponse:
    read = len(request.content.text) + len(request.content.title)
    receipt = receipt_pb2.Receipt(prediction_id=prediction_id(request.request_id))
    judgement = analyzer_pb2.ContentJudgement(above_median=0.75, viral=0.25, characters_read=read)
    return analyzer_pb2.AnalyzeContentResponse(judgement=judgement, receipt=receipt)


def drift(request: drift_pb2.DetectDataDriftRequest) -> dict[str, Any]:
    if request.subject == "absent":
        return {"status": to_item(NotReady("no drift service here"))}
    report = drift_pb2.DriftReport(
        subject=request.subject,
        is_drift=True,
        severity=drift_pb2.SEVERITY_HIGH,
        summary=request.WhichOneof("window") or "",
    )
    return {"drift": drift_pb2.DetectDataDriftResponse(report=report)}


def parts(request: pb.PredictComprehensiveRequest) -> list[pb.PredictComprehensiveResponse]:
    answers = [
        pb.PredictComprehensiveResponse(part=pb.PART_DRIFT, **drift(request.drift)),
        pb.PredictComprehensiveResponse(part=pb.PART_CONTENT, content=content(request.content)),
        pb.PredictComprehensiveResponse(part=pb.PART_GROWTH, growth=growth(request.growth)),
        pb.PredictComprehensiveResponse(part=pb.PART_ENGAGEMENT, engagement=engagement(request.engagement)),
    ]
    wanted = [answer for answer in answers if answer.part in request.parts]
    summary = pb.ComprehensiveSummary(answered=[answer.part for answer in wanted], elapsed_us=5)
    return [*wanted, pb.PredictComprehensiveResponse(summary=summary)]


class Gateway(pb_grpc.GatewayServiceServicer):
    def __init__(self) -> None:
        self.watches = 0
        self.unwatched = asyncio.Event()

    async def PredictComprehensive(
        self, request: pb.PredictComprehensiveRequest, context: Context
    ) -> AsyncIterator[pb.PredictComprehensiveResponse]:
        for part in parts(request):
            yield part

    async def PredictComprehensiveStream(
        self, request_iterator: AsyncIterator[pb.PredictComprehensiveStreamRequest], context: Context
    ) -> AsyncIterator[pb.PredictComprehensiveStreamResponse]:
        async for question in request_iterator:
            for part in parts(question.request):
                yield pb.PredictComprehensiveStreamResponse(sequence=question.sequence, response=part)

    async def RoutePrediction(self, request: pb.RoutePredictionRequest, context: Context) -> pb.RoutePredictionResponse:
        if request.HasField("growth"):
            return pb.RoutePredictionResponse(growth=growth(request.growth))
        if request.HasField("content"):
            return pb.RoutePredictionResponse(content=content(request.content))
        return pb.RoutePredictionResponse(engagement=engagement(request.engagement))

    async def ListServices(self, request: pb.ListServicesRequest, context: Context) -> pb.ListServicesResponse:
        return pb.ListServicesResponse(services=[pb.ServiceEntry(name="predictor")])

    async def ReadMeshHealth(self, request: pb.ReadMeshHealthRequest, context: Context) -> pb.ReadMeshHealthResponse:
        return pb.ReadMeshHealthResponse(health=pb.MeshHealth(serving=True))

    async def WatchMesh(self, request: pb.WatchMeshRequest, context: Context) -> AsyncIterator[pb.WatchMeshResponse]:
        self.watches += 1
        try:
            while True:
                yield pb.WatchMeshResponse(
                    health=pb.MeshHealth(serving=True, meshcast_version=str(request.interval_ms))
                )
                await asyncio.sleep(request.interval_ms / 1e3)
        finally:
            self.unwatched.set()


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
async def address(serve: Callable[..., Awaitable[Server]], gateway: Gateway) -> str:
    server = await serve(lambda server: pb_grpc.add_GatewayServiceServicer_to_server(gateway, server))
    return server.address


async def test_parts_come_as_they_arrive_and_failed_ones_carry_their_error(address: str, kit: Any) -> None:
    async with MeshClient(address) as mesh:
        asked = mesh.predict_comprehensive(kit.plan(7), kit.channel_posts(30), drift="absent")
        drift, answer, summary = [part async for part in asked]
    assert (drift.part, answer.part, summary.part) == ("drift", "engagement", "")
    assert isinstance(drift.error, NotReady)
    assert drift.prediction is None
    assert drift.forecast is None
    assert answer.prediction is not None
    assert answer.prediction.log_engagement == 7
    assert summary.summary is not None
    assert summary.summary.elapsed_us == 5


async def test_a_channels_series_is_asked_about_beside_its_post(address: str, kit: Any) -> None:
    posts, table = kit.channel_posts(30), SeriesTable.of(range(100, 140), range(40))
    question = GrowthQuestion(history=table, horizon_days=7, request_id="mine")
    async with MeshClient(address) as mesh:
        part = await anext(mesh.predict_comprehensive(kit.plan(), posts, growth=question))
        assert (part.part, part.error, part.prediction) == ("growth", None, None)
        assert part.forecast is not None
        assert part.forecast.median.tolist() == [40.0] * 7
        assert part.forecast.forecast_id == prediction_id("mine")
        questions = [Question(planned=kit.plan(), history=posts, growth=question if n else None) for n in range(2)]
        answers = [one async for one in mesh.predict_comprehensive_stream(questions) if one.part == "growth"]
        assert [one.sequence for one in answers] == [1]
        routed = await mesh.route_growth(GrowthQuestion(history=table[:20], horizon_days=3))
        assert routed.median.tolist() == [20.0] * 3
        assert routed.forecast_id != part.forecast.forecast_id


async def test_the_planned_posts_text_is_judged_beside_it(address: str, kit: Any) -> None:
    posts, planned_text = kit.channel_posts(30), Content(text="We won!", title="Cup", hour_of_day=7)
    async with MeshClient(address) as mesh:
        part = await anext(mesh.predict_comprehensive(kit.plan(), posts, content=planned_text))
        assert (part.part, part.error, part.prediction, part.forecast) == ("content", None, None, None)
        assert part.judgement is not None
        assert (part.judgement.above_median, part.judgement.viral, part.judgement.characters_read) == (0.75, 0.25, 10)
        questions = [Question(planned=kit.plan(), history=posts, content="Hi" if n else None) for n in range(2)]
        answers = [one async for one in mesh.predict_comprehensive_stream(questions) if one.part == "content"]
        assert [(one.sequence, one.judgement and one.judgement.characters_read) for one in answers] == [(1, 2)]
        routed = await mesh.route_content("Hello", request_id="mine")
        assert routed.characters_read == 5 and routed.receipt.prediction_id == prediction_id("mine")
        with pytest.raises(InvalidInput, match="content"):
            await mesh.route_content(3)  # type: ignore[arg-type]


async def test_drift_of_a_subject_is_asked_beside_the_others(address: str) -> None:
    async with MeshClient(address) as mesh:
        part = await anext(mesh.predict_comprehensive(drift="predictor"))
        assert part.drift is not None and part.error is None
        assert (part.part, part.drift.subject, part.drift.severity) == ("drift", "predictor", "high")
        part = await anext(mesh.predict_comprehensive(drift="predictor", drift_everything=True))
        assert part.drift is not None and part.drift.summary == "all"
        questions = [Question(drift="predictor" if n else "absent", content="Hi") for n in range(2)]
        answers = [one async for one in mesh.predict_comprehensive_stream(questions) if one.part == "drift"]
    assert [(one.sequence, type(one.error), one.drift is None) for one in answers] == [
        (0, NotReady, True),
        (1, type(None), False),
    ]


@pytest.mark.parametrize(
    ("given", "field", "said"),
    [
        ({}, "parts", "nothing is asked"),
        ({"history": []}, "planned", "planned is required"),
        ({"parts": ["engagement"], "content": "Hi"}, "planned", "planned is required"),
        ({"parts": ["growth"], "content": "Hi"}, "growth", "growth is required"),
        ({"parts": ["content"]}, "content", "content is required"),
        ({"parts": ["drift"]}, "drift", "drift is required"),
        ({"drift": ""}, "subject", "subject must be a name"),
        ({"parts": "content", "content": "Hi"}, "parts", "must be a list of engagement"),
        ({"parts": ["text"], "content": "Hi"}, "parts", "must be a list of engagement"),
        ({"content": "Hi", "request_id": "\udc80"}, "request_id", "must be text"),
    ],
)
async def test_a_part_that_cannot_be_asked_for_is_refused_before_anything_is_sent(
    address: str, given: Any, field: str, said: str
) -> None:
    async with MeshClient(address) as mesh:
        with pytest.raises(InvalidInput, match=said) as caught:
            await anext(mesh.predict_comprehensive(**given))
        with pytest.raises(InvalidInput, match=said):
            await anext(mesh.predict_comprehensive_stream([Question(**given)]))
    assert [violation.field for violation in caught.value.violations] == [field]


async def test_a_stream_of_questions_is_answered_by_number(address: str, kit: Any) -> None:
    posts = kit.channel_posts(30)
    questions = [Question(planned=kit.plan(n), history=posts) for n in range(5)]
    async with MeshClient(address) as mesh:
        answers = [part async for part in mesh.predict_comprehensive_stream(questions)]
        found = {part.sequence: part.prediction.log_engagement for part in answers if part.prediction is not None}
        assert found == {n: n for n in range(5)}
        with pytest.raises(InvalidInput, match="history"):
            bad = Question(planned=kit.plan(), history=posts[:3])
            async for part in mesh.predict_comprehensive_stream([questions[0], bad]):
                assert part.sequence == 0


async def test_routes_services_and_health_are_read(address: str, kit: Any) -> None:
    async with MeshClient(address) as mesh:
        routed = await mesh.route_prediction(kit.plan(9), kit.channel_posts(30))
        assert routed.log_engagement == 9
        assert [service.name for service in await mesh.list_services()] == ["predictor"]
        assert (await mesh.read_mesh_health()).serving


async def test_a_watch_ends_when_its_reader_does(address: str, gateway: Gateway) -> None:
    async with MeshClient(address) as mesh:
        watch = mesh.watch_mesh(interval_s=0.2)
        assert (await anext(watch)).meshcast_version == "200"
        await watch.aclose()
        async with asyncio.timeout(5):
            await gateway.unwatched.wait()


async def test_the_plain_client_has_the_same_calls(address: str, kit: Any) -> None:
    posts = kit.channel_posts(30)

    def work() -> None:
        with SyncMeshClient(address) as mesh:
            assert [part.part for part in mesh.predict_comprehensive(kit.plan(), posts)] == ["engagement", ""]
            questions = [Question(planned=kit.plan(n), history=posts) for n in range(2)]
            assert len(list(mesh.predict_comprehensive_stream(questions))) == 4
            assert [part.part for part in mesh.predict_comprehensive(content="Hi", parts=["content"])] == [
                "content",
                "",
            ]
            assert mesh.route_prediction(kit.plan(3), posts).log_engagement == 3
            assert mesh.route_content("Hello").characters_read == 5
            assert next(mesh.predict_comprehensive(kit.plan(), posts, content="Hi")).part == "content"
            assert mesh.list_services()[0].name == "predictor"
            assert mesh.read_mesh_health().serving
            watch = mesh.watch_mesh(interval_s=0.2)
            assert next(watch).serving
            watch.close()

    await asyncio.to_thread(work)
