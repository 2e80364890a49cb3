"""Rows of posts as people have them (text, numbers, dates, gaps) made into a checked table, with every fault placed."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.posts.rules import RULES as RULE_TEXTS
from meshcast.posts.rules import bad_values, show
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
_TRUTH = {
    "": 0.0,
    "0": 0.0,
    "1": 1.0,
    "false": 0.0,
    "true": 1.0,
    "no": 0.0,
    "yes": 1.0,
    "n": 0.0,
    "y": 1.0,
    "f": 0.0,
    "t": 1.0,
}

Place = Callable[[int], str]
Raw = Sequence[Any] | NDArray[Any]


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
    reader = _Reader(columns, source, place or (lambda row: f"row {row + 1}"), nan_is_unknown)
    return reader.table()


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


class _Reader:
    """One reading of columns: converts column by column, collects the faults, raises them together."""

    def __init__(self, columns: Mapping[str, Raw], source: str, place: Place, nan_is_unknown: bool) -> None:
        self._columns = columns
        self._source = source
        self._place = place
        self._nan_is_unknown = nan_is_unknown
        self._faults: list[tuple[int, str, str]] = []

    def table(self) -> PostTable:
        check_names(list(self._columns), self._source)
        lengths = {name: len(values) for name, values in self._columns.items()}
        n = next(iter(lengths.values()))
        uneven = [(name, f"has {k} rows, {next(iter(lengths))} has {n}") for name, k in lengths.items() if k != n]
        if uneven:
            raise InvalidInput(f"{self._source}, column {uneven[0][0]!r}: {uneven[0][1]}", violations=uneven)
        if n == 0:
            raise InvalidInput(f"{self._source} has no posts: give at least one row", source=self._source)
        given: dict[str, NDArray[Any]] = {"channel": self._channels(n)}
        unix, hour, day = self._times(n)
        given["published_unix_s"] = unix
        given["hour_of_day"] = self._numbers("hour_of_day", n, default=hour)
        given["day_of_week"] = self._numbers("day_of_week", n, default=day)
        given["content_length"] = self._numbers("content_length", n, default=self._text_lengths(n))
        given["has_media"] = self._truths(n)
        for name in COUNTS:
            given[name] = self._numbers(name, n, default=np.full(n, np.nan))
        if self._faults:
            self._refuse()
        return PostTable.of(given)

    def _channels(self, n: int) -> NDArray[np.str_]:
        raw = self._columns.get("channel")
        if raw is None:
            return np.zeros(n, dtype="<U1")
        if isinstance(raw, np.ndarray) and raw.dtype.kind == "U":
            return raw
        return np.asarray(["" if _is_gap(v) else str(v) for v in raw], dtype=np.str_)

    def _times(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Seconds, and hour and weekday on the posts' own clock (NaN without one)."""
        nothing = np.full(n, np.nan)
        if "published_at" in self._columns:
            unix, local = self._moments(self._columns["published_at"], n)
            days, second = np.divmod(local, 86_400)
            known = ~np.isnan(unix)
            hour = np.where(known, second // 3600, np.nan)
            day = np.where(known, (days + 3) % 7, np.nan)  # 1970-01-01 was a Thursday
            name = "published_at"
            if "published_unix_s" in self._columns:
                stated = self._numbers("published_unix_s", n, default=nothing)
                for row in np.flatnonzero(np.floor(stated) != np.floor(unix)).tolist():
                    if stated[row] == stated[row] and known[row]:
                        self._fault(
                            row, "published_unix_s", f"is not the time of published_at, {unix[row]:.0f}: leave one out"
                        )
        else:
            unix, hour, day = self._numbers("published_unix_s", n, default=nothing), nothing, nothing
            name = "published_unix_s"
        placed = {(row, column) for row, column, _ in self._faults}
        for row in np.flatnonzero(np.isnan(unix)).tolist():
            if (row, name) not in placed:
                self._fault(row, name, "is required: give the time of publication, or remove the row")
        return np.floor(np.nan_to_num(unix)).astype(np.int64), hour, day

    def _moments(self, raw: Raw, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Seconds since 1970 UTC, and the same on the posts' own clock; NaN and 0 where there is none."""
        if isinstance(raw, np.ndarray) and raw.dtype.kind == "M":
            seconds = raw.astype("datetime64[s]").astype(np.int64).astype(np.float64)
            seconds[np.isnat(raw)] = np.nan
            return seconds, np.nan_to_num(seconds)
        unix, local = np.full(n, np.nan), np.zeros(n)
        parse = datetime.fromisoformat
        for row, value in enumerate(raw):
            if _is_gap(value):
                continue
            try:
                moment = value if isinstance(value, datetime) else parse(value)
                if moment.tzinfo is None:
                    unix[row] = local[row] = moment.replace(tzinfo=UTC).timestamp()
                else:
                    unix[row] = moment.timestamp()
                    local[row] = moment.replace(tzinfo=UTC).timestamp()
            except (ValueError, TypeError, OverflowError):
                self._fault(row, "published_at", f"must be a time as in 2016-05-10T12:30:00Z, is {_quoted(value)}")
        return unix, local

    def _text_lengths(self, n: int) -> NDArray[np.float64]:
        raw = self._columns.get("text")
        if raw is None:
            return np.zeros(n)
        return np.fromiter((len(v) if isinstance(v, str) else 0 for v in raw), dtype=np.float64, count=n)

    def _truths(self, n: int) -> NDArray[np.float64]:
        raw = self._columns.get("has_media")
        if raw is None:
            return np.zeros(n)
        if isinstance(raw, np.ndarray) and raw.dtype.kind in "biuf":
            values = raw.astype(np.float64)
        else:
            # Text and bool are told apart by their words, numbers by their value; the rest falls to the rule below.
            values = np.full(n, np.nan)
            for row, v in enumerate(raw):
                truth = _TRUTH.get(str(v).strip().lower()) if v is not None else 0.0
                values[row] = _number(v) if truth is None else truth
        for row in np.flatnonzero(bad_values("has_media", values)).tolist():
            self._fault(row, "has_media", f"must be 0 or 1, is {_quoted(raw[row])}")
        return values

    def _numbers(self, name: str, n: int, *, default: NDArray[np.float64]) -> NDArray[np.float64]:
        """A column of numbers; gaps take the default, where that is NaN and the column is no count they are faults."""
        raw = self._columns.get(name)
        if raw is None:
            return default if name in COUNTS or not np.isnan(default).any() else self._gaps(name, default)
        if isinstance(raw, np.ndarray) and raw.dtype.kind in "biuf":
            values = raw.astype(np.float64)
            missing = np.isnan(values) if self._nan_is_unknown else np.zeros(n, dtype=np.bool_)
        else:
            # In memory NaN is a gap too; in a file "nan" is a fault.
            is_gap = _is_gap if self._nan_is_unknown else _is_blank
            missing = np.fromiter(map(is_gap, raw), dtype=np.bool_, count=n)
            try:
                values = np.array(
                    ["nan" if m else v for v, m in zip(raw, missing.tolist(), strict=True)], dtype=np.float64
                )
            except (ValueError, TypeError):
                values = np.full(n, np.nan)
                for row in np.flatnonzero(~missing).tolist():
                    values[row] = _number(raw[row])
        bad = (bad_values(name, values) | np.isnan(values)) & ~missing
        for row in np.flatnonzero(bad).tolist():
            self._fault(row, name, f"{RULE_TEXTS[name]}, is {_quoted(raw[row])}")
        if name == "published_unix_s":
            return np.where(missing, np.nan, values)
        filled = np.where(missing, default, values)
        return filled if name in COUNTS else self._gaps(name, np.where(bad, 0.0, filled))

    def _gaps(self, name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if "published_at" in self._columns:
            return values  # then a missing time is the fault, and named as such
        for row in np.flatnonzero(np.isnan(values)).tolist():
            self._fault(row, name, f"is required: {RULE_TEXTS[name].removeprefix('must be ')}")
        return values

    def _fault(self, row: int, column: str, description: str) -> None:
        self._faults.append((row, column, description))

    def _refuse(self) -> None:
        faults = sorted(self._faults, key=lambda fault: fault[0])
        row, column, text = faults[0]
        rows = len({fault[0] for fault in faults})
        more = f" ({rows - 1} more rows have faults)" if rows > 1 else ""
        raise InvalidInput(
            f"{self._source}, {self._place(row)}, column {column!r}: {text}. Correct the value or remove the row{more}",
            violations=[(f"rows[{r + 1}].{c}", t) for r, c, t in faults[:50]],
            source=self._source,
            row=row + 1,
            column=column,
        )


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value)


def _is_gap(value: Any) -> bool:
    """Whether there is no value: None, empty text, NaN, NaT or pandas' NA; the last three do not equal themselves."""
    if value is None or isinstance(value, str):
        return not value
    differs = value != value
    return bool(differs) if isinstance(differs, bool | np.bool_) else True


def _number(value: object) -> float:
    """A number out of text or anything else; NaN when it is none."""
    try:
        return float(value)  # type: ignore[arg-type]  # whatever float() refuses is answered as NaN
    except (ValueError, TypeError):
        return float("nan")


def _quoted(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        text = str(value)
        return repr(text if len(text) <= 60 else text[:57] + "...")
    return show(float(value))
