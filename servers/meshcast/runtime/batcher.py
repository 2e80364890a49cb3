"""Batcher of one model: questions of every door wait in one bounded queue and run together, off the event loop."""

import asyncio
import copy
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import structlog
from numpy.typing import NDArray

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc.deadline import Deadline
from meshcast.rpc.errors import DeadlineExceeded, InvalidInput, MeshError, NotReady, Overloaded
from meshcast.rpc.load_meter import Work
from meshcast.runtime.counts import BatcherCounts
from meshcast.runtime.queueing import Answer, Batch, Item, Part, RowQueue, RunFacts
from meshcast.runtime.ragged import Rows, in_order
from meshcast.runtime.signature import Arrays, Signature
from meshcast.runtime.tap import TapRecord
from meshcast.runtime.versions import LoadedVersion, Versions

__all__ = ["HIGH", "LOW", "NORMAL", "Batcher", "Batching", "RunFailed"]

log = structlog.get_logger()

HIGH, NORMAL, LOW = 0, 1, 2
"""Priority classes, in the order in which their rows go."""

Wake = queue.SimpleQueue[None]


class RunFailed(Exception):
    """The back-end failed on rows that fit the signature: a bug, in the model or in ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """Bounds of a batcher.

    Attributes:
        rows_max: most rows of one run; larger batches fall out of the cache. A signature may allow fewer of long rows.
        runs_max: runs that may be under way at once, a thread each.
        queue_rows_max: most rows that may wait.
        wait_ms_max: how long a batch may wait for more rows while a run slot is free; 0 runs at once.
    """

    rows_max: int = 256
    runs_max: int = 1
    queue_rows_max: int = 8192
    wait_ms_max: float = 0.0


class Batcher:
    """Gathers rows into batches and runs them, one thread a run slot.

    A slot that has finished a run takes the next batch itself, without a turn of the event loop between two runs. It
    belongs to the loop in which it is entered (`async with`); `submit` is called there. Answers of one batch come from
    one session; an item larger than a batch takes several runs, all on one version. Rows with ragged axes are padded
    to their multiples and run with rows of the same padded shape only.

    Args:
        model: the model's name, for errors and receipts.
        signature: of the model.
        versions: where a batch finds its session.
        batching: the bounds.
        taps: called on the event loop with every run; they must not block (see `tap.Tap`).
    """

    def __init__(
        self,
        *,
        model: str,
        signature: Signature,
        versions: Versions,
        batching: Batching,
        taps: Sequence[Callable[[TapRecord], None]] = (),
    ) -> None:
        self.model = model
        self.rows_max = min(batching.rows_max, signature.rows_max)
        self.counts = BatcherCounts(model)
        self.refusing: MeshError | None = None
        """Set by the model while no version serves: what every new question is refused with."""
        self._signature = signature
        self._is_ragged = signature.is_ragged
        self._names = signature.input_names
        self._versions = versions
        self._batching = batching
        self._taps = tuple(taps)
        self._lock = threading.Lock()
        self._queue = RowQueue(signature, rows_max=self.rows_max, wait_s=batching.wait_ms_max / 1e3)
        self._slots: list[threading.Thread] = []
        self._idle: list[Wake] = []
        self._woken = 0  # slots on their way to the queue
        self._taken = 0  # batches that slots have taken
        self._delivered = 0  # batches whose outcome reached the loop
        # Seconds of run time a row, learnt; of a ragged model a cell. The start is of a small LSTM's order.
        self._cell_s = 50e-6
        self._is_stopped = False
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        for number in range(self._batching.runs_max):
            slot = threading.Thread(target=self._slot, name=f"run:{self.model}:{number}", daemon=True)
            self._slots.append(slot)
            slot.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.drain()
        with self._lock:
            self._is_stopped = True
            idle, self._idle = self._idle, []
        for wake in idle:
            wake.put(None)
        for slot in self._slots:
            await asyncio.to_thread(slot.join)

    def resize(self, rows_max: int) -> None:
        """Makes runs of at most that many rows from the next batch on: what suits a core is small for a GPU."""
        with self._lock:
            self.rows_max = rows_max
            self._queue.resize(rows_max)

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a run."""
        return self._queue.rows

    @property
    def work(self) -> Work:
        """What the run slots have done, and what waits for them."""
        return Work(self.counts.compute_s, self._batching.runs_max, self._queue.rows, self._queue_s)

    @property
    def _queue_s(self) -> float:
        """Seconds that the slots will take for what waits now."""
        return self._queue.cells * self._cell_s / self._batching.runs_max

    async def submit(
        self,
        arrays: Arrays,
        *,
        rows: int,
        deadline: Deadline,
        priority: int = NORMAL,
        door: str = "typed",
        version: int = 0,
    ) -> Answer:
        """Runs the rows with those of other callers, and gives their outputs.

        The arrays are read after the call has begun to wait: they must not change until it returns. They are not
        checked here: `Signature.check` gives `rows`.

        Args:
            arrays: inputs that fit the signature.
            rows: their rows.
            deadline: rows that no run has taken by then are dropped.
            priority: HIGH, NORMAL or LOW.
            door: where the question came in, as in `typed` or `oip`.
            version: that must answer; 0 is the one that is live when a run takes the first row.

        Raises:
            NotFound: the version is not loaded.
            NotReady: no version serves, or the process drains.
            Overloaded: QUEUE_FULL; `retry_after_s` is the time that the queue takes to empty.
            DeadlineExceeded: the deadline passed before a run took the rows; nothing was computed after it.
        """
        item = self._enter(arrays, rows, deadline, priority, door, version)
        try:
            return await item.future
        except asyncio.CancelledError:
            self._finish(item, None)
            raise

    async def submit_groups(
        self,
        groups: Sequence[Rows],
        *,
        deadline: Deadline,
        priority: int = NORMAL,
        door: str = "typed",
        version: int = 0,
    ) -> Answer:
        """Runs the groups of one question (see `ragged.group_rows`), all on one version.

        Args:
            groups: at least one; together their positions are those of the question's rows.
            deadline: see `submit`.
            priority: see `submit`.
            door: see `submit`.
            version: see `submit`.

        Returns:
            The outputs in the order of the question's rows. The facts are those of an answer of several runs.

        Raises:
            MeshError: as `submit`, when a group is refused or fails; the others are then given up.
        """
        rows = sum(len(group.positions) for group in groups)
        if rows > self._batching.queue_rows_max:
            raise self._too_many(rows)
        if len(groups) > 1:
            version = version or self._versions.live
        items: list[Item] = []
        answers: list[Answer] = []
        try:
            for group in groups:  # in one turn of the loop: the version cannot go in between
                items.append(self._enter(group.arrays, len(group.positions), deadline, priority, door, version))
            for item in items:
                answers.append(await item.future)
        except BaseException:
            for item in items:
                self._finish(item, None)
                if item.future.done() and not item.future.cancelled():
                    item.future.exception()  # one is raised; the others have been seen too
            raise
        return in_order(groups, answers)

    def _enter(self, arrays: Arrays, rows: int, deadline: Deadline, priority: int, door: str, version: int) -> Item:
        """Puts a question into the queue; see `submit`."""
        loop = self._loop
        assert loop is not None, "enter the batcher first"
        if self.refusing is not None:
            raise copy.copy(self.refusing)
        now = time.monotonic()
        if deadline.at <= now:
            self.counts.expired += rows
            raise self._deadline_passed("the queue")
        lease = self._versions.acquire(version) if version else None
        item = Item(arrays, rows, deadline.at, priority, door, lease, loop.create_future(), now)
        if self._is_ragged:
            item.lengths = self._signature.lengths(arrays)
            item.arrays = self._signature.at_lengths(arrays, item.lengths)
        wake = None
        with self._lock:
            if self._queue.is_draining or self._queue.rows + rows > self._batching.queue_rows_max:
                refusal = self._refusal(rows)
            else:
                refusal = None
                self._queue.put(item)
                if self._idle and self._is_worth_a_slot(item):
                    wake = self._idle.pop()
                    self._woken += 1
        if refusal is not None:
            if lease is not None:
                self._versions.release(lease)
            raise refusal
        self._quiet.clear()
        if wake is not None:
            wake.put(None)
        return item

    async def drain(self) -> None:
        """Takes no more rows, and waits until those that are in have their answers."""
        with self._lock:
            self._queue.is_draining = True
            idle = self._wake_idle()
        for wake in idle:
            wake.put(None)
        await self.settle()

    async def settle(self) -> None:
        """Waits until no row is queued or in a run."""
        while not self._is_quiet:
            self._quiet.clear()
            await self._quiet.wait()

    @property
    def _is_quiet(self) -> bool:
        with self._lock:  # a slot takes rows out of the queue and counts their batch in two steps
            return self._taken == self._delivered and not self._queue.rows

    def _is_worth_a_slot(self, item: Item) -> bool:
        """True when an idle slot has something to do about a new item; under the lock."""
        if self._queue.batches <= self._woken:  # slots that are on their way take them
            return False
        lane, wait_s = item.lane, self._batching.wait_ms_max / 1e3
        if wait_s <= 0.0 or lane.rows == item.rows or lane.rows >= lane.rows_max:
            return True
        return item.at < item.queued_at + wait_s + lane.run_s(self._cell_s)  # the batch is due earlier now

    def _refusal(self, rows: int) -> MeshError:
        if self._queue.is_draining:
            return NotReady(
                f"Model {self.model} drains and takes no more rows.",
                retry_after_s=1.0,
                reason=error_reason_pb2.ERROR_REASON_DRAINING,
            )
        limit = self._batching.queue_rows_max
        self.counts.refused += rows
        if rows > limit:
            return self._too_many(rows)
        return Overloaded(
            f"The queue of model {self.model} is full ({self._queue.rows} of {limit} rows); retry later.",
            retry_after_s=max(0.001, self._queue_s),
            reason=error_reason_pb2.ERROR_REASON_QUEUE_FULL,
            model=self.model,
            rows_max=limit,
        )

    def _too_many(self, rows: int) -> InvalidInput:
        limit = self._batching.queue_rows_max
        return InvalidInput(
            f"{rows} rows in one question are more than the queue may hold ({limit}, runtime.queue_rows_max); "
            "send them in chunks.",
            field="rows",
        )

    def _deadline_passed(self, where: str) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"The deadline passed before {where}; nothing was computed.",
            reason=error_reason_pb2.ERROR_REASON_DEADLINE_PASSED,
            where=where,
        )

    def _wake_idle(self) -> list[Wake]:
        """Every idle slot, counted as woken; under the lock."""
        idle, self._idle = self._idle, []
        self._woken += len(idle)
        return idle

    # --- run slots: each of these runs on a slot's thread ---

    def _slot(self) -> None:
        """Takes and runs batches until the batcher stops."""
        wake: Wake = queue.SimpleQueue()
        is_woken = False
        while True:
            batch: Batch | None = None
            another: Wake | None = None
            due = 0.0
            with self._lock:
                if is_woken:
                    self._woken -= 1
                    is_woken = False
                now = time.monotonic()
                gone = self._queue.expired(now)
                failed: tuple[list[Item], MeshError] | None = None
                found = self._queue.next(now, self._cell_s)
                if found is not None:
                    head, due, close = found
                    if due <= now:
                        try:
                            batch = self._take(head, close)
                        except MeshError as error:
                            failed = self._queue.take_unversioned(), error
                        else:
                            self._taken += 1
                            if self._idle and self._queue.batches > self._woken:
                                another = self._idle.pop()
                                self._woken += 1
                if batch is None and not gone and failed is None:
                    if self._is_stopped:
                        return
                    self._idle.append(wake)
            if another is not None:
                another.put(None)
            if gone:
                self._call(self._fail_expired, gone)
            if failed is not None:
                self._call(self._fail, *failed)
            if batch is not None:
                self._run(batch)
            elif not gone and failed is None:
                is_woken = self._wait(wake, max(0.0, due - now) if due else None)

    def _wait(self, wake: Wake, timeout_s: float | None) -> bool:
        """Waits to be woken; False when the time ran out and nobody had taken this slot off the idle list."""
        try:
            wake.get(timeout=timeout_s)
            return True
        except queue.Empty:
            with self._lock:
                if wake in self._idle:
                    self._idle.remove(wake)
                    return False
        wake.get()  # someone took it in between: the token is on its way
        return True

    def _take(self, head: Item, close: int) -> Batch:
        """The batch that an item decides; under the lock."""
        lane = head.lane
        is_leased = head.lease is not None
        if head.lease is None:
            lease = self._versions.acquire()
            live: LoadedVersion | None = lease
        else:
            live, lease = self._versions.current, head.lease
            self._versions.retain(lease)
        rows_max = lane.rows_max
        if self._is_ragged:
            waiting = min(lane.rows, rows_max)
            if (worth := lease.session.worth(waiting, lane.cells)) < waiting:
                rows_max = worth
        if head.rows > rows_max and not is_leased:  # its later parts must find the same version
            self._versions.retain(lease)
            head.lease = lease
        batch = Batch(lease, lane, rows_max)
        batch.close = close
        self._queue.fill(batch, live)
        return batch

    def _run(self, batch: Batch) -> None:
        """Runs a batch and hands its outputs to the event loop."""
        error: BaseException | None = None
        outputs: dict[str, NDArray[Any]] = {}
        arrays: Arrays = {}
        started = ended = time.monotonic()
        try:
            arrays = self._gather(batch)
            started = time.monotonic()
            if batch.tightest <= started:  # gathering took the rest of somebody's time
                gone = batch.without_expired(started)
                self._call(self._fail_expired, [part.item for part in gone])
                if batch.parts:
                    arrays = self._gather(batch)
            if batch.parts:
                outputs = batch.lease.session.run(arrays)
                ended = time.monotonic()
                self._cell_s += 0.1 * ((ended - started) / (batch.rows * batch.lane.cells) - self._cell_s)
                if len(batch.parts) == 1 and batch.parts[0].item.rows > batch.rows:
                    self._keep_part(batch.parts[0], outputs)
        except Exception as caught:  # a back-end raises what it likes; callers get an answer all the same
            log.exception("a model run failed", model=self.model, version=batch.lease.version)
            error = RunFailed(f"model {self.model} version {batch.lease.version} failed on {batch.rows} rows")
            error.__cause__ = caught
        self._call(self._deliver, batch, arrays, outputs, error, started, ended)

    def _gather(self, batch: Batch) -> Arrays:
        parts = batch.parts
        if len(parts) == 1:
            item, start, stop = parts[0]
            if stop - start == item.rows:
                return item.arrays
            return {name: item.arrays[name][start:stop] for name in self._names}
        gathered: dict[str, NDArray[Any]] = {}
        for name in self._names:
            gathered[name] = np.concatenate(
                [
                    part.item.arrays[name]
                    if part.stop - part.start == part.item.rows
                    else part.item.arrays[name][part.start : part.stop]
                    for part in parts
                ]
            )
        return gathered

    def _keep_part(self, part: Part, outputs: dict[str, NDArray[Any]], offset: int = 0) -> None:
        """Copies outputs of a part to their place in its item's outputs."""
        item, start, stop = part
        with self._lock:
            if item.outputs is None:
                item.outputs = {
                    name: np.empty((item.rows, *array.shape[1:]), array.dtype) for name, array in outputs.items()
                }
            whole = item.outputs
        for name, array in outputs.items():
            whole[name][start:stop] = array[offset : offset + stop - start]

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed: nobody waits any longer
            log.warning("a run ended after its event loop", model=self.model)

    # --- event loop ---

    def _deliver(
        self,
        batch: Batch,
        arrays: Arrays,
        outputs: dict[str, NDArray[Any]],
        error: BaseException | None,
        started: float,
        ended: float,
    ) -> None:
        lease, parts = batch.lease, batch.parts
        self._delivered += 1
        compute_us = round((ended - started) * 1e6)
        doors = 1 if len(parts) == 1 else len({part.item.door for part in parts})
        if parts:
            self.counts.run(batch.rows, ended - started, doors)
        offset = 0
        for part in parts:
            item, start, stop = part
            rows = stop - start
            if error is not None:
                self._finish(item, error)
            elif not item.is_over:
                queue_us = int((started - item.queued_at) * 1e6)
                facts = RunFacts(
                    self.model, lease.version, lease.backend, queue_us, compute_us, batch.rows, doors, batch.close
                )
                self.counts.queue_s += started - item.queued_at
                if item.at < started:
                    self.counts.executed_after_deadline += rows
                if rows == item.rows:
                    whole = outputs
                    if len(parts) > 1:
                        whole = {name: array[offset : offset + rows] for name, array in outputs.items()}
                    self._finish(item, Answer(whole, facts))
                else:
                    if len(parts) > 1:
                        self._keep_part(part, outputs, offset)
                    item.undone -= rows
                    item.facts = facts if item.facts is None else item.facts.and_of(facts)
                    if item.undone == 0:
                        assert item.outputs is not None
                        self._finish(item, Answer(item.outputs, item.facts))
            offset += rows
        if self._taps and error is None and parts:
            record = TapRecord(self.model, lease.version, lease.backend, batch.rows, arrays, outputs)
            for tap in self._taps:
                tap(record)
        self._versions.release(lease)
        if self._is_quiet:
            self._quiet.set()

    def _fail_expired(self, items: list[Item]) -> None:
        self.counts.expired += sum(item.rows for item in items if not item.is_over)
        self._fail(items, self._deadline_passed("a run slot was free"))

    def _fail(self, items: list[Item], error: MeshError) -> None:
        for item in items:
            self._finish(item, error)
        if self._is_quiet:
            self._quiet.set()

    def _finish(self, item: Item, outcome: Answer | BaseException | None) -> None:
        """Ends an item once: with its answer, an error, or None when its caller has gone."""
        if item.is_over:
            return
        item.is_over = True
        if item.taken < item.rows:
            with self._lock:
                self._queue.forget(item)
            if self._is_quiet:
                self._quiet.set()
        if item.lease is not None:
            self._versions.release(item.lease)
            item.lease = None
        future = item.future
        if outcome is None:
            self.counts.cancelled += item.rows
        elif not future.done():
            if isinstance(outcome, Answer):
                future.set_result(outcome)
            else:
                future.set_exception(copy.copy(outcome))  # callers must not share a traceback
