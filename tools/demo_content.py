"""The demo's texts: every post of 2017 judged by the mesh from its text alone, and held against what came of it.

`python tools/demo_content.py posts.csv texts.csv` asks the mesh that runs here what the texts of 2017 will do, which
training never saw, and prints how well the judgements order the posts, beside chance and beside the length of the text.
It writes those posts to the second file, for `meshcast analyze`.
"""

import argparse
import asyncio
import csv
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from meshcast.cli.score import BASELINES, baselines
from meshcast.cli.settings import connect
from meshcast.client import MeshClient
from meshcast.contents import Contents
from meshcast.posts import PostTable, engagement, read_posts, settled_history
from meshcast.runtime.calibration import area_under_curve as auc

__all__ = ["Outcomes", "auc", "main", "outcomes"]

UNSEEN_FROM = datetime(2017, 1, 1, tzinfo=UTC)
VIRAL_SHARE = 0.1
"""Share of the unseen posts, those furthest above their usual, that count as viral."""
RESAMPLES = 400
QUESTIONS = {"above_median": "above the usual", "viral": "among the top tenth"}

Floats = NDArray[np.float64]
Truth = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What came of the posts that training never saw.

    Attributes:
        row: shape (m,), int64, their positions in the table of posts.
        truth: by question, shape (m,), whether it came true.
    """

    row: NDArray[np.int64]
    truth: Mapping[str, Truth]


def outcomes(posts: PostTable, unseen_from: datetime = UNSEEN_FROM) -> Outcomes:
    """Whether each unseen post ended above the median of the last 100 settled ones, and among the tenth furthest above.

    A post is at least 24 hours old before it counts as settled.

    Args:
        posts: of one channel.
        unseen_from: start of what training never saw.
    """
    index = settled_history(posts)
    size = np.log1p(engagement(posts).astype(np.float64))
    usual = baselines(size, index)[BASELINES[2]]
    unseen = posts.published_unix_s[index.row] >= unseen_from.timestamp()
    above = (size[index.row] - usual)[unseen]
    truth = {"above_median": above > 0, "viral": above > np.quantile(above, 1 - VIRAL_SHARE)}
    return Outcomes(row=index.row[unseen], truth=truth)


def auc_interval(score: Floats, truth: Truth, *, seed: int = 1) -> tuple[float, float]:
    """95 % bootstrap interval of the AUC over posts."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(truth), (RESAMPLES, len(truth)))
    found = [auc(score[pick], truth[pick]) for pick in picks]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


async def judged(mesh: MeshClient, contents: Contents) -> dict[str, Floats]:
    """Both probabilities of every text, through one stream.

    Raises:
        MeshError: the mesh says no.
    """
    chunks = [chunk async for chunk in mesh.analyze_contents(contents)]
    return {name: np.concatenate([getattr(chunk, name) for chunk in chunks]).astype(np.float64) for name in QUESTIONS}


def show(console: Console, found: Outcomes, scores: Mapping[str, Floats], length: Floats, seconds: float) -> None:
    """Prints how well judgements order the posts."""
    table = Table(title=f"{len(found.row):,} posts of 2017, ordered by their texts", title_justify="left")
    for heading in ("ends", "share", "AUC of the model", "of the length", "of chance"):
        table.add_column(heading, justify="left" if heading == "ends" else "right")
    for name, text in QUESTIONS.items():
        truth = found.truth[name]
        low, high = auc_interval(scores[name], truth)
        model = f"[green]{auc(scores[name], truth):.3f}[/] ± {(high - low) / 2:.3f}"
        table.add_row(text, f"{truth.mean():.0%}", model, f"{auc(length, truth):.3f}", "0.500")
    console.print(table)
    rate = len(found.row) / seconds
    console.print(f"{len(found.row):,} texts judged in {seconds:.2f} s ({rate:,.0f} texts/s)", highlight=False)


def texts_of(file: Path) -> list[dict[str, str]]:
    """The rows of a posts file as they stand."""
    with open(file, encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def write_texts(file: Path, rows: list[dict[str, str]]) -> None:
    """Writes rows as a file for `meshcast analyze`."""
    with open(file, "w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


async def run(console: Console, posts_file: Path, texts_file: Path, state_dir: Path | None, target: str | None) -> None:
    """Runs this part of the demo.

    Raises:
        MeshError: the mesh says no.
    """
    posts, rows = read_posts(posts_file), texts_of(posts_file)  # one channel, oldest first in both
    found = outcomes(posts)
    unseen = [rows[row] for row in found.row.tolist()]
    write_texts(texts_file, unseen)
    contents = Contents.of(
        [row["text"] for row in unseen],
        has_media=posts.has_media[found.row],
        hour_of_day=posts.hour_of_day[found.row],
    )
    connection = connect(target, config=None, state_dir=state_dir)
    async with MeshClient(connection.target, tls=connection.tls) as mesh:
        began = time.monotonic()
        scores = await judged(mesh, contents)
        seconds = time.monotonic() - began
    show(console, found, scores, contents.content_length.astype(np.float64), seconds)


def main() -> int:
    """Runs it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("posts", type=Path, help="posts file, as tools/demo_posts.py writes it")
    parser.add_argument("texts", type=Path, help="file to write the texts of 2017 to")
    parser.add_argument("--state-dir", type=Path, help="state folder of the mesh that is asked")
    parser.add_argument("--target", help="host:port of the gateway, in place of that")
    options = parser.parse_args()
    asyncio.run(run(Console(), options.posts, options.texts, options.state_dir, options.target))
    return 0


if __name__ == "__main__":
    sys.exit(main())
