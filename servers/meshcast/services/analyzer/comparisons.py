"""Comparisons: everything that some texts have and others have not, found without any look at the outcomes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from meshcast.contents import ContentRows
from meshcast.services.analyzer.topics import Tree
from meshcast.services.analyzer.traits import Traits, traits

__all__ = ["ClaimKind", "Comparison", "comparisons"]

Mask = NDArray[np.bool_]
ClaimKind = Literal["topic", "text", "media", "hour", "weekday"]

_TEXT_READ_MAX = 5_000  # characters of a text that are looked at
_HOURS = 4  # of a part of the day
_FELT = 0.05  # compound sentiment from which VADER's authors call a text positive
_SHOUTED = 0.3
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_IN_TEXT: Sequence[tuple[str, str, Callable[[Traits], bool]]] = (
    ("has a link", "with a link in the text", lambda found: bool(found.links)),
    ("has a hashtag", "with a hashtag", lambda found: bool(found.hashtags)),
    ("mentions an account", "that mention an account", lambda found: bool(found.mentions)),
    ("has an emoji", "with an emoji", lambda found: bool(found.emoji)),
    ("asks a question", "that ask a question", lambda found: found.question_marks > 0),
    ("has an exclamation mark", "with an exclamation mark", lambda found: found.exclamation_marks > 0),
    ("has a number", "with a number", lambda found: found.digit_share > 0),
    ("has many capitals", "with many capitals", lambda found: found.upper_share > _SHOUTED),
    ("sounds positive", "that sound positive", lambda found: _compound(found) >= _FELT),
    ("sounds negative", "that sound negative", lambda found: _compound(found) <= -_FELT),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """Something that some rows have and others have not."""

    kind: ClaimKind
    """What it is about."""
    subject: str
    """What exactly, as in `topic 3` or `has a link`."""
    posts: str
    """What follows `Posts` in a sentence about the rows that have it."""
    has_it: Mask
    """Shape (n,), True where a row has it."""
    branch: int | None = None
    """Branch of the tree of topics; then subject and posts are named when it is known which branches are topics."""


def comparisons(rows: ContentRows, tree: Tree, check: Callable[[], None]) -> list[Comparison]:
    """Everything that is compared: topics, what is in the texts, media, parts of the day and days of the week.

    Args:
        rows: n of them. A row whose hour or day is not known counts as one that has it not.
        tree: of their topics; every branch of it is compared.
        check: called between steps; raises to give up.
    """
    return [*_of_topics(tree), *_of_texts(rows, check), *_of_times(rows)]


def _of_topics(tree: Tree) -> list[Comparison]:
    return [
        Comparison(kind="topic", subject="", posts="", has_it=tree.has(branch), branch=branch)
        for branch in range(len(tree.branches))
    ]


def _of_texts(rows: ContentRows, check: Callable[[], None]) -> list[Comparison]:
    has = np.zeros((len(_IN_TEXT), len(rows)), dtype=np.bool_)
    for row, (text, title) in enumerate(zip(rows.contents.text, rows.contents.title, strict=True)):
        if row % 100 == 0:
            check()
        in_row = traits(text[:_TEXT_READ_MAX], title[:_TEXT_READ_MAX])
        has[:, row] = [test(in_row) for _, _, test in _IN_TEXT]
    length = rows.contents.content_length
    short, long = (int(edge) for edge in np.quantile(length, [1 / 3, 2 / 3]))
    compared = [
        Comparison(kind="text", subject=subject, posts=posts, has_it=has[at])
        for at, (subject, posts, _) in enumerate(_IN_TEXT)
    ]
    for subject, posts, has_it in (
        (f"is short (up to {short} characters)", f"of up to {short} characters", length <= short),
        (f"is long (over {long} characters)", f"of over {long} characters", length > long),
    ):
        compared.append(Comparison(kind="text", subject=subject, posts=posts, has_it=has_it))
    media = "a photo or a video"
    compared.append(
        Comparison(kind="media", subject=f"has {media}", posts=f"with {media}", has_it=rows.contents.has_media)
    )
    return compared


def _of_times(rows: ContentRows) -> list[Comparison]:
    compared = []
    for first in range(0, 24, _HOURS):
        from_, to = f"{first:02d}:00", f"{first + _HOURS:02d}:00"
        hour = rows.contents.hour_of_day
        has_it = (hour >= first) & (hour < first + _HOURS)
        compared.append(
            Comparison(kind="hour", subject=f"{from_}-{to}", posts=f"published from {from_} to {to}", has_it=has_it)
        )
    for number, name in enumerate(_WEEKDAYS):
        has_it = rows.day_of_week == number
        compared.append(Comparison(kind="weekday", subject=name, posts=f"published on a {name}", has_it=has_it))
    return compared


def _compound(found: Traits) -> float:
    return found.sentiment.compound if found.sentiment else 0.0
