"""Files of contents: tables of posts with their texts (CSV, JSON Lines, Parquet), read into checked rows."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meshcast.columns import ColumnReader, Place, Raw, clock_of, read_table
from meshcast.contents.names import COUNT_COLUMNS, check_names
from meshcast.contents.rows import UNKNOWN_DAY, UNKNOWN_TIME, ContentRows
from meshcast.contents.rules import OUTCOME_MAX, RULES, bad_values, size_fault, surrogate_fault
from meshcast.contents.table import UNKNOWN_HOUR, Contents

__all__ = ["read_contents", "rows_from_columns"]

_RULES = RULES | {
    "day_of_week": "must be a whole number from 0 = Monday to 6 = Sunday",
    "published_unix_s": "must be seconds between the years 1 and 9999 (milliseconds are not taken)",
    "outcome": f"must be a number from -{OUTCOME_MAX:g} to {OUTCOME_MAX:g}, or left out when it is unknown",
    **dict.fromkeys(COUNT_COLUMNS, f"must be a count from 0 to {OUTCOME_MAX:g}, or left out when it is unknown"),
}
_CHANNEL_MAX = 256  # of the contract
_UNIX_S = (-62_135_596_800, 253_402_300_799)  # what a protobuf Timestamp can hold

Floats = NDArray[np.float64]


def read_contents(
    path: str | os.PathLike[str], *, encoding: str = "utf-8-sig", replace_invalid: bool = False
) -> ContentRows:
    """Reads a file of contents into checked rows, in the file's order.

    Columns: `text` and `title`, of which one must be there; `channel`; `published_at` (ISO 8601; without a zone it is
    taken as UTC) or `published_unix_s`; `hour_of_day` and `day_of_week`, else taken from `published_at`'s own clock;
    `content_length`, else that of `text`; `has_media`; and how well the post did: `outcome`, in any unit, or the
    counts `forwards`, `replies` and `reactions`, whose sum is the engagement and log1p of it the outcome. Other columns
    are let be, and so are rows without text and title, as of photos (`blank_rows` finds them). The kind of file follows
    from its name; CSV and JSON Lines may be packed (.gz, .bz2, .xz).

    >>> rows = read_contents("posts.csv")  # doctest: +SKIP

    Args:
        path: the file.
        encoding: of its bytes.
        replace_invalid: take bytes that are none of the encoding, and lone surrogates, as U+FFFD.

    Raises:
        NotFound: there is no such file.
        InvalidInput: the file is empty, cut off, in another encoding or of no known kind, or a column or value is
            wrong; file, row, column and the way out are named.
        Precondition: Parquet needs the extra `parquet`.
    """
    path = Path(path)
    columns, place = read_table(path, check_names, encoding=encoding, replace_invalid=replace_invalid)
    return rows_from_columns(columns, source=path.name, place=place, replace_invalid=replace_invalid)


def rows_from_columns(
    columns: Mapping[str, Raw],
    *,
    source: str = "columns",
    place: Place | None = None,
    nan_is_unknown: bool = False,
    replace_invalid: bool = False,
) -> ContentRows:
    """Checked rows from columns as people have them; see `read_contents` for what each is.

    >>> rows = rows_from_columns({"text": ["We won!"], "reactions": [40], "published_at": ["2016-05-10T23:30-05:00"]})
    >>> rows.contents.hour_of_day.tolist(), rows.day_of_week.tolist(), np.expm1(rows.outcome).round().tolist()
    ([23], [1], [40.0])

    Args:
        columns: by name, all of one length.
        source: what errors call the columns, as in `posts.csv`.
        place: names a 0-based row in errors.
        nan_is_unknown: take NaN as unknown, as arrays in memory have it; in files it is refused.
        replace_invalid: take lone surrogates as U+FFFD.

    Raises:
        InvalidInput: a column is missing or misnamed, or a value breaks its rule; rows, columns and the way out are
            named.
    """
    check_names(list(columns), source)
    reader = ColumnReader(columns, source, place, nan_is_unknown=nan_is_unknown, is_bad=_is_bad, rules=_RULES)
    n = reader.rows
    text, title = _texts(reader, "text", replace_invalid), _texts(reader, "title", replace_invalid)
    for row, (body, head) in enumerate(zip(text, title, strict=True)):
        fault = size_fault(body, head)
        if fault is not None:
            reader.fault(row, "text", fault)
    channels = _texts(reader, "channel", replace_invalid)
    for row, channel in enumerate(channels):
        if len(channel) > _CHANNEL_MAX:
            reader.fault(row, "channel", f"must be a name of at most {_CHANNEL_MAX} characters, has {len(channel)}")
    unix, hour, day = _times(reader)
    length, unstated, _ = reader.numbers("content_length")
    own = np.fromiter(map(len, text), dtype=np.int64, count=n)
    contents = Contents(
        text=tuple(text),
        title=tuple(title),
        content_length=np.where(unstated, own, np.nan_to_num(length)).astype(np.int64),
        has_media=reader.truths("has_media") == 1,
        hour_of_day=_whole(reader, "hour_of_day", hour, UNKNOWN_HOUR),
    )
    weekday, outcome = _whole(reader, "day_of_week", day, UNKNOWN_DAY), _outcomes(reader)
    reader.check()
    return ContentRows(
        contents=contents,
        channel=np.asarray(channels, dtype=np.str_),
        published_unix_s=np.where(np.isnan(unix), UNKNOWN_TIME, np.floor(np.nan_to_num(unix))).astype(np.int64),
        day_of_week=weekday,
        outcome=outcome,
    )


def _is_bad(column: str, values: Floats) -> NDArray[np.bool_]:
    if column in RULES:
        return bad_values(column, values)
    if column == "day_of_week":
        good = (values >= 0) & (values <= 6) & (np.floor(values) == values)
    elif column == "published_unix_s":
        good = (values >= _UNIX_S[0]) & (values <= _UNIX_S[1])
    elif column == "outcome":
        good = np.abs(values) <= OUTCOME_MAX
    else:
        good = (values >= 0) & (values <= OUTCOME_MAX)
    bad: NDArray[np.bool_] = ~good & ~np.isnan(values)
    return bad


def _texts(reader: ColumnReader, name: str, replace_invalid: bool) -> list[str]:
    """A column of texts, in which lone surrogates, as JSON escapes can write them, are faults or replaced."""
    texts = reader.texts(name)
    for row, text in enumerate(texts):
        fault = surrogate_fault(text)
        if fault is not None and replace_invalid:
            texts[row] = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        elif fault is not None:
            reader.fault(row, name, fault)
            texts[row] = "-"  # so that no other rule is said to be broken too
    return texts


def _times(reader: ColumnReader) -> tuple[Floats, Floats, Floats]:
    """Seconds, hour and weekday on the posts' own clock; NaN where unknown."""
    nothing = np.full(reader.rows, np.nan)
    if "published_at" in reader:
        unix, local = reader.moments("published_at")
        return unix, *clock_of(unix, local)
    unix, missing, _ = reader.numbers("published_unix_s")
    return np.where(missing, np.nan, unix), nothing, nothing


def _whole(reader: ColumnReader, name: str, default: Floats, unknown: int) -> NDArray[np.int64]:
    values, missing, bad = reader.numbers(name)
    filled = np.where(missing | bad, default, values)
    return np.where(np.isnan(filled), unknown, np.nan_to_num(filled)).astype(np.int64)


def _outcomes(reader: ColumnReader) -> Floats:
    """The outcome, or log1p of the counts that are known together; NaN where none is."""
    if "outcome" in reader:
        values, missing, _ = reader.numbers("outcome")
        return np.where(missing, np.nan, values)
    total, unknown = np.zeros(reader.rows), np.ones(reader.rows, dtype=np.bool_)
    for name in COUNT_COLUMNS:
        values, missing, bad = reader.numbers(name)
        gap = missing | bad
        total += np.where(gap, 0.0, values)
        unknown &= gap
    return np.where(unknown, np.nan, np.log1p(total))
