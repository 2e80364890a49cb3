"""The typed client for plain code: the asynchronous client on an event loop of its own, in a thread of its own."""

import asyncio
import threading
from collections.abc import Generator, Iterable, Sequence
from types import TracebackType
from typing import Self

from meshcast.api.gateway.v1 import gateway_pb2
from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.client.answers import (
    ComprehensivePart,
    EngagementChunk,
    EngagementPrediction,
    StoredPrediction,
    Validation,
)
from meshcast.client.calls import CHUNK_ROWS, STREAM_TIMEOUT_S, TIMEOUT_S, WINDOW, Progress
from meshcast.client.content_questions import ContentLike
from meshcast.client.forecasts import Forecast
from meshcast.client.judgements import ContentJudgement
from meshcast.client.mesh import MeshClient
from meshcast.client.priority import Priority
from meshcast.client.questions import HistoryLike, Part, PlannedPost, PostsLike, Question
from meshcast.client.series_questions import GrowthQuestion
from meshcast.client.sync_analyzer import SyncAnalyzerCalls
from meshcast.client.sync_calls import Told
from meshcast.client.sync_drift import SyncDriftCalls
from meshcast.client.sync_forecaster import SyncForecasterCalls
from meshcast.client.sync_into import SyncIntoCalls
from meshcast.posts import HistoryIndex
from meshcast.rpc import ChannelSettings, ServingStatus, TlsSettings


class SyncMeshClient(SyncForecasterCalls, SyncAnalyzerCalls, SyncDriftCalls, SyncIntoCalls):
    """`MeshClient` without `await`: the same calls, arguments, answers and errors. Threads may share one.

    With `coalesce=True` the single predictions of several threads travel together.

    ```python
    with SyncMeshClient("127.0.0.1:8001") as mesh:
        posts = read_posts("posts.csv")
        for chunk in mesh.predict_posts(posts):
            print(chunk.rows, chunk.engagement)
    ```

    Args:
        target: `host:port` of a gateway or of a service, or a gRPC target.
        tls: certificates; None for plaintext.
        timeout_s: deadline of single calls that name none, in seconds.
        coalesce: let single predictions, and judgements of texts, that are awaited at the same time travel together.
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
        super().__init__(MeshClient(target, tls=tls, timeout_s=timeout_s, coalesce=coalesce, settings=settings))

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        # A daemon: an interpreter that ends without close() must not wait for it.
        self._thread = threading.Thread(target=self._loop.run_forever, name="mesh-client", daemon=True)
        self._thread.start()
        try:
            self._run(self._mesh.__aenter__())
        except BaseException:
            self.close()  # a target or settings that cannot be: the thread must not stay
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every call that is under way, closes the channel and the thread. May be called twice."""
        if self._loop is None or self._thread is None:
            return
        with self._lock:
            if self._is_closing:
                return
            self._is_closing = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def predict_engagement(
        self,
        planned: PlannedPost,
        history: HistoryLike,
        *,
        request_id: str | None = None,
        channel: str = "",
        version: int = 0,
        priority: Priority = "normal",
        timeout_s: float | None = None,
    ) -> EngagementPrediction:
        """Predicts one planned post; see `MeshClient.predict_engagement`."""
        return self._run(
            self._mesh.predict_engagement(
                planned,
                history,
                request_id=request_id,
                channel=channel,
                version=version,
                priority=priority,
                timeout_s=timeout_s,
            )
        )

    def predict_posts(
        self,
        posts: PostsLike,
        rows: HistoryIndex | None = None,
        *,
        chunk_rows: int = CHUNK_ROWS,
        window: int | None = WINDOW,
        progress: Progress | None = None,
        request_id: str | None = None,
        channel: str = "",
        version: int = 0,
        priority: Priority = "low",
        timeout_s: float = STREAM_TIMEOUT_S,
    ) -> Generator[EngagementChunk, None, None]:
        """Predicts many posts of a table, in order; see `MeshClient.predict_posts`. Progress is told in this thread."""
        answers = self._mesh.predict_posts(
            posts,
            rows,
            chunk_rows=chunk_rows,
            window=window,
            request_id=request_id,
            channel=channel,
            version=version,
            priority=priority,
            timeout_s=timeout_s,
            progress=(told := Told(progress)),
        )
        return self._each(answers, told.tell)

    def predict_many(
        self,
        questions: Iterable[Question],
        *,
        chunk_rows: int = CHUNK_ROWS,
        window: int | None = WINDOW,
        progress: Progress | None = None,
        version: int = 0,
        priority: Priority = "low",
        timeout_s: float = STREAM_TIMEOUT_S,
    ) -> Generator[EngagementChunk, None, None]:
        """Predicts a stream of questions, in order; see `MeshClient.predict_many`.

        The questions are taken in the client's own thread, and other calls of the client wait while one is made; they
        must not use this client themselves.
        """
        answers = self._mesh.predict_many(
            questions,
            chunk_rows=chunk_rows,
            window=window,
            version=version,
            priority=priority,
            timeout_s=timeout_s,
            progress=(told := Told(progress)),
        )
        return self._each(answers, told.tell)

    def read_prediction(self, prediction_id: str, *, timeout_s: float | None = None) -> StoredPrediction:
        """Reads a prediction back by its id; see `MeshClient.read_prediction`."""
        return self._run(self._mesh.read_prediction(prediction_id, timeout_s=timeout_s))

    def validate_features(
        self, planned: PlannedPost, history: HistoryLike, *, channel: str = "", timeout_s: float | None = None
    ) -> Validation:
        """Asks whether the predictor would take a question; see `MeshClient.validate_features`."""
        return self._run(self._mesh.validate_features(planned, history, channel=channel, timeout_s=timeout_s))

    def describe_model(self, *, version: int = 0, timeout_s: float | None = None) -> pb.DescribeModelResponse:
        """Describes the predictor's model; see `MeshClient.describe_model`."""
        return self._run(self._mesh.describe_model(version=version, timeout_s=timeout_s))

    def predict_comprehensive(
        self,
        planned: PlannedPost | None = None,
        history: HistoryLike | None = None,
        *,
        parts: Sequence[Part] = (),
        request_id: str | None = None,
        channel: str = "",
        growth: GrowthQuestion | None = None,
        content: ContentLike | None = None,
        drift: str | None = None,
        drift_everything: bool = False,
        version: int = 0,
        timeout_s: float | None = None,
    ) -> Generator[ComprehensivePart, None, None]:
        """Asks several services about a planned post; see `MeshClient.predict_comprehensive`."""
        return self._each(
            self._mesh.predict_comprehensive(
                planned,
                history,
                parts=parts,
                request_id=request_id,
                channel=channel,
                growth=growth,
                content=content,
                drift=drift,
                drift_everything=drift_everything,
                version=version,
                timeout_s=timeout_s,
            )
        )

    def predict_comprehensive_stream(
        self, questions: Iterable[Question], *, version: int = 0, timeout_s: float = STREAM_TIMEOUT_S
    ) -> Generator[ComprehensivePart, None, None]:
        """Asks several services about a stream of questions; see `MeshClient.predict_comprehensive_stream`."""
        return self._each(self._mesh.predict_comprehensive_stream(questions, version=version, timeout_s=timeout_s))

    def route_prediction(
        self,
        planned: PlannedPost,
        history: HistoryLike,
        *,
        request_id: str | None = None,
        channel: str = "",
        version: int = 0,
        priority: Priority = "normal",
        timeout_s: float | None = None,
    ) -> EngagementPrediction:
        """Asks the gateway for the service that the question's kind names; see `MeshClient.route_prediction`."""
        return self._run(
            self._mesh.route_prediction(
                planned,
                history,
                request_id=request_id,
                channel=channel,
                version=version,
                priority=priority,
                timeout_s=timeout_s,
            )
        )

    def route_growth(
        self,
        question: GrowthQuestion,
        *,
        version: int = 0,
        priority: Priority = "normal",
        timeout_s: float | None = None,
    ) -> Forecast:
        """Asks the gateway for the service that a series' question goes to; see `MeshClient.route_growth`."""
        return self._run(self._mesh.route_growth(question, version=version, priority=priority, timeout_s=timeout_s))

    def route_content(
        self,
        content: ContentLike,
        *,
        request_id: str | None = None,
        version: int = 0,
        priority: Priority = "normal",
        timeout_s: float | None = None,
    ) -> ContentJudgement:
        """Asks the gateway for the service that a text's question goes to; see `MeshClient.route_content`."""
        return self._run(
            self._mesh.route_content(
                content, request_id=request_id, version=version, priority=priority, timeout_s=timeout_s
            )
        )

    def list_services(self, *, timeout_s: float | None = None) -> list[gateway_pb2.ServiceEntry]:
        """The services that the gateway routes to, by name."""
        return self._run(self._mesh.list_services(timeout_s=timeout_s))

    def read_mesh_health(self, *, timeout_s: float | None = None) -> gateway_pb2.MeshHealth:
        """The state of every service and replica, as the gateway sees it."""
        return self._run(self._mesh.read_mesh_health(timeout_s=timeout_s))

    def watch_mesh(
        self, *, interval_s: float = 5.0, timeout_s: float = STREAM_TIMEOUT_S
    ) -> Generator[gateway_pb2.MeshHealth, None, None]:
        """The state of the mesh as it changes; see `MeshClient.watch_mesh`."""
        return self._each(self._mesh.watch_mesh(interval_s=interval_s, timeout_s=timeout_s))

    def health(self, name: str = "", *, timeout_s: float | None = None) -> ServingStatus:
        """State of a health name of the target; see `MeshClient.health`."""
        return self._run(self._mesh.health(name, timeout_s=timeout_s))

    async def _end(self) -> None:
        await self._mesh.close()
        me = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not me]
        for task in others:  # calls of other threads that still wait
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_asyncgens()
