"""Subjects: what is watched in this process, kept on disk; the one owner that calls talk to."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self, TypeVar
from weakref import WeakValueDictionary

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from meshcast.observations import Observations
from meshcast.rpc.errors import CorruptData, NotFound
from meshcast.services.drift import drafts, history
from meshcast.services.drift.alarms import Alarm
from meshcast.services.drift.comparing import conformed
from meshcast.services.drift.comparison import Comparison, Reference, WatchOptions
from meshcast.services.drift.derived import DerivedReference, Encoded
from meshcast.services.drift.detectable import smallest_shift_sd
from meshcast.services.drift.held import HeldSubjects
from meshcast.services.drift.history import ReportFilter, ReportPage, StoredReport
from meshcast.services.drift.loss_states import Losses
from meshcast.services.drift.metrics import SubjectMetrics
from meshcast.services.drift.packed_rows import rows_to_bytes
from meshcast.services.drift.setting import References
from meshcast.services.drift.settings import DriftSettings
from meshcast.services.drift.store import Store
from meshcast.services.drift.subject import Subject
from meshcast.services.drift.watched import FeatureOption, Hooks, LossUpdate, Observed, Trained, View

__all__ = [
    "Encoded",
    "FeatureOption",
    "Hooks",
    "LossUpdate",
    "Observed",
    "ReportFilter",
    "ReportPage",
    "StoredReport",
    "Subjects",
    "Trained",
    "View",
]

log = structlog.get_logger()

Result = TypeVar("Result")


class Subjects:
    """What is watched, for concurrent calls on one event loop; use as `async with`.

    Counting, evidence and reports run in one worker thread, in pieces, so that subjects take turns. What is answered
    is on disk: calls wait for the transaction that holds their effect, which many calls share.

    Args:
        root: folder of the store; one process at a time may use it.
        hooks: the service around.
        settings: of the table `[drift]`.
        model: name of the service's model, for errors.
        repository: root of the models' repository, which gets the autoencoders that are trained; None: none is.
        now_us: the clock, microseconds since 1970.
        registry: gets metrics; None: nobody does.

    Raises:
        Precondition: on entering; the store cannot be made, is something else, or another process uses it.
    """

    def __init__(
        self,
        root: Path,
        hooks: Hooks,
        settings: DriftSettings,
        *,
        model: str = "drift",
        repository: Path | None = None,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._hooks, self._now_us = hooks, now_us
        self._store = Store(root, registry=registry)
        self._held = HeldSubjects(self._store, model)
        self._registry, self._metrics = registry, SubjectMetrics(self._held)
        self._losses = Losses(self._held, self._store)
        self._references = References(
            root,
            self._held,
            self._store,
            hooks,
            model=model,
            subjects_max=settings.subjects_max,
            features_max=settings.features_max,
            repository=repository,
            now_us=now_us,
        )
        self._draft_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for part in (self._store, self._held, self._references):
                await stack.enter_async_context(part)
            if self._registry is not None:
                self._registry.register(self._metrics)
                stack.callback(self._registry.unregister, self._metrics)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    # References

    async def set_reference(
        self,
        subject: str,
        source: Observations | str | int,
        *,
        features: Mapping[str, FeatureOption],
        options: WatchOptions,
        request_id: str = "",
        trained: Trained | None = None,
    ) -> View:
        """Makes rows the reference of a subject; what is returned is on disk.

        Args:
            subject: its name, checked by the caller.
            source: the rows; or the name of a draft, which is used up; or how many of the newest observed rows at most.
            features: columns with an importance or a role of their own; with the newest rows those of the reference
                before stand in for what is not named.
            options: every field set.
            request_id: the same request again is answered as before.
            trained: an autoencoder that was trained on these rows already; None: one is trained where that is wanted.

        Raises:
            InvalidInput: rows that make no reference: fewer than two, too many columns, an option for no column.
            NotFound: SUBJECT_UNKNOWN, there is no such draft, or no subject to take rows from.
            AlreadyExists: this request id has set another reference.
            Precondition: it would be one subject too many.
            Overloaded: too much waits for the worker.
        """
        async with AsyncExitStack() as stack:
            if isinstance(source, str):  # what is collected until it is used up would be lost with it
                await stack.enter_async_context(self._draft_locks.setdefault(source, asyncio.Lock()))
            await self._references.set(
                subject, source, features=features, options=options, request_id=request_id, trained=trained
            )
        return await self.view(subject)

    async def collect(
        self,
        draft: str,
        observations: Observations,
        *,
        stream_id: str = "",
        sequence: int = 0,
        check: Callable[[], None] = lambda: None,
    ) -> Observed:
        """Collects rows of a draft on disk; a chunk whose sequence is not above the stream's last is not taken again.

        Args and errors as in `observe`, and besides:

        Raises:
            InvalidInput: other columns than the draft's first chunk.
            Precondition: the draft would pass 1,000,000 rows or 256 MiB, or it would be one draft too many.
        """

        def work(connection: sqlite3.Connection) -> bool:
            return drafts.collect(connection, chunk)

        with self._held.admitted():
            async with self._draft_locks.setdefault(draft, asyncio.Lock()):
                check()
                data = await asyncio.to_thread(rows_to_bytes, observations)
                chunk = drafts.chunk_of(
                    draft, observations, data, stream_id=stream_id, sequence=sequence, now_us=self._now_us()
                )
                is_new = await self._store.change(work)
        return Observed(rows=observations.rows, is_duplicate=not is_new, reference_version=0)

    # Observations

    async def observe(
        self,
        subject: str,
        observations: Observations,
        *,
        stream_id: str = "",
        sequence: int = 0,
        check: Callable[[], None] = lambda: None,
    ) -> Observed:
        """Counts a chunk of rows; what is returned is on disk.

        Chunks of a subject are counted in the order in which this method was called: it may be called again before the
        first call has returned, and should be by a stream, since calls that wait for the disk share a transaction.

        Args:
            subject: its name.
            observations: the rows.
            stream_id: of the caller's stream; empty: nothing is known of chunks that were counted before.
            sequence: of the chunk, ascending within the stream.
            check: raises where the chunk must not be counted; called once all chunks before it were, or were refused.

        Raises:
            NotFound: SUBJECT_UNKNOWN.
            InvalidInput: missing, unknown or mistaken columns, or times far in the future.
            Overloaded: too much waits for the worker; nothing was counted.
            CorruptData: the subject's state is damaged; set its reference again.
        """
        entry = self._held.entry(subject)
        with self._held.admitted():
            async with entry.lock:
                check()
                held = await self._held.loaded(entry)
                version, epoch = held.reference.version, entry.epoch
                is_duplicate = held.is_duplicate(stream_id, sequence)
                windows, alarms = 0, list[Alarm]()
                if not is_duplicate and observations.rows:
                    now_us = self._now_us()
                    held.require_sound(observations, now_us)
                    observations = conformed(observations, held.reference.layout.kinds)
                    encoded = await self._encoded(held, observations)
                    windows, alarms = await self._held.count(
                        entry, observations, now_us, self._hooks.judge, stream_id, sequence, encoded
                    )
                saving = self._held.begin_saving()
            await saving
            self._held.require_epoch(entry, epoch)
        return Observed(
            rows=observations.rows,
            is_duplicate=is_duplicate,
            reference_version=version,
            windows_closed=windows,
            alarms=tuple(alarms),
        )

    async def flush(self) -> None:
        """Returns once everything that was counted is on disk."""
        await self._held.saved()

    # Comparisons

    async def last_window(self, subject: str) -> Comparison | None:
        """The last closed window of a subject; None where none has closed since its reference was set.

        Raises:
            NotFound: SUBJECT_UNKNOWN.
            CorruptData: the subject's state is damaged.
        """
        return await self._look(subject, Subject.last_window)

    async def in_range(self, subject: str, start_us: int | None, end_us: int | None) -> Comparison | None:
        """What a subject observed in a span of time, to the bucket; None where no bucket is of it.

        Raises:
            NotFound: SUBJECT_UNKNOWN.
            CorruptData: the subject's state is damaged.
        """
        return await self._look(subject, lambda held: held.in_range(start_us, end_us))

    async def all_observed(self, subject: str) -> Comparison:
        """Everything that a subject observed since its reference was set; the tally may be of no row.

        Raises:
            NotFound: SUBJECT_UNKNOWN.
            CorruptData: the subject's state is damaged.
        """
        return await self._look(subject, Subject.all_observed)

    async def reference(self, subject: str) -> Reference:
        """The reference of a subject, to compare rows of a request with; its state is left as it is.

        Raises:
            NotFound: SUBJECT_UNKNOWN.
            CorruptData: the subject's state is damaged.
        """
        return await self._look(subject, lambda held: held.reference, aside=False)

    async def view(self, subject: str) -> View:
        """A subject as it stands.

        Raises:
            NotFound: SUBJECT_UNKNOWN.
            CorruptData: the subject's state is damaged.
        """
        return await self._look(subject, _view)

    async def views(self) -> list[View]:
        """All sound subjects, ascending by name. Damaged ones are logged and left out."""
        found = []
        for name in self._held.names:
            try:
                found.append(await self.view(name))
            except (NotFound, CorruptData) as error:
                log.error("a subject is left out", subject=name, why=error.message)
        return found

    # Reports

    async def keep_report(self, report: StoredReport) -> None:
        """Keeps a report, in place of one with the same id; when this returns it is on disk."""
        await self._held.change(lambda changes: changes.reports.append(report))
        await self._held.saved()

    async def report(self, report_id: str) -> StoredReport:
        """A stored report.

        Raises:
            NotFound: REPORT_UNKNOWN.
        """
        return await self._store.read(lambda connection: history.report_of(connection, report_id))

    async def newest_report(self, subject: str) -> StoredReport:
        """The newest stored report of a subject.

        Raises:
            NotFound: REPORT_UNKNOWN.
        """
        return await self._store.read(lambda connection: history.newest_report(connection, subject))

    async def reports(self, which: ReportFilter, *, page_size: int, page_token: str = "") -> ReportPage:
        """A page of stored reports, newest first; a report that is kept meanwhile shifts no page.

        Raises:
            InvalidInput: the token is none of ours.
        """
        return await self._store.read(
            lambda connection: history.page_of_reports(connection, which, page_size=page_size, page_token=page_token)
        )

    # Alarms

    @property
    def newest_alarm_id(self) -> int:
        """Id of the newest alarm on disk; 0 where there is none."""
        return self._held.newest_alarm_id

    async def alarms(self, after: int, *, subject: str = "", limit: int = 100) -> tuple[list[Alarm], int]:
        """Alarms after a cursor, oldest first, and the cursor behind them; fewer than `limit` means that these are all.

        With a subject the cursor also moves past the alarms of others. To watch: take alarms until there are fewer than
        `limit`, `wait_for_alarm` with the cursor, and again. No alarm is missed between the two, or seen twice.
        """
        return await self._store.read(
            lambda connection: history.alarms_after(connection, after, subject=subject, limit=limit)
        )

    async def wait_for_alarm(self, after: int, *, within_s: float) -> bool:
        """Waits until there is an alarm after a cursor, of whatever subject; False when there was none in time."""
        try:
            async with asyncio.timeout(within_s):
                await self._held.wait_for_alarm(after)
        except TimeoutError:
            return False
        return True

    # Losses

    async def losses(
        self,
        subject: str,
        metric: str,
        update: Callable[[bytes | None], LossUpdate],
        *,
        request_id: str = "",
        digest: str = "",
    ) -> bytes:
        """Moves the state of a (subject, metric); what is returned is on disk.

        Args:
            subject: its name; it needs no reference.
            metric: name of the loss.
            update: given the state, None where there is none yet, what becomes of it; it runs in the worker thread.
            request_id: the same request again is not counted again: it is given what the first was given.
            digest: of the losses, so that another request under the same id is found.

        Returns:
            `LossUpdate.answer`, of the first request of this id.

        Raises:
            AlreadyExists: this request id has been used with other losses.
            Precondition: it would be one metric too many.
            Overloaded: too much waits for the worker.
        """
        return await self._losses.move(subject, metric, update, request_id=request_id, digest=digest)

    async def _look(self, name: str, what: Callable[[Subject], Result], *, aside: bool = True) -> Result:
        """What `what` finds in a subject between two chunks; in the worker where it takes long."""
        entry = self._held.entry(name)
        with self._held.admitted():
            async with entry.lock:
                held = await self._held.loaded(entry)
                return await self._held.work(lambda: what(held)) if aside else what(held)

    async def _encoded(self, held: Subject, observations: Observations) -> tuple[NDArray[np.int64], Encoded] | None:
        """Rows that are to go through the autoencoder, and what it makes of them; None where it is not asked."""
        positions = held.encoded_rows(observations.rows)
        if positions is None or not len(positions):
            return None
        some = observations if len(positions) == observations.rows else observations.take(positions)
        made = await self._hooks.encode(some, held.reference)
        return None if made is None else (positions, made)


def _view(held: Subject) -> View:
    features = held.groups["features"]
    return View(
        reference=held.reference,
        observed_rows=held.observed_rows,
        windows=held.windows,
        recent_rows=held.recent.rows,
        state_bytes=held.state_bytes,
        alarm=held.standing.alarm,
        smallest_shift_sd=smallest_shift_sd(features.bets, window_rows=held.reference.options.window_rows),
        derived=tuple(
            DerivedReference(group.layout, group.reference) for group in held.groups.values() if group is not features
        ),
    )
