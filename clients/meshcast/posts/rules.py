"""The rules of posts: what each column may hold, and which rows of a chunk break them."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.columns import show
from meshcast.posts.history import POSTS_MAX, POSTS_MIN, SETTLE_S
from meshcast.posts.table import COUNTS, POST_COLUMNS, Planned, PostTable

__all__ = ["UNIX_S_MAX", "UNIX_S_MIN", "Problem", "bad_values", "problems", "row_violations"]

UNIX_S_MIN = -62_135_596_800
"""0001-01-01, the first second that a protobuf Timestamp can hold."""
UNIX_S_MAX = 253_402_300_799
"""9999-12-31, the last one."""

Mask = NDArray[np.bool_]
Positions = NDArray[np.int64]

RULES: Mapping[str, str] = {
    "published_unix_s": "must be seconds between the years 1 and 9999 (milliseconds are not taken)",
    "hour_of_day": "must be a whole number from 0 to 23",
    "day_of_week": "must be a whole number from 0 = Monday to 6 = Sunday",
    "content_length": "must be 0 or more characters",
    "has_media": "must be 0 or 1",
    **dict.fromkeys(COUNTS, "must be a count of 0 or more, or left out when it is unknown"),
}


class Problem(NamedTuple):
    """A value that breaks its column's rule."""

    row: int
    """0-based position in the columns."""
    column: str
    """Name of the column."""
    description: str
    """The rule, and what was given."""


def bad_values(column: str, values: NDArray[np.float32] | NDArray[np.float64] | Positions) -> Mask:
    """Where a column's values break its rule; NaN (unknown) is allowed in the four counts alone.

    Args:
        column: one of `POST_COLUMNS`.
        values: shape (n,).
    """
    if column == "published_unix_s":
        good = (values >= UNIX_S_MIN) & (values <= UNIX_S_MAX)
    elif column == "has_media":
        good = (values == 0) | (values == 1)
    elif column in COUNTS:
        good = ((values >= 0) & (values < np.inf)) | np.isnan(values)
    elif column == "content_length":
        good = (values >= 0) & (values < np.inf)
    else:
        top = 23 if column == "hour_of_day" else 6
        good = (values >= 0) & (values <= top) & (np.floor(values) == values)
    # Comparisons with NaN are False, so that "not good" takes NaN in without a case of its own.
    bad: Mask = ~good
    return bad


def problems(posts: PostTable | Planned, *, most: int = 50) -> list[Problem]:
    """Values that break their rules, at most `most`, column by column."""
    found: list[Problem] = []
    for column in POST_COLUMNS:
        values = getattr(posts, column, None)
        if values is None:
            continue
        for row in np.flatnonzero(bad_values(column, values))[: most - len(found)].tolist():
            found.append(Problem(row, column, _describe(column, float(values[row]))))
    return found


def row_violations(
    history: PostTable,
    planned: Planned,
    start: Positions,
    stop: Positions,
    *,
    history_field: Callable[[int, str], str] = lambda post, column: f"history.{column}[{post}]",
    planned_field: Callable[[int, str], str] = lambda row, column: f"planned.{column}[{row}]",
    range_field: Callable[[int], str] = lambda row: f"history_start[{row}]",
    settle_s: int = SETTLE_S,
) -> dict[int, list[tuple[str, str]]]:
    """Rows of a question that break the contract, with the fields at fault; good rows are not named.

    Checks the plan's values, that the history's range is inside the table and of 20 to 100 posts, the values and the
    order of the posts in it, and that the newest of them is at least `settle_s` seconds older than the plan. All of it
    is vectorised; only bad rows cost Python work.

    Args:
        history: the settled posts that ranges point into.
        planned: the rows, m of them.
        start: shape (m,), int64, first post of each row's history.
        stop: shape (m,), int64, end of it (exclusive).
        history_field: names the field of a post's column in the caller's message.
        planned_field: names the field of a row's column in the caller's message.
        range_field: names the field of a row's range in the caller's message.
        settle_s: age from which counts are settled, in seconds.

    Returns:
        By 0-based row, the violations as (field, description); at most one a column and row.
    """
    found: dict[int, list[tuple[str, str]]] = {}
    for column in POST_COLUMNS[:5]:
        values = getattr(planned, column)
        for row in np.flatnonzero(bad_values(column, values)).tolist():
            found.setdefault(row, []).append((planned_field(row, column), _describe(column, float(values[row]))))
    n, posts = len(history), stop - start
    outside = (start < 0) | (stop > n) | (posts < POSTS_MIN) | (posts > POSTS_MAX)
    for row in np.flatnonzero(outside).tolist():
        if 0 <= start[row] and stop[row] <= n:
            text = f"the history must have {POSTS_MIN} to {POSTS_MAX} posts, has {max(int(posts[row]), 0)}"
        else:
            text = f"the range {start[row]} to {stop[row]} is outside of the {n} posts of the chunk"
        found.setdefault(row, []).append((range_field(row), text))
    if n == 0:
        return found
    inside = np.flatnonzero(~outside)
    first, last = start[inside], stop[inside]
    for column in POST_COLUMNS:
        bad = bad_values(column, getattr(history, column))
        if bad.any():
            at = np.flatnonzero(bad)
            k = np.searchsorted(at, first)
            for i in np.flatnonzero((k < len(at)) & (at[np.minimum(k, len(at) - 1)] < last)).tolist():
                post = int(at[k[i]])
                text = _describe(column, float(getattr(history, column)[post]))
                found.setdefault(int(inside[i]), []).append((history_field(post, column), text))
    times = history.published_unix_s
    falls = np.flatnonzero(times[1:] < times[:-1]) + 1
    if len(falls):
        k = np.searchsorted(falls, first, side="right")
        for i in np.flatnonzero((k < len(falls)) & (falls[np.minimum(k, len(falls) - 1)] < last)).tolist():
            place = history_field(int(falls[k[i]]), "published_unix_s")
            found.setdefault(int(inside[i]), []).append((place, "is older than the post before it; newest comes last"))
    gap = planned.published_unix_s[inside] - times[last - 1]
    for i in np.flatnonzero(gap < settle_s).tolist():
        place = history_field(int(last[i]) - 1, "published_unix_s")
        text = f"must be at least {settle_s // 3600} h older than the planned post, is {gap[i] / 3600:.4g} h older"
        found.setdefault(int(inside[i]), []).append((place, text))
    return found


def _describe(column: str, value: float) -> str:
    if value != value and column not in COUNTS:
        return f"is required: {RULES[column].removeprefix('must be ')}"
    return f"{RULES[column]}, is {show(value)}"
