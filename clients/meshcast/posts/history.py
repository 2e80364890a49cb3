"""Histories: for each post of a table, the settled posts of its channel that a prediction may use."""

import numpy as np
from numpy.typing import NDArray

from meshcast.posts.table import HistoryIndex, PostTable

__all__ = ["POSTS_MAX", "POSTS_MIN", "SETTLE_S", "settled_history"]

SETTLE_S = 86_400
"""Age from which a post's counts count as settled, in seconds: the 24 hours of the contract."""
POSTS_MIN = 20
"""Fewest posts of a history, of the contract."""
POSTS_MAX = 100
"""Most posts of a history, of the contract."""

Positions = NDArray[np.int64]


def settled_history(
    posts: PostTable, *, settle_s: int = SETTLE_S, posts_min: int = POSTS_MIN, posts_max: int = POSTS_MAX
) -> HistoryIndex:
    """The rows of a table that have a history, and where it stands.

    A post's history are the newest `posts_max` posts of its channel that were published at least `settle_s` seconds
    before it; posts with fewer than `posts_min` of them are left out.

    Args:
        posts: sorted by channel and time.
        settle_s: age from which counts are settled, in seconds.
        posts_min: fewest posts of a history.
        posts_max: most posts of a history.
    """
    n = len(posts)
    starts = posts.channel_starts()
    first = np.repeat(starts, np.diff(np.append(starts, n)))
    stop = np.empty(n, dtype=np.int64)
    for begin, end in zip(starts.tolist(), np.append(starts[1:], n).tolist(), strict=True):
        times = posts.published_unix_s[begin:end]
        stop[begin:end] = begin + np.searchsorted(times, times - settle_s, side="right")
    start = np.maximum(stop - posts_max, first)
    row = np.flatnonzero(stop - start >= max(posts_min, 1)).astype(np.int64)
    return HistoryIndex(row=row, start=start[row], stop=stop[row])
