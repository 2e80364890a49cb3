"""Rows of posts as people have them (text, numbers, dates, gaps) made into a checked table, with every fault placed."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.columns import ColumnReader, Place, Raw, clock_of
from meshcast.posts.rules import RULES as RULE_TEXTS
from meshcast.posts.rules import bad_values
from meshcast.posts.table import COUNTS, POST_COLUMNS, PostTable
from meshcast.rpc.errors import InvalidInput

__all__ = ["IGNORED_COLUMNS", "KNOWN_COLUMNS", "table_from_columns"]

IGNORED_COLUMNS = ("text", "title", "post_id")
"""Columns that the table leaves out; `text` gives `content_length` where that is missing."""

KNOWN_COLUMNS = ("channel", "published_at", *POST_COLUMNS, *IGNORED_COLUMNS)
"""Every column that a posts file may have."""

# What other exports call our columns; measured by nobody, so only used to suggest a name.
_OTHER_NAMES = {
    "published_at": ("created_at", "date", "datetime", "time", "timestamp", "published", "created", "posted_at"),
    "forwards": ("shares", "retweets", "retweet_count", "reposts"),
    "replies": ("comments", "comment_count", "answers"),
    "reactions": ("likes", "favorites", "favourites", "favorite_count", "num_reactions"),
    "views": ("impressions", "reach", "view_count"),
    "channel": ("page", "page_id", "account", "author", "user"),
    "content_length": ("length", "text_length", "len"),
    "post_id": ("id", "id_str", "status_id", "message_id"),
    "has_media": ("media", "photo", "video"),
}
_SUGGESTION = {other: name for name, others in _OTHER_NAMES.items() for other in others}


def table_from_columns(
    columns: Mapping[str, Raw], *, source: str = "columns", place: Place | None = None, nan_is_unknown: bool = True
) -> PostTable:
    """A checked table from columns as people have them.

    Numbers may be numbers or text, dates `datetime`, numpy `datetime64` or ISO 8601 text, gaps None or empty text.
    Hour and weekday come from `published_at`'s own clock where they are missing; a time without a zone is taken as UTC.

    >>> table = table_from_columns({"published_at": ["2016-05-10T23:30:00-05:00"], "reactions": [""]})
    >>> table.published_unix_s.tolist(), table.hour_of_day.tolist(), table.day_of_week.tolist()
    ([1462941000], [23.0], [1.0])

    Args:
        columns: by name, all of one length; see `KNOWN_COLUMNS`.
        source: what errors call the columns, as in `posts.csv`.
        place: names a 0-based row in errors.
        nan_is_unknown: take NaN in a count as unknown, as arrays in memory have it; in files it is refused.

    Raises:
        InvalidInput: a column is unknown or missing, or a value breaks its rule; rows, columns and the way out are
            named.
    """
    return _Reader(columns, source, place, nan_is_unknown).table()


def check_names(names: Sequence[str], source: str) -> None:
    """Refuses unknown, doubled and missing column names.

    Raises:
        InvalidInput: with the nearest known name of each unknown one.
    """
    wrong: list[tuple[str, str]] = []
    for name in names:
        if name not in KNOWN_COLUMNS:
            lower = name.strip().lower()
            near = _SUGGESTION.get(lower) or next(iter(difflib.get_close_matches(lower, KNOWN_COLUMNS, n=1)), None)
            hint = f"did you mean {near}? " if near else ""
            wrong.append(
                (name, f"unknown column; {hint}Known are {', '.join(KNOWN_COLUMNS)}: rename it or leave it out")
            )
        elif names.count(name) > 1:
            wrong.append((name, "the column is there twice: leave one out"))
    if "published_at" not in names and "published_unix_s" not in names:
        wrong.append(("published_at", "the column is required (or published_unix_s)"))
    elif "published_at" not in names:
        for name in ("hour_of_day", "day_of_week"):
            if name not in names:
                text = "the column is required, since published_unix_s has no clock of its own (or give published_at)"
                wrong.append((name, text))
    if wrong:
        column, text = wrong[0]
        raise InvalidInput(f"{source}, column {column!r}: {text}", violations=wrong, source=source, column=column)


class _Reader(ColumnReader):
    """One reading of the columns of posts."""

    def __init__(self, columns: Mapping[str, Raw], source: str, place: Place | None, nan_is_unknown: bool) -> None:
        check_names(list(columns), source)
        super().__init__(columns, source, place, nan_is_unknown=nan_is_unknown, is_bad=bad_values, rules=RULE_TEXTS)

    def table(self) -> PostTable:
        given: dict[str, NDArray[Any]] = {"channel": self.names("channel")}
        unix, hour, day = self._times()
        given["published_unix_s"] = unix
        given["hour_of_day"] = self._filled("hour_of_day", hour)
        given["day_of_week"] = self._filled("day_of_week", day)
        given["content_length"] = self._filled("content_length", self._text_lengths())
        given["has_media"] = self.truths("has_media")
        for name in COUNTS:
            values, missing, _ = self.numbers(name)
            given[name] = np.where(missing, np.nan, values)
        self.check()
        return PostTable.of(given)

    def _times(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Seconds, and hour and weekday on the posts' own clock (NaN without one)."""
        nothing = np.full(self.rows, np.nan)
        if "published_at" in self:
            unix, local = self.moments("published_at")
            hour, day = clock_of(unix, local)
            name = "published_at"
            if "published_unix_s" in self:
                stated, missing, _ = self.numbers("published_unix_s")
                for row in np.flatnonzero(np.floor(stated) != np.floor(unix)).tolist():
                    if not missing[row] and stated[row] == stated[row] and unix[row] == unix[row]:
                        self.fault(
                            row, "published_unix_s", f"is not the time of published_at, {unix[row]:.0f}: leave one out"
                        )
        else:
            unix, missing, _ = self.numbers("published_unix_s")
            unix, hour, day = np.where(missing, np.nan, unix), nothing, nothing
            name = "published_unix_s"
        for row in np.flatnonzero(np.isnan(unix)).tolist():
            if not self.has_fault(row, name):
                self.fault(row, name, "is required: give the time of publication, or remove the row")
        return np.floor(np.nan_to_num(unix)).astype(np.int64), hour, day

    def _text_lengths(self) -> NDArray[np.float64]:
        raw = self._columns.get("text")
        if raw is None:
            return np.zeros(self.rows)
        return np.fromiter((len(v) if isinstance(v, str) else 0 for v in raw), dtype=np.float64, count=self.rows)

    def _filled(self, name: str, default: NDArray[np.float64]) -> NDArray[np.float64]:
        """A column of numbers, its gaps filled from `default`; where that is NaN they are faults."""
        values, missing, bad = self.numbers(name)
        filled = np.where(bad, 0.0, np.where(missing, default, values))
        if "published_at" in self:
            return filled  # then a missing time is the fault, and named as such
        for row in np.flatnonzero(np.isnan(filled)).tolist():
            self.fault(row, name, f"is required: {RULE_TEXTS[name].removeprefix('must be ')}")
        return filled
