"""Tap: a sampled, bounded copy of what goes through a batcher; it drops records rather than hold an answer up."""

import random
from collections import deque
from typing import NamedTuple

from meshcast.runtime.signature import Arrays

__all__ = ["Tap", "TapRecord"]


class TapRecord(NamedTuple):
    """One run: its inputs and outputs by the signature's names, rows of all doors in the order they ran."""

    model: str
    version: int
    backend: str
    rows: int
    inputs: Arrays
    outputs: Arrays


class Tap:
    """Keeps a share of the runs until they are taken.

    Args:
        share: chance of a run to be kept, 0 to 1.
        records_max: most records held; further ones are dropped and counted.
        rng: source of the chance.
    """

    def __init__(self, *, share: float, records_max: int, rng: random.Random) -> None:
        self._share = share
        self._records: deque[TapRecord] = deque()
        self._records_max = records_max
        self._rng = rng
        self.dropped = 0

    def __call__(self, record: TapRecord) -> None:
        """Offers a run; on the event loop, never blocks."""
        if self._share < 1.0 and self._rng.random() >= self._share:
            return
        if len(self._records) >= self._records_max:
            self.dropped += 1
            return
        self._records.append(record)

    def take(self) -> list[TapRecord]:
        """Every record held, oldest first; they are then forgotten here."""
        records = list(self._records)
        self._records.clear()
        return records
