"""The smallest detectable shift: what a reference of its size, and the bets against it, let be found."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from meshcast.services.drift.bets import Bets

__all__ = ["WINDOWS", "WINDOWS_TO_FALSE_ALARM", "smallest_shift_sd"]

Floats = NDArray[np.float64]

WINDOWS = 6
"""Windows within which the shift is found."""

WINDOWS_TO_FALSE_ALARM = 20_000.0
"""Mean number of windows to a false alarm that is assumed: a chance of .05 in 1,000 windows."""

_SURE = 1.2816  # normal quantile of .9
_SHIFT_MAX = 5.0  # of the normal variable that stands behind the slots
_HALVINGS = 30


def smallest_shift_sd(
    bets: Bets, *, window_rows: int, windows_to_false_alarm: float = WINDOWS_TO_FALSE_ALARM
) -> Floats:
    """Smallest shift of each feature's mean that is found within `WINDOWS` windows in about 9 of 10 cases.

    What bets on location gain under a shift of a normal variable that was cut into the reference's slots is set
    against what an alarm takes; the sampling errors of rows and reference are both allowed for. Smaller ones are found
    by other scores where they move those more, as when a share jumps.

    Args:
        bets: against the reference.
        window_rows: of a window.
        windows_to_false_alarm: one over false alarms a year times years between windows.

    Returns:
        Shape (F,), float64, in the feature's standard deviations; NaN for categories and constants, inf where no shift
        of the mean is found so soon, as with a reference of a few rows.
    """
    found = np.full(bets.features, np.nan)
    mine = bets.kind >= 0
    if not mine.any():
        return found
    held = bets.reference.copy()
    held[:, -2:] = 0
    cumulated = np.cumsum(held, axis=1)
    values = cumulated[:, -1:]
    is_varied = (held > 0).sum(axis=1) > 1
    with np.errstate(divide="ignore", invalid="ignore"):
        edges = ndtri(np.clip(cumulated / np.maximum(values, 1), 0, 1))
    edges = np.concatenate([np.full((len(edges), 1), -np.inf), edges], axis=1)
    is_location = (bets.score == 0) & (bets.direction == 1)
    stake, needed = (np.full((len(edges), 3), np.inf) for _ in range(2))
    for at, feature in enumerate(bets.kinds):
        its = np.flatnonzero(is_location & (bets.feature == feature))
        stake[at, : len(its)] = bets.stake[its] / bets.inflation[feature]
        needed[at, : len(its)] = np.log(windows_to_false_alarm * bets.features) - bets.log_weight[its]
    rows = float(WINDOWS * window_rows)
    inflation = bets.inflation[bets.kinds, None]

    def outcome(shift: Floats) -> tuple[NDArray[np.bool_], Floats]:
        """Whether a shift is found, and how far the mean of the scores moves, in their standard deviations."""
        shares = np.diff(ndtr(edges - shift[:, None]), axis=1) * values / bets.rows
        total = shares.sum(axis=1)
        logs = bets.tables[:, :, :3]
        null = 1 - total  # what a null makes of the money is what any neutral slot does
        mean = np.einsum("us,usk->uk", shares, logs) + null[:, None] * logs[:, -2]
        square = np.einsum("us,usk->uk", shares, logs**2) + null[:, None] * logs[:, -2] ** 2
        moved = (shares * bets.scores[:, :, 0]).sum(axis=1)
        spread = np.sqrt(inflation * (np.maximum(square - mean**2, 0) * rows + (stake * rows) ** 2 / bets.rows))
        with np.errstate(invalid="ignore"):
            is_found = (mean * rows - _SURE * spread >= needed).any(axis=1)
        return is_found, moved

    low, high = np.zeros(len(edges)), np.full(len(edges), _SHIFT_MAX)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_found, _moved = outcome(middle)
        low, high = np.where(is_found, low, middle), np.where(is_found, middle, high)
    is_found, moved = outcome(high)
    # A standard deviation among the values alone, where there are nulls.
    by_kind = np.where(is_found, moved * np.sqrt(bets.rows / np.maximum(values[:, 0], 1)), np.inf)
    found[mine] = np.where(is_varied, by_kind, np.nan)[bets.kind[mine]]
    return found
