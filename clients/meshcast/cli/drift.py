"""`meshcast drift`: has the world moved away from a reference? Two files compared: printed, as JSON, as a page."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.cli.drift_found import DriftFound, OverWindows, WindowPoint, document, level_of
from meshcast.cli.drift_html import write_html
from meshcast.cli.drift_input import SAMPLE_ROWS, Columns, Rows, WindowSize, importances_of, opened, window_size
from meshcast.cli.drift_print import print_drift
from meshcast.cli.html_page import check_html
from meshcast.cli.problem import ExitCode, Problem
from meshcast.cli.settings import Connection, connect
from meshcast.client import SEVERITIES, DriftAlarm, DriftOptions, DriftReport, MeshClient, ObservedChunk, Reference
from meshcast.observations import Observations, pack_observations
from meshcast.rpc import DeadlineExceeded, MeshError, NotFound, NotReady, Overloaded

__all__ = ["FailOn", "drift"]

FailOn = Literal["any", "low", "moderate", "high", "critical", "never"]
"""Which drift ends the command with its own exit code; `any` also what is too small to matter."""

SUBJECT = "meshcast-drift"
"""Subject whose reference is replaced by each comparison that one call does not hold."""

_CALL_BYTES = 3_800_000  # of the rows of both files that one call holds
_POINTS = 100  # windows behind which the evidence is asked for
_ROWS_MAX, _DURATION_MAX = 1_000_000, timedelta(days=3_650)  # where a window is of the other measure alone
_CHANCE = 0.01  # of the contract, where none is asked for


def drift(
    reference: Path,
    window: Path,
    *,
    columns: Columns,
    size: str | None,
    false_alarms: float | None,
    chance: float | None,
    subject: str | None,
    fail_on: FailOn,
    html: Path | None,
    target: str | None,
    config: Path | None,
    state_dir: Path | None,
    timeout_s: float,
    as_json: bool,
) -> int:
    """Compares two files, prints and writes what was found out.

    Args:
        reference: file of rows that are as they should be.
        window: file of rows to compare with them.
        columns: what is said of the columns.
        size: rows or time of a window, as `1000` or `1d`. None with `columns.time`: the service's setting; None without
            it: the file is one window.
        false_alarms: expected false alarms a year, where the file is gone through window by window.
        chance: of calling drift where there is none, where the file is one window.
        subject: name under which the service remembers the reference; None: one that the next comparison takes over.
        fail_on: which drift ends with its own exit code.
        html: page to write; None for none.
        target: as in `connect`.
        config: as in `connect`.
        state_dir: as in `connect`.
        timeout_s: for the whole, in seconds.
        as_json: print JSON for programs.

    Returns:
        The exit code: DRIFT where drift was found of the level of `fail_on`.

    Raises:
        Problem: a file or an option is wrong.
        MeshError: the mesh refused, or cannot be reached.
    """
    over = size is not None or columns.time is not None
    if over and chance is not None:
        raise Problem("--chance is of one window; --time and --window go through many", way_out="--false-alarms N")
    if not over and false_alarms is not None:
        raise Problem("--false-alarms is a year's, over many windows", way_out="--window 1000, or --chance for one")
    length = window_size(size)
    if length.duration is not None and columns.time is None:
        raise Problem(f"--window {size} is a time, and the rows have none", way_out="--time COLUMN names their times")
    if html is not None:
        check_html(html)  # before anything is read
    console = Console(stderr=as_json)
    files = opened(reference, window, columns)
    connection = connect(target, config=config, state_dir=state_dir)
    bars = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*bars, console=console, transient=True, disable=not console.is_terminal) as progress:
        asked = _Asked(
            Rows(files.reference, _bar(progress, f"reading {files.reference.source}")),
            Rows(files.window, _bar(progress, f"reading {files.window.source}")),
            columns,
            subject or SUBJECT,
            subject is not None,
            time.monotonic() + timeout_s,
            progress,
        )
        try:
            report, went = asyncio.run(asked.answered(connection, length if over else None, false_alarms, chance))
        except DeadlineExceeded as error:
            raise Problem(f"not answered within {timeout_s:g} s", way_out="--timeout gives more time") from error
        except (NotReady, Overloaded) as error:
            if "stream_id" in error.facts and isinstance(error.__cause__, MeshError):
                raise error.__cause__ from None  # a stream that only Python can take up again
            raise
    reference_rows, window_rows = asked.reference, asked.window
    assert reference_rows.sample is not None and window_rows.sample is not None
    found = DriftFound(
        reference_source=files.reference.source,
        window_source=files.window.source,
        reference_rows=reference_rows.rows,
        window_rows=window_rows.rows,
        report=report,
        chance=None if over else chance if chance is not None else _CHANCE,
        over=went,
        reference=reference_rows.sample,
        window=window_rows.sample,
        notes=(*files.notes(), *asked.notes),
    )
    if html is not None:
        write_html(html, found)  # first: who reads the print may stop early
    if as_json:
        print(json.dumps(document(found), indent=2, ensure_ascii=False))
    else:
        print_drift(console, found)
    if html is not None:
        console.print(f"page written to {html}", highlight=False, markup=False, soft_wrap=True)
    is_failure = _fails(found, fail_on)
    if found.is_drift:
        code = int(ExitCode.DRIFT) if is_failure else 0
        told = f"exit code {code}, as the drift is {level_of(found)} and --fail-on is {fail_on}"
        console.print(told, style="dim", highlight=False, markup=False, soft_wrap=True)
    return int(ExitCode.DRIFT) if is_failure else 0


class _Asked:
    """Two files that are asked about."""

    def __init__(
        self,
        reference: Rows,
        window: Rows,
        columns: Columns,
        subject: str,
        is_named: bool,
        ends_at: float,
        progress: Progress,
    ) -> None:
        self.reference = reference
        self.window = window
        self.notes: list[str] = []
        self._columns = columns
        self._subject = subject
        self._is_named = is_named
        self._ends_at = ends_at
        self._progress = progress
        self._version = 0

    async def answered(
        self, connection: Connection, size: WindowSize | None, false_alarms: float | None, chance: float | None
    ) -> tuple[DriftReport, OverWindows | None]:
        """The report, and what came of the windows where there are several."""
        async with MeshClient(connection.target, tls=connection.tls) as client:
            if size is not None:
                return await self._over(client, size, false_alarms)
            return await self._at_once(client, chance), None

    async def _at_once(self, client: MeshClient, chance: float | None) -> DriftReport:
        """Compares all of one file with all of the other."""
        held = self.reference.held(_CALL_BYTES)
        window = self.window.held(_CALL_BYTES)
        if (
            held is not None
            and window is not None
            and not self._is_named
            and _bytes(held) + _bytes(window) <= _CALL_BYTES
        ):
            return await client.detect_data_drift(
                window,
                reference=held,
                importances=importances_of(self._columns.importance),
                outputs=self._columns.outputs,
                false_alarm_chance=chance,
                timeout_s=self._left_s(),
            )
        reference = await self._set(client, held, DriftOptions(trains_autoencoder=False))
        fits = window is not None and _bytes(window) <= _CALL_BYTES
        if not fits:
            bar = self._progress.add_task("comparing", total=None)
            rows = self.window.chunks()
            sent = client.observe(self._subject, rows, wants_refused=True, timeout_s=self._left_s())
            async with aclosing(sent) as answers:
                async for answer in answers:
                    await self._check(client, answer, reference)
                    self._progress.update(bar, completed=self.window.rows, total=self.window.rows)
        report = await client.detect_data_drift(
            window if fits else None,
            subject=self._subject,
            everything=not fits,
            false_alarm_chance=chance,
            keeps=self._is_named,
            timeout_s=self._left_s(),
        )
        if report.reference_version != reference.version or report.window.rows != self.window.rows:
            raise self._shared()
        return report

    async def _over(
        self, client: MeshClient, size: WindowSize, false_alarms: float | None
    ) -> tuple[DriftReport, OverWindows]:
        """Goes through the window's file window by window."""
        table = self.window.in_order()
        options = DriftOptions(
            false_alarms_a_year=false_alarms,
            window_rows=size.rows if size.duration is None else _ROWS_MAX,
            window_duration=size.duration if size.rows is None else _DURATION_MAX,
            trains_autoencoder=False,
        )
        reference = await self._set(client, self.reference.held(_CALL_BYTES), options)
        length = reference.options
        rows = length.window_rows or 1_000
        alarms: list[DriftAlarm] = []
        points: list[WindowPoint] = []
        windows = asked = 0
        bar = self._progress.add_task("going through the windows", total=table.rows)
        step = max(1, min(rows, 65_536, -(-table.rows // (2 * _POINTS))))
        is_told = asyncio.Event()

        async def in_turn() -> AsyncIterator[Observations]:
            for start in range(0, table.rows, step):
                yield table[start : start + step]
                await is_told.wait()  # the evidence behind a window is asked for before rows of the next one count
                is_told.clear()

        answers = client.observe(
            self._subject, in_turn(), wants_refused=True, chunk_rows=step, window=1, timeout_s=self._left_s()
        )
        async with aclosing(answers):
            async for answer in answers:
                await self._check(client, answer, reference)
                windows += answer.windows_closed
                alarms += answer.alarms
                self._progress.advance(bar, len(answer))
                if windows > asked and answer.rows[-1] >= len(points) * table.rows / _POINTS:
                    asked = windows
                    point = await self._point(client)
                    if point is not None:
                        points.append(point)
                is_told.set()
        if not windows:
            source = self.window.file.source
            raise Problem(
                f"{source}: its {table.rows:,} rows do not fill one window of {_shown(size, reference)}",
                way_out="a smaller --window; without it and --time the file is one window",
            )
        report = await self._told(client, alarms)
        held = await self._held(client)
        if held.version != reference.version or held.observed_rows != table.rows:
            raise self._shared()
        went = OverWindows(windows=windows, size=_shown(size, reference), alarms=tuple(alarms), points=tuple(points))
        self._keep_since(table, went, rows)
        return report, went

    def _keep_since(self, table: Observations, went: OverWindows, window_rows: int) -> None:
        """Keeps for pictures the rows since the drift began, where one was called."""
        raised = went.raised
        if raised is None or raised.onset is None:
            return
        start, at = 0, raised.onset.start_at
        if table.unix_us is None:
            start = (raised.onset.window - 1) * window_rows
        elif at is not None:
            start = int(np.searchsorted(table.unix_us, round(at.timestamp() * 1e6)))
        since = table[start:]
        if start and since.rows:
            self.window.sample = since[:: 1 + since.rows // (2 * SAMPLE_ROWS)]
            self.notes.append(f"pictures show the {since.rows:,} rows since the drift began")

    async def _set(self, client: MeshClient, held: Observations | None, options: DriftOptions) -> Reference:
        bar = self._progress.add_task("setting the reference", total=1)
        reference = await client.set_reference(
            self._subject,
            held if held is not None else self.reference.chunks(),
            importances=importances_of(self._columns.importance),
            outputs=self._columns.outputs,
            options=options,
            timeout_s=self._left_s(),
        )
        self._progress.update(bar, completed=1)
        if self._is_named:
            self.notes.append(f"the reference is kept as that of the subject {self._subject!r}")
        # The report names constant columns too.
        self.notes += [note for note in reference.notes if note not in self.notes and "constant, so" not in note]
        return reference

    async def _point(self, client: MeshClient) -> WindowPoint | None:
        """Where the evidence stands behind the last window."""
        report = await client.detect_data_drift(subject=self._subject, features_max=1, timeout_s=self._left_s())
        if report.evidence is None:
            return None
        return WindowPoint(number=report.window.number, end_at=report.window.end_at, evidence=report.evidence)

    async def _told(self, client: MeshClient, alarms: list[DriftAlarm]) -> DriftReport:
        """The report of the worst alarm as it was kept, else that of the last window."""
        called = [alarm for alarm in alarms if alarm.kind != "resolved" and alarm.report_id]
        worst = max(called, key=lambda alarm: (SEVERITIES.index(alarm.severity), alarm.alarm_id), default=None)
        if worst is not None:
            reports = client.list_drift_reports(self._subject, full=True, timeout_s=self._left_s())
            async with aclosing(reports):
                async for report in reports:
                    if report.report_id == worst.report_id:
                        return report
        try:
            return await client.detect_data_drift(subject=self._subject, timeout_s=self._left_s())
        except NotFound as error:
            raise self._shared() from error

    async def _check(self, client: MeshClient, answer: ObservedChunk, reference: Reference) -> None:
        if answer.error is not None:
            if (await self._held(client)).version != reference.version:
                raise self._shared() from answer.error  # rows of other columns than the new reference's
            raise answer.error
        if answer.reference_version != reference.version:
            raise self._shared()

    async def _held(self, client: MeshClient) -> pb.ReferenceDescription:
        """The subject's reference as it is now, whosever it is."""
        return (await client.describe_drift(self._subject, timeout_s=self._left_s())).references[0]

    def _shared(self) -> Problem:
        """Two comparisons under one name: the later one's windows may hold rows of the earlier one."""
        return Problem(
            f"another comparison uses {self._subject!r}: its reference was replaced, or rows of others came to it",
            exit_code=ExitCode.REFUSED,
            way_out="again when it is done, or --subject NAME for one of your own",
        )

    def _left_s(self) -> float:
        return max(self._ends_at - time.monotonic(), 1e-3)


def _fails(found: DriftFound, fail_on: FailOn) -> bool:
    if not found.is_drift or fail_on == "never":
        return False
    return fail_on == "any" or SEVERITIES.index(found.severity) >= SEVERITIES.index(fail_on)


def _bytes(rows: Observations) -> int:
    return pack_observations(rows).ByteSize()


def _shown(size: WindowSize, reference: Reference) -> str:
    """A window's size in words, the service's own where none was asked for."""
    if size.rows is not None or size.duration is not None:
        return str(size)
    options = reference.options
    return f"{options.window_rows or 0:,} rows or {WindowSize(duration=options.window_duration)}"


def _bar(progress: Progress, what: str) -> Any:
    """Shows how far reading has come, where it takes a while."""
    tasks: list[Any] = []

    def told(rows: int, total: int | None) -> None:
        if not tasks:
            tasks.append(progress.add_task(what, total=total))
        progress.update(tasks[0], completed=rows, total=total)

    return told
