"""Percentiles: of the last values of a quantity, such as the latencies of a replica's tries."""

from __future__ import annotations

import math
from array import array

VALUES_MAX = 1024  # as the contract's ServiceHealth and ReplicaHealth document it


class Percentiles:
    """Percentiles of the last values. Adding costs a store; reading sorts, once for all reads until the next value.

    Args:
        values_max: how many values are looked back at.

    Attributes:
        added: values so far, the forgotten ones too.
    """

    __slots__ = ("_max", "_ordered", "_values", "added")

    def __init__(self, values_max: int = VALUES_MAX) -> None:
        self.added = 0
        self._max = values_max
        self._values = array("d")
        self._ordered: list[float] | None = None

    def add(self, value: float) -> None:
        """Takes a value; the oldest is forgotten once there are too many."""
        if self.added < self._max:
            self._values.append(value)
        else:
            self._values[self.added % self._max] = value
        self.added += 1
        self._ordered = None

    def at(self, share: float) -> float | None:
        """Value that this share of the last ones stayed at or below; None without values.

        Args:
            share: 0 to 1, as in 0.5 for the median. Nearest-rank definition.
        """
        ordered = self._ordered
        if ordered is None:
            ordered = self._ordered = sorted(self._values)
        if not ordered:
            return None
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
