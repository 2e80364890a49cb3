"""Questions to the analyzer: posts' texts as callers hold them, packed into the contract's messages."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.contents import BYTES_MAX, UNKNOWN_DAY, UNKNOWN_HOUR, UNKNOWN_TIME, ContentRows, Contents, content_message
from meshcast.rpc import InvalidInput


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


def content_table(contents: ContentsLike, *, first: int = 0) -> Contents:
    """Posts of any shape as a table; a table is given back as it is.

    Args:
        contents: the posts.
        first: number of the first of them, for errors.

    Raises:
        InvalidInput: a row is no post, or one of its values is none; the row is named.
    """
    if isinstance(contents, Contents):
        return contents
    if isinstance(contents, str):
        raise InvalidInput("contents must be several posts, is one text; put it into a list", field="contents")
    rows = [_checked(one, f"contents[{first + row}]") for row, one in enumerate(contents)]
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
    row = _checked(content, field)
    try:
        return content_message(content_table([row]), 0)
    except InvalidInput as error:  # of a lone surrogate: named as a row of a table
        raise InvalidInput(f"{field}.{error.message.replace('[0]', '', 1)}", field=field) from error


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
    if 4 * len(text) > BYTES_MAX and (size := size_of(text)) > BYTES_MAX:
        raise InvalidInput(f"{field} has {size} bytes of UTF-8, at most {BYTES_MAX}; give the beginning", field=field)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            why = f"{field}, character {error.start}, is a lone surrogate, which UTF-8 has no bytes for"
            raise InvalidInput(
                f"{why}; replace it, as in text.encode('utf-8', 'replace').decode()", field=field
            ) from error
    return text


def _checked(content: object, field: str) -> Content:
    row = Content(text=content) if isinstance(content, str) else content
    if not isinstance(row, Content):
        raise InvalidInput(f"{field} must be a text or a Content, is {type(content).__name__}", field=field)
    check_text(row.text, f"{field}.text")
    check_text(row.title, f"{field}.title")
    for name, value in (("content_length", row.content_length), ("hour_of_day", row.hour_of_day)):
        if value is not None and (not isinstance(value, int | np.integer) or not 0 <= value < 2**31):
            text = f"{field}.{name} must be a whole number of 0 or more, or None, is {value!r}"
            raise InvalidInput(text, field=f"{field}.{name}")
    return row


def _outcome_message(row: object, field: str) -> pb.ContentOutcome:
    if not isinstance(row, ContentOutcome):
        raise InvalidInput(f"{field} must be a ContentOutcome, is {type(row).__name__}", field=field)
    at, day = row.published_at, row.day_of_week
    if at is not None and at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    if day is None and at is not None:
        day = at.weekday()
    return pb.ContentOutcome(
        content=content_of(row.content, f"{field}.content"),
        outcome=None if row.outcome is None or row.outcome != row.outcome else row.outcome,
        published_time=None if at is None else Timestamp(seconds=int(at.timestamp() // 1)),
        day_of_week=day,
        channel=row.channel,
    )


def _row_message(rows: ContentRows, row: int) -> pb.ContentOutcome:
    outcome, unix_s = float(rows.outcome[row]), int(rows.published_unix_s[row])
    day = int(rows.day_of_week[row])
    return pb.ContentOutcome(
        content=content_message(rows.contents, row),
        outcome=None if outcome != outcome else outcome,
        published_time=None if unix_s == UNKNOWN_TIME else Timestamp(seconds=unix_s),
        day_of_week=None if day == UNKNOWN_DAY else day,
        channel=str(rows.channel[row]),
    )
