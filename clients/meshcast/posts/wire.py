"""Posts on the wire: tables to and from the packed columns and the messages of the contract."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.columns import column_bytes, pack_floats
from meshcast.posts.table import COUNTS, PLAN_COLUMNS, POST_COLUMNS, Planned, PostTable
from meshcast.rpc.errors import InvalidInput

__all__ = [
    "PackedPosts",
    "join_posts",
    "pack_planned",
    "pack_posts",
    "planned_from_columns",
    "planned_from_message",
    "posts_from_columns",
    "posts_from_messages",
]

_TIME = np.dtype("<i8")
_VALUE = np.dtype("<f4")
_WIDTHS = (8, *(4,) * (len(POST_COLUMNS) - 1))
_NAN = np.float32("nan")


class PackedPosts:
    """A table's columns as the bytes that go over the wire: views of its memory, of which ranges are cut without numpy.

    Attributes:
        posts: number of posts.
        columns: one view of bytes a column, in the order of `POST_COLUMNS`.
        known: for each of `COUNTS`, whether any post has it.
    """

    __slots__ = ("columns", "known", "posts")

    def __init__(self, table: PostTable) -> None:
        self.posts = len(table)
        arrays = [getattr(table, name) for name in POST_COLUMNS]
        kinds: tuple[np.dtype[Any], ...] = (_TIME, *(_VALUE,) * (len(POST_COLUMNS) - 1))
        self.columns: tuple[memoryview, ...] = tuple(
            column_bytes(array, kind) for array, kind in zip(arrays, kinds, strict=True)
        )
        self.known = tuple(bool(self.posts) and not bool(np.isnan(getattr(table, name)).all()) for name in COUNTS)

    def message(self, start: int, stop: int) -> pb.PostColumns:
        """The posts of a range as a message."""
        return join_posts([(self, start, stop)])


def join_posts(ranges: Sequence[tuple[PackedPosts, int, int]]) -> pb.PostColumns:
    """Ranges of packed posts, end to end, as one message; a count that no table of them knows is left empty."""
    parts: list[bytes] = []
    for column, width in enumerate(_WIDTHS):
        if column >= len(PLAN_COLUMNS):
            count = column - len(PLAN_COLUMNS)
            if not any(packed.known[count] for packed, _, _ in ranges):
                parts.append(b"")
                continue
        parts.append(b"".join([packed.columns[column][width * a : width * b] for packed, a, b in ranges]))
    return pb.PostColumns(
        posts=sum([b - a for _, a, b in ranges]),
        published_unix_s=parts[0],
        hour_of_day=parts[1],
        day_of_week=parts[2],
        content_length=parts[3],
        has_media=parts[4],
        views=parts[5],
        forwards=parts[6],
        replies=parts[7],
        reactions=parts[8],
    )


def pack_posts(table: PostTable) -> pb.PostColumns:
    """A table as a message; its channels are not part of it."""
    return PackedPosts(table).message(0, len(table))


def pack_planned(planned: Planned) -> pb.PlannedPostColumns:
    """Planned posts as a message."""
    return pb.PlannedPostColumns(
        posts=len(planned),
        published_unix_s=planned.published_unix_s.astype(_TIME, copy=False).tobytes(),
        hour_of_day=pack_floats(planned.hour_of_day),
        day_of_week=pack_floats(planned.day_of_week),
        content_length=pack_floats(planned.content_length),
        has_media=pack_floats(planned.has_media),
    )


def posts_from_columns(columns: pb.PostColumns, field: str = "history") -> PostTable:
    """A table from packed columns, without a copy or a channel's name. Values are checked by `row_violations`.

    Args:
        columns: the message.
        field: its path in the request, for errors.

    Raises:
        InvalidInput: a column is not of `posts` values; every such column is named.
    """
    arrays = _columns(columns, POST_COLUMNS, field)
    return PostTable(channel=_nameless(columns.posts), **arrays)


def planned_from_columns(columns: pb.PlannedPostColumns, field: str = "planned") -> Planned:
    """Planned posts from packed columns, without a copy; values are not checked, see `row_violations`.

    Raises:
        InvalidInput: a column is not of `posts` values; every such column is named.
    """
    return Planned(**_columns(columns, PLAN_COLUMNS, field))


def posts_from_messages(posts: Sequence[pb.Post], field: str = "history") -> PostTable:
    """A table from post messages, in their order, without a channel's name. Values are checked by `row_violations`.

    An unset hour or weekday becomes NaN, which `row_violations` refuses as missing.

    Raises:
        InvalidInput: a post has no time.
    """
    wrong = [
        (f"{field}[{i}].published_time", "is required") for i, p in enumerate(posts) if not p.HasField("published_time")
    ]
    if wrong:
        raise InvalidInput(f"{wrong[0][0]} {wrong[0][1]}", violations=wrong[:50])
    arrays = _plan_arrays(posts) | {name: _optional(posts, name) for name in COUNTS}
    return PostTable(channel=_nameless(len(posts)), **arrays)


def planned_from_message(post: pb.PlannedPost, field: str = "planned") -> Planned:
    """One planned post as columns of length 1; values are not checked, see `row_violations`.

    Raises:
        InvalidInput: it has no time.
    """
    if not post.HasField("published_time"):
        raise InvalidInput(f"{field}.published_time is required", field=f"{field}.published_time")
    return Planned(**_plan_arrays([post]))


def _plan_arrays(posts: Sequence[pb.Post] | Sequence[pb.PlannedPost]) -> dict[str, Any]:
    return {
        "published_unix_s": np.array([p.published_time.seconds for p in posts], dtype=np.int64),
        "hour_of_day": _optional(posts, "hour_of_day"),
        "day_of_week": _optional(posts, "day_of_week"),
        "content_length": np.array([p.content_length for p in posts], dtype=np.float32),
        "has_media": np.array([p.has_media for p in posts], dtype=np.float32),
    }


def _optional(posts: Sequence[Any], name: str) -> NDArray[np.float32]:
    values = np.array([getattr(p, name) for p in posts], dtype=np.float32)
    values[np.array([not p.HasField(name) for p in posts], dtype=np.bool_)] = _NAN
    return values


def _columns(columns: pb.PostColumns | pb.PlannedPostColumns, names: Sequence[str], field: str) -> dict[str, Any]:
    n = columns.posts
    arrays: dict[str, Any] = {}
    wrong: list[tuple[str, str]] = []
    for name in names:
        data: bytes = getattr(columns, name)
        kind = _TIME if name == "published_unix_s" else _VALUE
        if not data and name in COUNTS and n >= 0:
            arrays[name] = np.full(n, _NAN)
        elif len(data) != kind.itemsize * n:
            what = f"{kind.itemsize * n} bytes for {n} posts" if n >= 0 else "a number of posts of 0 or more"
            wrong.append((f"{field}.{name}", f"must be {what}, is {len(data)} bytes (posts = {n})"))
        else:
            arrays[name] = np.frombuffer(data, dtype=kind)
    if wrong:
        raise InvalidInput(f"{wrong[0][0]} {wrong[0][1]}", violations=wrong)
    return arrays


def _nameless(posts: int) -> NDArray[np.str_]:
    return np.broadcast_to(np.zeros(1, dtype="<U1"), (posts,))
