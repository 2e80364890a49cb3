"""How predictions did: error and interval coverage beside what a person would have guessed from the same history."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshcast.posts import HistoryIndex

__all__ = ["BASELINES", "Score", "baselines", "score"]

Floats = NDArray[np.float64]

BASELINES = ("last value", "median of last 20", "median of last 100")
"""What predictions are held against; from the same settled posts."""
BLOCK_ROWS = 8192  # histories that are gathered at a time: 8192 x 100 x 8 B = 6.5 MB


@dataclass(frozen=True, kw_only=True)
class Score:
    """Figures over the rows whose engagement is known.

    Attributes:
        rows: how many there are.
        mae: mean absolute error of the predictions, log1p units.
        baseline_mae: the same for each of BASELINES.
        coverage: share of rows inside the interval, by its stated level.
    """

    rows: int
    mae: float
    baseline_mae: Mapping[str, float]
    coverage: Mapping[float, float]


def baselines(actual: Floats, rows: HistoryIndex) -> dict[str, Floats]:
    """What each of BASELINES says for each row, log1p units, shape (m,); NaN where the history knows no count.

    Args:
        actual: shape (n,), log1p units, of the posts that `rows` points into; NaN where unknown.
        rows: rows and their histories.
    """
    last, median_20, median_100 = (np.full(len(rows), np.nan) for _ in BASELINES)
    back = np.arange(100)
    for begin in range(0, len(rows), BLOCK_ROWS):
        block = slice(begin, begin + BLOCK_ROWS)
        start, stop = rows.start[block, None], rows.stop[block, None]
        where = stop - 1 - back  # newest first
        history = np.where(where >= start, actual[np.maximum(where, 0)], np.nan)
        known = ~np.isnan(history)
        newest = known.argmax(axis=1)
        last[block] = history[np.arange(len(history)), newest]
        median_20[block] = _median_known(history[:, :20])
        median_100[block] = _median_known(history)
    return dict(zip(BASELINES, (last, median_20, median_100), strict=True))


def score(
    *,
    actual: Floats,
    predicted: Floats,
    guesses: Mapping[str, Floats],
    levels: NDArray[np.float64],
    lower: Floats,
    upper: Floats,
) -> Score:
    """Scores predictions against what happened; rows where either is NaN are left out.

    Args:
        actual: shape (m,), log1p units.
        predicted: shape (m,), log1p units.
        guesses: each of shape (m,), log1p units, as `baselines` gives them.
        levels: shape (k,), of the intervals.
        lower: shape (k, m), log1p units.
        upper: shape (k, m), log1p units.
    """
    usable = ~(np.isnan(actual) | np.isnan(predicted))
    for guess in guesses.values():
        usable &= ~np.isnan(guess)
    if not usable.any():
        return Score(rows=0, mae=float("nan"), baseline_mae={}, coverage={})
    truth = actual[usable]
    inside = (lower[:, usable] <= truth) & (truth <= upper[:, usable])
    return Score(
        rows=int(usable.sum()),
        mae=float(np.abs(predicted[usable] - truth).mean()),
        baseline_mae={name: float(np.abs(guess[usable] - truth).mean()) for name, guess in guesses.items()},
        coverage={float(level): float(share) for level, share in zip(levels, inside.mean(axis=1), strict=True)},
    )


def _median_known(values: Floats) -> Floats:
    """Median of each row's known values; NaN sorts last, so the known ones are a prefix."""
    ordered = np.sort(values, axis=1)
    known = (~np.isnan(values)).sum(axis=1)
    row = np.arange(len(values))
    low = ordered[row, np.maximum(known - 1, 0) // 2]
    high = ordered[row, np.minimum(known // 2, values.shape[1] - 1)]
    return np.where(known > 0, (low + high) / 2, np.nan)
