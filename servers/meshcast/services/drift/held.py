"""Held subjects: those in memory, the worker thread that changes them, and their way to the disk and back."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Self, TypeVar
from weakref import WeakValueDictionary

import structlog

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.observations import Observations
from meshcast.rpc.errors import CorruptData, Internal, NotFound, Overloaded
from meshcast.services.drift.alarms import Alarm
from meshcast.services.drift.changes import Changes
from meshcast.services.drift.comparison import Reference
from meshcast.services.drift.saver import Saver
from meshcast.services.drift.store import Store
from meshcast.services.drift.subject import Judge, Subject
from meshcast.services.drift.subject_state import TRAINING, save_observed, subject_from_parts

__all__ = ["MEMORY_BYTES_MAX", "PIECE_VALUES", "WAITING_MAX", "Entry", "HeldSubjects", "to_its_end"]

log = structlog.get_logger()

MEMORY_BYTES_MAX = 64 << 20
"""State of subjects in memory; beyond it those that were asked for longest ago are read from the disk when needed."""

PIECE_VALUES = 1 << 18
"""Values that are counted in one go, about 10 ms of one core; between two pieces other subjects have their turn."""

WINDOWS_AT_ONCE = 4
"""Windows that are closed in one go, about 5 ms of one core each at 64 columns."""

WAITING_MAX = 256
"""Calls that may wait for their subject or for the worker."""

RETRY_AFTER_S = 0.5

Result = TypeVar("Result")


class Entry:
    """One subject of the process. What is said of the worker is read and changed by its thread alone.

    Attributes:
        name: of the subject.
        lock: held by whoever counts its rows or replaces its reference.
        subject: None where it is on disk alone.
        was_held: whether it has been in memory: then a part of it may be on its way to the disk.
        epoch: counts up when the state in memory was lost.
        is_dirty: the worker's: it differs from what is on disk or on its way.
        has_closed: the worker's: a window has closed since it was last on its way.
        is_mid_chunk: the worker's: a part of a chunk is counted.
        state_bytes: when it was last on its way.
    """

    def __init__(self, name: str) -> None:
        self.name, self.lock = name, asyncio.Lock()
        self.subject: Subject | None = None
        self.was_held = False
        self.epoch = 0
        self.is_dirty = self.has_closed = self.is_mid_chunk = False
        self.state_bytes = 0


class HeldSubjects:
    """All subjects that have a reference; use as `async with`, from one event loop.

    Args:
        store: that is open.
        model: name of the service's model, for errors.
    """

    def __init__(self, store: Store, model: str) -> None:
        self._store, self._model = store, model
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="drift")
        self._saver = Saver(self._collect, store.write, self._landed)
        self._entries: dict[str, Entry] = {}  # those used last come last
        self._places: WeakValueDictionary[str, Entry] = WeakValueDictionary()  # of those that have none yet
        self._pending = Changes()  # the worker's: on its way with the next transaction
        self._alarm_id = 0  # the worker's: the newest that was given
        self._waiting = 0
        self._stack = AsyncExitStack()
        self._news = asyncio.Event()
        self.newest_alarm_id = 0  # on disk
        self.observed_rows = 0  # by this process

    async def __aenter__(self) -> Self:
        for name in await self._store.subjects():
            self._entries[name] = Entry(name)
        self.newest_alarm_id = self._alarm_id = await self._store.newest_alarm_id()
        await self._stack.enter_async_context(self._saver)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()
        await asyncio.to_thread(self._worker.shutdown)

    @property
    def names(self) -> list[str]:
        """Names of the subjects, ascending."""
        return sorted(self._entries)

    @property
    def waiting(self) -> int:
        """Calls that wait for their subject or for the worker, or are being worked for."""
        return self._waiting

    @property
    def state_bytes(self) -> int:
        """Bytes of the subjects in memory, when each was last on its way to the disk."""
        # A copy, made in one go: the thread that serves metrics asks too.
        return sum(entry.state_bytes for entry in list(self._entries.values()) if entry.subject is not None)

    def entry(self, name: str) -> Entry:
        """A subject.

        Raises:
            NotFound: SUBJECT_UNKNOWN.
        """
        if name not in self._entries:
            raise NotFound(
                f"The subject {name!r} has no reference. SetReference sets the first from rows in the request, or from "
                "a draft: rows that were observed with PURPOSE_REFERENCE (Python: `is_reference=True`) under the "
                "draft's name; `recent_rows` are only there once one is set. `[tap] reference_rows` lets a model's "
                "first rows become it.",
                reason=error_reason_pb2.ERROR_REASON_SUBJECT_UNKNOWN,
                subject=name,
            )
        return self._entries[name]

    def entry_to_be(self, name: str) -> Entry:
        """A subject, or the place of one that has no reference yet; `install` makes it known."""
        return self._entries.get(name) or self._places.setdefault(name, Entry(name))

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """A block of one call that the worker works for.

        Raises:
            Overloaded: too many calls wait already.
        """
        if self._waiting >= WAITING_MAX:
            raise Overloaded(
                f"{self._waiting} calls wait to be counted already; retry later.",
                reason=error_reason_pb2.ERROR_REASON_QUEUE_FULL,
                retry_after_s=RETRY_AFTER_S,
                model=self._model,
            )
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def work(self, what: Callable[[], Result]) -> Result:
        """What `what` gives, done in the worker."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, what)

    async def loaded(self, entry: Entry) -> Subject:
        """The subject in memory; the caller holds its lock.

        Raises:
            CorruptData: its state on disk is damaged.
        """
        if entry.subject is None:
            if entry.was_held:
                await self.saved()  # what was on its way when the state in memory was let go of
            entry.subject = await self._read(entry.name)
            entry.state_bytes, entry.was_held = entry.subject.state_bytes, True
        if entry.name in self._entries:
            self._entries[entry.name] = self._entries.pop(entry.name)
        self._make_room(entry)
        return entry.subject

    async def _read(self, name: str) -> Subject:
        try:
            parts = await self._store.parts(name, without=TRAINING)
            buckets = await self._store.buckets(name)
            return await self.work(lambda: subject_from_parts(name, parts, buckets))
        except CorruptData as error:  # which piece it is concerns the log alone
            log.error("the state of a subject is damaged", subject=name, why=error.message)
            raise CorruptData(
                f"The state of the subject {name!r} is damaged on disk; set its reference again.", subject=name
            ) from error

    async def count(
        self, entry: Entry, rows: Observations, now_us: int, judge: Judge, stream_id: str, sequence: int, encoded: Any
    ) -> tuple[int, list[Alarm]]:
        """Counts a chunk whole, even when the caller goes away; the caller holds the subject's lock.

        Returns:
            Windows that it closed, and the alarms that it raised.
        """
        return await to_its_end(self._count(entry, rows, now_us, judge, stream_id, sequence, encoded))

    async def change(self, what: Callable[[Changes], Result]) -> Result:
        """What `what` gives, done in the worker; it adds to what goes to the disk, and `number` gives alarms ids."""
        return await self.work(lambda: what(self._pending))

    def number(self, subject: Subject) -> None:
        """Gives a subject's fresh alarms their ids; in the worker."""
        self._alarm_id = subject.number_alarms(self._alarm_id + 1) - 1

    def next_alarm_id(self) -> int:
        """The id of one more alarm; in the worker."""
        self._alarm_id += 1
        return self._alarm_id

    def install(self, entry: Entry, subject: Subject) -> None:
        """Makes a subject that is on its way to the disk the one that is held; the caller holds its lock."""
        entry.subject, entry.state_bytes, entry.was_held = subject, subject.state_bytes, True
        self._entries[entry.name] = entry
        self._make_room(entry)

    def begin_saving(self) -> "asyncio.Future[None]":
        """What was counted by now is on its way; the future is done once it is on disk."""
        return self._saver.begin()

    async def saved(self) -> None:
        """Returns once what was counted by now is on disk.

        Raises:
            MeshError: as `Store.write`; it is tried again with what comes next.
        """
        await self._saver.begin()

    def require_epoch(self, entry: Entry, epoch: int) -> None:
        """Checks that a chunk which waited for the disk did not get lost with the state in memory.

        Raises:
            Internal: it did.
        """
        if entry.epoch != epoch:
            raise Internal(f"What was counted of {entry.name!r} is uncertain after a failure; send it again.")

    async def wait_for_alarm(self, after: int) -> None:
        """Returns once there is an alarm after a cursor on disk."""
        while self.newest_alarm_id <= after:
            await self._news.wait()

    async def _count(
        self, entry: Entry, rows: Observations, now_us: int, judge: Judge, stream_id: str, sequence: int, encoded: Any
    ) -> tuple[int, list[Alarm]]:
        subject = entry.subject
        assert subject is not None
        step = _piece_rows(rows, subject.reference)
        windows, known = 0, 0
        alarms: list[Alarm] = []

        def piece(start: int) -> int:
            nonlocal known
            stop, is_last = min(start + step, rows.rows), start + step >= rows.rows
            if start == 0:
                if not is_last:
                    self._save(entry)  # those who wait for the disk must not wait for all of this chunk
                known = len(subject.fresh_alarms)
            entry.is_mid_chunk = True
            closed = subject.observe(rows[start:stop], now_us, judge, _part(encoded, start, stop))
            entry.has_closed |= closed > 0
            if is_last:
                subject.mark(stream_id, sequence)
                self.number(subject)
                alarms.extend(subject.fresh_alarms[known:])
                entry.is_mid_chunk, entry.is_dirty = False, True
            return closed

        try:
            for start in range(0, rows.rows, step):
                windows += await self.work(lambda start=start: piece(start))  # type: ignore[misc]  # bound now
        except Exception:
            self._lose(entry)
            raise
        self.observed_rows += rows.rows
        return windows, alarms

    def _lose(self, entry: Entry) -> None:
        """Gives up a state that a failure left half changed: what is on disk holds."""
        log.error("a subject's state is read from the disk again after a failure", subject=entry.name)
        entry.subject = None
        entry.epoch += 1
        entry.is_dirty = entry.has_closed = entry.is_mid_chunk = False

    def _save(self, entry: Entry) -> None:
        """Puts a whole state on its way; in the worker."""
        subject = entry.subject
        if subject is None or not entry.is_dirty or entry.is_mid_chunk:
            return
        save_observed(subject, self._pending, has_closed=entry.has_closed)
        entry.is_dirty = entry.has_closed = False
        entry.state_bytes = subject.state_bytes

    async def _collect(self) -> Changes:
        entries = list(self._entries.values())

        def collect() -> Changes:
            for entry in entries:
                self._save(entry)
            found, self._pending = self._pending, Changes()
            return found

        return await self.work(collect)

    def _landed(self, changes: Changes) -> None:
        if changes.alarms:
            self.newest_alarm_id = max(self.newest_alarm_id, *(alarm.alarm_id for alarm in changes.alarms))
            self._news.set()
            self._news = asyncio.Event()

    def _make_room(self, kept: Entry) -> None:
        """Lets go of what was asked for longest ago and is on disk, where too much is held."""
        held = self.state_bytes
        for entry in list(self._entries.values()):
            if held <= MEMORY_BYTES_MAX:
                return
            if entry is not kept and entry.subject is not None and not entry.lock.locked() and not entry.is_dirty:
                entry.subject = None
                held -= entry.state_bytes


def _piece_rows(rows: Observations, reference: Reference) -> int:
    """Rows of a chunk that are counted in one go: bounded by their values, and by the windows that they close."""
    span_us = 0 if rows.unix_us is None else int(rows.unix_us.max()) - int(rows.unix_us.min())
    windows = rows.rows / reference.options.window_rows + span_us / reference.options.window_us
    values = max(256, PIECE_VALUES // max(1, len(reference.layout)))
    return max(1, min(values, int(WINDOWS_AT_ONCE * rows.rows / windows)))


def _part(encoded: Any, start: int, stop: int) -> Any:
    """Of rows that went through the autoencoder those between two positions, which are counted from the first."""
    if encoded is None:
        return None
    positions, made = encoded
    low, high = positions.searchsorted((start, stop)).tolist()
    return positions[low:high] - start, type(made)(made.error[low:high], made.code[low:high])


async def to_its_end(work: Coroutine[Any, Any, Result]) -> Result:
    """What `work` gives, for what must not be left half done; a caller that is cancelled waits for its end."""
    task = asyncio.create_task(work, name="drift:to its end")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                continue
        raise
