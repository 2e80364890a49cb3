"""Queue of a batcher: rows in three priority classes, bounded, taken in batches that share one version."""

import asyncio
from collections import deque
from typing import Any, NamedTuple

from numpy.typing import NDArray

from meshcast.api.type.v1 import receipt_pb2
from meshcast.runtime.signature import Arrays
from meshcast.runtime.versions import LoadedVersion

__all__ = ["Answer", "Batch", "Item", "Part", "RowQueue", "RunFacts"]

FULL = receipt_pb2.BATCH_CLOSE_FULL
IDLE = receipt_pb2.BATCH_CLOSE_IDLE
WAIT = receipt_pb2.BATCH_CLOSE_WAIT
DEADLINE = receipt_pb2.BATCH_CLOSE_DEADLINE
DRAIN = receipt_pb2.BATCH_CLOSE_DRAIN

PASSED_OVER_MAX = 64  # items of another version, or too large, that a batch may skip: bounds the time under the lock
SWEEP_S = 0.05  # how often rows deep in the queue are checked for a passed deadline


class RunFacts(NamedTuple):
    """How an answer came about; the fields of a receipt.

    `batch_close` is a `meshcast.api.type.v1.BatchClose`. Of an answer that took several runs: queue time before the
    first, compute time of all, rows, doors and close of the largest.
    """

    model: str
    version: int
    backend: str
    queue_us: int
    compute_us: int
    batch_rows: int
    batch_doors: int
    batch_close: int


class Answer(NamedTuple):
    """Outputs by name, the rows in the order of the question, and how they came about."""

    outputs: dict[str, NDArray[Any]]
    facts: RunFacts


class Item:
    """One submitted question."""

    __slots__ = (
        "arrays",
        "at",
        "door",
        "facts",
        "future",
        "is_over",
        "lease",
        "outputs",
        "priority",
        "queued_at",
        "rows",
        "taken",
        "undone",
    )

    def __init__(
        self,
        arrays: Arrays,
        rows: int,
        at: float,
        priority: int,
        door: str,
        lease: LoadedVersion | None,
        future: asyncio.Future[Answer],
        queued_at: float,
    ) -> None:
        self.arrays = arrays
        self.rows = rows
        self.at = at
        self.priority = priority
        self.door = door
        self.lease = lease
        self.future = future
        self.queued_at = queued_at
        self.taken = 0  # rows that a batch holds or held
        self.undone = rows  # rows without an answer
        self.is_over = False  # answered, failed, expired or forgotten
        self.outputs: dict[str, NDArray[Any]] | None = None
        self.facts: RunFacts | None = None


class Part(NamedTuple):
    """Rows `start` to `stop` of an item, in one batch."""

    item: Item
    start: int
    stop: int


class Batch:
    """Rows that run together on one session."""

    __slots__ = ("close", "lease", "parts", "rows", "tightest")

    def __init__(self, lease: LoadedVersion) -> None:
        self.lease = lease
        self.parts: list[Part] = []
        self.rows = 0
        self.tightest = float("inf")
        self.close: int = IDLE

    def add(self, item: Item, rows: int) -> None:
        """Takes the item's next rows."""
        start = item.taken
        item.taken = stop = start + rows
        self.parts.append(Part(item, start, stop))
        self.rows += rows
        if item.at < self.tightest:
            self.tightest = item.at

    def without_expired(self, now: float) -> list[Part]:
        """Removes the parts whose deadline has passed, and returns them."""
        gone = [part for part in self.parts if part.item.at <= now]
        self.parts = [part for part in self.parts if part.item.at > now]
        self.rows = sum(part.stop - part.start for part in self.parts)
        self.tightest = min((part.item.at for part in self.parts), default=float("inf"))
        return gone


class RowQueue:
    """Items that wait, by priority. Not locked: its batcher calls it under the batcher's lock.

    Args:
        rows_max: most rows of a batch.
        wait_s: how long a batch may wait for more rows; 0 closes it as soon as a run slot is free.
    """

    def __init__(self, *, rows_max: int, wait_s: float) -> None:
        self.rows_max = rows_max
        self._wait_s = wait_s
        self._classes: tuple[deque[Item], ...] = (deque(), deque(), deque())
        self._swept_at = 0.0
        self.rows = 0  # rows that no batch holds yet
        self.is_draining = False

    def __len__(self) -> int:
        return sum(map(len, self._classes))

    def put(self, item: Item) -> None:
        """Adds an item behind those of its class."""
        self._classes[item.priority].append(item)
        self.rows += item.rows

    def forget(self, item: Item) -> None:
        """Takes an item's waiting rows out; the item itself is passed over later."""
        self.rows -= item.rows - item.taken
        item.taken = item.rows

    def head(self) -> Item | None:
        """The item that goes first; None when nothing waits."""
        for items in self._classes:
            while items:
                if items[0].taken < items[0].rows:
                    return items[0]
                items.popleft()
        return None

    def expired(self, now: float) -> list[Item]:
        """Removes and returns items whose deadline has passed: those in front now, those further back from time to
        time."""
        gone: list[Item] = []
        is_sweep = now - self._swept_at > SWEEP_S
        if is_sweep:
            self._swept_at = now
        for items in self._classes:
            candidates = list(items) if is_sweep else [items[0]] if items else []
            gone += [item for item in candidates if item.at <= now and item.taken < item.rows]
        for item in gone:
            self.forget(item)
        return gone

    def take_unversioned(self) -> list[Item]:
        """Removes and returns the items that wait for whichever version is live."""
        waiting = [item for items in self._classes for item in items if item.lease is None and item.taken < item.rows]
        for item in waiting:
            self.forget(item)
        return waiting

    def close_at(self, now: float, run_s: float) -> tuple[float, int]:
        """When the next batch is due, on the clock of `now`, and why then; at once unless a wait is set.

        Args:
            now: monotonic seconds.
            run_s: how long a full run takes, so that the tightest deadline can still be met.
        """
        if self.is_draining:
            return now, DRAIN
        if self._wait_s <= 0.0:
            return now, IDLE
        if self.rows >= self.rows_max:
            return now, FULL
        waiting = [item for items in self._classes for item in items if item.taken < item.rows]
        limit = min(item.queued_at for item in waiting) + self._wait_s
        tightest = min(item.at for item in waiting) - run_s
        return (tightest, DEADLINE) if tightest < limit else (limit, WAIT)

    def fill(self, batch: Batch, live: LoadedVersion | None) -> None:
        """Moves rows of the batch's version into it, high priority first, until it is full or nothing more fits.

        Args:
            batch: it already holds a lease.
            live: version of the items that name none.
        """
        for items in self._classes:
            passed: list[Item] = []
            while items and len(passed) < PASSED_OVER_MAX and batch.rows < self.rows_max:
                item = items[0]
                rows = item.rows - item.taken
                if rows == 0:
                    items.popleft()
                    continue
                room = self.rows_max - batch.rows
                if (item.lease or live) is not batch.lease:
                    passed.append(items.popleft())
                elif rows <= room:
                    items.popleft()
                    batch.add(item, rows)
                    self.rows -= rows
                elif batch.rows == 0:  # larger than a batch: it stays in front with the rest of its rows
                    batch.add(item, room)
                    self.rows -= room
                else:
                    batch.close = FULL  # not to the last row, but the next item would not fit
                    passed.append(items.popleft())
            items.extendleft(reversed(passed))
            if batch.rows >= self.rows_max:
                batch.close = FULL
                return
