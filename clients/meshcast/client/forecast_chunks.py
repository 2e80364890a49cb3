"""Chunks of forecasts: ranges of a table of series put into the stream's messages, days that rows share sent once."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.client.stream import Chunk
from meshcast.columns import pack_positions, share_ranges
from meshcast.series import PackedSeries, SeriesIndex, SeriesTable, join_series

_CHUNK_DAYS = 250_000
"""Days of a chunk at most, 12 bytes each: a fifth of the largest message."""


def forecast_chunks(
    table: SeriesTable,
    index: SeriesIndex,
    chunk_rows: int,
    *,
    prefix: str,
    names: Sequence[str],
    nonnegative: NDArray[np.bool_],
    **rest: Any,
) -> Iterator[Chunk]:
    """Chunks of rows whose histories are ranges of one table; days that rows share are sent once.

    Args:
        table: the series.
        index: the rows.
        chunk_rows: rows of a chunk at most; a chunk also ends where its days would make too large a message.
        prefix: of the chunks' request ids.
        names: of the rows' series, one a row or none.
        nonnegative: shape (m,), which rows' series cannot be negative.
        rest: further fields of the messages.
    """
    packed = PackedSeries(table.day, table.value)
    for sequence, (first, last) in enumerate(_cuts(index, chunk_rows)):
        start, stop = index.start[first:last], index.stop[first:last]
        cover_start, cover_stop, shift = share_ranges(start, stop)
        ranges = [(packed, a, b) for a, b in zip(cover_start.tolist(), cover_stop.tolist(), strict=True)]
        request = pb.ForecastGrowthStreamRequest(
            sequence=sequence,
            request_id=f"{prefix}/{sequence}",
            history=join_series(ranges),
            history_start=pack_positions(start + shift),
            history_stop=pack_positions(stop + shift),
            series=names[first:last],
            nonnegative=nonnegative[first:last].tolist() if nonnegative[first:last].any() else (),
            **rest,
        )
        yield Chunk(request=request, rows=np.arange(first, last, dtype=np.int64))


def _cuts(index: SeriesIndex, chunk_rows: int) -> Iterator[tuple[int, int]]:
    """Where chunks begin and end: by rows, and by the days that they have not yet."""
    first = days = reach = 0
    for row, (start, stop) in enumerate(zip(index.start.tolist(), index.stop.tolist(), strict=True)):
        new = stop - max(start, reach) if start >= 0 and row > first else stop - start
        if row > first and (row - first >= chunk_rows or days + new > _CHUNK_DAYS):
            yield first, row
            first, days, new = row, 0, stop - start
        days += max(new, 0)
        reach = stop if row == first else max(reach, stop)
    if first < len(index):
        yield first, len(index)
