"""Features of an offer: raw columns become the graph's input, in training and serving alike."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLUMNS", "tensors", "violations"]

COLUMNS = ("price", "rating", "age_days")
_RANGES: Mapping[str, tuple[float, float]] = {"price": (0, 1_000_000), "rating": (1, 5), "age_days": (0, 10_000)}


def violations(offers: NDArray[np.float64]) -> list[tuple[int, str, str]]:
    """(row, column, reason) of every value that is out of its range or not finite.

    Args:
        offers: shape (n, 3), columns `COLUMNS`.
    """
    found = []
    for at, column in enumerate(COLUMNS):
        low, high = _RANGES[column]
        wrong = ~((offers[:, at] >= low) & (offers[:, at] <= high))
        found += [
            (row, column, f"must be from {low:g} to {high:g}, is {offers[row, at]:g}")
            for row in np.flatnonzero(wrong).tolist()
        ]
    return found


def tensors(offers: NDArray[np.float64]) -> dict[str, NDArray[np.float32]]:
    """The graph's input, unscaled: scaling is inside the graph."""
    return {"offer": offers.astype(np.float32)}
