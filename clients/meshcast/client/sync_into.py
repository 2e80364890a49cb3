"""Calls that stream rows into a sink, from plain code."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from meshcast.client.answers import EngagementChunk
from meshcast.client.calls import Progress
from meshcast.client.content_questions import ContentsLike
from meshcast.client.into import INTO_TIMEOUT_S, PATIENCE_S, StoredStream
from meshcast.client.priority import Priority
from meshcast.client.questions import PostsLike
from meshcast.client.stored_columns import engagement_columns
from meshcast.client.sync_calls import SyncCalls
from meshcast.posts import HistoryIndex
from meshcast.series import SeriesIndex, SeriesTable
from meshcast.sinks import Columns, Sink


class SyncIntoCalls(SyncCalls):
    """What plain code streams into sinks. Progress is told in the client's own thread."""

    def predict_posts_into(
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
        """Predicts many posts into a sink, each row exactly once; see `MeshClient.predict_posts_into`."""
        return self._run(
            self._mesh.predict_posts_into(
                sink,
                posts,
                rows,
                columns=columns,
                stream_id=stream_id,
                chunk_rows=chunk_rows,
                window=window,
                progress=progress,
                channel=channel,
                version=version,
                repin=repin,
                priority=priority,
                patience_s=patience_s,
                timeout_s=timeout_s,
            )
        )

    def forecast_stream_into(
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
        """Forecasts many series into a sink, each day exactly once; see `MeshClient.forecast_stream_into`."""
        return self._run(
            self._mesh.forecast_stream_into(
                sink,
                table,
                rows,
                horizon_days=horizon_days,
                levels=levels,
                quantiles=quantiles,
                named=named,
                nonnegative=nonnegative,
                stream_id=stream_id,
                chunk_rows=chunk_rows,
                window=window,
                progress=progress,
                version=version,
                repin=repin,
                priority=priority,
                patience_s=patience_s,
                timeout_s=timeout_s,
            )
        )

    def analyze_contents_into(
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
        """Judges many texts into a sink, each row exactly once; see `MeshClient.analyze_contents_into`."""
        return self._run(
            self._mesh.analyze_contents_into(
                sink,
                contents,
                stream_id=stream_id,
                chunk_rows=chunk_rows,
                window=window,
                progress=progress,
                version=version,
                repin=repin,
                priority=priority,
                patience_s=patience_s,
                timeout_s=timeout_s,
            )
        )
