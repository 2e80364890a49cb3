"""Queue of a batcher: rows in three priority classes, taken in batches that share one version and one padded shape."""

import asyncio
from collections import deque
from typing import Any, NamedTuple

from numpy.typing import NDArray

from meshcast.api.type.v1 import receipt_pb2
from meshcast.runtime.signature import Arrays, Lengths, Signature
from meshcast.runtime.versions import LoadedVersion

__all__ = ["Answer", "Batch", "Item", "Lane", "Part", "RowQueue", "RunFacts"]

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

    def and_of(self, later: "RunFacts") -> "RunFacts":
        """The facts of an answer that took this run and another one."""
        largest = later if later.batch_rows > self.batch_rows else self
        return largest._replace(
            queue_us=min(self.queue_us, later.queue_us), compute_us=self.compute_us + later.compute_us
        )


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
        "lane",
        "lease",
        "lengths",
        "outputs",
        "priority",
        "queued_at",
        "rows",
        "taken",
        "undone",
    )

    lane: "Lane"  # where it waits, from `RowQueue.put` on

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
        lengths: Lengths = (),
    ) -> None:
        self.arrays = arrays
        self.rows = rows
        self.at = at
        self.priority = priority
        self.door = door
        self.lease = lease
        self.future = future
        self.queued_at = queued_at
        self.lengths = lengths
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
    """Rows of one padded shape that run together on one session.

    Args:
        lease: of the version.
        lane: where the rows come from.
        rows_max: most rows.
    """

    __slots__ = ("close", "lane", "lease", "parts", "rows", "rows_max", "tightest")

    def __init__(self, lease: LoadedVersion, lane: "Lane", rows_max: int) -> None:
        self.lease = lease
        self.lane = lane
        self.rows_max = rows_max
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


class Lane:
    """Items of one padded shape that wait, by priority; without ragged axes a queue has one lane.

    Args:
        rows_max: most rows of a run at this shape.
        cells: rows of this shape count as many times: their longest ragged axis, 1 where there is none.
    """

    __slots__ = ("cells", "classes", "rows", "rows_max")

    def __init__(self, rows_max: int, cells: int) -> None:
        self.classes: tuple[deque[Item], ...] = (deque(), deque(), deque())
        self.rows = 0  # rows that no batch holds yet
        self.rows_max = rows_max
        self.cells = cells

    def head(self) -> Item | None:
        """The item that goes first; None when nothing waits."""
        for items in self.classes:
            while items:
                if items[0].taken < items[0].rows:
                    return items[0]
                items.popleft()
        return None

    def waiting(self) -> list[Item]:
        """The items of which rows wait."""
        return [item for items in self.classes for item in items if item.taken < item.rows]

    def run_s(self, cell_s: float) -> float:
        """How long a full run takes, by the seconds of a cell."""
        return self.rows_max * self.cells * cell_s


class RowQueue:
    """Items that wait, by padded shape and priority. Not locked: its batcher calls it under the batcher's lock.

    The item that goes first decides the shape of a batch; items of other shapes keep their order, and the oldest of
    the highest class always goes first, so that no shape waits for ever.

    Args:
        signature: of the model.
        rows_max: most rows of a batch; at long ragged axes the signature may allow fewer.
        wait_s: how long a batch may wait for more rows; 0 closes it as soon as a run slot is free.
    """

    def __init__(self, signature: Signature, *, rows_max: int, wait_s: float) -> None:
        self._signature = signature
        self._rows_max = rows_max
        self._wait_s = wait_s
        self._lanes: dict[Lengths, Lane] = {}
        self._swept_at = 0.0
        self.rows = 0  # rows that no batch holds yet
        self.is_draining = False

    def resize(self, rows_max: int) -> None:
        """Changes the most rows of a batch."""
        self._rows_max = rows_max
        for lengths, lane in self._lanes.items():
            lane.rows_max = self._signature.rows_at(lengths, rows_max)

    def put(self, item: Item) -> None:
        """Adds an item behind those of its shape and class."""
        lane = self._lanes.get(item.lengths)
        if lane is None:
            lane = Lane(self._signature.rows_at(item.lengths, self._rows_max), max(item.lengths, default=1))
            self._lanes[item.lengths] = lane
        item.lane = lane
        lane.classes[item.priority].append(item)
        lane.rows += item.rows
        self.rows += item.rows

    def forget(self, item: Item) -> None:
        """Takes an item's waiting rows out; the item itself is passed over later."""
        rows = item.rows - item.taken
        item.lane.rows -= rows
        self.rows -= rows
        item.taken = item.rows

    def head(self) -> Item | None:
        """The item that goes first; None when nothing waits."""
        first: Item | None = None
        for lengths, lane in list(self._lanes.items()) if len(self._lanes) > 1 else self._lanes.items():
            item = lane.head()
            if item is None:
                if len(self._lanes) > 1:  # shapes that nobody asks for any longer cost nothing
                    del self._lanes[lengths]
            elif first is None or _order(item) < _order(first):
                first = item
        return first

    @property
    def batches(self) -> int:
        """Runs that the waiting rows would fill."""
        found = 0
        for lane in self._lanes.values():
            found += -(-lane.rows // lane.rows_max)
        return found

    @property
    def cells(self) -> int:
        """Waiting rows, each counted as many times as its longest ragged axis is long."""
        return sum(lane.rows * lane.cells for lane in self._lanes.values())

    def expired(self, now: float) -> list[Item]:
        """Removes and returns items whose deadline has passed: those in front now, those further back from time to
        time."""
        gone: list[Item] = []
        is_sweep = now - self._swept_at > SWEEP_S
        if is_sweep:
            self._swept_at = now
        for lane in self._lanes.values():
            for items in lane.classes:
                candidates = list(items) if is_sweep else [items[0]] if items else []
                gone += [item for item in candidates if item.at <= now and item.taken < item.rows]
        for item in gone:
            self.forget(item)
        return gone

    def take_unversioned(self) -> list[Item]:
        """Removes and returns the items that wait for whichever version is live."""
        waiting = [item for lane in self._lanes.values() for item in lane.waiting() if item.lease is None]
        for item in waiting:
            self.forget(item)
        return waiting

    def next(self, now: float, cell_s: float) -> tuple[Item, float, int] | None:
        """The item that decides the next batch, when that one is due on the clock of `now`, and why then.

        It is due at once unless a wait is set. None when nothing waits.

        Args:
            now: monotonic seconds.
            cell_s: run time of a cell in seconds, so that the tightest deadline can still be met.
        """
        head = self.head()
        if head is None:
            return None
        if self.is_draining:
            return head, now, DRAIN
        if self._wait_s <= 0.0:
            return head, now, IDLE
        found: list[tuple[Item, float, int]] = []
        for lane in self._lanes.values():
            first = lane.head()
            if first is not None:
                found.append((first, *self._due(lane, now, cell_s)))
        # Of several that are due, the one whose item goes first.
        return min(found, key=lambda one: (max(now, one[1]), _order(one[0])))

    def _due(self, lane: Lane, now: float, cell_s: float) -> tuple[float, int]:
        if lane.rows >= lane.rows_max:
            return now, FULL
        waiting = lane.waiting()
        limit = min(item.queued_at for item in waiting) + self._wait_s
        tightest = min(item.at for item in waiting) - lane.run_s(cell_s)
        return (tightest, DEADLINE) if tightest < limit else (limit, WAIT)

    def fill(self, batch: Batch, live: LoadedVersion | None) -> None:
        """Moves rows of the batch's shape and version into it, high priority first, until it is full or nothing more
        fits.

        Args:
            batch: it already holds a lease.
            live: version of the items that name none.
        """
        for items in batch.lane.classes:
            before = batch.rows
            passed: list[Item] = []
            while items and len(passed) < PASSED_OVER_MAX and batch.rows < batch.rows_max:
                item = items[0]
                rows = item.rows - item.taken
                if rows == 0:
                    items.popleft()
                    continue
                room = batch.rows_max - batch.rows
                if (item.lease or live) is not batch.lease:
                    passed.append(items.popleft())
                elif rows <= room:
                    items.popleft()
                    batch.add(item, rows)
                elif batch.rows == 0:  # larger than a batch: it stays in front with the rest of its rows
                    batch.add(item, room)
                else:
                    batch.close = FULL  # not to the last row, but the next item would not fit
                    passed.append(items.popleft())
            items.extendleft(reversed(passed))
            self.rows -= batch.rows - before
            batch.lane.rows -= batch.rows - before
            if batch.rows >= batch.rows_max:
                batch.close = FULL
                return


def _order(item: Item) -> tuple[int, float]:
    """Places items of several lanes: by class, then by age."""
    return item.priority, item.queued_at
