"""Subjects: what is watched in this process, kept on disk; the one owner that calls talk to."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from meshcast.observations import Observations
from meshcast.services.drift.alarms import Alarm, Judgement
from meshcast.services.drift.comparison import Comparison, Reference, WatchOptions
from meshcast.services.drift.settings import DriftSettings

__all__ = [
    "Encoded",
    "FeatureOption",
    "Hooks",
    "Kept",
    "LossUpdate",
    "Observed",
    "ReportFilter",
    "StoredReport",
    "Subjects",
    "View",
]


@dataclass(frozen=True, slots=True)
class FeatureOption:
    """What a caller wants of one column: its weight, and whether a model answered it."""

    importance: float = 1.0
    role: str = "input"


class Hooks(Protocol):
    """What the subjects ask of the service around them. Only `judge` runs in the worker thread."""

    def judge(self, comparison: Comparison, report_id: str, made_us: int) -> Judgement:
        """The report of a window at which the evidence reached the threshold; deterministic given its arguments."""

    async def encode(self, observations: Observations, reference: Reference) -> "Encoded | None":
        """What the reference's autoencoder (`reference.autoencoder`) makes of rows; None where it cannot be asked now."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Rows through an autoencoder.

    Attributes:
        error: shape (rows,), float32.
        code: shape (rows, 8), float32.
    """

    error: NDArray[np.float32]
    code: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What became of a chunk.

    Attributes:
        rows: of the chunk.
        is_duplicate: True when it had been counted before; then nothing else is known of it.
        reference_version: that it was counted against.
        windows_closed: by it.
        alarms: that it raised, in their order.
        encoded: its rows through the subject's autoencoder; None where there is none, or it cannot be asked.
    """

    rows: int
    is_duplicate: bool
    reference_version: int
    windows_closed: int = 0
    alarms: tuple[Alarm, ...] = ()
    encoded: Encoded | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """A subject as it stands.

    Attributes:
        reference: of it.
        observed_rows: since the reference was set.
        windows: closed since.
        recent_rows: that are held.
        state_bytes: of the subject's state.
        alarm: the data alarm that stands; None where none does.
        smallest_shift_sd: shape (F,), smallest shift of each column's mean that is found within 6 windows, in its
            standard deviations; NaN for categories and constants.
    """

    reference: Reference
    observed_rows: int
    windows: int
    recent_rows: int
    state_bytes: int
    alarm: Alarm | None
    smallest_shift_sd: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReport:
    """A report as it is kept, and what lists filter by."""

    report_id: str
    subject: str
    reference_version: int
    made_us: int
    severity: int
    is_drift: bool
    message: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFilter:
    """Which reports are listed; None or empty: whichever. Times are microseconds since 1970, the end excluded."""

    subject: str = ""
    severity_min: int = 0
    drift_only: bool = False
    start_us: int | None = None
    end_us: int | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """A page of reports, newest first, and the token of the next; an empty token where there is none."""

    reports: tuple[StoredReport, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LossUpdate:
    """What new losses made of a (subject, metric).

    Attributes:
        state: its new state.
        alarms: that were raised; ids, report ids and versions are filled in by the subjects.
        answer: what a retry of the same request is answered with.
    """

    state: bytes
    alarms: tuple[Alarm, ...]
    answer: bytes


class Subjects:
    """What is watched, for concurrent calls on one event loop; use as `async with`.

    Counting, evidence and reports run in one worker thread, in pieces, so that subjects take turns. What is answered
    is on disk: calls wait for the transaction that holds their effect, which many calls share.

    Args:
        root: folder of the store; one process at a time may use it.
        hooks: the service around.
        settings: of the table `[drift]`.
        trains: True where training is installed and wanted; starts trainings in child processes.
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
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        registry: CollectorRegistry | None = None,
    ) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(self, *error: object) -> None:
        raise NotImplementedError

    # References

    async def set_reference(
        self,
        subject: str,
        source: Observations | str | int,
        *,
        features: Mapping[str, FeatureOption],
        options: WatchOptions,
        request_id: str = "",
    ) -> View:
        """Makes rows the reference of a subject; what is returned is on disk.

        Args:
            subject: its name, checked by the caller.
            source: the rows; or the name of a draft, which is used up; or how many of the newest observed rows at most.
            features: columns with an importance or a role of their own; with `recent rows` those of the reference
                before stand in for what is not named.
            options: every field set.
            request_id: the same request again is answered as before.

        Raises:
            InvalidInput: rows that make no reference: fewer than two, too many columns, an option for an unknown column.
            NotFound: SUBJECT_UNKNOWN, there is no such draft, or no subject to take rows from.
            AlreadyExists: this request id has set another reference.
            Precondition: it would be one subject too many.
            Overloaded: too much waits for the worker.
        """
        raise NotImplementedError

    async def collect(
        self, draft: str, observations: Observations, *, stream_id: str = "", sequence: int = 0
    ) -> Observed:
        """Collects rows of a draft on disk. A chunk whose sequence is not above the stream's last is not collected again.

        Raises:
            InvalidInput: other columns than the draft's first chunk.
            Precondition: the draft would pass 1,000,000 rows or 256 MiB, or it would be one draft too many.
        """
        raise NotImplementedError

    # Observations

    async def observe(
        self, subject: str, observations: Observations, *, stream_id: str = "", sequence: int = 0
    ) -> Observed:
        """Counts a chunk of rows; what is returned is on disk.

        Chunks of a subject are counted in the order in which this method was called: it may be called again before the
        first call has returned, and should be by a stream, since calls that wait for the disk share a transaction.

        Args:
            subject: its name.
            observations: the rows.
            stream_id: of the caller's stream; empty: nothing is known of chunks that were counted before.
            sequence: of the chunk, ascending within the stream.

        Raises:
            NotFound: SUBJECT_UNKNOWN.
            InvalidInput: missing, unknown or mistaken columns, or times far in the future.
            Overloaded: too much waits for the worker; nothing was counted.
            CorruptData: the subject's state is damaged; set its reference again.
        """
        raise NotImplementedError

    async def flush(self) -> None:
        """Returns once everything that was counted is on disk."""
        raise NotImplementedError

    # Comparisons

    async def last_window(self, subject: str) -> Comparison | None:
        """The last closed window of a subject; None where none has closed since its reference was set.

        Raises:
            NotFound: SUBJECT_UNKNOWN.
            CorruptData: the subject's state is damaged.
        """
        raise NotImplementedError

    async def in_range(self, subject: str, start_us: int | None, end_us: int | None) -> Comparison:
        """What a subject observed in a span of time, to the bucket; the tally may be of no row.

        Raises:
            NotFound: SUBJECT_UNKNOWN.
            CorruptData: the subject's state is damaged.
        """
        raise NotImplementedError

    async def all_observed(self, subject: str) -> Comparison:
        """Everything that a subject observed since its reference was set; the tally may be of no row.

        Raises:
            NotFound: SUBJECT_UNKNOWN.
            CorruptData: the subject's state is damaged.
        """
        raise NotImplementedError

    async def reference(self, subject: str) -> Reference:
        """The reference of a subject, to compare rows of a request with; its state is left as it is.

        Raises:
            NotFound: SUBJECT_UNKNOWN.
            CorruptData: the subject's state is damaged.
        """
        raise NotImplementedError

    async def view(self, subject: str) -> View:
        """A subject as it stands.

        Raises:
            NotFound: SUBJECT_UNKNOWN.
            CorruptData: the subject's state is damaged.
        """
        raise NotImplementedError

    async def views(self) -> list[View]:
        """All sound subjects, ascending by name. Damaged ones are logged and left out."""
        raise NotImplementedError

    # Reports

    async def keep_report(self, report: StoredReport) -> None:
        """Keeps a report, in place of one with the same id; when this returns it is on disk."""
        raise NotImplementedError

    async def report(self, report_id: str) -> StoredReport:
        """A stored report.

        Raises:
            NotFound: REPORT_UNKNOWN.
        """
        raise NotImplementedError

    async def newest_report(self, subject: str) -> StoredReport:
        """The newest stored report of a subject.

        Raises:
            NotFound: REPORT_UNKNOWN.
        """
        raise NotImplementedError

    async def reports(self, which: ReportFilter, *, page_size: int, page_token: str = "") -> Kept:
        """A page of stored reports, newest first; a report that is kept meanwhile shifts no page.

        Raises:
            InvalidInput: the token is none of ours.
        """
        raise NotImplementedError

    # Alarms

    @property
    def newest_alarm_id(self) -> int:
        """Id of the newest alarm on disk; 0 where there is none."""
        raise NotImplementedError

    async def alarms(self, after: int, *, subject: str = "", limit: int = 100) -> tuple[list[Alarm], int]:
        """Alarms after a cursor, oldest first, and the cursor behind them; fewer than `limit` means that these are all.

        With a subject the cursor also moves past the alarms of others. To watch: take alarms until there are fewer than
        `limit`, `wait_for_alarm` with the cursor, and again. No alarm is missed between the two, or seen twice.
        """
        raise NotImplementedError

    async def wait_for_alarm(self, after: int, *, within_s: float) -> bool:
        """Waits until there is an alarm after a cursor, of whatever subject; False when there was none in time."""
        raise NotImplementedError

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
        raise NotImplementedError
