"""Conformal calibration: how far a model's intervals must be stretched to hold on rows that training did not see."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["interval_coverage", "interval_factors"]

Floats = NDArray[np.float32] | NDArray[np.float64]


def interval_factors(misses: Floats, offsets: Floats, levels: Sequence[float]) -> NDArray[np.float64]:
    """Factors that stretch each bound's distance from the middle until its level holds.

    One-sided conformal quantiles of the normalised score miss / offset.

    Args:
        misses: shape (n,), what happened less the point prediction, in any unit.
        offsets: shape (n, k), uncalibrated quantiles less the point prediction, in that unit, never 0; negative for
            levels under .5.
        levels: the k levels, none of them .5.

    Returns:
        Shape (k,); 1 = as it was.

    Source: Romano, Patterson, Candes, Conformalized Quantile Regression (NeurIPS 2019), with normalised scores.
    """
    n = len(misses)
    factors = []
    for k, level in enumerate(levels):
        scores = np.sort(misses / offsets[:, k])
        share = max(level, 1 - level)
        factors.append(float(scores[min(math.ceil((n + 1) * share), n) - 1]))
    return np.array(factors)


def interval_coverage(target: Floats, low: Floats, high: Floats) -> NDArray[np.bool_]:
    """Whether each target lies in its interval, ends included; all of shape (n,)."""
    return np.asarray((target >= low) & (target <= high))
