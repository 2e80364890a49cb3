"""Anomalies of a daily series: single days far from what the days around them would have expected."""

import numpy as np
from numpy.typing import NDArray

from meshcast.services.forecaster import noise

__all__ = ["FALSE_PER_DAY", "scores", "thresholds"]

Floats = NDArray[np.float64]

FALSE_PER_DAY = 0.001
"""Anomalies that chance is allowed: at most 1 in 1,000 days of normal noise, independent or not. Where tails are heavy
(Student's t with 3 degrees of freedom) and days are few to show it, simulations give up to 6."""

_AROUND = 15  # days whose median is expected: two weeks, so that an odd day or two cannot move it
_ROWS_FOR_TAILS = 25  # residuals of one sign: fewer do not show their tail
_FREEDOM_USUAL = 5.0  # of Student's t, where the tail is unknown
_MEDIAN = 0.6745  # of the distance of normal noise from 0, in standard deviations
# Tails heavier than those of 3 degrees are taken for anomalies themselves.
_FREEDOM = np.array([3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 20.0, 50.0, 1e6])


def scores(values: Floats, course: Floats, starts: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Expected values, and how many robust standard deviations each day is above them.

    Args:
        values: shape (n,), without seasons.
        course: shape (n,), their level or trend between the changes.
        starts: shape (k,), where the stretches between changes begin, the first at 0.

    Returns:
        Expected values (n,), and scores (n,); all 0 where nothing differs from what is expected.
    """
    residuals = values - course
    expected = course.copy()
    for start, stop in zip(starts, np.append(starts[1:], len(values)), strict=True):
        stretch = residuals[start:stop]
        expected[start:stop] += noise.running_median(stretch, min(_AROUND, 2 * len(stretch) - 1))
    left = values - expected
    spread = noise.robust_spread(left)
    # Residuals that are rounding only are no anomalies.
    if spread <= 1e-12 * float(np.abs(values).max()):
        return expected, np.zeros_like(values)
    return expected, left / spread


def thresholds(score: Floats) -> tuple[float, float]:
    """Scores below and above which a day is an anomaly, so that chance makes `FALSE_PER_DAY` of them.

    Each side has its own spread and its own tail, that of the Student's t with the same ratio of the 90 % to the 50 %
    quantile of distances: counts reach further up than down.
    """
    return -_reach(-score[score < 0]), _reach(score[score > 0])


def _reach(distance: Floats) -> float:
    from scipy.special import stdtrit

    freedom, middle = _FREEDOM_USUAL, _MEDIAN
    if len(distance) >= _ROWS_FOR_TAILS:
        middle = float(np.median(distance))
        ratios = stdtrit(_FREEDOM, 0.95) / stdtrit(_FREEDOM, 0.75)
        freedom = float(np.exp(np.interp(-float(np.quantile(distance, 0.9)) / middle, -ratios, np.log(_FREEDOM))))
    return float(stdtrit(freedom, 1 - FALSE_PER_DAY / 2) / stdtrit(freedom, 0.75)) * middle
