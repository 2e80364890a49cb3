"""`meshcast stream`: every post of a file through one stream, scored beside the baselines."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from meshcast.cli.predictions import PredictionTable, no_history, posts_of
from meshcast.cli.problem import Problem
from meshcast.cli.score import BASELINES, Score, baselines, score
from meshcast.cli.settings import Connection, connect
from meshcast.cli.sink import Sink, open_sink
from meshcast.client import MeshClient, ReceiptSummary
from meshcast.posts import HistoryIndex, settled_history

__all__ = ["stream"]


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One run of the stream: how long it took and what its receipts say."""

    seconds: float
    receipts: ReceiptSummary


def stream(
    file: Path,
    *,
    out: Path | None,
    score_from: str | None,
    chunk_rows: int,
    window: int,
    target: str | None,
    config: Path | None,
    state_dir: Path | None,
    as_json: bool,
) -> None:
    """Predicts every post that has a history, writes the predictions and prints how they did.

    Raises:
        Problem: no post has a history, or rows were refused.
        MeshError: the mesh refused, or cannot be reached.
    """
    since = None if score_from is None else _time(score_from)
    connection = connect(target, config=config, state_dir=state_dir)
    console = Console(stderr=as_json)
    posts = posts_of(file)
    rows = settled_history(posts)
    if not len(rows):
        raise no_history(file.name)
    console.print(
        f"{len(posts):,} posts, {len(rows):,} with a settled history, through {connection.target}",
        highlight=False,
    )
    predictions = PredictionTable.of(posts)
    sink = open_sink(out)
    if sink is None:
        run = asyncio.run(_push(connection, predictions, rows, chunk_rows, window, None, console))
    else:
        with sink:
            run = asyncio.run(_push(connection, predictions, rows, chunk_rows, window, sink, console))
    found = _score(predictions, rows, since)
    if as_json:
        print(json.dumps(_document(found, run, len(rows), predictions.failures), indent=2))
    else:
        _print(console, found, run, len(rows), score_from)
        if out is not None:
            console.print(f"predictions written to {out}", highlight=False)
    if predictions.failures:
        raise predictions.refusal(len(rows))


async def _push(
    connection: Connection,
    predictions: PredictionTable,
    rows: HistoryIndex,
    chunk_rows: int,
    window: int,
    sink: Sink | None,
    console: Console,
) -> _Run:
    receipts = ReceiptSummary()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("rows", total=len(rows), rate="")
        async with MeshClient(connection.target, tls=connection.tls) as client:
            began = time.perf_counter()
            done = 0
            async for chunk in client.predict_posts(predictions.posts, rows, chunk_rows=chunk_rows, window=window):
                predictions.add(chunk)
                receipts.add(chunk.receipt, rows=len(chunk))
                if sink is not None:
                    sink.write(predictions.columns(chunk))
                done += len(chunk)
                rate = done / (time.perf_counter() - began)
                progress.update(bar, completed=done, rate=f"{rate:,.0f} rows/s")
            seconds = time.perf_counter() - began
    return _Run(seconds=seconds, receipts=receipts)


def _score(predictions: PredictionTable, rows: HistoryIndex, since: int | None) -> Score:
    """Scores the rows published from `since` on; answers come in the order of `rows`."""
    _, log, levels, lower, upper = predictions.predicted()
    published = predictions.posts.published_unix_s[rows.row]
    wanted = published >= (published.min() if since is None else since)
    picked = rows[wanted]
    return score(
        actual=predictions.actual[picked.row],
        predicted=log[wanted],
        guesses=baselines(predictions.actual, picked),
        levels=levels,
        lower=lower[:, wanted],
        upper=upper[:, wanted],
    )


def _print(console: Console, found: Score, run: _Run, rows: int, score_from: str | None) -> None:
    which = "all rows" if score_from is None else f"rows from {score_from} on"
    if found.rows:
        console.print(f"\nError over {found.rows:,} rows ({which}), log1p units", highlight=False)
        table = Table()
        table.add_column("")
        table.add_column("mean absolute error", justify="right")
        best = min(found.mae, *found.baseline_mae.values())
        for name, mae in {"prediction": found.mae, **{name: found.baseline_mae[name] for name in BASELINES}}.items():
            table.add_row(name, f"[bold green]{mae:.3f}[/]" if mae == best else f"{mae:.3f}")
        console.print(table)
        for level, share in found.coverage.items():
            console.print(f"stated {level:.0%} intervals held {share:.1%} of the posts", highlight=False)
    else:
        console.print(f"nothing to score: no engagement is known of {which}", style="yellow")
    console.print(f"{rows / run.seconds:,.0f} rows/s ({rows:,} rows in {run.seconds:.2f} s)", highlight=False)
    console.print("Receipts", style="bold")
    for line in run.receipts.lines():
        console.print(f"  {line}", highlight=False)


def _document(found: Score, run: _Run, rows: int, failures: int) -> dict[str, Any]:
    # Not asdict: it rebuilds a Counter from pairs, which counts the pairs.
    values = {field.name: getattr(run.receipts, field.name) for field in fields(run.receipts)}
    receipts = {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}
    return {
        "rows": rows,
        "failures": failures,
        "seconds": run.seconds,
        "rows_per_s": rows / run.seconds,
        "scored_rows": found.rows,
        "mae": found.mae if found.rows else None,
        "baseline_mae": dict(found.baseline_mae),
        "coverage": {f"{level:g}": share for level, share in found.coverage.items()},
        "receipts": receipts,
    }


def _time(text: str) -> int:
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise Problem(f"--score-from {text!r} is no ISO 8601 time", way_out="as in 2017-01-01") from error
    return int((when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp())
