"""The table of posts: posts of many channels as columns, and the plans and ranges that refer to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from meshcast.rpc.errors import InvalidInput

__all__ = ["COUNTS", "PLAN_COLUMNS", "POST_COLUMNS", "HistoryIndex", "Planned", "PostTable", "engagement"]

Floats = NDArray[np.float32]
Positions = NDArray[np.int64]

PLAN_COLUMNS = ("published_unix_s", "hour_of_day", "day_of_week", "content_length", "has_media")
"""Columns that a planned post has, in the order of the contract."""

COUNTS = ("views", "forwards", "replies", "reactions")
"""Columns of a settled post that may be unknown (NaN), in the order of the contract."""

POST_COLUMNS = PLAN_COLUMNS + COUNTS
"""Columns of a settled post but its channel, in the order of the contract."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planned:
    """Planned posts as columns, each of shape (m,).

    Attributes:
        published_unix_s: int64, seconds since 1970-01-01 UTC.
        hour_of_day: float32, whole numbers from 0 to 23 on the channel's own clock.
        day_of_week: float32, whole numbers from 0 = Monday to 6 on the channel's own clock.
        content_length: float32, characters.
        has_media: float32, 1 with a photo or a video, else 0.
    """

    published_unix_s: Positions
    hour_of_day: Floats
    day_of_week: Floats
    content_length: Floats
    has_media: Floats

    def __len__(self) -> int:
        return len(self.published_unix_s)

    def __getitem__(self, rows: slice) -> "Planned":
        """The plans of a slice, without a copy."""
        return Planned(**{name: getattr(self, name)[rows] for name in PLAN_COLUMNS})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HistoryIndex:
    """Rows of a question: which post is asked about, and which posts of its table are the history; each of shape (m,).

    Attributes:
        row: int64, position of the post in the table.
        start: int64, first post of its history.
        stop: int64, end of its history (exclusive), so that the newest post is at `stop - 1`.
    """

    row: Positions
    start: Positions
    stop: Positions

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, rows: "slice | NDArray[np.bool_] | Positions") -> "HistoryIndex":
        """The rows of a slice, a mask or an array of positions."""
        return HistoryIndex(row=self.row[rows], start=self.start[rows], stop=self.stop[rows])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class PostTable:
    """Posts as columns, each of shape (n,), the posts of one channel adjacent and oldest first.

    The constructor takes the columns as they are: `PostTable.of` sorts and converts, `meshcast.posts.read_posts` also
    checks. A table is immutable; a slice shares the memory of its table and remembers where it was cut from, so that
    histories cut from one table travel over the wire once.

    >>> table = PostTable.of({"published_unix_s": [90, 30], "hour_of_day": [1, 0], "day_of_week": [3, 3]})
    >>> table.published_unix_s.tolist(), len(table[1:])
    ([30, 90], 1)

    Attributes:
        channel: str, the channel's name; empty where there is but one.
        published_unix_s: int64, seconds since 1970-01-01 UTC.
        hour_of_day: float32, whole numbers from 0 to 23 on the channel's own clock.
        day_of_week: float32, whole numbers from 0 = Monday to 6 on the channel's own clock.
        content_length: float32, characters.
        has_media: float32, 1 with a photo or a video, else 0.
        views: float32, NaN = unknown; so the next three.
        forwards: float32.
        replies: float32.
        reactions: float32.
    """

    channel: NDArray[np.str_]
    published_unix_s: Positions
    hour_of_day: Floats
    day_of_week: Floats
    content_length: Floats
    has_media: Floats
    views: Floats
    forwards: Floats
    replies: Floats
    reactions: Floats
    origin: "PostTable | None" = field(default=None, repr=False)
    """The table that this one is a slice of; None when it is none."""
    offset: int = field(default=0, repr=False)
    """Position of the first post in `origin`."""

    @classmethod
    def of(cls, columns: Mapping[str, object]) -> Self:
        """A table from columns of any number dtype, sorted by channel and time; equal times keep their order.

        Args:
            columns: by name; `published_unix_s`, `hour_of_day` and `day_of_week` are needed. Without `channel` all
                posts are of one; without `content_length` or `has_media` it is 0; without a count it is unknown.

        Raises:
            InvalidInput: a needed column is missing, one is unknown, or their lengths differ.
        """
        known = {"channel", *POST_COLUMNS}
        wrong = [
            (name, f"is not a column of posts; they are {', '.join(sorted(known))}")
            for name in columns
            if name not in known
        ]
        wrong += [(name, "is required") for name in POST_COLUMNS[:3] if name not in columns]
        if wrong:
            raise InvalidInput(f"{wrong[0][0]} {wrong[0][1]}", violations=wrong)
        arrays = {name: np.asarray(columns[name]) for name in columns}
        n = len(arrays["published_unix_s"])
        wrong = [
            (name, f"has shape {a.shape}, published_unix_s ({n},)") for name, a in arrays.items() if a.shape != (n,)
        ]
        if wrong:
            raise InvalidInput(f"{wrong[0][0]} {wrong[0][1]}", violations=wrong)
        arrays.setdefault("channel", np.zeros(n, dtype="<U1"))
        arrays["channel"] = arrays["channel"].astype(np.str_)
        for name in ("content_length", "has_media"):
            arrays.setdefault(name, np.zeros(n, dtype=np.float32))
        for name in COUNTS:
            arrays.setdefault(name, np.full(n, np.nan, dtype=np.float32))
        codes = np.unique(arrays["channel"], return_inverse=True)[1]
        order = np.lexsort((arrays["published_unix_s"], codes))
        if n and not np.array_equal(order, np.arange(n)):
            arrays = {name: a[order] for name, a in arrays.items()}
        typed: dict[str, Any] = {name: arrays[name].astype(np.float32, copy=False) for name in POST_COLUMNS[1:]}
        times = arrays["published_unix_s"].astype(np.int64, copy=False)
        return cls(channel=arrays["channel"], published_unix_s=times, **typed)

    def __len__(self) -> int:
        return len(self.published_unix_s)

    def __getitem__(self, rows: slice) -> "PostTable":
        """The posts of a slice of step 1, without a copy."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise IndexError("a table of posts is sorted: only slices of step 1 can be taken; see take()")
        cut = slice(start, stop)
        return PostTable(
            channel=self.channel[cut],
            published_unix_s=self.published_unix_s[cut],
            hour_of_day=self.hour_of_day[cut],
            day_of_week=self.day_of_week[cut],
            content_length=self.content_length[cut],
            has_media=self.has_media[cut],
            views=self.views[cut],
            forwards=self.forwards[cut],
            replies=self.replies[cut],
            reactions=self.reactions[cut],
            origin=self if self.origin is None else self.origin,
            offset=self.offset + start,
        )

    def take(self, rows: "Positions | NDArray[np.bool_]") -> "PostTable":
        """The posts of a mask, or of ascending positions, as a table of its own."""
        return PostTable(**{name: getattr(self, name)[rows] for name in ("channel", *POST_COLUMNS)})

    def planned(self, rows: "Positions | slice | None" = None) -> Planned:
        """What was known of posts before they were published: the posts of `rows` (all when None) as plans."""
        picked: Positions | slice = slice(None) if rows is None else rows
        return Planned(**{name: getattr(self, name)[picked] for name in PLAN_COLUMNS})

    def channel_starts(self) -> Positions:
        """Position of each channel's first post, ascending; int64."""
        if not len(self):
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(np.concatenate([[True], self.channel[1:] != self.channel[:-1]])).astype(np.int64)


assert tuple(f.name for f in fields(PostTable))[1:10] == POST_COLUMNS


def engagement(posts: PostTable) -> Floats:
    """Engagement of posts: forwards + replies + reactions, of those that are known.

    Returns:
        Shape (n,), float32, counts; NaN where none of the three is known.
    """
    total = np.zeros(len(posts.forwards), dtype=np.float32)
    unknown = np.ones(len(total), dtype=np.bool_)
    for counts in (posts.forwards, posts.replies, posts.reactions):
        missing = np.isnan(counts)
        total += np.where(missing, np.float32(0), counts)
        unknown &= missing
    total[unknown] = np.nan
    return total
