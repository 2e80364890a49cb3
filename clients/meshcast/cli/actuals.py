"""`meshcast actuals`: records what the series of a file really did, so that the intervals of forecasts hold."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from meshcast.cli.forecast_table import percent
from meshcast.cli.problem import Problem
from meshcast.cli.series_file import pick, series_of
from meshcast.cli.settings import Connection, connect
from meshcast.client import IntervalEvidence, MeshClient, RecordedActuals
from meshcast.series import SeriesIndex, SeriesTable

__all__ = ["actuals"]

_AT_ONCE = 4
_ROWS_SHOWN = 40
_LEVELS_SHOWN = (0.8, 0.95)  # those that a forecast states by itself; more do not fit a terminal, and --json has them


def actuals(
    file: Path,
    *,
    series: Sequence[str],
    target: str | None,
    config: Path | None,
    state_dir: Path | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Records the values of a series file as what happened. Days that are known already change nothing.

    Args:
        file: series file; the series go by the names that their forecasts had.
        series: names of those to record; empty for all.
        target: as in `connect`.
        config: as in `connect`.
        state_dir: as in `connect`.
        timeout_s: for each series, in seconds.
        as_json: print JSON for programs.

    Raises:
        Problem: the file is wrong, or its series has no name.
        MeshError: the mesh refused, or cannot be reached.
    """
    connection = connect(target, config=config, state_dir=state_dir)
    table, rows = pick(series_of(file, today=datetime.now(UTC).date()), series, file.name)
    if table.names.tolist() == [""]:
        raise Problem(f"{file.name} names no series", way_out="--series NAME, as the forecast had it")
    console = Console(stderr=as_json)
    found = asyncio.run(_record(connection, table, rows, timeout_s, console))
    if as_json:
        print(json.dumps([_document(name, one) for name, one in found], indent=2))
    else:
        _print(console, found)


async def _record(
    connection: Connection, table: SeriesTable, rows: SeriesIndex, timeout_s: float, console: Console
) -> list[tuple[str, RecordedActuals]]:
    room = asyncio.Semaphore(_AT_ONCE)
    bars = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*bars, console=console, disable=len(rows) <= _AT_ONCE, transient=True) as progress:
        bar = progress.add_task("series", total=len(rows))
        async with MeshClient(connection.target, tls=connection.tls, timeout_s=timeout_s) as client:

            async def record(start: int, stop: int) -> tuple[str, RecordedActuals]:
                async with room:
                    recorded = await client.record_actuals(table[start:stop])
                progress.advance(bar)
                return table.name_at(start), recorded

            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(record(start, stop), name=f"record:{start}")
                    for start, stop in zip(rows.start.tolist(), rows.stop.tolist(), strict=True)
                ]
    return [task.result() for task in tasks]


def _print(console: Console, found: Sequence[tuple[str, RecordedActuals]]) -> None:
    levels = [evidence.level for evidence in found[0][1].evidence if evidence.level in _LEVELS_SHOWN]
    table = Table()
    table.add_column("series", overflow="fold")
    headings = ["new\ndays", "known", "cor-\nrected", "com-\npared"]
    for level in levels:
        headings += [f"days\ninside\n{percent(level)} %", "drawn\n× as\nwide"]  # noqa: RUF001  # the sign is meant
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")
    for name, one in found[:_ROWS_SHOWN]:
        told = {evidence.level: evidence for evidence in one.evidence}
        shares = [cell for level in levels for cell in _held(told.get(level))]
        counts = (one.recorded, one.unchanged, one.corrected, one.compared)
        table.add_row(escape(name), *(f"{count:,}" for count in counts), *shares)
    if len(found) > _ROWS_SHOWN:
        table.caption = f"and {len(found) - _ROWS_SHOWN:,} more series; --json has all of them"
    console.print(table)
    if not any(one.compared for _, one in found):
        text = "no stored forecast of these series covers a new day: nothing was compared"
        console.print(text, style="dim", highlight=False)


def _held(evidence: IntervalEvidence | None) -> tuple[str, str]:
    """How the intervals of a level have held, and how much wider than the model's they are drawn for that."""
    if evidence is None:
        return "-", "-"
    return "-" if evidence.coverage is None else f"{evidence.coverage:.1%}", f"{evidence.width_factor:.2f}"


def _document(name: str, one: RecordedActuals) -> dict[str, object]:
    return {
        "series": name,
        "recorded": one.recorded,
        "unchanged": one.unchanged,
        "corrected": one.corrected,
        "compared": one.compared,
        "evidence": [
            {
                "level": evidence.level,
                "compared": evidence.compared,
                "coverage": evidence.coverage,
                "width_factor": evidence.width_factor,
            }
            for evidence in one.evidence
        ],
    }
