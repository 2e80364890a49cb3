"""How probabilities of texts held up against outcomes: what was to be judged, and a reliability diagram of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshcast.cli.score import BASELINES, baselines
from meshcast.contents import UNKNOWN_TIME, ContentRows
from meshcast.posts import POSTS_MIN, PostTable, settled_history

__all__ = ["Bin", "Calibration", "Truths", "calibration", "truths"]

Floats = NDArray[np.float64]

_ROWS_MIN = 100  # below, not even three bins of thirty rows say anything
_BIN_ROWS_MIN = 30
_BINS_MAX = 15  # as the project states calibration errors
_TOP_SHARE = 0.1
_Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True, kw_only=True)
class Truths:
    """What became of the rows of a file, as the model's two questions ask it; each of shape (n,), NaN where unknown."""

    above_median: Floats
    """1 where the outcome ended above the median of the channel's last 100 settled posts, else 0."""
    viral: Floats
    """1 where it ended among the channel's top tenth, relative to that median, else 0."""
    note: str
    """Why rows are unknown, or that all are; empty where there is nothing to say."""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Rows of like probability."""

    rows: int
    """How many."""
    mean: float
    """Mean of their probabilities."""
    rate: float
    """Share of them that it came true for."""
    lower: float
    """Lower end of the 95 % interval of that share (Wilson)."""
    upper: float
    """Upper end of the same."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How one probability held up."""

    rows: int
    """Rows that were compared."""
    base_rate: float
    """Share of them that it came true for."""
    auc: float
    """Probability that a row for which it came true had the higher probability; 0.5 is chance."""
    error: float
    """Expected calibration error over the bins."""
    bins: tuple[Bin, ...]
    """Bins of equal mass, ascending."""


def truths(rows: ContentRows) -> Truths:
    """What became of the rows of a file.

    The median is that of the newest 100 posts of the channel that were at least 24 hours old, at least 20 of them: what
    is known when a post is planned. The top tenth is taken over the file's posts of the channel.
    """
    n = len(rows)
    above, viral = np.full(n, np.nan), np.full(n, np.nan)
    known = ~np.isnan(rows.outcome)
    timed = known & (rows.published_unix_s != UNKNOWN_TIME)
    if not known.any():
        return Truths(above_median=above, viral=viral, note="the file holds no outcomes")
    if not timed.any():
        return Truths(
            above_median=above,
            viral=viral,
            note="the file holds outcomes and no times (`published_at`), so no post has posts before it",
        )
    picked = np.flatnonzero(timed)
    codes = np.unique(rows.channel[picked], return_inverse=True)[1]
    picked = picked[np.lexsort((rows.published_unix_s[picked], codes))]
    outcome = rows.outcome[picked]
    posts = PostTable.of(
        {
            "channel": rows.channel[picked],
            "published_unix_s": rows.published_unix_s[picked],
            "hour_of_day": np.zeros(len(picked)),
            "day_of_week": np.zeros(len(picked)),
        }
    )
    index = settled_history(posts)
    if not len(index):
        note = f"no post has {POSTS_MIN} posts of its channel that are at least 24 hours older"
        return Truths(above_median=above, viral=viral, note=note)
    residual = outcome[index.row] - baselines(outcome, index)[BASELINES[2]]
    where = picked[index.row]
    above[where] = residual > 0
    viral[where] = _top_tenth(residual, posts.channel[index.row])
    left = n - len(index.row)
    note = f"rows without an outcome, a time or {POSTS_MIN} settled posts before them are left out: {left:,}"
    return Truths(above_median=above, viral=viral, note=note if left else "")


def calibration(probability: Floats, truth: Floats) -> Calibration | None:
    """How a probability held up against what came true; None where too few rows are known, or all are alike.

    Args:
        probability: shape (n,); NaN where a row was not judged.
        truth: shape (n,), 0 or 1; NaN where unknown.
    """
    usable = ~(np.isnan(probability) | np.isnan(truth))
    p, y = probability[usable], truth[usable]
    n, came = len(p), int(y.sum())
    if n < _ROWS_MIN or came in (0, n):
        return None
    order = np.argsort(p, kind="stable")
    parts = np.array_split(order, min(_BINS_MAX, n // _BIN_ROWS_MIN))
    bins = tuple(_bin(p[part], y[part]) for part in parts)
    return Calibration(
        rows=n,
        base_rate=came / n,
        auc=_auc(p, y),
        error=sum(one.rows * abs(one.mean - one.rate) for one in bins) / n,
        bins=bins,
    )


def _top_tenth(residual: Floats, channel: NDArray[np.str_]) -> Floats:
    """Which rows are above their own channel's 90th percentile; NaN in channels of few rows."""
    code = np.unique(channel, return_inverse=True)[1]
    ordered = residual[np.lexsort((residual, code))]
    count = np.bincount(code)
    first = np.cumsum(count) - count
    place = (1 - _TOP_SHARE) * (count - 1)
    below = np.floor(place).astype(np.int64)
    low, high = ordered[first + below], ordered[first + np.minimum(below + 1, count - 1)]
    quantile = low + (place - below) * (high - low)
    return np.where(count[code] >= POSTS_MIN, residual > quantile[code], np.nan)


def _bin(p: Floats, y: Floats) -> Bin:
    n, rate = len(p), float(y.mean())
    # Wilson, Probable inference, the law of succession, and statistical inference (JASA 22, 1927).
    middle = (rate + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * float(np.sqrt(rate * (1 - rate) / n + _Z**2 / (4 * n**2)))
    return Bin(rows=n, mean=float(p.mean()), rate=rate, lower=max(0.0, middle - half), upper=min(1.0, middle + half))


def _auc(p: Floats, y: Floats) -> float:
    """Area under the ROC curve by mean ranks (Mann-Whitney); ties count half."""
    _, inverse, counts = np.unique(p, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positive = y == 1
    ones, zeros = int(positive.sum()), int((~positive).sum())
    return float((rank[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))
