"""Wasserstein distance of a window from its reference between the 0.1 % and 99.9 % quantiles.

A sketch's ranks are off by up to .35 %, which in a heavy tail is far in value. The counts of the reference's bins are
exact, so the sketch only says where inside a bin its values lie.
"""

import numpy as np
from numpy.typing import NDArray

from meshcast.services.drift.layout import Layout
from meshcast.services.drift.tally import Tally

__all__ = ["wasserstein"]

_FILL = 16  # points of an outermost bin that is known by its end alone


def wasserstein(layout: Layout, window: Tally) -> NDArray[np.float64]:
    """Distance of each feature's finite values from those of the layout's reference, in the feature's unit.

    It is the integral over ranks .001 to .999 of the distance of the two quantile functions (Villani, Topics in Optimal
    Transportation, 2003, theorem 2.18, cut at both ends). Without sketches values are taken to lie inside a bin as the
    reference's do, which is coarse where they leave its range.

    Returns:
        Shape (features,), float64; NaN for categories, and where either has no finite value.
    """
    found = np.full(len(layout), np.nan)
    sketches = window.sketches
    if sketches is not None and sketches.is_exact:
        exact = sketches.quantiles(layout.ranks)
        for f, (cut, values) in enumerate(zip(layout.cuts, exact, strict=True)):
            found[f] = cut.unit * float(np.abs(values.astype(np.float64) - cut.quantiles) @ layout.widths)
        return found
    asked = np.concatenate([[layout.ranks[0] / 4], layout.ranks, [1 - layout.ranks[0] / 4]])
    shares = np.concatenate([[0.001], layout.widths, [0.001]])
    there = None if sketches is None else sketches.quantiles(asked)
    for f, cut in enumerate(layout.cuts):
        counts = window.counts[f, : layout.bins[f]].astype(np.float64)
        counts[0] -= window.infinite[f, 0]
        counts[-1] -= window.infinite[f, 1]
        if counts.sum() <= 0 or len(cut.bins) == 0:
            continue
        if there is not None:
            points, weights = there[f], shares
        else:
            points, weights = _guessed((window.extremes[f] - cut.origin) / cut.unit, cut.bins, cut.quantiles)
        values = _quantiles(points.astype(np.float64), weights, cut.bins, counts, layout.ranks)
        found[f] = cut.unit * float(np.abs(values - cut.quantiles) @ layout.widths)
    return found


def _guessed(
    ends: NDArray[np.float64], starts: NDArray[np.float32], quantiles: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points inside the bins: the reference's, and in the outermost bins even steps to the window's ends."""
    inner = quantiles[(quantiles >= starts[0]) & (quantiles < starts[-1])].astype(np.float64)
    below = np.linspace(ends[0], starts[0], _FILL, endpoint=False) if ends[0] < starts[0] else np.empty(0)
    above = np.linspace(starts[-1], ends[1], _FILL) if ends[1] >= starts[-1] else np.empty(0)
    points = np.concatenate([below, inner, above])
    return points, np.ones(len(points))


def _quantiles(
    points: NDArray[np.float64],
    weights: NDArray[np.float64],
    starts: NDArray[np.float32],
    counts: NDArray[np.float64],
    ranks: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Quantiles of weighted points after each bin's points are given the bin's exact share.

    Args:
        points: ascending.
        weights: one a point.
        starts: where bins begin, but for the first.
        counts: of each bin.
        ranks: asked.
    """
    place = np.searchsorted(starts, points, "right")
    held = np.bincount(place, weights, minlength=len(counts))
    empty = np.flatnonzero((held == 0) & (counts > 0))
    if len(empty):  # bins that the sketch saw no value of: all lies in their middle
        low = starts[np.maximum(empty - 1, 0)].astype(np.float64)
        high = np.where(empty < len(starts), starts[np.minimum(empty, len(starts) - 1)], low)
        # At the start of a bin that begins with an atom nothing else fits; below the first bin, just under its end.
        middle = np.where(empty == 0, np.nextafter(low, -np.inf), (low + high) / 2)
        at = np.searchsorted(points, middle)
        points = np.insert(points, at, middle)
        weights = np.insert(weights, at, 1.0)
        place = np.searchsorted(starts, points, "right")
        held = np.bincount(place, weights, minlength=len(counts))
    scale = np.divide(counts, held, out=np.zeros_like(counts), where=held > 0)
    upto = np.cumsum(weights * scale[place])
    found: NDArray[np.float64] = points[np.minimum(np.searchsorted(upto, ranks * upto[-1]), len(points) - 1)]
    return found
