"""`meshcast stream`: every post of a file through one stream, scored beside the baselines."""

import asyncio
import json
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from meshcast.cli.predictions import PredictionTable, no_history, posts_of
from meshcast.cli.problem import Problem
from meshcast.cli.score import BASELINES, Score, baselines, score
from meshcast.cli.settings import Connection, connect
from meshcast.cli.sink import Sink, open_sink
from meshcast.cli.stream_into import StreamOptions, check_out, predicted_in, push_into, row_bar, sink_at
from meshcast.client import MeshClient, ReceiptSummary
from meshcast.client.calls import CHUNK_ROWS
from meshcast.posts import HistoryIndex, settled_history

__all__ = ["stream"]

Floats = NDArray[np.float64]
Predicted = tuple[Floats, Floats, Floats, Floats]
"""log_engagement (n,), levels (k,), lower and upper ends (k, n), log1p units."""


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One run of the stream: how long it took and what its receipts say."""

    seconds: float
    receipts: ReceiptSummary
    rows: int
    rows_before: int = 0


def stream(
    file: Path,
    *,
    out: Path | None,
    resume: bool,
    options: StreamOptions,
    score_from: str | None,
    target: str | None,
    config: Path | None,
    state_dir: Path | None,
    as_json: bool,
) -> None:
    """Predicts every post that has a history, writes the predictions and prints how they did.

    Args:
        file: of posts.
        out: what to write; None for nothing.
        resume: whether `out` is a sink, which holds every row once however often the command was killed.
        options: how rows are sent.
        score_from: ISO 8601 time from which rows are scored; None for all.
        target: as in `connect`.
        config: as in `connect`.
        state_dir: as in `connect`.
        as_json: print JSON for programs.

    Raises:
        Problem: no post has a history, or rows were refused.
        MeshError: the mesh refused, or cannot be reached.
    """
    since = None if score_from is None else _time(score_from)
    if resume and out is None:
        raise Problem("--resume needs a place where the rows stand", way_out="--out FILE with it")
    if options.repin and not resume:
        raise Problem("--repin goes with --resume: without it, the version that serves answers each chunk")
    if out is not None and not resume:
        check_out(out)
    sink = sink_at(out) if out is not None and resume else None
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
    if sink is not None:
        stored, receipts = asyncio.run(push_into(connection, sink, predictions, rows, options, console))
        new = stored.rows - stored.rows_before
        run = _Run(seconds=stored.seconds, receipts=receipts, rows=new, rows_before=stored.rows_before)
        found = _score(predictions, rows, since, predicted_in(sink))
    else:
        with open_sink(out) or nullcontext() as file_sink:
            run = asyncio.run(_push(connection, predictions, rows, options, file_sink, console))
        found = _score(predictions, rows, since, predictions.predicted()[1:])
    if as_json:
        print(json.dumps(_document(found, run, len(rows), predictions.failures), indent=2))
    else:
        _print(console, found, run, len(rows), score_from)
        if out is not None:
            console.print(f"predictions written to {out}", highlight=False, markup=False, soft_wrap=True)
    if predictions.failures:
        raise predictions.refusal(len(rows))


async def _push(
    connection: Connection,
    predictions: PredictionTable,
    rows: HistoryIndex,
    options: StreamOptions,
    sink: Sink | None,
    console: Console,
) -> _Run:
    receipts = ReceiptSummary()
    chunk_rows = options.chunk_rows or CHUNK_ROWS
    with row_bar(console, len(rows)) as bar:
        async with MeshClient(connection.target, tls=connection.tls) as client:
            began = time.perf_counter()
            done = 0
            bar.advance_to(0)
            answers = client.predict_posts(predictions.posts, rows, chunk_rows=chunk_rows, window=options.window)
            async for chunk in answers:
                predictions.add(chunk)
                receipts.add(chunk.receipt, rows=len(chunk))
                if sink is not None:
                    sink.write(predictions.columns(chunk))
                done += len(chunk)
                bar.advance_to(done)
            seconds = time.perf_counter() - began
    return _Run(seconds=seconds, receipts=receipts, rows=len(rows))


def _score(predictions: PredictionTable, rows: HistoryIndex, since: int | None, predicted: Predicted) -> Score:
    """Scores the rows published from `since` on; answers come in the order of `rows`."""
    log, levels, lower, upper = predicted
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
    if run.rows_before:
        console.print(f"{run.rows_before:,} of {rows:,} rows stood there already", highlight=False)
    if not run.rows:
        return
    rate = run.rows / run.seconds
    console.print(f"{rate:,.0f} rows/s ({run.rows:,} rows in {run.seconds:.2f} s)", highlight=False)
    console.print("Receipts", style="bold")
    for line in run.receipts.lines():
        console.print(f"  {line}", highlight=False)


def _document(found: Score, run: _Run, rows: int, failures: int) -> dict[str, Any]:
    # Not asdict: it rebuilds a Counter from pairs, which counts the pairs.
    values = {field.name: getattr(run.receipts, field.name) for field in fields(run.receipts)}
    receipts = {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}
    return {
        "rows": rows,
        "rows_before": run.rows_before,
        "failures": failures,
        "seconds": run.seconds,
        "rows_per_s": run.rows / run.seconds,
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
