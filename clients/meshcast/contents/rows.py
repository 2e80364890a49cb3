"""Rows of contents: contents with what became of their posts, as files and analyses of patterns hold them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshcast.contents.table import Contents

__all__ = ["UNKNOWN_DAY", "UNKNOWN_TIME", "ContentRows"]

UNKNOWN_DAY = -1
"""Stands for a day of the week that is not known."""
UNKNOWN_TIME = int(np.iinfo(np.int64).min)
"""Stands for a time of publication that is not known."""

Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ContentRows:
    """Contents of posts, and when, where and how well they did, as columns of n rows each.

    >>> rows = ContentRows.of(Contents.of(["one", "two"]), outcome=[1.5, float("nan")])
    >>> len(rows), rows[:1].outcome.tolist()
    (2, [1.5])

    Attributes:
        contents: the posts.
        channel: shape (n,), str, the channels' names; empty where there is but one.
        published_unix_s: shape (n,), int64, seconds since 1970-01-01 UTC; `UNKNOWN_TIME` where it is not known.
        day_of_week: shape (n,), int64, 0 = Monday to 6 on the channel's own clock; `UNKNOWN_DAY` (-1) where unknown.
        outcome: shape (n,), float64, how well each did, in any unit; NaN where unknown.
    """

    contents: Contents
    channel: NDArray[np.str_]
    published_unix_s: Positions
    day_of_week: Positions
    outcome: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        contents: Contents,
        *,
        channel: object = None,
        published_unix_s: object = None,
        day_of_week: object = None,
        outcome: object = None,
    ) -> "ContentRows":
        """Rows from contents and whatever else is known; a column that is None is unknown for every row."""
        n = len(contents)
        return cls(
            contents=contents,
            channel=np.zeros(n, dtype="<U1") if channel is None else np.asarray(channel, dtype=np.str_),
            published_unix_s=(
                np.full(n, UNKNOWN_TIME) if published_unix_s is None else np.asarray(published_unix_s, dtype=np.int64)
            ),
            day_of_week=np.full(n, UNKNOWN_DAY) if day_of_week is None else np.asarray(day_of_week, dtype=np.int64),
            outcome=np.full(n, np.nan) if outcome is None else np.asarray(outcome, dtype=np.float64),
        )

    def __len__(self) -> int:
        return len(self.contents)

    def __getitem__(self, rows: slice) -> "ContentRows":
        """The rows of a slice; arrays without a copy."""
        return ContentRows(
            contents=self.contents[rows],
            channel=self.channel[rows],
            published_unix_s=self.published_unix_s[rows],
            day_of_week=self.day_of_week[rows],
            outcome=self.outcome[rows],
        )

    def take(self, rows: Positions) -> "ContentRows":
        """The rows at positions, in their order."""
        return ContentRows(
            contents=self.contents.take(rows),
            channel=self.channel[rows],
            published_unix_s=self.published_unix_s[rows],
            day_of_week=self.day_of_week[rows],
            outcome=self.outcome[rows],
        )
