"""One subject: its reference, what was observed, the evidence over its windows, and the alarm that stands.

Everything here is plain computing, and what comes of it depends on nothing but the rows in their order and the times
that are given: a subject that is put back to a state and given the same rows again ends where it was.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import structlog
from numpy.typing import NDArray

from meshcast.observations import Observations
from meshcast.rpc.errors import InvalidInput
from meshcast.services.drift.alarms import BLAMED_MAX, NO_SEVERITY, QUIET_WINDOWS, RESOLVED, Alarm, Judgement, Standing
from meshcast.services.drift.buckets import Buckets
from meshcast.services.drift.comparison import Autoencoder, Comparison, GroupName, Reference
from meshcast.services.drift.derived import DerivedReference, Encoded, encoded_columns, energy_columns, thinned
from meshcast.services.drift.energy import EnergySample
from meshcast.services.drift.groups import Group
from meshcast.services.drift.history import StoredReport
from meshcast.services.drift.recent import RecentRows
from meshcast.services.drift.tally import Tally
from meshcast.services.drift.windows import WindowClock, future_rule, given_span

__all__ = ["ONSETS_MAX", "STREAMS_MAX", "Closed", "Judge", "Subject"]

log = structlog.get_logger()

STREAMS_MAX = 1_024
"""Streams whose last chunk is remembered, the newest."""

ONSETS_MAX = 4_096
"""Windows whose first time is remembered, the newest: an onset further back is told by its number alone."""

Judge = Callable[[Comparison, str, int], Judgement]
"""Makes the report of a window: given the comparison, the report's id and when it is made."""

Span = tuple[int, int]


class Closed:
    """The window that closed last.

    Attributes:
        number: of it, from 1.
        rows: that it had.
        span: first and last time of its rows; None where they had none.
        ends_at: rows that the subject had observed behind it.
        log_value: logarithm of the evidence over all groups.
    """

    def __init__(self, number: int, rows: int, span: Span | None, ends_at: int, log_value: float) -> None:
        self.number, self.rows, self.span, self.ends_at, self.log_value = number, rows, span, ends_at, log_value


class Subject:
    """What is known of a subject.

    Args:
        reference: of it.
        energy: sample that rows' distances are taken from; None where the reference is too small.
        derived: references of the derived columns that there are.

    Attributes:
        clock: where the windows stand.
        windows: closed since the reference was set.
        observed_rows: since the reference was set.
        streams: last chunk of each stream, the newest stream last.
        fresh_alarms: that are not on their way to the disk yet.
        fresh_reports: likewise.
    """

    def __init__(
        self, reference: Reference, *, energy: EnergySample | None, derived: Mapping[GroupName, DerivedReference]
    ) -> None:
        self.reference, self.energy = reference, energy
        self.log_threshold = -float(np.log(reference.options.false_alarms_a_year))
        self.groups: dict[GroupName, Group] = {
            "features": Group("features", reference.layout, reference.tally, self.log_threshold)
        }
        for name, made in derived.items():
            self.groups[name] = Group(name, made.layout, made.tally, self.log_threshold)
        self.clock = WindowClock()
        self.windows = self.observed_rows = 0
        self.span: Span | None = None
        self.closed: Closed | None = None
        self.window_starts: dict[int, int] = {}
        self.streams: OrderedDict[str, int] = OrderedDict()
        self.buckets = Buckets(reference.layout)
        self.recent = RecentRows()
        self.standing = Standing()
        self.fresh_alarms: list[Alarm] = []
        self.fresh_reports: list[StoredReport] = []

    @property
    def state_bytes(self) -> int:
        """Bytes of the subject's state."""
        return self.buckets.state_bytes + self.recent.state_bytes + sum(g.state_bytes for g in self.groups.values())

    def require_sound(self, rows: Observations, now_us: int) -> None:
        """Checks that rows may be counted.

        Raises:
            InvalidInput: their columns are not the reference's, or a time is far in the future.
        """
        found = self.reference.layout.violations(rows)
        rule = future_rule(rows.unix_us, now_us)
        if rule is not None:
            found["observations.unix_us"] = rule
        if found:
            first, more = next(iter(found.items())), len(found) - 1
            raise InvalidInput(
                f"{first[0]}: {first[1]}{f' (and {more} more)' if more else ''}", violations=list(found.items())[:50]
            )

    def is_duplicate(self, stream_id: str, sequence: int) -> bool:
        """Whether a chunk was counted before."""
        return bool(stream_id) and sequence <= self.streams.get(stream_id, sequence - 1)

    def mark(self, stream_id: str, sequence: int) -> None:
        """Remembers the last chunk of a stream."""
        if stream_id:
            self.streams[stream_id] = sequence
            self.streams.move_to_end(stream_id)
            while len(self.streams) > STREAMS_MAX:
                self.streams.popitem(last=False)

    def encoded_rows(self, rows: int) -> NDArray[np.int64] | None:
        """Positions of the next rows that are to go through the autoencoder; None where there is none."""
        if "autoencoder" not in self.groups:
            return None
        return thinned(rows, self.observed_rows, self.reference.options.window_rows)

    def observe(
        self,
        rows: Observations,
        now_us: int,
        judge: Judge,
        encoded: tuple[NDArray[np.int64], Encoded] | None = None,
    ) -> int:
        """Counts sound rows.

        Args:
            rows: one or more.
            now_us: the server's time, microseconds since 1970.
            judge: makes the report of a window at which the evidence reached the threshold.
            encoded: positions of some of the rows, ascending, and what the autoencoder made of these.

        Returns:
            Windows that were closed.
        """
        derived = self._derived(rows, encoded)
        before, options = self.windows, self.reference.options
        for cut in self.clock.cuts(
            rows.rows, rows.unix_us, now_us, rows_max=options.window_rows, span_us=options.window_us
        ):
            if cut.ends_before:
                self._close(now_us, judge)
            part = rows[cut.start : cut.stop]
            counted = self.groups["features"].count(part)
            self.buckets.add(part, now_us, counted)
            for name, (positions, columns) in derived.items():
                low, high = np.searchsorted(positions, (cut.start, cut.stop)).tolist()
                if low < high:
                    self.groups[name].count(columns[low:high])
            self.recent.add(part)
            self.observed_rows += part.rows
            self.span = _joined(self.span, given_span(part.unix_us))
            self.clock = cut.clock
            if cut.ends_after:
                self._close(now_us, judge)
        return self.windows - before

    def add_autoencoder(self, autoencoder: Autoencoder, made: DerivedReference | None) -> None:
        """Says what became of the autoencoder; where it is ready, its columns take part from the next row on."""
        self.reference = replace(self.reference, autoencoder=autoencoder)
        self.groups.pop("autoencoder", None)
        if made is not None:
            self.groups["autoencoder"] = Group("autoencoder", made.layout, made.tally, self.log_threshold)

    def resolve(self, now_us: int, why: str) -> None:
        """Ends the alarm that stands, where one does.

        Args:
            now_us: the server's time, microseconds since 1970.
            why: it is over, as in `the reference was replaced`.
        """
        over, self.standing = self.standing.alarm, Standing()
        if over is not None:
            self.fresh_alarms.append(
                Alarm(
                    subject=self.reference.subject,
                    kind=RESOLVED,
                    raised_us=now_us,
                    observed_us=None if self.closed is None or self.closed.span is None else self.closed.span[1],
                    severity=NO_SEVERITY,
                    onset_window=over.onset_window,
                    onset_us=over.onset_us,
                    text=f"{self.reference.subject}: the drift called in window {over.position} is over: {why}.",
                    position=self.windows,
                    reference_version=self.reference.version,
                )
            )

    def last_window(self) -> Comparison | None:
        """The window that closed last; None before the first."""
        closed = self.closed
        if closed is None:
            return None
        groups = [group.last for group in self.groups.values() if group.last is not None]
        return Comparison(
            reference=self.reference,
            window=groups[0].window,
            start_us=None if closed.span is None else closed.span[0],
            end_us=None if closed.span is None else closed.span[1],
            number=closed.number,
            rows=self.recent.between(closed.ends_at - closed.rows, closed.ends_at),
            groups=tuple(groups),
            log_value=closed.log_value,
            log_threshold=self.log_threshold,
            window_starts=dict(self.window_starts),
            standing=self.standing.alarm is not None,
        )

    def all_observed(self) -> Comparison:
        """Everything that was observed."""
        group = self.groups["features"]
        return self._plain(group.total + group.window, None)

    def in_range(self, start_us: int | None, end_us: int | None) -> Comparison | None:
        """What was observed in a span of time, to the bucket; None where no bucket is of it."""
        found = self.buckets.between(start_us, end_us)
        return None if found is None else self._plain(found.tally, (found.start_us, found.end_us))

    def number_alarms(self, next_id: int) -> int:
        """Gives the fresh alarms their ids; returns the id after them."""
        for at, alarm in enumerate(self.fresh_alarms):
            if alarm.alarm_id == 0:
                numbered = self.fresh_alarms[at] = replace(alarm, alarm_id=next_id)
                if self.standing.alarm is alarm:
                    self.standing = self.standing.told(numbered)
                next_id += 1
        return next_id

    def _plain(self, tally: Tally, span: Span | None) -> Comparison:
        return Comparison(
            reference=self.reference,
            window=tally,
            start_us=None if span is None else span[0],
            end_us=None if span is None else span[1],
            log_threshold=self.log_threshold,
            window_starts={},
            standing=self.standing.alarm is not None,
        )

    def _derived(
        self, rows: Observations, encoded: tuple[NDArray[np.int64], Encoded] | None
    ) -> dict[GroupName, tuple[NDArray[np.int64], Observations]]:
        found: dict[GroupName, tuple[NDArray[np.int64], Observations]] = {}
        if self.energy is not None and "energy" in self.groups:
            positions = thinned(rows.rows, self.observed_rows, self.reference.options.window_rows)
            some = rows if len(positions) == rows.rows else rows.take(positions)
            found["energy"] = positions, energy_columns(self.energy, some)
        if encoded is not None and "autoencoder" in self.groups:
            found["autoencoder"] = encoded[0], encoded_columns(encoded[1])
        return found

    def _close(self, now_us: int, judge: Judge) -> None:
        """Closes the open window, and raises or resolves an alarm."""
        self.windows += 1
        rows, elapsed_years = self.clock.rows, self.clock.elapsed_years()
        if self.span is not None:
            self.window_starts[self.windows] = self.span[0]
            while len(self.window_starts) > ONSETS_MAX:
                del self.window_starts[next(iter(self.window_starts))]
        worth = [group.close(elapsed_years, self.windows) for group in self.groups.values()]
        log_value = float(np.logaddexp.reduce(worth))
        self.closed = Closed(self.windows, rows, self.span, self.observed_rows, log_value)
        self.clock, self.span = self.clock.closed(), None
        what, state = self.standing.after_window(log_value >= self.log_threshold, self._drifted())
        if what == "resolve":
            self.resolve(now_us, f"the last {QUIET_WINDOWS} windows look like the reference again")
            for group in self.groups.values():
                group.evidence.reset()
            return
        self.standing = state
        if what == "judge":
            self._judge(now_us, judge)

    def _drifted(self) -> list[str]:
        """Names of the features that drift is called for, with the last closed window."""
        last = self.groups["features"].last
        return [] if last is None else [last.layout.features[at].name for at in np.flatnonzero(last.step.drifted)]

    def _judge(self, now_us: int, judge: Judge) -> None:
        comparison = self.last_window()
        assert comparison is not None
        report_id = f"{self.reference.subject}.{self.reference.version}.{self.windows}"
        try:
            judgement = judge(replace(comparison, standing=True), report_id, now_us)
        except Exception:  # whatever it is: an alarm must not depend on how its report reads
            log.exception("a report failed", subject=self.reference.subject, window=self.windows)
            judgement = _unreported(self.reference.subject, self.windows)
        kind, self.standing = self.standing.after_judgement(judgement, self._drifted())
        if kind is None:
            return
        if judgement.message:
            self.fresh_reports.append(
                StoredReport(
                    report_id=report_id,
                    subject=self.reference.subject,
                    reference_version=self.reference.version,
                    made_us=now_us,
                    severity=judgement.severity,
                    is_drift=judgement.is_drift,
                    message=judgement.message,
                )
            )
        alarm = Alarm(
            subject=self.reference.subject,
            kind=kind,
            raised_us=now_us,
            observed_us=comparison.end_us,
            severity=judgement.severity,
            blamed=judgement.blamed[:BLAMED_MAX],
            onset_window=judgement.onset_window,
            onset_us=self.window_starts.get(judgement.onset_window or 0),
            report_id=report_id if judgement.message else "",
            text=judgement.text,
            position=self.windows,
            reference_version=self.reference.version,
        )
        self.fresh_alarms.append(alarm)
        self.standing = self.standing.told(alarm)


def _unreported(subject: str, window: int) -> Judgement:
    """What an alarm says whose report could not be made."""
    return Judgement(
        severity=NO_SEVERITY + 1,
        severity_score=0.0,
        is_drift=True,
        blamed=(),
        onset_window=None,
        text=f"{subject}: drift is called in window {window}; its report could not be made, see the server's log.",
        message=b"",
    )


def _joined(span: Span | None, more: Span | None) -> Span | None:
    if span is None or more is None:
        return span or more
    return min(span[0], more[0]), max(span[1], more[1])
