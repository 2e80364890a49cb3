"""Questions to the predictor: posts, plans and histories as callers hold them, packed into the contract's messages."""

import itertools
import uuid
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, Self

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.client.content_questions import ContentLike
from meshcast.client.priority import PRIORITIES, Priority
from meshcast.client.series_questions import GrowthQuestion
from meshcast.posts import (
    POSTS_MAX,
    POSTS_MIN,
    PackedPosts,
    PostTable,
    table_from_columns,
)
from meshcast.rpc import InvalidInput

Part = Literal["engagement", "growth", "content", "drift"]
"""A part of a composite question: of the predictor, the forecaster, the analyzer and the drift service."""

PARTS: tuple[Part, ...] = ("engagement", "growth", "content", "drift")
"""Every part."""


class Columns(Protocol):
    """Named columns, as a pandas or polars DataFrame has them: `columns` lists the names, `[name]` gives the values."""

    @property
    def columns(self) -> Iterable[Any]:
        """Names of the columns."""

    def __getitem__(self, name: Any, /) -> Any:
        """Values of a column, as anything that numpy takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPost:
    """A post that is to be published.

    >>> from datetime import datetime
    >>> plan = PlannedPost(published_at=datetime.fromisoformat("2016-05-10T18:30:00-05:00"), content_length=120)
    >>> plan.values()
    (1462923000, 18, 1, 120, False)

    Args:
        published_at: when; without a zone it is taken as UTC.
        hour_of_day: 0 to 23 on the channel's own clock; None takes `published_at`'s.
        day_of_week: 0 = Monday to 6 on the channel's own clock; None takes `published_at`'s.
        content_length: characters of the text.
        has_media: whether it will carry a photo or a video.
    """

    published_at: datetime
    hour_of_day: int | None = None
    day_of_week: int | None = None
    content_length: int = 0
    has_media: bool = False

    @classmethod
    def of(cls, posts: PostTable, row: int) -> Self:
        """What was known of a post of a table before it was published."""
        return cls(
            published_at=datetime.fromtimestamp(int(posts.published_unix_s[row]), UTC),
            hour_of_day=int(posts.hour_of_day[row]),
            day_of_week=int(posts.day_of_week[row]),
            content_length=int(posts.content_length[row]),
            has_media=bool(posts.has_media[row]),
        )

    def values(self) -> "PlanValues":
        """Seconds since 1970 UTC, hour, weekday, length and media: the contract's columns, in their order."""
        at = self.published_at
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        return (
            int(at.timestamp() // 1),
            at.hour if self.hour_of_day is None else self.hour_of_day,
            at.weekday() if self.day_of_week is None else self.day_of_week,
            self.content_length,
            self.has_media,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """A post whose counts have settled. A count that is None is unknown, which is not zero.

    >>> from datetime import datetime
    >>> post = Post(published_at=datetime(2016, 5, 10, 18, 30), content_length=80, forwards=3, replies=1, reactions=40)

    Args:
        published_at: when; without a zone it is taken as UTC.
        channel: the channel's name; needed only where rows of several channels are given together.
        hour_of_day: 0 to 23 on the channel's own clock; None takes `published_at`'s.
        day_of_week: 0 = Monday to 6 on the channel's own clock; None takes `published_at`'s.
        content_length: characters of the text.
        has_media: whether it carries a photo or a video.
        views: times it was seen.
        forwards: times it was passed on.
        replies: answers to it.
        reactions: likes and other reactions.
    """

    published_at: datetime
    channel: str = ""
    hour_of_day: int | None = None
    day_of_week: int | None = None
    content_length: int = 0
    has_media: bool = False
    views: int | None = None
    forwards: int | None = None
    replies: int | None = None
    reactions: int | None = None


_POST_FIELDS = tuple(field.name for field in fields(Post))

PostRow = Post | Mapping[str, Any]
"""One post: a `Post`, or a mapping with the columns of a posts file."""

PostsLike = PostTable | Columns | Mapping[str, Any] | Iterable[PostRow]
"""Posts in any shape that a caller may hold: a table, columns by name, a DataFrame, or rows."""


def post_table(posts: PostsLike, *, source: str = "posts") -> PostTable:
    """Posts of any shape as a checked table, sorted by channel and time; a table is given back as it is.

    >>> len(post_table([{"published_at": "2016-05-10T18:30:00Z", "reactions": 40}]))
    1

    Args:
        posts: a table, a mapping of columns, anything with `columns` and `[name]` such as a DataFrame, or rows.
        source: what errors call it.

    Raises:
        InvalidInput: rows, columns and the way out are named.
    """
    if isinstance(posts, PostTable):
        return posts
    if isinstance(posts, Mapping):
        return table_from_columns({name: _column(values) for name, values in posts.items()}, source=source)
    if hasattr(posts, "columns") and hasattr(posts, "__getitem__"):
        return table_from_columns({str(name): _column(posts[name]) for name in posts.columns}, source=source)
    rows = list(posts)  # neither columns nor a table: an iterable of rows
    if not rows:
        raise InvalidInput(f"{source}: there are no posts; give at least one", field=source)
    names: dict[str, None] = {}
    for row in rows:
        if not isinstance(row, Post):
            if not isinstance(row, Mapping):
                raise InvalidInput(
                    f"{source}: a row must be a Post or a mapping, is {type(row).__name__}", field=source
                )
            names.update(dict.fromkeys(row))
        elif "reactions" not in names:
            names.update(dict.fromkeys(_POST_FIELDS))
    columns = {
        name: [getattr(row, name, None) if isinstance(row, Post) else row.get(name) for row in rows] for name in names
    }
    return table_from_columns(columns, source=source)


def _column(values: Any) -> Any:
    return values if isinstance(values, list | tuple) else np.asarray(values)


class History:
    """Settled posts of a channel, prepared for sending: cut as often as needed, packed once.

    Prepare one for each table or channel and give its cuts to many calls: calls that travel together then send the
    posts that they share once.

    >>> history = History([{"published_at": f"2016-05-{day:02}T12:00:00Z", "reactions": day} for day in range(1, 31)])
    >>> len(history), len(history[5:25])
    (30, 20)

    Args:
        posts: oldest first or in any order, of one channel; counts at least 24 hours old.

    Raises:
        InvalidInput: rows, columns and the way out are named.
    """

    __slots__ = ("_packed", "_start", "_stop")

    def __init__(self, posts: PostsLike) -> None:
        table = post_table(posts, source="history")
        self._packed = PackedPosts(table)
        self._start = 0
        self._stop = len(table)

    @classmethod
    def cut(cls, packed: PackedPosts, start: int, stop: int) -> "History":
        """The posts of a range of packed posts."""
        history = cls.__new__(cls)
        history._packed, history._start, history._stop = packed, start, stop
        return history

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, posts: slice) -> "History":
        """The posts of a slice of step 1, without a copy."""
        start, stop, step = posts.indices(self._stop - self._start)
        if step != 1:
            raise IndexError("a history is in order of time: only slices of step 1 can be taken")
        return History.cut(self._packed, self._start + start, self._start + max(start, stop))

    def span(self) -> tuple[PackedPosts, int, int]:
        """The packed posts it is a range of, and the range."""
        return self._packed, self._start, self._stop

    def message(self) -> pb.PostColumns:
        """The posts as a message."""
        return self._packed.message(self._start, self._stop)


HistoryLike = History | PostTable | Sequence[PostRow]
"""A history in any shape: prepared, a slice of a table, or posts."""


class Histories:
    """Prepared histories by the table they were cut from, so that slices of one table share one packing.

    Tables are held weakly: a packing goes when its table goes.
    """

    def __init__(self) -> None:
        self._packed: weakref.WeakKeyDictionary[PostTable, PackedPosts] = weakref.WeakKeyDictionary()

    def of(self, history: HistoryLike) -> History:
        """A history of any shape, prepared.

        Raises:
            InvalidInput: posts that are not packed yet break a rule; row and column are named.
        """
        if isinstance(history, History):
            return history
        if isinstance(history, PostTable):
            whole = history if history.origin is None else history.origin
            packed = self._packed.get(whole)
            if packed is None:
                packed = self._packed[whole] = PackedPosts(whole)
            return History.cut(packed, history.offset, history.offset + len(history))
        return History(history)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One row of a stream of questions.

    Args:
        planned: the planned post; None only in a composite question that does not ask about engagement.
        history: 20 to 100 settled posts of its channel; None likewise.
        request_id: unique to the question; the prediction's id follows from it. None: one is made.
        channel: the channel's name, for the prediction log.
        growth: the channel's series, for composite questions; the predictor does not look at it.
        content: the planned post's text, likewise.
        drift: subject of the drift service whose last closed window is judged, likewise, as in `predictor`.
        drift_everything: judge all that it has observed since its reference was set instead.
        parts: what a composite question asks for, likewise. Empty: those whose questions are given.
    """

    planned: PlannedPost | None = None
    history: HistoryLike | None = None
    request_id: str | None = None
    channel: str = ""
    growth: GrowthQuestion | None = None
    content: ContentLike | None = None
    drift: str | None = None
    drift_everything: bool = False
    parts: Sequence[Part] = ()

    def plan_and_history(self) -> tuple[PlannedPost, HistoryLike]:
        """What the predictor is asked.

        Raises:
            InvalidInput: one of the two is missing.
        """
        if self.planned is None or self.history is None:
            missing = "planned" if self.planned is None else "history"
            raise InvalidInput(f"{missing} is required to ask about engagement", field=missing)
        return self.planned, self.history

    def wanted_parts(self) -> tuple[Part, ...]:
        """The parts of a composite question, each with its question.

        Raises:
            InvalidInput: a part is unknown or lacks its question, or nothing is asked.
        """
        given = {
            "engagement": self.planned is not None or self.history is not None,
            "growth": self.growth is not None,
            "content": self.content is not None,
            "drift": self.drift is not None,
        }
        if isinstance(self.parts, str) or any(part not in given for part in self.parts):
            raise InvalidInput(f"parts must be a list of {', '.join(given)}, is {self.parts!r}", field="parts")
        wanted = tuple(self.parts) or tuple(part for part in PARTS if given[part])
        if not wanted:
            raise InvalidInput("nothing is asked: give planned and history, growth, content, or drift", field="parts")
        for part in ("growth", "content", "drift"):
            if part in wanted and not given[part]:
                raise InvalidInput(f"{part} is required to ask for the part {part}", field=part)
        return wanted


class RequestIds:
    """Ids for requests whose caller gave none, so that a retry of ours is stored once."""

    def __init__(self) -> None:
        self._prefix = uuid.uuid4().hex
        self._count = itertools.count()

    def next(self) -> str:
        """An id that no other request has."""
        return f"{self._prefix}-{next(self._count)}"


PlanValues = tuple[int, int, int, int, bool]
"""A plan as `PlannedPost.values` gives it."""


def checked_plan(planned: PlannedPost, history: History, request_id: str | None, channel: str) -> PlanValues:
    """The plan's values, when the question can be put into a message at all; the servers check every rule.

    Rows travel with those of other callers, so what would break the message they share is refused before.

    Raises:
        InvalidInput: the field at fault is named.
    """
    values = planned.values()
    for name, value in zip(("hour_of_day", "day_of_week", "content_length"), values[1:4], strict=True):
        if not isinstance(value, int | np.integer) or not -(2**31) <= value < 2**31:
            raise InvalidInput(f"planned.{name} must be a whole number, is {value!r}", field=f"planned.{name}")
    if not isinstance(values[4], int | np.integer | np.bool_) or values[4] not in (0, 1):
        raise InvalidInput(f"planned.has_media must be true or false, is {values[4]!r}", field="planned.has_media")
    if not POSTS_MIN <= len(history) <= POSTS_MAX:
        text = f"the history must have {POSTS_MIN} to {POSTS_MAX} settled posts, has {len(history)}"
        raise InvalidInput(f"{text}; give the newest of them", field="history")
    check_names(request_id, channel)
    return values


def check_names(request_id: str | None, channel: str = "") -> None:
    """Checks that a question's id and its channel's name can be put into a message.

    Raises:
        InvalidInput: the field at fault is named.
    """
    for name, text, most in (("request_id", request_id or "", 128), ("channel", channel, 256)):
        if not isinstance(text, str) or len(text) > most or (not text.isascii() and not _is_unicode(text)):
            raise InvalidInput(f"{name} must be text of at most {most} characters", field=name)


def _is_unicode(text: str) -> bool:
    """Whether text can be encoded; lone surrogates, as undecodable file names hold them, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def engagement_request(
    plan: PlanValues, history: History, *, request_id: str, channel: str, version: int, priority: Priority
) -> pb.PredictEngagementRequest:
    """One question as a message."""
    unix_s, hour, day, length, media = plan
    return pb.PredictEngagementRequest(
        request_id=request_id,
        channel=channel,
        planned=pb.PlannedPost(
            published_time=Timestamp(seconds=unix_s),
            hour_of_day=hour,
            day_of_week=day,
            content_length=length,
            has_media=media,
        ),
        history_columns=history.message(),
        model_version=version,
        priority=PRIORITIES[priority],
    )
