"""The typed client of the mesh: questions and answers as values, errors as the server raised them."""

from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2

from meshcast.client.analyzer_calls import AnalyzerCalls
from meshcast.client.calls import TIMEOUT_S, Stubs, answer_to
from meshcast.client.chunks import GatheredQuestions
from meshcast.client.coalesce import Coalescer
from meshcast.client.content_chunks import GatheredContents
from meshcast.client.drift_calls import DriftCalls
from meshcast.client.drift_history_calls import DriftHistoryCalls
from meshcast.client.embedder_calls import EmbedderCalls
from meshcast.client.forecaster_calls import ForecasterCalls
from meshcast.client.gateway_calls import GatewayCalls
from meshcast.client.into_calls import IntoCalls
from meshcast.client.predictor_calls import PredictorCalls
from meshcast.rpc import ChannelSettings, NotFound, ServingStatus, TlsSettings


class MeshClient(
    PredictorCalls,
    ForecasterCalls,
    AnalyzerCalls,
    EmbedderCalls,
    DriftCalls,
    DriftHistoryCalls,
    GatewayCalls,
    IntoCalls,
):
    """A client of the mesh, or of one service, for asyncio. Belongs to the event loop it is first used on.

    Every call has a deadline and raises the error class that the server raised (see `meshcast.rpc.MeshError`).

    ```python
    async with MeshClient("127.0.0.1:8001") as mesh:
        posts = read_posts("posts.csv")
        plan = PlannedPost(published_at=datetime.now(UTC), content_length=140, has_media=True)
        prediction = await mesh.predict_engagement(plan, posts[-100:])
        print(prediction.engagement, prediction.intervals, prediction.receipt.model_version)
        visits = read_series("visits.csv", today=datetime.now(UTC).date())
        forecast = await mesh.forecast_growth(visits["berlin"], horizon_days=14, nonnegative=True)
        print(forecast.days, forecast.median, forecast.intervals[0.8].upper)
        potential = await mesh.detect_viral_potential("We won the cup!")
        print(potential.probability, [(span.text, span.effect) for span in potential.spans])
        report = await mesh.detect_data_drift(read_observations("today.csv", kinds=last_year.kinds), subject="loans")
        print(report.summary, [(feature.name, feature.blame) for feature in report.drifted])
    ```

    Args:
        target: `host:port` of a gateway or of a service, or a gRPC target.
        tls: certificates; None for plaintext.
        timeout_s: deadline of single calls that name none, in seconds.
        coalesce: let single predictions, and judgements of texts, that are awaited at the same time travel together on
            a stream each. It is several times cheaper where many are under way; a lone call costs about the same either
            way.
        settings: of the channel; None for the defaults.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:8001",
        *,
        tls: TlsSettings | None = None,
        timeout_s: float = TIMEOUT_S,
        coalesce: bool = False,
        settings: ChannelSettings | None = None,
    ) -> None:
        super().__init__(timeout_s)
        self.target = target
        self._tls = tls
        self._coalesce = coalesce
        self._settings = settings

    async def __aenter__(self) -> Self:
        self._stubs = Stubs(self.target, self._settings, self._tls)
        self._coalescer = Coalescer(self._open_predictions, GatheredQuestions()) if self._coalesce else None
        self._content_coalescer = Coalescer(self._open_contents, GatheredContents()) if self._coalesce else None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends every call that is under way and closes the channel. A closed client cannot be used again."""
        coalescer, self._coalescer = self._coalescer, None
        content_coalescer, self._content_coalescer = self._content_coalescer, None
        stubs, self._stubs = self._stubs, None
        if coalescer is not None:
            await coalescer.close()
        if content_coalescer is not None:
            await content_coalescer.close()
        if stubs is not None:
            await stubs.close()

    async def health(self, name: str = "", *, timeout_s: float | None = None) -> ServingStatus:
        """State of a health name of the target: empty for the process, a full service name, or `model/<name>`."""
        call: grpc.aio.UnaryUnaryCall[Any, Any] = self._open.health.Check(
            health_pb2.HealthCheckRequest(service=name), timeout=self._timeout(timeout_s)
        )
        try:
            return ServingStatus((await answer_to(call)).status)
        except NotFound:
            return ServingStatus.SERVICE_UNKNOWN
