"""`meshcast reports --id` and `--subjects`: a report that the mesh keeps as a person reads one, and what is watched."""

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.cli.drift_found import DriftFound, alarm_at, document
from meshcast.cli.drift_html import write_html
from meshcast.cli.drift_print import STYLES, print_drift
from meshcast.cli.html_page import check_html
from meshcast.cli.problem import ExitCode, Problem
from meshcast.cli.settings import connect
from meshcast.cli.shown_text import shown
from meshcast.client import DriftAlarm, DriftReport, MeshClient

__all__ = ["report", "watched"]


def report(
    report_id: str,
    *,
    html: Path | None,
    target: str | None,
    config: Path | None,
    state_dir: Path | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Prints one report that is kept.

    Args:
        report_id: its id, as the lists and the alarms name it.
        html: page to write; None for none.
        target: as in `connect`.
        config: as in `connect`.
        state_dir: as in `connect`.
        timeout_s: longest wait for an answer, in seconds.
        as_json: print JSON for programs.

    Raises:
        Problem: no such report is kept.
        MeshError: the mesh refused, or cannot be reached.
    """
    if html is not None:
        check_html(html)
    connection = connect(target, config=config, state_dir=state_dir)

    async def told() -> DriftReport | None:
        async with MeshClient(connection.target, tls=connection.tls) as client:
            listed = client.list_drift_reports(full=True, timeout_s=timeout_s)
            async with aclosing(listed) as pages:
                async for one in pages:
                    if one.report_id == report_id:
                        return one
        return None

    kept = asyncio.run(told())
    if kept is None:
        raise Problem(
            f"no report {shown(report_id)!r} is kept",
            exit_code=ExitCode.REFUSED,
            way_out="`meshcast reports` lists those that are",
        )
    found = DriftFound.kept(kept)
    console = Console(stderr=as_json)
    if html is not None:
        write_html(html, found)
    if as_json:
        print(json.dumps(document(found), indent=2, ensure_ascii=False))
    else:
        print_drift(console, found)
    if html is not None:
        console.print(f"page written to {html}", highlight=False, markup=False, soft_wrap=True)


def watched(
    subject: str,
    *,
    target: str | None,
    config: Path | None,
    state_dir: Path | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Prints the subjects that are watched.

    Args:
        subject: only this one; empty: all.
        target: as in `connect`.
        config: as in `connect`.
        state_dir: as in `connect`.
        timeout_s: longest wait for an answer, in seconds.
        as_json: print a line of JSON a subject.

    Raises:
        MeshError: the mesh refused, or cannot be reached.
    """
    connection = connect(target, config=config, state_dir=state_dir)

    async def told() -> list[pb.ReferenceDescription]:
        async with MeshClient(connection.target, tls=connection.tls) as client:
            return list((await client.describe_drift(subject, timeout_s=timeout_s)).references)

    found = asyncio.run(told())
    if as_json:
        for one in found:
            told_subject: dict[str, Any] = MessageToDict(one, preserving_proto_field_name=True)
            print(json.dumps(told_subject, ensure_ascii=False))
        return
    console = Console()
    if not found:
        console.print("nothing is watched: `mesh.set_reference` or `meshcast drift --subject` begins", markup=False)
        return
    table = Table()
    table.add_column("subject", no_wrap=True)  # which is to be copied
    table.add_column("set", no_wrap=True)
    for heading in ("version", "its rows", "rows since", "windows"):
        table.add_column(heading, justify="right")
    table.add_column("alarm", overflow="fold")
    for one in found:
        alarm = Text("-", style="dim")
        if one.HasField("alarm"):
            stands = DriftAlarm.of(one.alarm)
            alarm = Text(f"{stands.severity}, {alarm_at(stands)}", style=STYLES[stands.severity])
        table.add_row(
            Text(shown(one.subject)),
            f"{one.set_time.ToDatetime():%Y-%m-%d}",
            f"{one.version:,}",
            f"{one.rows:,}",
            f"{one.observed_rows:,}",
            f"{one.windows:,}",
            alarm,
        )
    console.print(table)
