"""Contents on the wire: tables to and from the packed columns and the messages of the contract."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.columns import pack_floats
from meshcast.contents.rules import Violations, bad_values, content_violations, surrogate_fault
from meshcast.contents.table import UNKNOWN_HOUR, Contents
from meshcast.rpc.errors import InvalidInput

__all__ = ["content_message", "contents_from_columns", "contents_from_messages", "pack_contents"]

_VALUE = np.dtype("<f4")
_NAN = float("nan")

Floats = NDArray[np.float32] | NDArray[np.float64]


def pack_contents(contents: Contents) -> pb.ContentColumns:
    """A table as a message; columns that say nothing are left out.

    Raises:
        InvalidInput: a text holds a lone surrogate, which UTF-8 has no bytes for.
    """
    own = np.fromiter(map(len, contents.text), dtype=np.int64, count=len(contents))
    unknown = contents.hour_of_day == UNKNOWN_HOUR
    length, hour = contents.content_length, contents.hour_of_day
    try:
        return pb.ContentColumns(
            rows=len(contents),
            text=contents.text,
            title=contents.title if any(contents.title) else (),
            content_length=b"" if (length == own).all() else pack_floats(np.where(length == own, _NAN, length)),
            has_media=pack_floats(contents.has_media) if contents.has_media.any() else b"",
            hour_of_day=b"" if unknown.all() else pack_floats(np.where(unknown, _NAN, hour)),
        )
    except UnicodeEncodeError as error:
        raise _surrogate(contents) from error


def content_message(contents: Contents, row: int) -> pb.Content:
    """One row as a message.

    Raises:
        InvalidInput: its text or title holds a lone surrogate, which UTF-8 has no bytes for.
    """
    text, length = contents.text[row], int(contents.content_length[row])
    hour = int(contents.hour_of_day[row])
    try:
        return pb.Content(
            text=text,
            title=contents.title[row],
            content_length=None if length == len(text) else length,
            has_media=bool(contents.has_media[row]),
            hour_of_day=None if hour == UNKNOWN_HOUR else hour,
        )
    except UnicodeEncodeError as error:
        raise _surrogate(contents[row : row + 1]) from error


def contents_from_columns(columns: pb.ContentColumns, field: str = "contents") -> tuple[Contents, Violations]:
    """A table from packed columns, and the rows of it that break a rule.

    Args:
        columns: the message.
        field: its path in the request, for errors.

    Returns:
        The table, in which bad values stand as unknown; and the violations by row, see `content_violations`.

    Raises:
        InvalidInput: a column is not of `rows` values; every such column is named.
    """
    n, wrong = columns.rows, []
    if n < 0:
        wrong.append((f"{field}.rows", f"must be a number of rows of 0 or more, is {n}"))
    else:
        if len(columns.text) != n:
            wrong.append((f"{field}.text", f"must be {n} texts, one a row, is {len(columns.text)}"))
        if columns.title and len(columns.title) != n:
            wrong.append((f"{field}.title", f"must be {n} titles or none, is {len(columns.title)}"))
        for name in ("content_length", "has_media", "hour_of_day"):
            size = len(getattr(columns, name))
            if size not in (0, _VALUE.itemsize * n):
                wrong.append((f"{field}.{name}", f"must be {_VALUE.itemsize * n} bytes for {n} rows, is {size} bytes"))
    if wrong:
        raise InvalidInput(f"{wrong[0][0]} {wrong[0][1]}", violations=wrong)
    return _checked(
        tuple(columns.text),
        tuple(columns.title) or ("",) * n,
        content_length=_floats(columns.content_length, n, _NAN),
        has_media=_floats(columns.has_media, n, 0.0),
        hour_of_day=_floats(columns.hour_of_day, n, _NAN),
        field=lambda row, name: f"{field}.{name}[{row}]",
    )


def contents_from_messages(
    contents: Sequence[pb.Content], field: Callable[[int, str], str] = lambda row, name: f"contents[{row}].{name}"
) -> tuple[Contents, Violations]:
    """A table from messages, in their order, and the rows of it that break a rule.

    Args:
        contents: the messages.
        field: names the field of a row's column in the caller's message.

    Returns:
        As `contents_from_columns`.
    """
    return _checked(
        tuple([one.text for one in contents]),
        tuple([one.title for one in contents]),
        content_length=_optional(contents, "content_length"),
        has_media=np.array([one.has_media for one in contents], dtype=np.float64),
        hour_of_day=_optional(contents, "hour_of_day"),
        field=field,
    )


def _checked(
    text: tuple[str, ...],
    title: tuple[str, ...],
    *,
    content_length: Floats,
    has_media: Floats,
    hour_of_day: Floats,
    field: Callable[[int, str], str],
) -> tuple[Contents, Violations]:
    columns = {"content_length": content_length, "has_media": has_media, "hour_of_day": hour_of_day}
    own = np.fromiter(map(len, text), dtype=np.int64, count=len(text))
    contents = Contents(
        text=text,
        title=title,
        content_length=_whole("content_length", content_length, own),
        has_media=has_media == 1,
        hour_of_day=_whole("hour_of_day", hour_of_day, np.full(len(text), UNKNOWN_HOUR)),
    )
    return contents, content_violations(text, title, columns, field)


def _whole(name: str, values: Floats, unknown: NDArray[np.int64]) -> NDArray[np.int64]:
    """Values as whole numbers; `unknown` stands for those that are not known, or bad."""
    gap = np.isnan(values) | bad_values(name, values)
    return np.where(gap, unknown, np.where(gap, 0, values).astype(np.int64))


def _floats(data: bytes, n: int, default: float) -> NDArray[np.float32]:
    return np.frombuffer(data, dtype=_VALUE) if data else np.full(n, default, dtype=np.float32)


def _optional(contents: Sequence[pb.Content], name: str) -> NDArray[np.float64]:
    return np.array(
        [getattr(one, name) if one.HasField(name) else _NAN for one in contents],  # type: ignore[arg-type]  # by name
        dtype=np.float64,
    )


def _surrogate(contents: Contents) -> InvalidInput:
    """The refusal of the first text that cannot be sent."""
    for name in ("text", "title"):
        for row, text in enumerate(getattr(contents, name)):
            fault = surrogate_fault(text)
            if fault is not None:
                way = "replace it, as in text.encode('utf-8', 'replace').decode()"
                return InvalidInput(f"{name}[{row}]: {fault}; {way}", field=f"{name}[{row}]")
    return InvalidInput("a text cannot be written as UTF-8", field="text")
