"""Fixtures of the gateway's tests: scripted services on free ports, and gateways before them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from meshcast.api.analyzer.v1 import analyzer_pb2, analyzer_pb2_grpc
from meshcast.api.drift.v1 import drift_pb2, drift_pb2_grpc
from meshcast.api.forecaster.v1 import forecaster_pb2, forecaster_pb2_grpc
from meshcast.api.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.predictor.v1 import predictor_pb2_grpc as pb_grpc
from meshcast.gateway import GatewayServer, GatewaySettings, RouteSettings, serving
from meshcast.rpc import ChannelSettings, Health, InvalidInput, NotFound, RpcSettings, Server, ServingStatus, channel

PREDICTOR = "meshcast.api.predictor.v1.PredictorService"
FORECASTER = "meshcast.api.forecaster.v1.ForecasterService"
ANALYZER = "meshcast.api.analyzer.v1.AnalyzerService"
DRIFT = "meshcast.api.drift.v1.DriftService"
Context = grpc.aio.ServicerContext[Any, Any]

_OUR_TASKS = {
    *("endpoints", "watch", "inquiry", "models", "contracts", "close"),
    *("spread-deal", "spread-up", "spread-down"),
    *(
        "relay-up",
        "relay-down",
        "relay-watch",
        "relay-end",
        "list",
        "fanout",
        "part",
        "questions",
        "question",
        "end-watches",
    ),
    *("http-stream", "http-watch"),
}


class ScriptedPredictor(pb_grpc.PredictorServiceServicer):
    """A predictor that does what the request's channel says: `slow`, `stall`, `refuse`, `bug`, or else it answers.

    Attributes:
        calls: PredictEngagement calls that have begun.
        cancelled: set when a stalled call was cancelled.
        began: set when any call has begun.
        ended: set when a stream has ended, however it did.
        seconds_left: what each unary call was given.
        metadata: of each unary call.
        taken: chunks that streams have taken.
    """

    def __init__(self, name: str = "one") -> None:
        self.name = name
        self.calls = 0
        self.cancelled = asyncio.Event()
        self.ended = asyncio.Event()
        self.began = asyncio.Event()
        self.seconds_left: list[float | None] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.taken = 0

    async def PredictEngagement(
        self, request: pb.PredictEngagementRequest, context: Context
    ) -> pb.PredictEngagementResponse:
        self.calls += 1
        self.seconds_left.append(context.time_remaining())
        self.metadata.append(dict(context.invocation_metadata() or ()))
        self.began.set()
        await self._act(request.channel)
        context.set_trailing_metadata((("x-served-by", self.name), ("endpoint-load-metrics-bin", b"load")))
        answer = pb.PredictEngagementResponse(prediction=pb.Prediction(log_engagement=2.5))
        answer.receipt.prediction_id = request.request_id
        answer.receipt.model = self.name
        answer.receipt.notes.append("views missing")
        return answer

    async def PredictEngagementStream(
        self, request_iterator: AsyncIterator[pb.PredictEngagementStreamRequest], context: Context
    ) -> AsyncIterator[pb.PredictEngagementStreamResponse]:
        try:
            async for request in request_iterator:
                self.taken += 1
                self.began.set()
                await self._act(request.channel)
                size = 1_000_000 if request.channel == "large" else 4
                answer = pb.PredictEngagementStreamResponse(sequence=request.sequence, log_engagement=b"1" * size)
                answer.receipt.model = self.name
                yield answer
        finally:
            self.ended.set()

    async def ReadPrediction(self, request: pb.ReadPredictionRequest, context: Context) -> pb.ReadPredictionResponse:
        return pb.ReadPredictionResponse(prediction_id=request.prediction_id)

    async def ValidateFeatures(
        self, request: pb.ValidateFeaturesRequest, context: Context
    ) -> pb.ValidateFeaturesResponse:
        return pb.ValidateFeaturesResponse(valid=True)

    async def DescribeModel(self, request: pb.DescribeModelRequest, context: Context) -> pb.DescribeModelResponse:
        return pb.DescribeModelResponse()

    async def _act(self, script: str) -> None:
        match script:
            case "slow":
                await asyncio.sleep(0.2)
            case "stall":
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
            case "refuse":
                raise InvalidInput("hour_of_day must be 0 to 23, is 24", field="planned.hour_of_day", asked="24")
            case "bug":
                raise ValueError("secret db password")


class ScriptedForecaster(forecaster_pb2_grpc.ForecasterServiceServicer):
    """A forecaster that does what the request's series says: `slow`, `stall`, `refuse`, `empty`, or else it answers.

    Attributes:
        calls: ForecastGrowth calls that have begun.
        seconds_left: what each call was given.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.seconds_left: list[float | None] = []

    async def ForecastGrowth(
        self, request: forecaster_pb2.ForecastGrowthRequest, context: Context
    ) -> forecaster_pb2.ForecastGrowthResponse:
        self.calls += 1
        self.seconds_left.append(context.time_remaining())
        match request.series:
            case "slow":
                await asyncio.sleep(0.2)
            case "stall":
                await asyncio.Event().wait()
            case "refuse":
                raise InvalidInput("is no date: 2016-02-30", field="history[3].date")
            case "empty":
                return forecaster_pb2.ForecastGrowthResponse()
        answer = forecaster_pb2.ForecastGrowthResponse(
            forecast=forecaster_pb2.Forecast(first_date="2016-06-01", median=[7.0] * (request.horizon_days or 30))
        )
        answer.receipt.prediction_id = request.request_id
        return answer


class ScriptedAnalyzer(analyzer_pb2_grpc.AnalyzerServiceServicer):
    """An analyzer that does what the content's title says: `slow`, `stall`, `refuse`, or else it answers.

    Attributes:
        calls: AnalyzeContent calls that have begun.
        seconds_left: what each call was given.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.seconds_left: list[float | None] = []

    async def AnalyzeContent(
        self, request: analyzer_pb2.AnalyzeContentRequest, context: Context
    ) -> analyzer_pb2.AnalyzeContentResponse:
        self.calls += 1
        self.seconds_left.append(context.time_remaining())
        match request.content.title:
            case "slow":
                await asyncio.sleep(0.2)
            case "stall":
                await asyncio.Event().wait()
            case "refuse":
                raise InvalidInput("hour_of_day must be 0 to 23, is 24", field="content.hour_of_day")
        judgement = analyzer_pb2.ContentJudgement(viral=0.25, characters_read=len(request.content.text))
        answer = analyzer_pb2.AnalyzeContentResponse(judgement=judgement)
        answer.receipt.prediction_id = request.request_id
        return answer

    async def EmbedTexts(
        self, request: analyzer_pb2.EmbedTextsRequest, context: Context
    ) -> analyzer_pb2.EmbedTextsResponse:
        self.seconds_left.append(context.time_remaining())
        return analyzer_pb2.EmbedTextsResponse(rows=len(request.texts))


class ScriptedDrift(drift_pb2_grpc.DriftServiceServicer):
    """A drift service that does what the subject's name says: `stall`, `refuse`, or else it answers.

    Attributes:
        watching: set once a WatchDrift has begun; its alarms are those that `alarms` gets.
        cancelled: set once a WatchDrift has been cancelled.
        seconds_left: what each call was given.
    """

    def __init__(self) -> None:
        self.alarms: asyncio.Queue[int] = asyncio.Queue()
        self.watching = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.seconds_left: list[float | None] = []

    async def DetectDataDrift(
        self, request: drift_pb2.DetectDataDriftRequest, context: Context
    ) -> drift_pb2.DetectDataDriftResponse:
        self.seconds_left.append(context.time_remaining())
        match request.subject:
            case "stall":
                await asyncio.Event().wait()
            case "refuse":
                raise NotFound("there is no subject 'refuse'")
        report = drift_pb2.DriftReport(subject=request.subject, is_drift=True, severity_score=0.5)
        answer = drift_pb2.DetectDataDriftResponse(report=report)
        answer.receipt.prediction_id = request.request_id
        return answer

    async def WatchDrift(
        self, request: drift_pb2.WatchDriftRequest, context: Context
    ) -> AsyncIterator[drift_pb2.WatchDriftResponse]:
        self.seconds_left.append(context.time_remaining())
        self.watching.set()
        try:
            while True:
                number = await self.alarms.get()
                yield drift_pb2.WatchDriftResponse(alarm=drift_pb2.DriftAlarm(alarm_id=number), cursor=number)
        finally:
            self.cancelled.set()


@dataclass
class Replica:
    """A model service that runs: its script, its server and its health."""

    script: Any
    server: Server

    @property
    def address(self) -> str:
        """`host:port`."""
        return self.server.address

    @property
    def health(self) -> Health:
        """States that its server tells."""
        return self.server.health


@dataclass
class RunningGateway:
    """A gateway that runs."""

    server: GatewayServer
    channel: grpc.aio.Channel
    predictor: Any = field(init=False)
    forecaster: Any = field(init=False)
    analyzer: Any = field(init=False)
    drift: Any = field(init=False)
    mesh: Any = field(init=False)

    def __post_init__(self) -> None:
        self.predictor = pb_grpc.PredictorServiceStub(self.channel)
        self.forecaster = forecaster_pb2_grpc.ForecasterServiceStub(self.channel)
        self.analyzer = analyzer_pb2_grpc.AnalyzerServiceStub(self.channel)
        self.drift = drift_pb2_grpc.DriftServiceStub(self.channel)
        self.mesh = gateway_pb2_grpc.GatewayServiceStub(self.channel)

    async def health(self) -> gateway_pb2.MeshHealth:
        """The mesh's state now."""
        answer = await self.mesh.ReadMeshHealth(gateway_pb2.ReadMeshHealthRequest(), timeout=5)
        health: gateway_pb2.MeshHealth = answer.health
        return health

    async def until_methods(self) -> None:
        """Waits until the gateway knows the methods of its first service."""

        async def are_known() -> bool:
            return bool(
                (await self.mesh.ListServices(gateway_pb2.ListServicesRequest(), timeout=5)).services[0].methods
            )

        async with asyncio.timeout(5):
            while not await are_known():  # noqa: ASYNC110  # learning a contract changes no state that could be watched
                await asyncio.sleep(0.01)

    async def until(self, condition: Callable[[gateway_pb2.MeshHealth], bool]) -> None:
        """Waits until the mesh's state fulfils the condition."""
        watch = self.mesh.WatchMesh(gateway_pb2.WatchMeshRequest(interval_ms=200), timeout=10)
        try:
            async for update in watch:
                if condition(update.health):
                    return
        finally:
            watch.cancel()


RunService = Callable[..., AbstractAsyncContextManager[Replica]]
RunGateway = Callable[..., AbstractAsyncContextManager[RunningGateway]]


@asynccontextmanager
async def running_service(
    script: Any,
    register: Callable[[Any, grpc.aio.Server], None],
    names: Sequence[str],
    *,
    port: int = 0,
    reflection: bool = True,
    drain_s: float = 2.0,
) -> AsyncIterator[Replica]:
    """Serves a script whose health names are `names`; the first is its gRPC service."""
    rpc = RpcSettings(port=port, metrics=False, drain_delay_s=0.1, drain_s=drain_s, reflection=reflection)
    server = Server(rpc, services=[lambda s: register(script, s)], service_names=[names[0]])
    async with server:
        for name in ("", *names):
            server.health.set(name, ServingStatus.SERVING)
        yield Replica(script, server)


@pytest.fixture
def run_predictor() -> RunService:
    """Runs a scripted predictor: `async with run_predictor("one") as replica`."""

    def running(name: str = "one", **options: Any) -> AbstractAsyncContextManager[Replica]:
        names = (PREDICTOR, "model/predictor", "model/predictor/1")
        return running_service(
            ScriptedPredictor(name), pb_grpc.add_PredictorServiceServicer_to_server, names, **options
        )

    return running


@pytest.fixture
def run_forecaster() -> RunService:
    """Runs a scripted forecaster: `async with run_forecaster() as replica`."""

    def running(**options: Any) -> AbstractAsyncContextManager[Replica]:
        names = (FORECASTER, "model/forecaster", "model/forecaster/1")
        register = forecaster_pb2_grpc.add_ForecasterServiceServicer_to_server
        script = ScriptedForecaster()  # type: ignore[abstract]  # the stub's base answers the rest with UNIMPLEMENTED
        return running_service(script, register, names, **options)

    return running


@pytest.fixture
def run_analyzer() -> RunService:
    """Runs a scripted analyzer: `async with run_analyzer() as replica`."""

    def running(**options: Any) -> AbstractAsyncContextManager[Replica]:
        names = (ANALYZER, "model/analyzer", "model/analyzer/1")
        register = analyzer_pb2_grpc.add_AnalyzerServiceServicer_to_server
        script = ScriptedAnalyzer()  # type: ignore[abstract]  # the stub's base answers the rest with UNIMPLEMENTED
        return running_service(script, register, names, **options)

    return running


@pytest.fixture
def run_drift() -> RunService:
    """Runs a scripted drift service: `async with run_drift() as replica`."""

    def running(**options: Any) -> AbstractAsyncContextManager[Replica]:
        names = (DRIFT, "model/drift", "model/drift/1")
        register = drift_pb2_grpc.add_DriftServiceServicer_to_server
        script = ScriptedDrift()  # type: ignore[abstract]  # the stub's base answers the rest with UNIMPLEMENTED
        return running_service(script, register, names, **options)

    return running


@pytest.fixture
def run_gateway() -> RunGateway:
    """Runs a gateway: `async with run_gateway([address]) as gateway`; fails the test when it leaves a task behind.

    The addresses are predictors'; `forecasters`, `analyzers` and `drifts` are routed where there are any.
    """

    @asynccontextmanager
    async def running(
        endpoints: Sequence[str] = (),
        *,
        forecasters: Sequence[str] = (),
        analyzers: Sequence[str] = (),
        drifts: Sequence[str] = (),
        routes: Mapping[str, RouteSettings] | None = None,
        tls: Any = None,
        sources: Any = None,
        tracing: Any = None,
        drain_delay_s: float = 0.0,
        http_port: int | None = None,
        **changes: Any,
    ) -> AsyncIterator[RunningGateway]:
        table = dict(routes or {"predictor": RouteSettings(services=(PREDICTOR,), endpoints=tuple(endpoints))})
        if forecasters:
            table["forecaster"] = RouteSettings(services=(FORECASTER,), endpoints=tuple(forecasters))
        if analyzers:
            table["analyzer"] = RouteSettings(services=(ANALYZER,), endpoints=tuple(analyzers))
        if drifts:
            table["drift"] = RouteSettings(
                services=(DRIFT,),
                endpoints=tuple(drifts),
                default_deadlines_s=GatewaySettings().routes["drift"].default_deadlines_s,
                stream_deadlines_s=GatewaySettings().routes["drift"].stream_deadlines_s,
            )
        timing: dict[str, Any] = {"models_poll_s": 0.05, "reconnect_s": 0.05, "restart_s": 0.0, **changes}
        settings = GatewaySettings(routes=table, **timing)
        rpc = RpcSettings(metrics=False, drain_delay_s=drain_delay_s, drain_s=2.0)
        async with serving(settings, rpc, sources=sources, tracing=tracing, http_port=http_port) as server:
            async with channel(server.address, settings=ChannelSettings(plain=True)) as to_gateway:
                yield RunningGateway(server, to_gateway)
        leaked = [task for task in asyncio.all_tasks() if task.get_name().split(":")[0] in _OUR_TASKS]
        assert not leaked

    return running
