"""The typed client of the mesh: questions and answers as values, errors as the server raised them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshcast.api.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.predictor.v1 import predictor_pb2_grpc as pb_grpc
from meshcast.client.answers import (
    ComprehensivePart,
    EngagementChunk,
    EngagementPrediction,
    StoredPrediction,
    Validation,
)
from meshcast.client.chunks import QuestionChunks, table_chunks
from meshcast.client.coalesce import Coalescer
from meshcast.client.questions import (
    PRIORITIES,
    Histories,
    HistoryLike,
    PlannedPost,
    PostsLike,
    Priority,
    Question,
    RequestIds,
    checked_plan,
    engagement_request,
    post_table,
)
from meshcast.client.stream import Call, Chunk, ChunkStream
from meshcast.posts import HistoryIndex, PostTable, settled_history
from meshcast.rpc import ChannelSettings, InvalidInput, NotFound, ServingStatus, TlsSettings, channel, mesh_errors

T = TypeVar("T")

Progress = Callable[[int, int | None], None]
"""Told after each chunk: rows answered so far, and rows in all (None while that is not known)."""

TIMEOUT_S = 5.0
"""Deadline of a single call when none is given, in seconds."""
STREAM_TIMEOUT_S = 3_600.0
"""Deadline of a whole stream when none is given, in seconds."""
CHUNK_ROWS = 256
"""Rows of a chunk: the largest run of a model."""
WINDOW = 4
"""Chunks in flight: enough to keep a server busy while answers travel."""


class MeshClient:
    """A client of the mesh, or of one service, for asyncio. Belongs to the event loop it is first used on.

    Every call has a deadline and raises the error class that the server raised (see `meshcast.rpc.MeshError`).

    ```python
    async with MeshClient("127.0.0.1:8001") as mesh:
        posts = read_posts("posts.csv")
        plan = PlannedPost(published_at=datetime.now(UTC), content_length=140, has_media=True)
        prediction = await mesh.predict_engagement(plan, posts[-100:])
        print(prediction.engagement, prediction.intervals, prediction.receipt.model_version)
    ```

    Args:
        target: `host:port` of a gateway or of a service, or a gRPC target.
        tls: certificates; None for plaintext.
        timeout_s: deadline of single calls that name none, in seconds.
        coalesce: let single predictions that are awaited at the same time travel together on one stream. It is several
            times cheaper where many are under way; a lone call costs about the same either way.
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
        self.target = target
        self._tls = tls
        self._timeout_s = timeout_s
        self._coalesce = coalesce
        self._settings = settings
        self._stubs: _Stubs | None = None
        self._coalescer: Coalescer | None = None
        self._histories = Histories()
        self._ids = RequestIds()

    async def __aenter__(self) -> Self:
        self._stubs = _Stubs(self.target, self._settings, self._tls)
        self._coalescer = Coalescer(self._open_stream) if self._coalesce else None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends every call that is under way and closes the channel. A closed client cannot be used again."""
        coalescer, self._coalescer = self._coalescer, None
        stubs, self._stubs = self._stubs, None
        if coalescer is not None:
            await coalescer.close()
        if stubs is not None:
            await stubs.close()

    async def predict_engagement(
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
        """Predicts one planned post.

        Args:
            planned: the planned post.
            history: 20 to 100 settled posts of its channel: a slice of a table, a `History`, or posts.
            request_id: unique to the question, at most 128 characters; the prediction's id follows from it, so that a
                retry is stored once. None: one is made.
            channel: the channel's name, for the prediction log.
            version: version that must answer; 0 for the one that serves.
            priority: which rows go first when the queue holds more than a batch.
            timeout_s: deadline in seconds; None takes the client's.

        Raises:
            InvalidInput: a rule of the contract is broken; the fields are named.
            MeshError: as the server raised it.
        """
        prepared = self._histories.of(history)
        plan = checked_plan(planned, prepared, request_id, channel)
        timeout = self._timeout_s if timeout_s is None else timeout_s
        request_id = request_id or self._ids.next()
        if self._coalescer is not None:
            key = (version, priority, channel)
            if self._coalescer.has_room(key):
                return await self._coalescer.predict(plan, prepared, key=key, request_id=request_id, timeout_s=timeout)
        request = engagement_request(
            plan, prepared, request_id=request_id, channel=channel, version=version, priority=priority
        )
        response = await _answer(self._open.predictor.PredictEngagement(request, timeout=timeout))
        return EngagementPrediction.of(response.prediction, response.receipt)

    async def predict_posts(
        self,
        posts: PostsLike,
        rows: HistoryIndex | None = None,
        *,
        chunk_rows: int = CHUNK_ROWS,
        window: int = WINDOW,
        progress: Progress | None = None,
        request_id: str | None = None,
        channel: str = "",
        version: int = 0,
        priority: Priority = "low",
        timeout_s: float = STREAM_TIMEOUT_S,
    ) -> AsyncGenerator[EngagementChunk, None]:
        """Predicts many posts of a table from the settled posts before them, over one stream, in order.

        A stream that breaks is opened again and goes on where it was; every row is answered once. Where the caller may
        stop early, close the generator (`contextlib.aclosing`), so that the stream ends at once.

        ```python
        posts = read_posts("posts.csv")
        async for chunk in mesh.predict_posts(posts):
            error = chunk.log_engagement - actual[chunk.rows]
        ```

        Args:
            posts: a table, a mapping of columns, a DataFrame, or rows (`Post` or mappings); anything but a table is
                checked and sorted first, see `post_table`, and `chunk.rows` counts in the sorted table.
            rows: which posts are asked about and with which history; None: all that have 20 settled posts.
            chunk_rows: rows of a chunk.
            window: chunks in flight at most.
            progress: told after each chunk.
            request_id: prefix of the chunks' request ids; the same prefix and rows give the same prediction ids again.
            channel: the rows' channel, for the prediction log, where all are of one.
            version: version that must answer; 0 for the one that serves.
            priority: which rows go first when the queue holds more than a batch.
            timeout_s: deadline of the whole stream, in seconds.

        Raises:
            InvalidInput: the posts or the arguments break a rule.
            MeshError: the stream failed for good. Failed rows and refused chunks are no error here: see the chunks.
        """
        table = post_table(posts)
        index = settled_history(table) if rows is None else rows
        _check_index(index, table)
        _check_window(chunk_rows, window)
        chunks = table_chunks(
            table,
            index,
            chunk_rows,
            prefix=request_id or self._ids.next(),
            model_version=version,
            priority=PRIORITIES[priority],
            channel=channel,
        )
        async with aclosing(self._stream(chunks, window, timeout_s, progress, len(index))) as answers:
            async for answer in answers:
                yield answer

    async def predict_many(
        self,
        questions: Iterable[Question] | AsyncIterable[Question],
        *,
        chunk_rows: int = CHUNK_ROWS,
        window: int = WINDOW,
        progress: Progress | None = None,
        version: int = 0,
        priority: Priority = "low",
        timeout_s: float = STREAM_TIMEOUT_S,
    ) -> AsyncGenerator[EngagementChunk, None]:
        """Predicts a stream of questions of any length, over one stream, in order, in bounded memory.

        Questions are taken only as answers come: at most `window` chunks are under way. `chunk.rows` counts questions
        from 0. Each row keeps its question's request id.

        Args:
            questions: the questions; an asynchronous source is asked only when there is room.
            chunk_rows: rows of a chunk at most; a chunk also ends where the questions' channel changes.
            window: chunks in flight at most.
            progress: told after each chunk.
            version: version that must answer; 0 for the one that serves.
            priority: which rows go first when the queue holds more than a batch.
            timeout_s: deadline of the whole stream, in seconds.

        Raises:
            InvalidInput: a question cannot be sent; those before it are answered first.
            MeshError: the stream failed for good. Failed rows and refused chunks are no error here: see the chunks.
        """
        _check_window(chunk_rows, window)
        build = QuestionChunks(self._histories, self._ids, chunk_rows, version, priority)
        chunks = build.from_async(questions) if isinstance(questions, AsyncIterable) else build.of(questions)
        async with aclosing(self._stream(chunks, window, timeout_s, progress, None)) as answers:
            async for answer in answers:
                yield answer

    async def read_prediction(self, prediction_id: str, *, timeout_s: float | None = None) -> StoredPrediction:
        """Reads a prediction back by its id; it can be read within a second of its answer.

        Raises:
            NotFound: none is stored under the id.
        """
        call = self._open.predictor.ReadPrediction(
            pb.ReadPredictionRequest(prediction_id=prediction_id), timeout=self._timeout(timeout_s)
        )
        return StoredPrediction.of(await _answer(call))

    async def validate_features(
        self, planned: PlannedPost, history: HistoryLike, *, channel: str = "", timeout_s: float | None = None
    ) -> Validation:
        """Asks whether the predictor would take a question, and what is unusual about it, without predicting."""
        prepared = self._histories.of(history)
        request = engagement_request(
            planned.values(), prepared, request_id="", channel=channel, version=0, priority="normal"
        )
        call = self._open.predictor.ValidateFeatures(
            pb.ValidateFeaturesRequest(request=request), timeout=self._timeout(timeout_s)
        )
        return Validation.of(await _answer(call))

    async def describe_model(self, *, version: int = 0, timeout_s: float | None = None) -> pb.DescribeModelResponse:
        """Describes the predictor's model: versions, back-ends, metrics, card, features.

        Raises:
            NotFound: there is no such version.
        """
        call = self._open.predictor.DescribeModel(
            pb.DescribeModelRequest(model_version=version), timeout=self._timeout(timeout_s)
        )
        return await _answer(call)

    async def predict_comprehensive(
        self,
        planned: PlannedPost,
        history: HistoryLike,
        *,
        request_id: str | None = None,
        channel: str = "",
        version: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[ComprehensivePart, None]:
        """Asks every service about a planned post and yields each part as it arrives; the summary comes last.

        A part whose service is slow, dead or not there carries its error; the others do not wait for it.

        Raises:
            MeshError: the gateway itself failed.
        """
        request = self._comprehensive(planned, history, request_id, channel, version)
        call = self._open.gateway.PredictComprehensive(request, timeout=self._timeout(timeout_s))
        async with aclosing(_answers(call)) as answers:
            async for answer in answers:
                yield ComprehensivePart.of(answer)

    async def predict_comprehensive_stream(
        self,
        questions: Iterable[Question] | AsyncIterable[Question],
        *,
        version: int = 0,
        timeout_s: float = STREAM_TIMEOUT_S,
    ) -> AsyncGenerator[ComprehensivePart, None]:
        """Asks every service about a stream of questions; parts of different questions may interleave.

        Each part carries its question's number, counted from 0. The gateway bounds how many are under way, and the
        questions are taken as fast as it takes them.

        Raises:
            MeshError: the gateway itself failed, or a question cannot be sent.
        """
        source_errors: list[Exception] = []

        async def requests() -> AsyncIterator[gateway_pb2.PredictComprehensiveStreamRequest]:
            sequence = 0
            try:
                async for question in _each(questions):
                    inner = self._comprehensive(
                        question.planned, question.history, question.request_id, question.channel, version
                    )
                    yield gateway_pb2.PredictComprehensiveStreamRequest(sequence=sequence, request=inner)
                    sequence += 1
            except Exception as error:  # grpc would log it and end the stream as if all had been asked
                source_errors.append(error)

        call = self._open.gateway.PredictComprehensiveStream(requests(), timeout=timeout_s)
        async with aclosing(_answers(call)) as answers:
            async for answer in answers:
                yield ComprehensivePart.of(answer.response, answer.sequence)
        if source_errors:
            raise source_errors[0]

    async def route_prediction(
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
        """Asks the gateway for the one service that the question's kind names: for a planned post, the predictor.

        Raises:
            MeshError: as that service raised it.
        """
        prepared = self._histories.of(history)
        plan = checked_plan(planned, prepared, request_id, channel)
        engagement = engagement_request(
            plan,
            prepared,
            request_id=request_id or self._ids.next(),
            channel=channel,
            version=version,
            priority=priority,
        )
        request = gateway_pb2.RoutePredictionRequest(engagement=engagement)
        response = await _answer(self._open.gateway.RoutePrediction(request, timeout=self._timeout(timeout_s)))
        return EngagementPrediction.of(response.engagement.prediction, response.engagement.receipt)

    async def list_services(self, *, timeout_s: float | None = None) -> list[gateway_pb2.ServiceEntry]:
        """The services that the gateway routes to, by name."""
        call = self._open.gateway.ListServices(gateway_pb2.ListServicesRequest(), timeout=self._timeout(timeout_s))
        return list((await _answer(call)).services)

    async def read_mesh_health(self, *, timeout_s: float | None = None) -> gateway_pb2.MeshHealth:
        """The state of every service and replica, as the gateway sees it."""
        call = self._open.gateway.ReadMeshHealth(gateway_pb2.ReadMeshHealthRequest(), timeout=self._timeout(timeout_s))
        return (await _answer(call)).health

    async def watch_mesh(
        self, *, interval_s: float = 5.0, timeout_s: float = STREAM_TIMEOUT_S
    ) -> AsyncGenerator[gateway_pb2.MeshHealth, None]:
        """The state of the mesh now, after each change, and at least every `interval_s` seconds (0.2 to 60).

        Raises:
            NotReady: the gateway drains; watch again then.
            DeadlineExceeded: after `timeout_s` seconds.
        """
        request = gateway_pb2.WatchMeshRequest(interval_ms=round(interval_s * 1e3))
        call = self._open.gateway.WatchMesh(request, timeout=timeout_s)
        async with aclosing(_answers(call)) as answers:
            async for answer in answers:
                yield answer.health

    async def health(self, name: str = "", *, timeout_s: float | None = None) -> ServingStatus:
        """State of a health name of the target: empty for the process, a full service name, or `model/<name>`."""
        call: grpc.aio.UnaryUnaryCall[Any, Any] = self._open.health.Check(
            health_pb2.HealthCheckRequest(service=name), timeout=self._timeout(timeout_s)
        )
        try:
            return ServingStatus((await _answer(call)).status)
        except NotFound:
            return ServingStatus.SERVICE_UNKNOWN

    @property
    def _open(self) -> "_Stubs":
        if self._stubs is None:
            raise RuntimeError("the client is not open: use it as `async with MeshClient(...) as mesh:`")
        return self._stubs

    def _timeout(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s

    def _open_stream(self, timeout_s: float) -> Call:
        return self._open.streaming_predictor.PredictEngagementStream(timeout=timeout_s)

    def _comprehensive(
        self, planned: PlannedPost, history: HistoryLike, request_id: str | None, channel: str, version: int
    ) -> gateway_pb2.PredictComprehensiveRequest:
        prepared = self._histories.of(history)
        plan = checked_plan(planned, prepared, request_id, channel)
        engagement = engagement_request(
            plan, prepared, request_id="", channel=channel, version=version, priority="normal"
        )
        return gateway_pb2.PredictComprehensiveRequest(request_id=request_id or self._ids.next(), engagement=engagement)

    async def _stream(
        self,
        chunks: Iterator[Chunk] | AsyncIterator[Chunk],
        window: int,
        timeout_s: float,
        progress: Progress | None,
        rows_total: int | None,
    ) -> AsyncGenerator[EngagementChunk, None]:
        stream = ChunkStream(self._open_stream, chunks, window=window, timeout_s=timeout_s)
        done = 0
        async with aclosing(stream.answers()) as answers:
            async for answer in answers:
                done += len(answer)
                if progress is not None:
                    progress(done, rows_total)
                yield answer


class _Stubs:
    """The channels of a client and the stubs over them."""

    def __init__(self, target: str, settings: ChannelSettings | None, tls: TlsSettings | None) -> None:
        self._channel = channel(target, settings=settings, tls=tls)
        # Streams are resumed by us, chunk by chunk; the channel's own retries below that would multiply the tries.
        once = replace(settings or ChannelSettings(), attempts_max=1)
        self._streams = channel(target, settings=once, tls=tls)
        self.predictor = pb_grpc.PredictorServiceStub(self._channel)
        self.streaming_predictor = pb_grpc.PredictorServiceStub(self._streams)
        self.gateway = gateway_pb2_grpc.GatewayServiceStub(self._channel)
        self.health = health_pb2_grpc.HealthStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()
        await self._streams.close()


def _check_index(index: HistoryIndex, table: PostTable) -> None:
    n = len(table)
    if len(index) == 0:
        raise InvalidInput("no post has 20 settled posts before it; give more posts of the channel", field="rows")
    inside = (index.row >= 0) & (index.row < n) & (index.start >= 0) & (index.start <= index.stop) & (index.stop <= n)
    if not inside.all():
        row = int(np.flatnonzero(~inside)[0])
        raise InvalidInput(f"rows[{row}] points outside of the {n} posts of the table", field=f"rows[{row}]")


def _check_window(chunk_rows: int, window: int) -> None:
    for name, value, most in (("chunk_rows", chunk_rows, 16_384), ("window", window, 256)):
        if not 1 <= value <= most:
            raise InvalidInput(f"{name} must be from 1 to {most}, is {value}", field=name)


async def _each(questions: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(questions, AsyncIterable):
        async for question in questions:
            yield question
    else:
        for question in questions:
            yield question
            await asyncio.sleep(0)  # a long plain iterable must not hold the loop


async def _answer(call: grpc.aio.UnaryUnaryCall[Any, T]) -> T:
    try:
        with mesh_errors():
            return await call
    finally:
        if not call.done():
            call.cancel()


async def _answers(call: Any) -> AsyncGenerator[Any, None]:
    """The answers of a streaming call, which is cancelled when the reader stops early: else it would live on."""
    try:
        with mesh_errors(call):
            async for answer in call:
                yield answer
    finally:
        call.cancel()
