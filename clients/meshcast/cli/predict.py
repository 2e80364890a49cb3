"""`meshcast predict`: the last posts of a file from those before them, beside what happened."""

import asyncio
import json
import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from meshcast.cli.predictions import PredictionTable, no_history, posts_of
from meshcast.cli.problem import Problem
from meshcast.cli.settings import Connection, connect
from meshcast.cli.sink import open_sink
from meshcast.client import MeshClient
from meshcast.posts import HistoryIndex, PostTable, settled_history

__all__ = ["predict"]


def predict(
    file: Path,
    *,
    posts: int,
    channel: str | None,
    out: Path | None,
    target: str | None,
    config: Path | None,
    state_dir: Path | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Predicts the last `posts` posts of a channel and prints them.

    Raises:
        Problem: the file holds several channels and none was named, or too few posts.
        MeshError: the mesh refused, or cannot be reached.
    """
    connection = connect(target, config=config, state_dir=state_dir)
    table = _one_channel(posts_of(file), channel, file.name)
    rows = settled_history(table)[slice(-posts, None)]
    if not len(rows):
        raise no_history(file.name)
    predictions = asyncio.run(_ask(connection, table, rows, timeout_s))
    columns = predictions.columns(predictions.chunks[0])
    if out is not None:
        sink = open_sink(out)
        assert sink is not None
        with sink:
            for chunk in predictions.chunks:
                sink.write(predictions.columns(chunk))
    if as_json:
        print(json.dumps(_documents(predictions), indent=2))
    else:
        _print(predictions, list(columns))
    if predictions.failures:
        raise predictions.refusal(len(rows))


async def _ask(connection: Connection, table: PostTable, rows: HistoryIndex, timeout_s: float) -> PredictionTable:
    predictions = PredictionTable.of(table)
    async with asyncio.timeout(timeout_s), MeshClient(connection.target, tls=connection.tls) as client:
        async for chunk in client.predict_posts(table, rows):
            predictions.add(chunk)
    return predictions


def _one_channel(table: PostTable, channel: str | None, name: str) -> PostTable:
    names = [str(one) for one in np.unique(table.channel)]
    if channel is None:
        if len(names) > 1:
            more = " …" if len(names) > 12 else ""
            raise Problem(f"{name} holds {len(names)} channels", way_out=f"--channel {', '.join(names[:12])}{more}")
        return table
    if channel not in names:
        if names == [""]:
            raise Problem(f"{name} names no channel", way_out="leave --channel out: the file is taken as one channel")
        raise Problem(f"{name} holds no channel {channel!r}; it holds", details=names[:12])
    return table.take(table.channel == channel)


def _documents(predictions: PredictionTable) -> list[dict[str, object]]:
    """One JSON object a post; NaN becomes null, which JSON can hold."""
    documents = []
    for chunk in predictions.chunks:
        columns = {name: column.tolist() for name, column in predictions.columns(chunk).items()}
        for values in zip(*columns.values(), strict=True):
            plain = (None if isinstance(value, float) and math.isnan(value) else value for value in values)
            documents.append(dict(zip(columns, plain, strict=True)))
    return documents


def _print(predictions: PredictionTable, names: list[str]) -> None:
    levels = [name.removeprefix("lower_") for name in names if name.startswith("lower_")]
    first = levels[0] if levels else None
    table = Table()
    for heading in ("published (UTC)", "predicted", f"{first} % interval", "above", "happened", "inside"):
        table.add_column(heading, justify="left" if heading.startswith("published") else "right", no_wrap=True)
    for row in _documents(predictions):
        when = datetime.fromtimestamp(int(str(row["published_unix_s"])), UTC)
        actual, lower, upper = row["actual_engagement"], row.get(f"lower_{first}"), row.get(f"upper_{first}")
        inside = ""
        if isinstance(actual, float) and isinstance(lower, float) and isinstance(upper, float):
            inside = "[green]yes[/]" if lower <= actual <= upper else "[red]no[/]"
        confidence = row["confidence"]
        table.add_row(
            f"{when:%Y-%m-%d %H:%M}",
            _count(row["engagement"]),
            "-" if lower is None else f"{_count(lower)} to {_count(upper)}",
            f"{confidence:.0%}" if isinstance(confidence, float) else "-",
            _count(actual),
            inside,
        )
    console = Console()
    console.print(table)
    receipt = predictions.chunks[-1].receipt
    if not receipt.model_version:  # nothing was computed
        return
    console.print(
        f"{receipt.model} version {receipt.model_version} on {receipt.backend}; `above` is the calibrated chance "
        "to end above the median of the last 20 posts",
        style="dim",
        highlight=False,
    )


def _count(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, float) else "-"
