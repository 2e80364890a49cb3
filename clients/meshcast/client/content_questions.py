"""Questions to the analyzer: posts' texts as callers hold them, packed into the contract's messages."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.client.priority import PRIORITIES
from meshcast.contents import (
    LENGTH_MAX,
    OUTCOME_MAX,
    UNKNOWN_DAY,
    UNKNOWN_HOUR,
    UNKNOWN_TIME,
    ContentRows,
    Contents,
    content_message,
    size_fault,
    surrogate_fault,
)
from meshcast.contents.rules import RULES
from meshcast.rpc import InvalidInput

_REQUEST_ID_MAX = 128  # characters, of the contract


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A post as its readers see it, published or planned.

    >>> Content(text="We won!", has_media=True).has_media
    True

    Args:
        text: the text.
        title: title of what the post links to; empty: it links to nothing.
        content_length: characters of the whole text, where `text` is only its beginning; None: the length of `text`.
        has_media: whether it carries a photo or a video.
        hour_of_day: 0 to 23 on the channel's own clock; None: unknown.
    """

    text: str
    title: str = ""
    content_length: int | None = None
    has_media: bool = False
    hour_of_day: int | None = None


ContentLike = str | Content
"""One post: its text alone, or with what else is known."""

ContentsLike = Contents | Iterable[ContentLike]
"""Posts in any shape: a table, or rows; a column of texts, as a pandas Series, is rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentOutcome:
    """A post whose outcome is known.

    Args:
        content: the post.
        outcome: how well it did, in any unit, as in log1p(engagement); None: unknown, the row only helps find topics.
        published_at: when; without a zone it is taken as UTC. None: unknown.
        day_of_week: 0 = Monday to 6 on the channel's own clock; None takes `published_at`'s.
        channel: the channel; outcomes are compared within it.
    """

    content: ContentLike
    outcome: float | None = None
    published_at: datetime | None = None
    day_of_week: int | None = None
    channel: str = ""


OutcomesLike = ContentRows | Iterable[ContentOutcome]
"""Posts with outcomes: a table, or rows."""


def content_table(contents: ContentsLike) -> Contents:
    """Posts of any shape as a table; a table is given back as it is.

    Raises:
        InvalidInput: a row is no post, or one of its values is none; the row is named.
    """
    if isinstance(contents, Contents):
        return contents
    if isinstance(contents, str):
        raise InvalidInput("contents must be several posts, is one text; put it into a list", field="contents")
    return table_of([checked_content(one, f"contents[{row}]") for row, one in enumerate(contents)])


def table_of(rows: Sequence[Content]) -> Contents:
    """Checked posts as a table."""
    return Contents.of(
        [row.text for row in rows],
        title=[row.title for row in rows],
        content_length=[len(row.text) if row.content_length is None else row.content_length for row in rows],
        has_media=[row.has_media for row in rows],
        hour_of_day=[UNKNOWN_HOUR if row.hour_of_day is None else row.hour_of_day for row in rows],
    )


def content_of(content: ContentLike, field: str = "content") -> pb.Content:
    """One post as a message.

    Args:
        content: the post.
        field: its path in the request, for errors.

    Raises:
        InvalidInput: it is no post, or a value of it cannot be sent; the field is named.
    """
    return message_of(checked_content(content, field))


def message_of(content: Content) -> pb.Content:
    """A checked post as a message."""
    return pb.Content(
        text=content.text,
        title=content.title,
        content_length=content.content_length,
        has_media=bool(content.has_media),
        hour_of_day=content.hour_of_day,
    )


def outcome_messages(rows: OutcomesLike) -> Iterator[pb.ContentOutcome]:
    """Posts with outcomes as messages.

    Raises:
        InvalidInput: a row is no post, or a value of it cannot be sent; the row is named.
    """
    if isinstance(rows, ContentRows):
        return (_row_message(rows, row) for row in range(len(rows)))
    return (_outcome_message(row, f"rows[{at}]") for at, row in enumerate(rows))


def size_of(text: str) -> int:
    """Bytes of a text in UTF-8, lone surrogates included."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def check_text(text: object, field: str) -> str:
    """The text, when it can be put into a message at all; the servers check every other rule.

    Raises:
        InvalidInput: it is no text, too long, or holds a lone surrogate; the field is named.
    """
    if not isinstance(text, str):
        raise InvalidInput(f"{field} must be a text, is {type(text).__name__}", field=field)
    if fault := size_fault(text):
        raise InvalidInput(f"{field} {fault}", field=field)
    if fault := surrogate_fault(text):
        way = "replace it, as in text.encode('utf-8', 'replace').decode()"
        raise InvalidInput(f"{field}: {fault}; {way}", field=field)
    return text


def check_content_texts(text: str, title: str, field: str) -> None:
    """Refuses a text with its title that cannot be sent.

    Raises:
        InvalidInput: as `check_text`.
    """
    check_text(text, f"{field}.text")
    check_text(title, f"{field}.title")
    if fault := size_fault(text, title):
        raise InvalidInput(f"{field}.text {fault}", field=f"{field}.text")


def check_asking(request_id: str | None, version: int, priority: str) -> None:
    """Refuses what cannot be put into a message of what comes with a question; the servers check every other rule.

    Raises:
        InvalidInput: the field is named.
    """
    if len(check_text("" if request_id is None else request_id, "request_id")) > _REQUEST_ID_MAX:
        raise InvalidInput(f"request_id must be text of at most {_REQUEST_ID_MAX} characters", field="request_id")
    check_version(version, "version")
    if priority not in PRIORITIES:
        raise InvalidInput(f"priority must be one of {', '.join(PRIORITIES)}, is {priority!r}", field="priority")


def check_version(version: object, field: str) -> None:
    """Refuses a version that is no int64.

    Raises:
        InvalidInput: the field is named.
    """
    if not isinstance(version, int | np.integer) or not -(2**63) <= version < 2**63:
        raise InvalidInput(f"{field} must be a whole number, is {version!r}", field=field)


def checked_content(content: object, field: str) -> Content:
    """One post, when it can be put into a message at all; the servers check every other rule.

    Raises:
        InvalidInput: it is no post, or a value of it cannot be sent; the field is named.
    """
    row = Content(text=content) if isinstance(content, str) else content
    if not isinstance(row, Content):
        raise InvalidInput(f"{field} must be a text or a Content, is {type(content).__name__}", field=field)
    check_content_texts(row.text, row.title, field)
    for name, value, most in (
        ("content_length", row.content_length, LENGTH_MAX),
        ("hour_of_day", row.hour_of_day, 999),
    ):
        if value is not None and (not isinstance(value, int | np.integer) or not 0 <= value <= most):
            text = f"{field}.{name} {RULES[name]}, or None, is {value!r}"
            raise InvalidInput(text, field=f"{field}.{name}")
    media: object = row.has_media
    if not isinstance(media, bool | int | np.integer | np.bool_) or media not in (0, 1):
        raise InvalidInput(f"{field}.has_media must be true or false, is {media!r}", field=f"{field}.has_media")
    return row


def _outcome_message(row: object, field: str) -> pb.ContentOutcome:
    if not isinstance(row, ContentOutcome):
        raise InvalidInput(f"{field} must be a ContentOutcome, is {type(row).__name__}", field=field)
    at, day = row.published_at, row.day_of_week
    if at is not None and not isinstance(at, datetime):
        text = f"{field}.published_at must be a datetime or None, is {type(at).__name__}"
        raise InvalidInput(text, field=f"{field}.published_at")
    if at is not None and at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    if day is None and at is not None:
        day = at.weekday()
    if day is not None and (not isinstance(day, int | np.integer) or not 0 <= day <= 6):
        text = f"{field}.day_of_week must be a whole number from 0 = Monday to 6 = Sunday, or None, is {day!r}"
        raise InvalidInput(text, field=f"{field}.day_of_week")
    return pb.ContentOutcome(
        content=content_of(row.content, f"{field}.content"),
        outcome=_outcome(row.outcome, f"{field}.outcome"),
        published_time=None if at is None else Timestamp(seconds=int(at.timestamp() // 1)),
        day_of_week=day,
        channel=check_text(row.channel, f"{field}.channel"),
    )


def _outcome(value: object, field: str) -> float | None:
    """An outcome as a message holds it: None where it is unknown."""
    if value is None:
        return None
    is_number = isinstance(value, int | float | np.integer | np.floating)
    if is_number and value != value:
        return None
    if not is_number or not -OUTCOME_MAX <= value <= OUTCOME_MAX:  # type: ignore[operator]  # it is a number
        text = f"{field} must be a number from -{OUTCOME_MAX:g} to {OUTCOME_MAX:g}, or None, is {value!r}"
        raise InvalidInput(text, field=field)
    return float(value)  # type: ignore[arg-type]  # it is a number


def _row_message(rows: ContentRows, row: int) -> pb.ContentOutcome:
    unix_s = int(rows.published_unix_s[row])
    day = int(rows.day_of_week[row])
    return pb.ContentOutcome(
        content=content_message(rows.contents, row),
        outcome=_outcome(float(rows.outcome[row]), f"rows[{row}].outcome"),
        published_time=None if unix_s == UNKNOWN_TIME else Timestamp(seconds=unix_s),
        day_of_week=None if day == UNKNOWN_DAY else day,
        channel=check_text(str(rows.channel[row]), f"rows[{row}].channel"),
    )
