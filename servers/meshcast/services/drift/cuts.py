"""Cuts of a numeric feature: where its bins begin, and its reference quantile function, from the reference's values.

Bins are of about equal reference mass. A value that alone holds more than two of them (an atom, as the zero of counts)
gets a bin of its own, so that a window that puts another mass there, or next to it, is told from one that does not. In
a feature of few values, as small whole numbers, a bin begins at each of them.

Distances in the feature's unit hang on the tails, where a bin is wide and a sketch's error in rank is far in value. So
rows are also counted in fine bins: the bins, cut at further quantiles of both ends, and past the ends in steps that
grow.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["GROUPS", "Cuts", "cuts_of", "narrowed", "ranks_of"]

GROUPS = 10
"""Groups of equal reference mass that the stability index is taken over (Siddiqi, Credit Risk Scorecards, 2006)."""

W1_FROM, W1_TO = 0.001, 0.999
"""Ranks between which distances of quantile functions are taken: past them a sketch knows nothing."""

_ROWS_A_BIN = 4  # fewer reference rows than that say nothing about a bin's mass
_TAILS = ((1, 1000), (2, 1000), (998, 1000), (999, 1000))  # where quantile functions are steep
_STEPS, _STEPS_FEW, _GROWTH, _TAIL = 64, 16, 1.15, 0.02  # 64 steps reach 50,000 times the first one's length
_TINY = np.finfo(np.float32).tiny
_WIDE = 1e30  # past it squares leave float32's range, and sums come near
_COARSE = 1e-3  # of the spread: rounding to float32 that moves values further than that loses what a bin is about


class Cuts(NamedTuple):
    """Cuts of one feature, in its narrow form: (value - origin) / unit as float32.

    Attributes:
        origin: 0 for nearly all features; else a value amid the reference, where float32 is too coarse around 0.
        unit: 1 for nearly all features; else a scale that brings values into float32's range.
        bins: shape (bins - 1,), float32, ascending: bin b holds values >= bins[b - 1] and < bins[b].
        groups: float32, ascending, some of `bins`: the same of the ten groups.
        fine: float32, ascending, `bins` among them: the same of the fine bins.
        quantiles: shape (ranks,), float32, the exact quantile function of the finite values at `ranks_of`; NaN: none.
    """

    origin: float
    unit: float
    bins: NDArray[np.float32]
    groups: NDArray[np.float32]
    fine: NDArray[np.float32]
    quantiles: NDArray[np.float32]


def ranks_of(points: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ranks to hold a quantile function at, and the share of ranks that each stands for.

    Ranks are the middles of cells that fill .001 to .999: `points` of equal width, and as many that grow narrower
    towards both ends, evenly in log odds, where quantile functions of heavy tails are steep.

    Returns:
        Ranks, ascending, and widths that add up to .998; float64, each of shape (about 2 * points,).
    """
    odds = np.linspace(np.log(W1_FROM / (1 - W1_FROM)), np.log(W1_TO / (1 - W1_TO)), points + 1)
    ends = np.union1d(np.linspace(W1_FROM, W1_TO, points + 1), np.clip(1 / (1 + np.exp(-odds)), W1_FROM, W1_TO))
    return (ends[1:] + ends[:-1]) / 2, np.diff(ends)


def narrowed(column: NDArray[np.floating], origin: float, unit: float) -> NDArray[np.float32]:
    """A column in the narrow form, float32; finite values out of its range become infinite; may be the same."""
    if origin == 0 and unit == 1:
        with np.errstate(over="ignore"):
            return column.astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        return ((column.astype(np.float64) - origin) / unit).astype(np.float32)


def cuts_of(column: NDArray[np.floating], *, bins: int, ranks: NDArray[np.float64]) -> Cuts:
    """Cuts of a feature from its reference.

    Args:
        column: shape (rows,), float32 or float64; nulls and infinities are left out.
        bins: bins wanted, a multiple of ten; a reference with few rows or values gets fewer, with atoms two more.
        ranks: as `ranks_of`.
    """
    finite = column[np.isfinite(column)]
    origin, unit = _form(finite)
    values = narrowed(finite, origin, unit)
    values = np.sort(values[np.isfinite(values)])
    n = len(values)
    if n == 0:
        none = np.empty(0, dtype=np.float32)
        return Cuts(0.0, 1.0, none, none, none, np.full(len(ranks), np.nan, dtype=np.float32))
    wanted = min(bins, max(GROUPS, n // _ROWS_A_BIN // GROUPS * GROUPS))
    hits = [(step, wanted) for step in range(1, wanted)]
    if wanted >= 20 * GROUPS and n >= 1000 * _ROWS_A_BIN:
        hits += _TAILS
    starts = _starts(values, hits)
    distinct = _few(values, wanted - len(starts) // 2)
    if distinct is not None:
        starts = np.union1d(starts, distinct).astype(np.float32)
    picked = values[np.maximum(np.ceil(ranks * n).astype(np.int64), 1) - 1]
    groups = _starts(values, [(g, GROUPS) for g in range(1, GROUPS)])
    steps = _STEPS if bins >= 10 * GROUPS else _STEPS_FEW
    fine = np.union1d(starts, _tails(values, steps)).astype(np.float32)
    return Cuts(origin, unit, starts, groups, fine, picked)


def _form(finite: NDArray[np.floating]) -> tuple[float, float]:
    """Origin and unit of the narrow form."""
    if len(finite) == 0 or finite.dtype == np.float32:
        return 0.0, 1.0
    low, middle, high = (float(v) for v in np.quantile(finite, [0.05, 0.5, 0.95], method="inverted_cdf"))
    ends = max(abs(float(finite.min())), abs(float(finite.max())))
    spread = high - low if high > low else float(finite.max()) - float(finite.min())
    usual = max(abs(low), abs(high)) or ends
    if usual > _WIDE or 0 < usual < 1 / _WIDE:
        return 0.0, max(usual, float(np.finfo(np.float64).tiny))
    if usual * np.finfo(np.float32).eps > spread * _COARSE and spread > 0:
        return middle, 1.0
    return 0.0, 1.0


def _tails(values: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Both ends, quantiles close to them, and steps past them, each longer than the last by the same factor."""
    n = len(values)

    def quantile(rank: float) -> float:
        return float(values[max(int(np.ceil(rank * n)), 1) - 1])

    ranks = [*np.arange(1, steps + 1) * (_TAIL / steps), *(1 - np.arange(1, steps + 1) * (_TAIL / steps))]
    low, high = quantile(W1_FROM), quantile(W1_TO)
    least = max((high - low) / 256, abs(low) / 1000, abs(high) / 1000, float(_TINY))
    ways = np.cumsum(_GROWTH ** np.arange(steps))
    below = low - max((quantile(10 * W1_FROM) - low) / 8, least) * ways
    above = high + max((high - quantile(1 - 10 * W1_FROM)) / 8, least) * ways
    with np.errstate(over="ignore"):
        steps_out = np.concatenate([below, above]).astype(np.float32)
    inner = [float(values[0]), *(quantile(rank) for rank in ranks), float(_after(values[-1:])[0])]
    return np.concatenate([inner, steps_out[np.isfinite(steps_out)]]).astype(np.float32)


def _few(values: NDArray[np.float32], most: int) -> NDArray[np.float32] | None:
    """Values between the .1 % and 99.9 % quantiles, each once; None where they are more than `most`."""
    n = len(values)
    inner = values[int(n * W1_FROM) : max(int(np.ceil(n * W1_TO)), 1)]
    new = np.concatenate([[True], inner[1:] != inner[:-1]])
    return inner[new] if int(new.sum()) <= most else None


def _starts(values: NDArray[np.float32], hits: list[tuple[int, int]]) -> NDArray[np.float32]:
    """Where bins begin: at the quantiles of ranks a / b, and both at an atom and right after it."""
    n = len(values)
    index = np.array([-(-a * n // b) - 1 for a, b in hits], dtype=np.int64)  # in integers: coarse cuts are fine ones
    at, times = np.unique(values[np.maximum(index, 0)], return_counts=True)
    held = np.searchsorted(values, at, "right") - np.searchsorted(values, at, "left")
    atoms = at[(times >= 2) & ((held >= 2) | (n == 1))]
    return np.union1d(at, _after(atoms)).astype(np.float32)


def _after(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The next greater numbers; past 0 the least normal one, as those below may be flushed to 0 by the processor."""
    after = np.nextafter(values, np.float32(np.inf))
    return np.where(np.abs(after) < _TINY, _TINY, after).astype(np.float32)
