"""Contents: the texts of posts with what is known of them before they are published, as columns."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meshcast.rpc.errors import InvalidInput

__all__ = ["HOUR_UNKNOWN", "Contents"]

HOUR_UNKNOWN = -1
"""Stands for an hour of the day that nobody told."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contents:
    """Posts before they are published, as columns of n rows each.

    The constructor takes the columns as they are; `Contents.of` fills in what was not told and converts.

    >>> Contents.of(["Good morning"], hour_of_day=[8]).content_length.tolist()
    [12]

    Attributes:
        text: the texts.
        title: titles of what they link to, empty where there is none.
        content_length: shape (n,), int64, code points of the whole text, of which `text` may be the beginning.
        has_media: shape (n,), bool, with a photo or a video.
        hour_of_day: shape (n,), int64, 0 to 23 on the channel's own clock, `HOUR_UNKNOWN` where unknown.
    """

    text: tuple[str, ...]
    title: tuple[str, ...]
    content_length: NDArray[np.int64]
    has_media: NDArray[np.bool_]
    hour_of_day: NDArray[np.int64]

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
        """Contents from columns of any number dtype.

        Args:
            text: the texts, n of them.
            title: their titles; None: none has one.
            content_length: code points of the whole texts; None, and below 0 in a row: those of `text`.
            has_media: with a photo or a video; None: none has.
            hour_of_day: hours; None, and below 0 in a row: unknown.

        Raises:
            InvalidInput: the columns differ in length.
        """
        n = len(text)
        own = np.fromiter(map(len, text), dtype=np.int64, count=n)
        length = own if content_length is None else np.asarray(content_length, dtype=np.int64)
        media = np.zeros(n, dtype=np.bool_) if has_media is None else np.asarray(has_media, dtype=np.bool_)
        unknown = np.full(n, HOUR_UNKNOWN, dtype=np.int64)
        hour = unknown if hour_of_day is None else np.asarray(hour_of_day, dtype=np.int64)
        titles = ("",) * n if title is None else tuple(title)
        columns = {"title": titles, "content_length": length, "has_media": media, "hour_of_day": hour}
        uneven = [(name, f"has {len(column)} rows, text {n}") for name, column in columns.items() if len(column) != n]
        if uneven:
            raise InvalidInput(f"{uneven[0][0]} {uneven[0][1]}", violations=uneven)
        return cls(
            text=tuple(text),
            title=titles,
            content_length=np.where(length < 0, own, length),
            has_media=media,
            hour_of_day=np.where(hour < 0, HOUR_UNKNOWN, hour),
        )

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, rows: slice) -> "Contents":
        """The rows of a slice."""
        return Contents(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def take(self, rows: NDArray[Any]) -> "Contents":
        """The rows at positions, or those of a mask."""
        at = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        picked = at.tolist()
        return Contents(
            text=tuple(self.text[row] for row in picked),
            title=tuple(self.title[row] for row in picked),
            content_length=self.content_length[at],
            has_media=self.has_media[at],
            hour_of_day=self.hour_of_day[at],
        )
