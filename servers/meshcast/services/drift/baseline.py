"""Baseline of losses: how far their true mean can lie above the mean of those that were seen."""

import math

import numpy as np

from meshcast.services.drift.bounds import share_above

__all__ = ["upper_mean"]

_STAKES = np.exp2(-np.arange(1.0, 9.0))  # of the money: small ones suit many losses, large ones few
_SLACK = -np.log1p(-_STAKES) - _STAKES


def upper_mean(count: float, total: float, squares: float, *, chance: float) -> float:
    """Upper bound of the mean of losses between 0 and 1 that come independently from one distribution.

    For losses of 0 and 1 it is the bound of Clopper and Pearson. For others it is Bernstein's with the variance that
    was seen: betting a share s of the money on the mean m being too high multiplies it by at least
    exp(s (m - x) - (-log(1 - s) - s) (m - x)^2) a loss x (Fan, Grama and Liu, Electron. J. Probab. 20, 2015), and by
    Markov's inequality the money reaches `stakes / chance` under no stake but with `chance`.

    Args:
        count: losses seen, at least 1; less where they tell of each other.
        total: their sum.
        squares: sum of their squares.
        chance: that the true mean lies above.

    Returns:
        At most 1.
    """
    if squares == total:
        return float(share_above(np.array([total]), np.array([count]), np.array([chance]))[0])
    mean = total / count
    variance = max(0.0, squares / count - mean * mean)
    cost = math.log(len(_STAKES) / chance) / count
    inside = _STAKES**2 - 4 * _SLACK * (_SLACK * variance + cost)
    above = (_STAKES - np.sqrt(np.maximum(inside, 0))) / (2 * _SLACK)
    return float(min(1.0, mean + above[inside >= 0].min(initial=1.0)))
