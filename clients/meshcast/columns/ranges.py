"""Ranges of a table that several rows share, so that what they share is sent once."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["share_ranges"]

Positions = NDArray[np.int64]


def share_ranges(start: Positions, stop: Positions) -> tuple[Positions, Positions, Positions]:
    """The fewest ranges that cover others, so that what several rows share is sent once.

    Args:
        start: shape (m,), int64, first position of each range.
        stop: shape (m,), int64, end of each range (exclusive), at least its start.

    Returns:
        Starts and stops of the covering ranges, ascending and apart; and for each given range, shape (m,), what is to
        be added to its positions to find it in the covering ranges laid end to end.
    """
    if not len(start):
        return start, stop, start
    order = np.argsort(start, kind="stable")
    sorted_start = start[order]
    reach = np.maximum.accumulate(stop[order])
    opens = np.empty(len(start), dtype=np.bool_)
    opens[0] = True
    np.greater(sorted_start[1:], reach[:-1], out=opens[1:])
    at = np.flatnonzero(opens)
    cover_start = sorted_start[at]
    cover_stop = reach[np.append(at[1:] - 1, len(start) - 1)]
    lengths = cover_stop - cover_start
    base = np.cumsum(lengths) - lengths - cover_start
    shift = np.empty(len(start), dtype=np.int64)
    shift[order] = base[np.cumsum(opens) - 1]
    return cover_start, cover_stop, shift
