"""Calls that stream rows into a sink: every row stands there exactly once, whatever is killed on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.client.answers import EngagementChunk
from meshcast.client.calls import Calls, Progress
from meshcast.client.chunks import table_chunks
from meshcast.client.content_chunks import ContentChunks
from meshcast.client.content_questions import ContentsLike, content_table
from meshcast.client.forecast_chunks import forecast_chunks
from meshcast.client.forecaster_calls import check_series_index
from meshcast.client.forecasts import ForecastChunk
from meshcast.client.into import INTO_TIMEOUT_S, PATIENCE_S, IntoOptions, Source, StoredStream, store
from meshcast.client.judgements import ContentChunk
from meshcast.client.predictor_calls import check_post_index
from meshcast.client.priority import PRIORITIES, Priority
from meshcast.client.questions import PostsLike, post_table
from meshcast.client.resume import source_digest
from meshcast.client.stored_columns import content_columns, engagement_columns, forecast_columns
from meshcast.client.stream import Chunk
from meshcast.contents import ROWS_MAX
from meshcast.posts import POST_COLUMNS, HistoryIndex, settled_history
from meshcast.rpc import InvalidInput
from meshcast.series import SeriesIndex, SeriesTable
from meshcast.sinks import Columns, Sink


class IntoCalls(Calls):
    """What a client streams into sinks."""

    async def predict_posts_into(
        self,
        sink: Sink,
        posts: PostsLike,
        rows: HistoryIndex | None = None,
        *,
        columns: Callable[[EngagementChunk, int], Columns] = engagement_columns,
        stream_id: str | None = None,
        chunk_rows: int | None = None,
        window: int | None = None,
        progress: Progress | None = None,
        channel: str = "",
        version: int = 0,
        repin: bool = False,
        priority: Priority = "low",
        patience_s: float = PATIENCE_S,
        timeout_s: float = INTO_TIMEOUT_S,
    ) -> StoredStream:
        """Predicts many posts of a table into a sink, so that each row stands there exactly once, in order.

        Rows and the place at which the stream goes on are committed together. Whatever was killed, the same call with
        the same sink goes on where it was; a gateway or a replica that is away for a while is waited for. The version
        that answers first answers all rows.

        ```python
        stored = await mesh.predict_posts_into(SqliteSink("out.db", table="predictions"), read_posts("posts.csv"))
        print(stored.rows, stored.rows_failed, stored.versions)
        ```

        Args:
            sink: where the rows go; it is opened, and closed at the end.
            posts: as in `predict_posts`.
            rows: as in `predict_posts`.
            columns: what is stored of an answer and its first row; each call of a stream has the same columns.
            stream_id: the stream's id, at most 96 characters: the rows' prediction ids follow from it. None: the one in
                the sink, or else a new one.
            chunk_rows: rows of a chunk. None: as the stream began, or 256.
            window: chunks in flight at most. None: between 4 and 64, as many as bring more rows a second.
            progress: told after each answer: rows answered, of all rows of the source.
            channel: the rows' channel, for the prediction log, where all are of one.
            version: version that must answer; 0: the one in the sink, or else the one that serves.
            repin: go on with the version that serves where the one so far is gone; each row says its own.
            priority: which rows go first when the queue holds more than a batch.
            patience_s: seconds for which a mesh that is away, or takes no more, is waited for.
            timeout_s: deadline of this call, in seconds.

        Raises:
            InvalidInput: the posts or the arguments break a rule; TOKEN_INVALID, the sink belongs to another stream or
                to other posts.
            NotFound: VERSION_UNKNOWN, the version that answered so far is gone and `repin` is not set.
            Conflict: another process writes to the sink.
            MeshError: the mesh was away for longer than `patience_s`, or refused a whole chunk; what was answered
                before is stored. Rows that fail are stored as failed, with their errors.
            OSError: the disk of the sink is full or gone.
        """
        table = post_table(posts)
        index = settled_history(table) if rows is None else rows
        check_post_index(index, table)

        def digest() -> bytes:
            arrays = [getattr(table, name) for name in ("channel", *POST_COLUMNS)]
            return source_digest(["posts", channel, *arrays, index.row, index.start, index.stop])

        def chunks(first: int, chunk_rows: int) -> Iterator[Chunk]:
            rest: dict[str, Any] = {"priority": PRIORITIES[priority], "channel": channel}
            return table_chunks(table, index[first:], chunk_rows, prefix="", **rest)

        return await store(
            sink,
            Source(
                rows=len(index),
                digest=digest,
                chunks=chunks,
                open_call=lambda timeout: self._open.streaming_predictor.PredictEngagementStream(timeout=timeout),
                answer_of=EngagementChunk.of,
                columns_of=columns,
                new_id=self._ids.next,
            ),
            IntoOptions(
                stream_id=stream_id,
                chunk_rows=chunk_rows,
                window=window,
                version=version,
                repin=repin,
                patience_s=patience_s,
                timeout_s=timeout_s,
                progress=progress,
            ),
        )

    async def forecast_stream_into(
        self,
        sink: Sink,
        table: SeriesTable,
        rows: SeriesIndex | None = None,
        *,
        horizon_days: int = 30,
        levels: Sequence[float] = (),
        quantiles: Sequence[float] = (),
        named: bool = True,
        nonnegative: bool | NDArray[np.bool_] = False,
        stream_id: str | None = None,
        chunk_rows: int | None = None,
        window: int | None = None,
        progress: Progress | None = None,
        version: int = 0,
        repin: bool = False,
        priority: Priority = "low",
        patience_s: float = PATIENCE_S,
        timeout_s: float = INTO_TIMEOUT_S,
    ) -> StoredStream:
        """Forecasts many series of a table into a sink, a row a series and day, each exactly once, in order.

        Arguments and errors as in `forecast_stream` and `predict_posts_into`.
        """
        index = table.whole() if rows is None else rows
        check_series_index(index, table)
        own = table.names[np.searchsorted(table.bounds, index.start, side="right") - 1]
        is_nonnegative = np.broadcast_to(np.asarray(nonnegative, dtype=np.bool_), (len(index),))
        asked = (horizon_days, *levels, "quantiles", *quantiles, named)

        def digest() -> bytes:
            arrays = (table.names, table.bounds, table.day, table.value, index.start, index.stop, is_nonnegative)
            return source_digest(["series", *asked, *arrays])

        def chunks(first: int, chunk_rows: int) -> Iterator[Chunk]:
            names = own[first:].tolist() if named else []
            made = forecast_chunks(
                table,
                SeriesIndex(start=index.start[first:], stop=index.stop[first:]),
                chunk_rows,
                prefix="",
                names=names if any(own.tolist()) else (),
                nonnegative=is_nonnegative[first:],
                horizon_days=horizon_days,
                levels=levels,
                quantiles=quantiles,
                priority=PRIORITIES[priority],
            )
            return (replace(chunk, rows=chunk.rows + first) for chunk in made)

        return await store(
            sink,
            Source(
                rows=len(index),
                digest=digest,
                chunks=chunks,
                open_call=lambda timeout: self._open.streaming_forecaster.ForecastGrowthStream(timeout=timeout),
                answer_of=ForecastChunk.of,
                columns_of=lambda answer, first: forecast_columns(answer, first, own[answer.rows].tolist()),
                new_id=self._ids.next,
            ),
            IntoOptions(
                stream_id=stream_id,
                chunk_rows=chunk_rows,
                window=window,
                version=version,
                repin=repin,
                patience_s=patience_s,
                timeout_s=timeout_s,
                progress=progress,
            ),
        )

    async def analyze_contents_into(
        self,
        sink: Sink,
        contents: ContentsLike,
        *,
        stream_id: str | None = None,
        chunk_rows: int | None = None,
        window: int | None = None,
        progress: Progress | None = None,
        version: int = 0,
        repin: bool = False,
        priority: Priority = "low",
        patience_s: float = PATIENCE_S,
        timeout_s: float = INTO_TIMEOUT_S,
    ) -> StoredStream:
        """Judges many texts into a sink, a row a text, each exactly once, in order.

        The texts are held in memory: the call goes on anywhere in them. Arguments and errors as in `analyze_contents`
        and `predict_posts_into`.
        """
        table = content_table(contents)
        if chunk_rows is not None and chunk_rows > ROWS_MAX:
            raise InvalidInput(f"chunk_rows must be from 1 to {ROWS_MAX}, is {chunk_rows}", field="chunk_rows")

        def digest() -> bytes:
            columns = (getattr(table, field.name) for field in fields(table))
            parts = [part for column in columns for part in ([column] if isinstance(column, np.ndarray) else column)]
            return source_digest(["contents", len(table), *parts])

        def chunks(first: int, chunk_rows: int) -> Iterator[Chunk]:
            made = ContentChunks(chunk_rows, prefix="", priority=PRIORITIES[priority]).of_table(table[first:])
            return (replace(chunk, rows=chunk.rows + first) for chunk in made)

        return await store(
            sink,
            Source(
                rows=len(table),
                digest=digest,
                chunks=chunks,
                open_call=lambda timeout: self._open.streaming_analyzer.AnalyzeContentStream(timeout=timeout),
                answer_of=ContentChunk.of,
                columns_of=content_columns,
                new_id=self._ids.next,
            ),
            IntoOptions(
                stream_id=stream_id,
                chunk_rows=chunk_rows,
                window=window,
                version=version,
                repin=repin,
                patience_s=patience_s,
                timeout_s=timeout_s,
                progress=progress,
            ),
        )
