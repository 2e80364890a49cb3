"""Features of a planned post: raw settled posts and the plan go in, the tensors of the predictor's graph come out.

Training and serving call the one function here (`tensors`). It scales nothing: standardisation, the subtraction of the
channel's median and its add-back are inside the graph, so every number below keeps a meaning that a person can check.
A row's tensors depend on its own history and plan alone, bit for bit, whatever else is in the chunk.
"""

import numpy as np
from numpy.typing import NDArray

from meshcast.posts import Planned, PostTable, engagement
from meshcast.rpc.errors import InvalidInput

__all__ = [
    "HISTORY_FEATURES",
    "INPUTS",
    "PLANNED_FEATURES",
    "POSTS_MIN",
    "RECENT",
    "STEPS",
    "WINDOW",
    "Planned",
    "log_engagement",
    "recent_median",
    "tensors",
    "usable_posts",
]

Floats = NDArray[np.float32]
Positions = NDArray[np.int64]

INPUTS = ("history", "mask", "planned")
"""Names of the graph's inputs, in its order."""

STEPS = 24
"""Settled posts that the sequence part of the model sees."""

RECENT = 20
"""Posts behind `recent_median`, the level that confidence is measured against."""

WINDOW = 100
"""Settled posts that the channel's summaries look back over; of a longer history the newest count."""

POSTS_MIN = 20
"""Fewest posts with a count that a row may have: fewer leave `recent_median` undefined."""

_COUNTS = ("views", "forwards", "replies", "reactions")

HISTORY_FEATURES: tuple[str, ...] = (
    "log_engagement",
    *(f"log_{count}" for count in _COUNTS),
    *(f"{count}_missing" for count in _COUNTS),
    "hour_of_day",
    "day_of_week",
    "log_content_length",
    "has_media",
    "log_age_hours",
)
"""Columns of `history`, a row per settled post, newest last; `log_` is log1p, a missing count 0 with `_missing` 1."""

_LEVELS = (0.025, 0.10, 0.25, 0.50, 0.75, 0.90, 0.975)
_RESEMBLANCES = ("media", "hour", "weekday", "length", "plan", "slot", "recent_plan")

PLANNED_FEATURES: tuple[str, ...] = (
    "hour_of_day",
    "day_of_week",
    "log_content_length",
    "has_media",
    "log_hours_since_last",
    "log_hours_spanned",
    "posts_usable",
    *(f"{count}_missing_share" for count in _COUNTS),
    "recent_median",
    "recent_mean",
    "recent_spread",
    "newest_mean",
    "window_mean",
    "window_spread",
    *(f"window_quantile_{round(1000 * level):03d}" for level in _LEVELS),
    "media_share",
    "mean_log_content_length",
    *(f"{name}_effect" for name in _RESEMBLANCES),
    *(f"{name}_weight" for name in _RESEMBLANCES),
)
"""Columns of `planned`: the plan, then summaries of the channel's last `WINDOW` settled posts.

- `recent_` is over the last 20, `newest_` over the last 5, `window_` over all; levels are log1p(engagement), a spread
  is a standard deviation around the mean (`recent_`) or the median (`window_`).
- `x_effect` is how far posts that resemble the plan in x lay above the window's median: the weighted mean of their
  residuals, drawn to 0 by one post's weight; `x_weight` is log1p of the weights' sum. Posts resemble in media (the
  same), hour (within an hour or so, around the clock), weekday (the same), length (within a quarter in log), plan
  (media, hour and length at once), slot (hour, and both or neither at a weekend) and recent_plan (plan, fading over 20
  posts).
"""

_HOUR_WIDTH = 1.0
_LENGTH_WIDTH = 0.25
_FADING = np.exp(-np.arange(WINDOW - 1, -1, -1) / 20).astype(np.float32)
_BACK = np.arange(-WINDOW, 0)
_NEWEST = 5


def log_engagement(posts: PostTable) -> Floats:
    """Level of posts: log1p of their engagement.

    Returns:
        Shape (n,), float32, log1p(count); NaN where none of the three is known.
    """
    return np.log1p(engagement(posts))


def usable_posts(posts: PostTable, start: Positions, stop: Positions) -> Positions:
    """Posts of each history that have at least one of forwards, replies and reactions; the others are skipped.

    Args:
        posts: the settled posts, (n,).
        start: shape (m,), first post of each history.
        stop: shape (m,), end of it (exclusive).

    Returns:
        Shape (m,), int64.
    """
    before = _counted_before(~np.isnan(log_engagement(posts)))
    return before[stop] - before[start]


def recent_median(posts: PostTable, start: Positions, stop: Positions) -> Floats:
    """Median engagement of the last 20 usable settled posts: what confidence is against.

    Args:
        posts: the settled posts, (n,).
        start: shape (m,), first post of each history.
        stop: shape (m,), end of it (exclusive).

    Returns:
        Shape (m,), float32, log1p(count).

    Raises:
        InvalidInput: as `tensors`.
    """
    level, _, _, stop = _usable(posts, start, stop)
    return _middle_of_recent(level[stop[:, None] + _BACK[-RECENT:]])


def tensors(posts: PostTable, planned: Planned, start: Positions, stop: Positions) -> dict[str, Floats]:
    """Inputs of the predictor's graph for planned posts: the one way from raw posts to tensors, here and in training.

    Posts none of whose forwards, replies and reactions is known are skipped: they say nothing about engagement. Values
    are taken as they are (`meshcast.posts` has their rules), and a history is not checked to be settled and in order.

    Args:
        posts: the settled posts that histories point into, (n,).
        planned: the planned posts, (m,).
        start: shape (m,), int64, first post of each history.
        stop: shape (m,), int64, end of it (exclusive), the newest post being at `stop - 1`.

    Returns:
        `history` float32 (m, 24, F), columns `HISTORY_FEATURES`, padded on the left with zeros; `mask` float32 (m, 24),
        1 = a post; `planned` float32 (m, P), columns `PLANNED_FEATURES`.

    Raises:
        InvalidInput: a history lies outside of the table, or has fewer than 20 posts with a count.
    """
    level, usable, start, stop = _usable(posts, start, stop)
    hour, day, media = posts.hour_of_day[usable], posts.day_of_week[usable], posts.has_media[usable]
    length = np.log1p(posts.content_length[usable])
    when = posts.published_unix_s[usable]
    counts = [getattr(posts, name)[usable] for name in _COUNTS]
    missing = [np.isnan(column) for column in counts]

    at = stop[:, None] + _BACK
    real = at >= start[:, None]
    at = np.maximum(at, start[:, None])
    weight = real.astype(np.float32)
    n = np.minimum(stop - start, WINDOW)
    size = n.astype(np.float32)

    age = (planned.published_unix_s[:, None] - when[at[:, -STEPS:]]).astype(np.float32) / np.float32(3600)
    np.maximum(age, np.float32(0), out=age)
    span = (when[stop - 1] - when[stop - n]).astype(np.float32) / np.float32(3600)
    table = np.stack(
        [level, *(np.log1p(np.where(m, np.float32(0), c)) for c, m in zip(counts, missing, strict=True))]
        + [m.astype(np.float32) for m in missing]
        + [hour, day, length, media, np.zeros_like(level)],
        axis=1,
    )
    history = table[at[:, -STEPS:]]
    history[:, :, -1] = np.log1p(age)
    mask = weight[:, -STEPS:].copy()
    history *= mask[:, :, None]

    levels = level[at]
    recent = np.ascontiguousarray(levels[:, -RECENT:])
    ordered = np.sort(np.where(real, levels, np.float32(np.inf)), axis=1)
    quantiles = [_quantile(ordered, n, q) for q in _LEVELS]
    median = quantiles[_LEVELS.index(0.50)]
    residual = (levels - median[:, None]) * weight
    mean = residual.sum(axis=1) / size
    spread = np.sqrt((residual * residual).sum(axis=1) / size)

    lengths = length[at]
    medias = media[at]
    same = (medias == planned.has_media[:, None]) * weight
    apart = np.abs(hour[at] - planned.hour_of_day[:, None])
    near = weight / (1 + (np.minimum(apart, 24 - apart) / np.float32(_HOUR_WIDTH)) ** 2)
    alike = weight / (1 + ((lengths - np.log1p(planned.content_length)[:, None]) / np.float32(_LENGTH_WIDTH)) ** 2)
    days = day[at]
    weekday = (days == planned.day_of_week[:, None]) * weight
    plan = same * near * alike
    slot = ((days >= 5) == (planned.day_of_week >= 5)[:, None]) * near
    sums, effects = [], []
    for resemblance in (same, near, weekday, alike, plan, slot, plan * _FADING):
        total = resemblance.sum(axis=1)
        sums.append(np.log1p(total))
        effects.append((resemblance * residual).sum(axis=1) / (total + 1))

    columns = [
        planned.hour_of_day,
        planned.day_of_week,
        np.log1p(planned.content_length),
        planned.has_media,
        np.log1p(age[:, -1]),
        np.log1p(np.maximum(span, np.float32(0))),
        size,
        *(_share(column, at, weight, size) for column in missing),
        _middle_of_recent(recent),
        recent.mean(axis=1),
        recent.std(axis=1),
        recent[:, -_NEWEST:].sum(axis=1) / np.float32(_NEWEST),
        median + mean,
        spread,
        *quantiles,
        (medias * weight).sum(axis=1) / size,
        (lengths * weight).sum(axis=1) / size,
        *effects,
        *sums,
    ]
    return {"history": history, "mask": mask, "planned": np.stack(columns, axis=1).astype(np.float32, copy=False)}


def _usable(
    posts: PostTable, start: Positions, stop: Positions
) -> tuple[Floats, Positions | slice, Positions, Positions]:
    """Levels of the usable posts, which posts they are, and the histories as ranges among them."""
    n = len(posts.forwards)
    outside = (start < 0) | (stop > n) | (start > stop)
    if outside.any():
        row = int(np.argmax(outside))
        raise InvalidInput(
            f"the history {start[row]} to {stop[row]} is outside of the {n} posts", field=f"start[{row}]"
        )
    level = log_engagement(posts)
    usable: Positions | slice = slice(None)
    known = ~np.isnan(level)
    if not known.all():
        before = _counted_before(known)
        start, stop, usable = before[start], before[stop], np.flatnonzero(known)
        level = level[usable]
    short = stop - start < POSTS_MIN
    if short.any():
        row = int(np.argmax(short))
        raise InvalidInput(
            f"a history needs {POSTS_MIN} posts with at least one of forwards, replies and reactions, row {row} has "
            f"{stop[row] - start[row]}",
            field=f"start[{row}]",
        )
    return level, usable, start, stop


def _counted_before(flags: NDArray[np.bool_]) -> Positions:
    before = np.zeros(len(flags) + 1, dtype=np.int64)
    np.cumsum(flags, out=before[1:])
    return before


def _middle_of_recent(levels: Floats) -> Floats:
    ordered = np.sort(levels, axis=1)
    middle: Floats = (ordered[:, RECENT // 2 - 1] + ordered[:, RECENT // 2]) * np.float32(0.5)
    return middle


def _quantile(ordered: Floats, n: Positions, level: float) -> Floats:
    """Quantile of the first n of each sorted row, by linear interpolation."""
    position = (n - 1) * level
    below = position.astype(np.int64)
    rows = np.arange(len(n))
    low, high = ordered[rows, below], ordered[rows, np.minimum(below + 1, n - 1)]
    value: Floats = low + (high - low) * (position - below).astype(np.float32)
    return value


def _share(flags: NDArray[np.bool_], at: Positions, weight: Floats, size: Floats) -> Floats:
    if not flags.any():
        return np.zeros_like(size)
    if flags.all():
        return np.ones_like(size)
    share: Floats = (flags[at] * weight).sum(axis=1) / size
    return share
