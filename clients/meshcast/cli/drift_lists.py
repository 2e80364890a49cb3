"""`meshcast alarms` and `meshcast reports`: what the drift service has called, and what it says from now on."""

import asyncio
import json
from contextlib import aclosing
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshcast.cli.drift_found import alarm_at, percent_of, position_of
from meshcast.cli.drift_print import STYLES, alarm_table
from meshcast.cli.plain import plain
from meshcast.cli.settings import connect
from meshcast.cli.shown_text import excerpt, shown
from meshcast.client import DriftAlarm, DriftReport, MeshClient

__all__ = ["alarms", "reports"]

_NAME = 36


def alarms(
    subject: str,
    *,
    since: int,
    follow: bool,
    target: str | None,
    config: Path | None,
    state_dir: Path | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Prints the alarms that are kept, and with `follow` those that are raised from then on, until Ctrl-C.

    Args:
        subject: whose alarms; empty: all.
        since: alarms after this one; 0: all that are kept.
        follow: go on with new ones.
        target: as in `connect`.
        config: as in `connect`.
        state_dir: as in `connect`.
        timeout_s: longest wait for the kept ones, in seconds.
        as_json: print a line of JSON an alarm.

    Raises:
        MeshError: the mesh refused, or cannot be reached.
    """
    connection = connect(target, config=config, state_dir=state_dir)
    console = Console()

    async def told() -> list[DriftAlarm]:
        found: list[DriftAlarm] = []
        async with (
            MeshClient(connection.target, tls=connection.tls) as client,
            aclosing(
                client.watch_drift(
                    subject,
                    cursor=since,
                    follow=follow,
                    interval_s=min(5.0, max(0.2, timeout_s / 4)),  # not below what the contract takes
                    patience_s=60.0 if follow else 0.0,
                    timeout_s=None if follow else timeout_s,
                )
            ) as watched,
        ):
            await client.describe_drift(timeout_s=timeout_s)  # an address where nobody is is no server that went away
            async for alarm in watched:
                if as_json:
                    print(json.dumps(plain(alarm), ensure_ascii=False), flush=True)
                elif follow:
                    console.print(_line(alarm), soft_wrap=True)
                else:
                    found.append(alarm)
        return found

    found = asyncio.run(told())
    if found:
        console.print(alarm_table(tuple(found), with_subject=True))
    elif not (as_json or follow):
        console.print("no alarms are kept" + (f" of {shown(subject)}" if subject else ""), markup=False)


def reports(
    subject: str,
    *,
    most: int,
    drift_only: bool,
    target: str | None,
    config: Path | None,
    state_dir: Path | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Prints the newest reports that are kept.

    Args:
        subject: whose reports; empty: all.
        most: how many at most.
        drift_only: only where drift was called.
        target: as in `connect`.
        config: as in `connect`.
        state_dir: as in `connect`.
        timeout_s: longest wait for an answer, in seconds.
        as_json: print whole reports as JSON, a line each.

    Raises:
        MeshError: the mesh refused, or cannot be reached.
    """
    connection = connect(target, config=config, state_dir=state_dir)

    async def told() -> list[DriftReport]:
        found: list[DriftReport] = []
        async with MeshClient(connection.target, tls=connection.tls) as client:
            listed = client.list_drift_reports(
                subject, drift_only=drift_only, full=as_json, page_size=min(most, 200), timeout_s=timeout_s
            )
            async with aclosing(listed) as pages:
                async for report in pages:
                    found.append(report)
                    if len(found) == most:
                        break
        return found

    found = asyncio.run(told())
    if as_json:
        for report in found:
            told_report = plain(report)
            for feature in told_report["features"]:
                del feature["plot_png"]
            print(json.dumps(told_report, ensure_ascii=False))
        return
    console = Console()
    if not found:
        console.print("no reports are kept" + (f" of {shown(subject)}" if subject else ""), markup=False)
        return
    table = Table()
    # The ids of windows begin with their subject: a column of its own would only make the table too wide.
    with_subject = not all(report.report_id.startswith(f"{report.subject}.") for report in found)
    for heading in ("made", *(["subject"] if with_subject else []), "severity", "window", "to blame", "report"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("subject", "severity", "report"))
    for report in found:
        severity = report.severity if report.is_drift else "none"
        blamed = ", ".join(f"{excerpt(one.name, _NAME)} {percent_of(one.blame)}" for one in report.drifted[:3])
        table.add_row(
            "" if report.made_at is None else f"{report.made_at:%Y-%m-%d %H:%M}",
            *([Text(shown(report.subject))] if with_subject else []),
            Text(severity, style=STYLES[severity]),
            position_of(report.window.number, report.window.end_at)
            if report.window.number
            else f"{report.window.rows:,} rows",
            Text(blamed),
            Text(report.report_id),
        )
    console.print(table)


def _line(alarm: DriftAlarm) -> Text:
    """An alarm as a line of a log."""
    at = "" if alarm.raised_at is None else f"{alarm.raised_at:%Y-%m-%d %H:%M:%S} "
    return Text.assemble(
        (at, "dim"),
        (f"{alarm.kind} ", "bold"),
        (f"{alarm.severity} ", STYLES[alarm.severity]),
        shown(alarm.text or f"{alarm.subject}: {alarm_at(alarm)}"),
        (f" (alarm {alarm.alarm_id}{', report ' + shown(alarm.report_id) if alarm.report_id else ''})", "dim"),
    )
