"""`meshcast forecast`: the series of a file, forecast: a table, a file, a picture with the fan of intervals."""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from meshcast.cli.forecast_table import SeriesForecast, columns, document, pattern_lines, refusal, summary, week_change
from meshcast.cli.plotting import PANELS_MAX, check_plot, draw
from meshcast.cli.problem import Problem
from meshcast.cli.series_file import pick, series_of, shown_name
from meshcast.cli.settings import Connection, connect
from meshcast.cli.sink import open_sink
from meshcast.client import Forecast, MeshClient
from meshcast.rpc import MeshError
from meshcast.series import SeriesIndex, SeriesTable

__all__ = ["forecast"]

_HORIZON_MAX = 90  # this and the levels are of the contract
_LEVEL_MIN, _LEVEL_MAX = 0.01, 0.99
_CHUNK_ROWS = 64  # so that the bar moves a few times a second
_AT_ONCE = 4  # analyses under way
_DETAILS_SHOWN = 5


def forecast(
    file: Path,
    *,
    horizon_days: int,
    levels: Sequence[float],
    series: Sequence[str],
    nonnegative: bool,
    analyze: bool,
    plot: Path | None,
    out: Path | None,
    target: str | None,
    config: Path | None,
    state_dir: Path | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Forecasts the series of a file, prints, writes and draws what was answered.

    Args:
        file: series file.
        horizon_days: days to forecast.
        levels: levels of the intervals.
        series: names of those wanted; empty for all.
        nonnegative: whether the series cannot be negative.
        analyze: whether to ask for the patterns of each series too.
        plot: picture to draw; None for none.
        out: file for the forecasts; None for none.
        target: as in `connect`.
        config: as in `connect`.
        state_dir: as in `connect`.
        timeout_s: for the whole, in seconds.
        as_json: print JSON for programs.

    Raises:
        Problem: the file, the name of a series or an option is wrong, or series were refused.
        MeshError: the mesh refused, or cannot be reached.
    """
    _check(horizon_days, levels)
    if plot is not None:
        check_plot(plot)  # before anything is asked
    sink = open_sink(out)
    connection = connect(target, config=config, state_dir=state_dir)
    table = series_of(file, today=datetime.now(UTC).date(), nonnegative=nonnegative)
    table, rows = pick(table, series, file.name)
    console = Console(stderr=as_json)
    levels = sorted(set(levels)) or (0.8, 0.95)
    found = asyncio.run(_ask(connection, table, rows, horizon_days, levels, nonnegative, analyze, timeout_s, console))
    told = [one for one in found if one.forecast is not None]
    if sink is not None:
        with sink:
            for one in told:
                sink.write(columns(one))
    if as_json:
        print(json.dumps([document(one) for one in found], indent=2))
    elif told:
        _print(console, found, told, analyze)
    if plot is not None and told:
        draw(plot, told, is_nonnegative=nonnegative)
    for what, path in (("forecasts written to", out), ("picture drawn to", plot)):
        if path is not None and (told or path is out):
            console.print(f"{what} {path}", highlight=False, markup=False, soft_wrap=True)
    if plot is not None and len(told) > PANELS_MAX:
        console.print(
            f"the first {PANELS_MAX} of {len(told):,} series are drawn; --series picks others",
            style="yellow",
            highlight=False,
        )
    problem = refusal(found)
    if problem is not None:
        raise problem


def _check(horizon_days: int, levels: Sequence[float]) -> None:
    """Refuses what the contract does not take, in the words of the options."""
    if not 1 <= horizon_days <= _HORIZON_MAX:
        raise Problem(f"--horizon {horizon_days}: a forecast has 1 to {_HORIZON_MAX} days")
    for level in levels:
        if not _LEVEL_MIN <= level <= _LEVEL_MAX:
            way_out = f"write {level:g} % as {level / 100:g}" if 1 <= level <= 100 * _LEVEL_MAX else ""
            text = f"--level {level:g}: a level lies between {_LEVEL_MIN} and {_LEVEL_MAX}"
            raise Problem(text, way_out=way_out)


async def _ask(
    connection: Connection,
    table: SeriesTable,
    rows: SeriesIndex,
    horizon_days: int,
    levels: Sequence[float],
    nonnegative: bool,
    analyze: bool,
    timeout_s: float,
    console: Console,
) -> list[SeriesForecast]:
    found: list[SeriesForecast] = []
    bars = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    is_long = len(rows) > _CHUNK_ROWS or (analyze and len(rows) > _AT_ONCE)
    try:
        async with asyncio.timeout(timeout_s), MeshClient(connection.target, tls=connection.tls) as client:
            with Progress(*bars, console=console, disable=not is_long, transient=True) as progress:
                bar = progress.add_task("forecasts", total=len(rows))
                answers = client.forecast_stream(
                    table,
                    rows,
                    horizon_days=horizon_days,
                    levels=levels,
                    nonnegative=nonnegative,
                    chunk_rows=_CHUNK_ROWS,
                )
                async with aclosing(answers):
                    async for chunk in answers:
                        if chunk.error is not None:
                            raise chunk.error
                        for row, answer in zip(chunk.rows.tolist(), chunk.forecasts(), strict=True):
                            found.append(_one(table, rows, row, answer))
                        progress.update(bar, completed=len(found))
                if analyze:
                    bar = progress.add_task("patterns", total=len(rows))
                    found = await _analyzed(client, found, nonnegative, timeout_s, lambda: progress.advance(bar))
    except TimeoutError as error:
        text = f"{len(found):,} of {len(rows):,} series were answered within {timeout_s:g} s"
        raise Problem(text, way_out="--timeout gives more time") from error
    return found


def _one(table: SeriesTable, rows: SeriesIndex, row: int, answer: Forecast | MeshError) -> SeriesForecast:
    start, stop = int(rows.start[row]), int(rows.stop[row])
    bare = SeriesForecast(name=table.name_at(start), day=table.day[start:stop], value=table.value[start:stop])
    return replace(bare, error=answer) if isinstance(answer, MeshError) else replace(bare, forecast=answer)


async def _analyzed(
    client: MeshClient, found: list[SeriesForecast], nonnegative: bool, timeout_s: float, advance: Callable[[], None]
) -> list[SeriesForecast]:
    """The same with the patterns of those that were forecast, a few analyses at a time."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def analyzed(one: SeriesForecast) -> SeriesForecast:
        if one.forecast is None:
            return one
        async with room:
            patterns = await client.analyze_growth_patterns(
                (one.day, one.value), nonnegative=nonnegative, timeout_s=timeout_s
            )
        advance()
        return replace(one, patterns=patterns)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(analyzed(one), name=f"analyze:{one.name}") for one in found]
    return [task.result() for task in tasks]


def _print(console: Console, found: Sequence[SeriesForecast], told: Sequence[SeriesForecast], analyze: bool) -> None:
    console.print(summary(found, with_patterns=analyze))
    if analyze:
        for one in told[:_DETAILS_SHOWN]:
            assert one.patterns is not None
            console.print(f"[bold]{escape(shown_name(one.name))}[/bold]", highlight=False)
            for line in pattern_lines(one.patterns):
                console.print(f"  {line}", highlight=False, markup=False)
        if len(told) > _DETAILS_SHOWN:
            console.print(f"and {len(told) - _DETAILS_SHOWN:,} more series; --json has all patterns", style="dim")
    first = told[0].forecast
    assert first is not None
    what = "" if analyze else "; `change` compares the forecast's last week with the last known one"
    if not analyze and any(week_change(one) is None for one in told):
        what += " (- where that one misses days or has a mean of 0 or less, or less than a week is forecast)"
    console.print(
        f"{first.receipt.model} version {first.receipt.model_version} on {first.receipt.backend}{what}",
        style="dim",
        highlight=False,
    )
