"""Blame: which features moved, and which share of the whole shift each is to blame for."""

import numpy as np
from numpy.typing import NDArray

from meshcast.services.drift.bets import Bets
from meshcast.services.drift.onset import Restarts

__all__ = ["blame", "blame_since_onset"]

Floats = NDArray[np.float64]

_NOISE = 3.5  # standard errors of the rows' own mean: one in 4,000, of some dozens of scores that are tried


def blame(bets: Bets, counts: NDArray[np.int64]) -> Floats:
    """Shares of the blame for how far rows lie from the reference; of a window that stands alone.

    A feature's part is the square of its largest shift, over its scores, in standard deviations of the score, beyond
    the reference's sampling error (the bet's bound) and that of the rows. Features that move together share the blame.

    Args:
        bets: against the reference.
        counts: shape (F, S), int64, of the rows.

    Returns:
        Shape (F,), float64, adding up to 1; all 0 where nothing moved beyond chance.
    """
    rows = np.maximum(counts.sum(axis=1), 1).astype(np.float64)[bets.feature]
    noise = _NOISE * np.sqrt(bets.inflation[bets.feature] / rows)
    return _shares(bets.largest(bets.excesses(counts) / rows - noise))


def blame_since_onset(bets: Bets, restarts: Restarts) -> Floats:
    """Shares of the blame for what accumulated over windows, each feature's since its own onset; as `blame`.

    A feature's part is the square of the mean shift of the score whose bet gained most, beyond the reference's sampling
    error, over all rows since that bet's stretch began. A feature has none whose best bet gained less than the best of
    so many features may by chance.
    """
    at, gained = restarts.best(bets)
    stands_out = np.flatnonzero(gained > np.log(max(bets.features, 2)))
    best = at[stands_out]
    shifts = np.zeros(bets.features)
    shifts[stands_out] = restarts.excess[best] / np.maximum(restarts.rows[best], 1)
    return _shares(shifts)


def _shares(shifts: Floats) -> Floats:
    largest = shifts.max(initial=0)
    if largest <= 0:
        return np.zeros(len(shifts))
    squares = (np.maximum(shifts, 0) / largest) ** 2
    return np.asarray(squares / squares.sum())
