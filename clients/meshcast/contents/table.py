"""The table of contents: texts with what is known of their posts, as columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meshcast.contents.rules import is_blank
from meshcast.rpc.errors import InvalidInput

__all__ = ["UNKNOWN_HOUR", "Contents", "blank_rows"]

UNKNOWN_HOUR = -1
"""Stands for an hour of the day that is not known."""

Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contents:
    """Contents of posts as columns, each of n rows.

    The constructor takes the columns as they are; `Contents.of` fills in what is left out. A table is immutable; a
    slice shares the memory of its table.

    >>> contents = Contents.of(["Good morning", "See this"], hour_of_day=[7, -1])
    >>> contents.content_length.tolist(), contents.hour_of_day.tolist(), len(contents[1:])
    ([12, 8], [7, -1], 1)

    Attributes:
        text: the texts.
        title: titles of what the posts link to; empty where a post links to nothing.
        content_length: shape (n,), int64, length of the whole text in code points.
        has_media: shape (n,), bool, whether the post carries a photo or a video.
        hour_of_day: shape (n,), int64, 0 to 23 on the channel's own clock; `UNKNOWN_HOUR` (-1) where it is not known.
    """

    text: tuple[str, ...]
    title: tuple[str, ...]
    content_length: Positions
    has_media: NDArray[np.bool_]
    hour_of_day: Positions

    @classmethod
    def of(
        cls,
        text: Sequence[str],
        *,
        title: Sequence[str] | None = None,
        content_length: ArrayLike | None = None,
        has_media: ArrayLike | None = None,
        hour_of_day: ArrayLike | None = None,
    ) -> "Contents":
        """A table from texts and whatever else is known of them.

        Args:
            text: n texts.
            title: n titles; None: no row has one.
            content_length: shape (n,); None, or NaN in a row: the length of the text.
            has_media: shape (n,); None: no row has media.
            hour_of_day: shape (n,), -1 or NaN where unknown; None: unknown everywhere.

        Raises:
            InvalidInput: a column is not of n rows, a number is not whole, or `has_media` is not true or false.
        """
        texts = tuple(text)
        n = len(texts)
        titles = ("",) * n if title is None else tuple(title)
        if len(titles) != n:
            raise InvalidInput(f"title has {len(titles)} rows, text {n}", field="title")
        own = np.fromiter(map(len, texts), dtype=np.int64, count=n)
        unknown = np.full(n, UNKNOWN_HOUR, dtype=np.int64)
        return cls(
            text=texts,
            title=titles,
            content_length=own if content_length is None else _whole("content_length", content_length, own),
            has_media=np.zeros(n, dtype=np.bool_) if has_media is None else _truths("has_media", has_media, n),
            hour_of_day=unknown if hour_of_day is None else _whole("hour_of_day", hour_of_day, unknown),
        )

    @classmethod
    def joined(cls, tables: Sequence["Contents"]) -> "Contents":
        """The rows of several tables, one at least, one after the other."""
        return cls(
            text=tuple(chain.from_iterable(table.text for table in tables)),
            title=tuple(chain.from_iterable(table.title for table in tables)),
            content_length=np.concatenate([table.content_length for table in tables]),
            has_media=np.concatenate([table.has_media for table in tables]),
            hour_of_day=np.concatenate([table.hour_of_day for table in tables]),
        )

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, rows: slice) -> "Contents":
        """The contents of a slice; arrays without a copy."""
        return Contents(
            text=self.text[rows],
            title=self.title[rows],
            content_length=self.content_length[rows],
            has_media=self.has_media[rows],
            hour_of_day=self.hour_of_day[rows],
        )

    def take(self, rows: Positions) -> "Contents":
        """The contents at positions, in their order."""
        positions = rows.tolist()
        return Contents(
            text=tuple([self.text[row] for row in positions]),
            title=tuple([self.title[row] for row in positions]),
            content_length=self.content_length[rows],
            has_media=self.has_media[rows],
            hour_of_day=self.hour_of_day[rows],
        )


def blank_rows(contents: Contents) -> NDArray[np.bool_]:
    """Which rows have neither a text nor a title, as posts of photos alone; shape (n,)."""
    pairs = zip(contents.text, contents.title, strict=True)
    return np.fromiter((is_blank(text, title) for text, title in pairs), dtype=np.bool_, count=len(contents))


def _column(name: str, values: ArrayLike, n: int) -> NDArray[Any]:
    column = np.asarray(values)
    if column.shape != (n,):
        raise InvalidInput(f"{name} has shape {column.shape}, text ({n},)", field=name)
    return column


def _truths(name: str, values: ArrayLike, n: int) -> NDArray[np.bool_]:
    """True and false, as such or as 1 and 0.

    Raises:
        InvalidInput: a value is neither, as text is; its row is named.
    """
    column = _column(name, values, n)
    if column.dtype == np.bool_:
        return column
    wrong = [row for row, value in enumerate(column.tolist()) if isinstance(value, str) or value not in (0, 1)]
    if wrong:
        at = f"{name}[{wrong[0]}]"
        raise InvalidInput(f"{at} must be true or false, is {column[wrong[0]]!r}", field=at)
    return column.astype(np.bool_)


def _whole(name: str, values: ArrayLike, unknown: Positions) -> Positions:
    """Whole numbers as anything that numpy takes has them; `unknown` stands where they are NaN or None.

    Raises:
        InvalidInput: a value is no whole number; its row is named.
    """
    column = _column(name, values, len(unknown))
    if column.dtype.kind in "iu":
        return column.astype(np.int64, copy=False)
    try:
        numbers = column.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} must be whole numbers: {error}", field=name) from error
    gap = np.isnan(numbers)
    wrong = np.flatnonzero(~gap & ~(np.floor(numbers) == numbers) | np.isinf(numbers))
    if len(wrong):
        row = int(wrong[0])
        raise InvalidInput(f"{name}[{row}] must be a whole number, is {numbers[row]:g}", field=f"{name}[{row}]")
    return np.where(gap, unknown, np.where(gap, 0.0, numbers).astype(np.int64))
