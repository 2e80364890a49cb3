"""Wasserstein distance of a window from its reference between the 0.1 % and 99.9 % quantiles.

A sketch's ranks are off by up to .35 %, which in a heavy tail is far in value. The counts of the fine bins are exact,
so a sketch only says where inside a bin its values lie; in a bin of few rows, where even that is more than it knows,
they are taken to lie as the reference's.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.services.drift.cuts import W1_FROM, W1_TO, Cuts
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.sketches import Sketches
from meshcast.services.drift.tally import Tally

__all__ = ["wasserstein"]

Matrix = NDArray[np.float64]

_COARSE = 8.0  # over k: share of a bin's rows below which the sketch's error of 2.8 / k is no small part of it
_LARGEST = float(np.finfo(np.float32).max)
_STEPS = 16  # points in an outermost bin of which only the end is known


class Points(NamedTuple):
    """Points of features, each standing for a share of rows; both of shape (features, p)."""

    at: Matrix
    shares: Matrix


def wasserstein(layout: Layout, reference: Tally, window: Tally) -> NDArray[np.float64]:
    """Distance of each feature's finite values from those of the reference, in the feature's unit.

    It is the integral of the distance of the two distribution functions, both clipped to .001 and .999, which is that
    of the quantile functions between those ranks (Villani, Topics in Optimal Transportation, 2003, theorem 2.18).
    Without fine counts and sketches a window's values are taken to lie inside a bin as the reference's do, which is
    coarse where they leave its range.

    Args:
        layout: of both.
        reference: tally of the reference's rows, or of held-out ones.
        window: of any rows.

    Returns:
        Shape (features,), float64; NaN for categories, and where either has no finite value.
    """
    found = np.full(len(layout), np.nan)
    numeric = len(layout.cuts)
    there = np.flatnonzero((reference.moments[:numeric, 0] > 0) & (window.moments[:numeric, 0] > 0))
    there = there[layout.bins[there] > 1]
    if len(there) == 0:
        return found
    cuts = [layout.cuts[f] for f in there.tolist()]
    is_few = layout.few[there]
    known = _reference_points(layout, cuts)
    starts, counts = _counted(reference, there, cuts)
    before = _placed(known, _places(known, starts), starts, counts, is_few)
    starts, counts = _counted(window, there, cuts)
    if window.sketches is None:
        points = _guessed(window, there, cuts, known.at)
        places = _places(points, starts)
    else:
        points, places = _chosen(_sketched(layout, window, there), known, starts, counts, window.sketches)
    after = _placed(points, places, starts, counts, is_few)
    with np.errstate(over="ignore"):  # no number where float64 cannot hold it
        moved = np.array([cut.unit for cut in cuts]) * _between(before, after)
    found[there] = np.where(np.isfinite(moved), moved, np.nan)
    return found


def _between(before: Points, after: Points) -> NDArray[np.float64]:
    """Integral of the distance of two clipped distribution functions, (features,)."""
    split = before.at.shape[1]
    points = np.concatenate([before.at, after.at], axis=1)
    order = np.argsort(points, axis=1)
    mine = order < split
    shares = np.take_along_axis(np.concatenate([before.shares, after.shares], axis=1), order, axis=1)
    points = np.take_along_axis(points, order, axis=1)
    first = np.clip(np.cumsum(np.where(mine, shares, 0.0), axis=1), W1_FROM, W1_TO)
    second = np.clip(np.cumsum(np.where(mine, 0.0, shares), axis=1), W1_FROM, W1_TO)
    total: NDArray[np.float64] = np.einsum("ij,ij->i", np.abs(second - first)[:, :-1], np.diff(points, axis=1))
    return total


def _places(points: Points, starts: Matrix) -> NDArray[np.int64]:
    """The bin of each point, in the flat order of an array (features, bins)."""
    places = np.stack([np.searchsorted(row, one, "right") for row, one in zip(starts, points.at, strict=True)])
    found: NDArray[np.int64] = places + np.arange(len(starts))[:, None] * (starts.shape[1] + 1)
    return found


def _held(points: Points, places: NDArray[np.int64], counts: Matrix) -> Matrix:
    """Sum of the points' shares in each bin, (features, bins)."""
    held = np.bincount(places.ravel(), points.shares.ravel(), minlength=counts.size)
    return held.reshape(counts.shape).astype(np.float64, copy=False)


def _chosen(
    sketched: Points, known: Points, starts: Matrix, counts: Matrix, sketches: Sketches
) -> tuple[Points, NDArray[np.int64]]:
    """Points of the sketch, but those of the reference in bins that the sketch is too coarse for; and their bins."""
    mine, theirs = _places(sketched, starts), _places(known, starts)
    if sketches.is_exact:
        return sketched, mine
    share = counts / counts.sum(axis=1, keepdims=True)
    by_sketch = (share > _COARSE / sketches.k) | (_held(known, theirs, counts) == 0)
    by_sketch &= _held(sketched, mine, counts) > 0
    taken = by_sketch.ravel()
    points = Points(
        np.concatenate([sketched.at, known.at], axis=1),
        np.concatenate([np.where(taken[mine], sketched.shares, 0), np.where(taken[theirs], 0, known.shares)], axis=1),
    )
    return points, np.concatenate([mine, theirs], axis=1)


def _placed(
    points: Points, places: NDArray[np.int64], starts: Matrix, counts: Matrix, is_few: NDArray[np.bool_]
) -> Points:
    """The points with the share of rows that each stands for: those of a bin together have the bin's exact share.

    Args:
        points: with shares that only count beside those of the bin's other points.
        places: of the points, as `_places`.
        starts: shape (features, bins - 1), ascending; inf past a feature's last bin.
        counts: shape (features, bins).
        is_few: shape (features,), as `Layout.few`.
    """
    held = _held(points, places, counts)
    scale = np.divide(counts, held, out=np.zeros_like(counts), where=held > 0)
    at, shares = points.at, points.shares * scale.ravel()[places]
    bare = np.where(held > 0, 0.0, counts)
    lacking = np.flatnonzero(bare.any(axis=0))
    if len(lacking):  # a bin without a point has all in its middle; at its beginning, where that is a value
        low = np.concatenate([np.nextafter(starts[:, :1], -np.inf), starts], axis=1)[:, lacking]
        high = np.concatenate([starts, starts[:, -1:]], axis=1)[:, lacking]
        high = np.where(np.isfinite(high) & (lacking > 0), high, low)
        fill = np.where(is_few[:, None], low, (low + high) / 2)
        fill = np.where(np.isfinite(fill), fill, at[:, -1:])  # past a feature's last bin, where no rows are
        at, shares = np.concatenate([at, fill], axis=1), np.concatenate([shares, bare[:, lacking]], axis=1)
    return Points(at, shares / shares.sum(axis=1, keepdims=True))


def _counted(tally: Tally, there: NDArray[np.int64], cuts: Sequence[Cuts]) -> tuple[Matrix, Matrix]:
    """Where bins begin, and finite values in each: of the fine bins, where the tally has them."""
    each = [cut.bins if tally.fine is None else cut.fine for cut in cuts]
    sizes = np.array([len(one) for one in each])
    starts = np.full((len(cuts), int(sizes.max())), np.inf)
    for row, one in zip(starts, each, strict=True):
        row[: len(one)] = one
    held = tally.counts if tally.fine is None else tally.fine
    counts = held[there, : starts.shape[1] + 1].astype(np.float64)
    counts[:, 0] -= tally.infinite[there, 0]
    counts[np.arange(len(there)), sizes] -= tally.infinite[there, 1]
    return starts, counts


def _reference_points(layout: Layout, cuts: Sequence[Cuts]) -> Points:
    points = np.stack([cut.quantiles for cut in cuts]).astype(np.float64)
    return Points(points, np.broadcast_to(layout.widths, points.shape))


def _sketched(layout: Layout, window: Tally, there: NDArray[np.int64]) -> Points:
    assert window.sketches is not None
    ranks = np.concatenate([[W1_FROM / 2], layout.ranks, [(1 + W1_TO) / 2]])
    weights = np.concatenate([[W1_FROM], layout.widths, [1 - W1_TO]])
    points = window.sketches.quantiles(ranks)[there].astype(np.float64)
    return Points(points, np.broadcast_to(weights, points.shape))


def _guessed(window: Tally, there: NDArray[np.int64], cuts: Sequence[Cuts], inner: Matrix) -> Points:
    """The reference's points in the inner bins, and even steps from the outermost bins' inner ends to the extremes."""
    points = np.empty((len(there), 2 * _STEPS + inner.shape[1]))
    weights = np.zeros_like(points)
    for row, weight, f, cut, known in zip(points, weights, there.tolist(), cuts, inner, strict=True):
        with np.errstate(over="ignore"):
            ends = (window.extremes[f] - cut.origin) / cut.unit
        low, high = np.clip(ends, -_LARGEST, _LARGEST).tolist()
        first, last = float(cut.bins[0]), float(cut.bins[-1])
        row[:_STEPS] = np.linspace(min(low, first), first, _STEPS, endpoint=False)
        row[_STEPS:-_STEPS] = known
        row[-_STEPS:] = np.linspace(last, max(high, last), _STEPS)
        weight[:_STEPS], weight[-_STEPS:] = low < first, high >= last
        weight[_STEPS:-_STEPS] = (known >= first) & (known < last)
    return Points(points, weights)
