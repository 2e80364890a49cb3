"""Anomalies of a daily series: single days far from what the days around them would have expected."""

import numpy as np
from numpy.typing import NDArray

from meshcast.services.forecaster import noise

__all__ = ["FALSE_PER_DAY", "scores", "threshold"]

Floats = NDArray[np.float64]

FALSE_PER_DAY = 0.001
"""Anomalies to be expected by chance: 1 in 1,000 days of independent noise, whatever its tails are like."""

_AROUND = 15  # days whose median is expected: two weeks, so that an odd day or two cannot move it
_ROWS_FOR_TAILS = 100  # fewer residuals do not show their tails
_FREEDOM_USUAL = 8.0  # of Student's t, where the tails are unknown
_FREEDOM = np.array([2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 20.0, 50.0, 1e6])


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


def threshold(score: Floats) -> float:
    """Score beyond which a day is an anomaly, so that chance makes `FALSE_PER_DAY` of them.

    The tails are those of the Student's t that has the same ratio of the 90 % to the 50 % quantile of distances.
    """
    from scipy.special import stdtrit

    distance = np.abs(score[score != 0])
    freedom = _FREEDOM_USUAL
    if len(distance) >= _ROWS_FOR_TAILS:
        ratio = float(np.quantile(distance, 0.9) / np.median(distance))
        ratios = stdtrit(_FREEDOM, 0.95) / stdtrit(_FREEDOM, 0.75)
        freedom = float(np.exp(np.interp(-ratio, -ratios, np.log(_FREEDOM))))
    return float(stdtrit(freedom, 1 - FALSE_PER_DAY / 2) / stdtrit(freedom, 0.75)) * 0.6745
