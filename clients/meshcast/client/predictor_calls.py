"""Calls to the predictor: single predictions, streams of them, and what was predicted before."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import aclosing

import numpy as np

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.client.answers import EngagementChunk, EngagementPrediction, StoredPrediction, Validation
from meshcast.client.calls import (
    CHUNK_ROWS,
    STREAM_TIMEOUT_S,
    WINDOW,
    Calls,
    Progress,
    answer_to,
    check_window,
    stream_answers,
)
from meshcast.client.chunks import QuestionChunks, table_chunks
from meshcast.client.coalesce import Coalescer
from meshcast.client.priority import PRIORITIES, Priority
from meshcast.client.questions import (
    History,
    HistoryLike,
    PlannedPost,
    PlanValues,
    PostsLike,
    Question,
    checked_plan,
    engagement_request,
    post_table,
)
from meshcast.client.stream import Call, Chunk
from meshcast.posts import HistoryIndex, PostTable, settled_history
from meshcast.rpc import InvalidInput


class PredictorCalls(Calls):
    """What a client asks the predictor."""

    _coalescer: Coalescer[tuple[PlanValues, History], EngagementPrediction] | None = None

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
                item = (plan, prepared)
                return await self._coalescer.ask(item, key=key, request_id=request_id, timeout_s=timeout)
        request = engagement_request(
            plan, prepared, request_id=request_id, channel=channel, version=version, priority=priority
        )
        response = await answer_to(self._open.predictor.PredictEngagement(request, timeout=timeout))
        return EngagementPrediction.of(response.prediction, response.receipt)

    async def predict_posts(
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
            window: chunks in flight at most; None: as many as bring rows, see `AdaptiveWindow`.
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
        check_post_index(index, table)
        check_window(chunk_rows, window)
        chunks = table_chunks(
            table,
            index,
            chunk_rows,
            prefix=request_id or self._ids.next(),
            model_version=version,
            priority=PRIORITIES[priority],
            channel=channel,
        )
        async with aclosing(self._predict(chunks, window, timeout_s, progress, len(index))) as answers:
            async for answer in answers:
                yield answer

    async def predict_many(
        self,
        questions: Iterable[Question] | AsyncIterable[Question],
        *,
        chunk_rows: int = CHUNK_ROWS,
        window: int | None = WINDOW,
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
            window: chunks in flight at most; None: as many as bring rows, see `AdaptiveWindow`.
            progress: told after each chunk.
            version: version that must answer; 0 for the one that serves.
            priority: which rows go first when the queue holds more than a batch.
            timeout_s: deadline of the whole stream, in seconds.

        Raises:
            InvalidInput: a question cannot be sent; those before it are answered first.
            MeshError: the stream failed for good. Failed rows and refused chunks are no error here: see the chunks.
        """
        check_window(chunk_rows, window)
        build = QuestionChunks(self._histories, self._ids, chunk_rows, version, priority)
        chunks = build.from_async(questions) if isinstance(questions, AsyncIterable) else build.of(questions)
        async with aclosing(self._predict(chunks, window, timeout_s, progress, None)) as answers:
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
        return StoredPrediction.of(await answer_to(call))

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
        response = await answer_to(call)
        return Validation.of(response)

    async def describe_model(self, *, version: int = 0, timeout_s: float | None = None) -> pb.DescribeModelResponse:
        """Describes the predictor's model: versions, back-ends, metrics, card, features.

        Raises:
            NotFound: there is no such version.
        """
        call = self._open.predictor.DescribeModel(
            pb.DescribeModelRequest(model_version=version), timeout=self._timeout(timeout_s)
        )
        return await answer_to(call)

    def _open_predictions(self, timeout_s: float) -> Call:
        return self._open.streaming_predictor.PredictEngagementStream(timeout=timeout_s)

    def _predict(
        self,
        chunks: Iterator[Chunk] | AsyncIterator[Chunk],
        window: int | None,
        timeout_s: float,
        progress: Progress | None,
        rows_total: int | None,
    ) -> AsyncGenerator[EngagementChunk, None]:
        return stream_answers(
            self._open_predictions,
            chunks,
            EngagementChunk.of,
            window=window,
            timeout_s=timeout_s,
            progress=progress,
            rows_total=rows_total,
        )


def check_post_index(index: HistoryIndex, table: PostTable) -> None:
    """Refuses rows that point outside of their table, or none.

    Raises:
        InvalidInput: the row is named.
    """
    n = len(table)
    if len(index) == 0:
        raise InvalidInput("no post has 20 settled posts before it; give more posts of the channel", field="rows")
    inside = (index.row >= 0) & (index.row < n) & (index.start >= 0) & (index.start <= index.stop) & (index.stop <= n)
    if not inside.all():
        row = int(np.flatnonzero(~inside)[0])
        raise InvalidInput(f"rows[{row}] points outside of the {n} posts of the table", field=f"rows[{row}]")
