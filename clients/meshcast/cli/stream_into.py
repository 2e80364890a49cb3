"""`meshcast stream --resume`: predictions into a sink, each row once, and what stands there read back for the score."""

import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from meshcast.cli.predictions import PredictionTable
from meshcast.cli.problem import Problem, translate
from meshcast.cli.settings import Connection
from meshcast.client import EngagementChunk, MeshClient, ReceiptSummary, StoredStream
from meshcast.posts import HistoryIndex
from meshcast.rpc import MeshError
from meshcast.sinks import SUFFIXES, Column, Sink, journal_of, open_sink

__all__ = ["StreamOptions", "check_out", "predicted_in", "push_into", "row_bar", "sink_at"]

TABLE = "predictions"
"""Table of a database that `--out` names."""

Floats = NDArray[np.float64]

_LOWER = re.compile(r"lower_(\d+(?:\.\d+)?)\Z")


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """How rows are sent.

    Attributes:
        chunk_rows: rows of a chunk; None: as the stream began, or 256.
        window: chunks under way; None: as many as bring more rows a second.
        repin: whether a stream in a sink goes on with another version where the one so far is gone.
        patience_s: seconds for which such a stream waits for a mesh that is away.
    """

    chunk_rows: int | None
    window: int | None
    repin: bool
    patience_s: float


def sink_at(out: Path) -> Sink:
    """The sink that `--out` names.

    Raises:
        Problem: the end of its name says no kind, or its folder is missing.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise Problem(f"--out {out}: unknown kind of file", way_out=f"end its name with one of {', '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise Problem(f"--out {out}: there is no folder {out.parent}")
    return open_sink(out, table=TABLE)


def check_out(out: Path) -> None:
    """Refuses to write a file anew over what a stream with `--resume` has stored.

    Raises:
        Problem: something such stands there, or only a sink writes this kind.
    """
    if out.suffix.lower() in (".sqlite", ".db"):
        raise Problem(f"--out {out}: rows go into a database as they come", way_out="--resume with it")
    if journal_of(out).exists() or out.is_dir():
        raise Problem(
            f"--out {out}: holds a stream that can go on",
            way_out="--resume with it, another name, or remove what is there",
        )


async def push_into(
    connection: Connection,
    sink: Sink,
    predictions: PredictionTable,
    rows: HistoryIndex,
    options: StreamOptions,
    console: Console,
) -> tuple[StoredStream, ReceiptSummary]:
    """Streams the rows that do not stand in a sink yet into it; gives what came of it and what the receipts say.

    Raises:
        Problem: the sink is of another file, or the version that answered so far is gone.
        MeshError: the mesh refused, or was away for too long.
    """
    receipts = ReceiptSummary()

    def columns(chunk: EngagementChunk, first_row: int) -> dict[str, Column]:
        predictions.note(chunk)
        receipts.add(chunk.receipt, rows=len(chunk))
        return predictions.stored_columns(chunk, first_row)

    with row_bar(console, len(rows)) as bar:
        async with MeshClient(connection.target, tls=connection.tls) as client:
            with _told(console):
                stored = await client.predict_posts_into(
                    sink,
                    predictions.posts,
                    rows,
                    columns=columns,
                    chunk_rows=options.chunk_rows,
                    window=options.window,
                    repin=options.repin,
                    patience_s=options.patience_s,
                    progress=lambda done, _: bar.advance_to(done),
                )
    return stored, receipts


@contextmanager
def _told(console: Console) -> Iterator[None]:
    """Says of a stream that failed what stands, in the words of the command."""
    try:
        yield
    except MeshError as error:
        for note in getattr(error, "__notes__", ()):
            console.print(
                note.replace("the same call", "the same command"), style="yellow", highlight=False, markup=False
            )
        if "repin=True" in error.message:
            problem = translate(error)
            problem.message = problem.message.replace("repin=True goes on", "--repin goes on")
            problem.message = problem.message.replace("call again", "run the command again")
            raise problem from error
        raise


class RowBar:
    """A bar of rows with their rate; rows that stood before it began do not count as done by it."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._bar = progress.add_task("rows", total=total, rate="")
        self._began = time.perf_counter()
        self._before: int | None = None

    def advance_to(self, done: int) -> None:
        """Shows so many rows as done."""
        if self._before is None:
            self._before, self._began = done, time.perf_counter()
        seconds = time.perf_counter() - self._began
        rate = f"{(done - self._before) / seconds:,.0f} rows/s" if done > self._before and seconds > 0 else ""
        self._progress.update(self._bar, completed=done, rate=rate)


@contextmanager
def row_bar(console: Console, total: int) -> Iterator[RowBar]:
    """Shows a bar while the block runs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield RowBar(progress, total)


def predicted_in(sink: Sink) -> tuple[Floats, Floats, Floats, Floats]:
    """log_engagement (n,), levels (k,), lower and upper ends (k, n) of all rows of a sink, log1p units."""
    names: list[str] = []
    parts: list[list[Floats]] = []
    with closing(sink):
        sink.open(None)
        for block in sink.read():
            names = [name for name in block if _LOWER.match(name)]
            wanted = ["log_engagement", *names, *(name.replace("lower", "upper") for name in names)]
            parts.append([np.asarray(block[name], dtype=np.float64) for name in wanted])
    log, *ends = [np.concatenate(column) for column in zip(*parts, strict=True)]
    levels = np.array([float(name.removeprefix("lower_")) / 100 for name in names])
    bounds = np.log1p(np.array(ends).reshape(2, len(names), len(log)))
    return log, levels, bounds[0], bounds[1]
