"""Names of the columns of a file of contents: which are known, which are meant, which are let be."""

import difflib
from collections.abc import Sequence

from meshcast.rpc.errors import InvalidInput

__all__ = ["KNOWN_COLUMNS", "check_names"]

COUNT_COLUMNS = ("forwards", "replies", "reactions")
"""Counts whose sum is the engagement."""

KNOWN_COLUMNS = (
    "text",
    "title",
    "channel",
    "published_at",
    "published_unix_s",
    "hour_of_day",
    "day_of_week",
    "content_length",
    "has_media",
    "outcome",
    *COUNT_COLUMNS,
)
"""Every column of a file of contents that is looked at."""

# What other exports call our columns; measured by nobody, so only used to suggest a name.
_OTHER_NAMES = {
    "text": ("message", "body", "content", "post", "caption", "tweet", "full_text", "status_message", "description"),
    "title": ("headline", "link_name", "link_title", "subject"),
    "channel": ("page", "page_id", "account", "author"),
    "published_at": ("created_at", "date", "datetime", "time", "timestamp", "published", "created", "posted_at"),
    "hour_of_day": ("hour",),
    "day_of_week": ("weekday", "dow"),
    "content_length": ("text_length",),
    "has_media": ("media", "photo", "video"),
    "outcome": ("engagement", "target"),
    "forwards": ("shares", "retweets", "retweet_count", "reposts"),
    "replies": ("comments", "comment_count", "num_comments", "answers"),
    "reactions": ("likes", "favorites", "favourites", "favorite_count", "num_reactions"),
}
_SUGGESTION = {other: name for name, others in _OTHER_NAMES.items() for other in others}


def check_names(names: Sequence[str], source: str) -> None:
    """Refuses a file without texts, a column that is there twice, and one that seems to be a known one misnamed.

    Other columns are let be: a file that somebody exported has many.

    Raises:
        InvalidInput: the columns at fault are named, with what each seems to be.
    """
    wrong: list[tuple[str, str]] = []
    found = ", ".join(repr(name) for name in names) or "none"
    meant = {name: near for name in names if (near := _near(name, names)) is not None}
    if "text" not in names and "title" not in names:
        other = next((name for name, near in meant.items() if near == "text"), None)
        hint = f"rename {other!r} to 'text'" if other is not None else f"the header holds {found}"
        if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
            hint = "separate the columns with commas"
        wrong.append(("text", f"the column is missing; {hint}"))
        if other is not None:
            del meant[other]
    for name, near in meant.items():
        wrong.append((name, f"unknown column; did you mean {near!r}? Rename it or leave it out"))
    wrong += [
        (name, "the column is there twice: leave one out")
        for name in sorted(set(names))
        if name in KNOWN_COLUMNS and names.count(name) > 1
    ]
    if wrong:
        column, text = wrong[0]
        raise InvalidInput(f"{source}, column {column!r}: {text}", violations=wrong, source=source, column=column)


def _near(name: str, names: Sequence[str]) -> str | None:
    """The known column that an unknown one seems to be, where that one is not there itself."""
    if name in KNOWN_COLUMNS:
        return None
    lower = name.strip().lower().replace(" ", "_")
    near = _SUGGESTION.get(lower) or next(iter(difflib.get_close_matches(lower, KNOWN_COLUMNS, n=1, cutoff=0.85)), None)
    if near is None or near in names:
        return None
    if near in COUNT_COLUMNS and "outcome" in names:
        return None  # the counts are not looked at then
    if near == "outcome" and any(count in names for count in COUNT_COLUMNS):
        return None  # it follows from the counts
    return near
