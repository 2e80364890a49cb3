"""Order statistics: quantiles of the future, read off what happened so far."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["future_quantiles"]

Floats = NDArray[np.float64]


def future_quantiles(seen: Floats, levels: ArrayLike, *, least: float | None = None) -> Floats:
    """Quantiles of a next value that comes from where those came from that were seen.

    The k-th smallest of n exchangeable values lies above the next one with a probability of k / (n + 1), so that level
    p is read at rank p (n + 1), between ranks linearly; beyond the smallest and the largest value nothing is known, and
    these stand in. Source: David and Nagaraja, Order Statistics (Wiley, 2003), 7.3.

    Args:
        seen: shape (n,), at least one value.
        levels: shape (k,), each from 0 to 1.
        least: what no value can be below, and level 0 stands for; None where there is no such bound.

    Returns:
        Shape (k,), float64.
    """
    n = len(seen)
    ranks, values = np.arange(1, n + 1), np.sort(seen)
    if least is not None:
        ranks, values = np.arange(n + 1), np.append(least, values)
    rank = np.asarray(levels, dtype=np.float64) * (n + 1)
    quantiles: Floats = np.interp(rank, ranks, values)  # which holds the ends beyond them
    return quantiles
