"""Onset: the window in which a drift began, from the restarts of CUSUM statistics, one for each bet."""

import numpy as np
from numpy.typing import NDArray

from meshcast.services.drift.bets import Bets

__all__ = ["Restarts"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Restarts:
    """For each bet the stretch of windows that speaks most for it: where it began, and what it gained since.

    C <- max(C, 0) + log increment: whenever nothing is left of what was gained, the stretch begins anew with the next
    window. Where the stretch that ends now began is the estimate of the change that is likeliest for the bet (Page,
    Continuous Inspection Schemes, Biometrika 41, 1954).

    Attributes:
        gained: shape (B,), float64, logarithm of what a unit of money grew to since then.
        start: shape (B,), int64, number of the window in which the stretch began; 0 before any window.
        rows: shape (B,), int64, rows since then.
        excess: shape (B,), float64, as `Bets.excesses`, summed since then.
    """

    def __init__(self, gained: Floats, start: Ints, rows: Ints, excess: Floats) -> None:
        self.gained, self.start, self.rows, self.excess = gained, start, rows, excess

    @classmethod
    def none(cls, bets: int) -> "Restarts":
        """Before any window."""
        return cls(np.zeros(bets), np.zeros(bets, np.int64), np.zeros(bets, np.int64), np.zeros(bets))

    def step(self, increments: Floats, excesses: Floats, rows: int, window: int) -> None:
        """Takes in a window.

        Args:
            increments: shape (B,), as `Bets.log_increments`.
            excesses: shape (B,), as `Bets.excesses`.
            rows: of the window.
            window: its number.
        """
        anew = self.gained <= 0
        self.start[anew] = window
        self.rows[anew] = 0
        self.excess[anew] = 0
        self.gained[anew] = 0
        self.gained += increments
        self.rows += rows
        self.excess += excesses

    def best(self, bets: Bets) -> tuple[Ints, Floats]:
        """Each feature's bet that gained most for its money, -1 without bets, and the logarithm of that; (F,) each."""
        worth = self.gained + bets.log_weight
        top = bets.largest(worth)
        at = np.full(bets.features, -1, dtype=np.int64)
        hits = np.flatnonzero(worth == top[bets.feature])[::-1]
        at[bets.feature[hits]] = hits  # the first of equals
        return at, top

    def onset(self, bets: Bets) -> Ints:
        """Number of the window in which each feature's drift began; 0 where no bet has gained; shape (F,), int64."""
        at, _ = self.best(bets)
        out = np.zeros(bets.features, dtype=np.int64)
        gains = np.flatnonzero(at >= 0)
        gains = gains[self.gained[at[gains]] > 0]
        out[gains] = self.start[at[gains]]
        return out
