"""The demo's drift: the account's posts of 2014 are the reference, those that followed are observed in order.

`python tools/demo_drift.py posts.csv` sends both to the mesh that runs here, with a watch of the alarms open, and
prints each alarm as it was raised: what had been seen until then, since when, how bad, and which columns are to blame.
In the summer of 2015 the account's favourites left everything that 2014 had seen.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from meshcast.cli.settings import connect
from meshcast.client import DriftAlarm, DriftOptions, DriftReport, MeshClient
from meshcast.observations import Observations
from meshcast.posts import PostTable, read_posts

__all__ = ["main", "observations", "split"]

SUBJECT = "posts"
WATCHED = "favourites"
OUTPUTS = ("favourites", "retweets")
"""What comes of a post; its length and its hour go in."""
OBSERVED_FROM = datetime(2015, 1, 1, tzinfo=UTC)
WINDOW_ROWS = 500
"""About two months of posts: an account's moods of a week are no drift."""
OPTIONS = DriftOptions(window_rows=WINDOW_ROWS, window_duration=timedelta(days=365), trains_autoencoder=False)
ALARM_S = 10.0
"""Longest wait for the alarms that the answers have told of."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What came of it.

    Attributes:
        alarms: in the order in which they came, of the watch.
        reports: of the windows that raised them, by their ids.
        windows: that closed.
        seconds: that observing all posts took.
    """

    alarms: Sequence[DriftAlarm]
    reports: dict[str, DriftReport]
    windows: int
    seconds: float


def observations(posts: PostTable) -> Observations:
    """The posts as rows: log1p of favourites, retweets and length, and the hour (UTC), with their times."""
    columns = {
        "favourites": np.log1p(posts.reactions),
        "retweets": np.log1p(posts.forwards),
        "length": np.log1p(posts.content_length),
        "hour": posts.hour_of_day,
    }
    return Observations(len(posts), columns, {}, posts.published_unix_s * 1_000_000)


def split(rows: Observations, at: datetime = OBSERVED_FROM) -> tuple[Observations, Observations]:
    """The rows before a time and those from it on; they are in order."""
    assert rows.unix_us is not None
    first = int(np.searchsorted(rows.unix_us, at.timestamp() * 1e6))
    return rows[slice(0, first)], rows[slice(first, None)]


async def watch(mesh: MeshClient, rows: Observations) -> Watched:
    """Observes the rows with a watch open, and gathers what it tells.

    Raises:
        MeshError: the mesh says no.
    """
    alarms: list[DriftAlarm] = []
    came = asyncio.Event()

    async def follow() -> None:
        async for alarm in mesh.watch_drift(SUBJECT, cursor=0):
            alarms.append(alarm)
            came.set()

    began, windows, told = time.monotonic(), 0, 0
    following = asyncio.create_task(follow(), name="watch")
    try:
        async for chunk in mesh.observe(SUBJECT, rows, chunk_rows=WINDOW_ROWS):
            windows += chunk.windows_closed
            told += len(chunk.alarms)
        seconds = time.monotonic() - began
        async with asyncio.timeout(ALARM_S):
            while len(alarms) < told:
                came.clear()
                await came.wait()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    reports = {one.report_id: one async for one in mesh.list_drift_reports(SUBJECT, full=True)}
    return Watched(alarms=alarms, reports=reports, windows=windows, seconds=seconds)


def show(console: Console, found: Watched) -> bool:
    """Prints the alarms; returns whether one was about the favourites."""
    table = Table(title="Alarms, as the watch told them", title_justify="left")
    for heading in ("alarm", "posts until", "since about", "level", "to blame"):
        table.add_column(heading)
    for alarm in found.alarms:
        blamed = ", ".join(f"{name} {share:.0%}" for name, share in alarm.blamed.items() if share >= 0.01)
        since = alarm.onset.start_at if alarm.onset is not None else None
        table.add_row(alarm.kind, _day(alarm.observed_at), _day(since), alarm.severity, blamed)
    console.print(table)
    for alarm in found.alarms:
        report = found.reports.get(alarm.report_id)
        feature = next((one for one in report.features if one.name == WATCHED), None) if report is not None else None
        if feature is not None and feature.is_drifted:
            since = feature.onset.start_at if feature.onset is not None else None
            console.print(
                f"[green]{WATCHED} alarmed[/] with the posts until {_day(alarm.observed_at)}, "
                f"since about {_day(since)}: {feature.what} (in logs)",
                highlight=False,
            )
            return True
    console.print(f"{WATCHED} raised no alarm", style="red")
    return False


def _day(when: datetime | None) -> str:
    return "" if when is None else f"{when:%Y-%m-%d}"


async def run(console: Console, posts_file: Path, state_dir: Path | None, target: str | None) -> bool:
    """Runs this part of the demo; returns whether favourites alarmed.

    Raises:
        MeshError: the mesh says no.
    """
    before, after = split(observations(read_posts(posts_file)))
    connection = connect(target, config=None, state_dir=state_dir)
    async with MeshClient(connection.target, tls=connection.tls) as mesh:
        reference = await mesh.set_reference(SUBJECT, before, outputs=OUTPUTS, options=OPTIONS)
        found = await watch(mesh, after)
    smallest = next(one.smallest_shift_sd for one in reference.features if one.name == WATCHED)
    console.print(
        f"{reference.rows:,} posts of 2014 are the reference: at most {reference.options.false_alarms_a_year:g} false "
        f"alarms a year; a shift of {WATCHED} by {smallest or 0:.2f} standard deviations is found within six windows",
        highlight=False,
    )
    rate = len(after) / found.seconds
    console.print(
        f"{len(after):,} posts observed in {found.windows} windows of {WINDOW_ROWS}, in {found.seconds:.1f} s "
        f"({rate:,.0f} posts/s)",
        highlight=False,
    )
    return show(console, found)


def main() -> int:
    """Runs it; returns the exit code: 1 when favourites raised no alarm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("posts", type=Path, help="posts file, as tools/demo_posts.py writes it")
    parser.add_argument("--state-dir", type=Path, help="state folder of the mesh that is asked")
    parser.add_argument("--target", help="host:port of the gateway, in place of that")
    options = parser.parse_args()
    return 0 if asyncio.run(run(Console(), options.posts, options.state_dir, options.target)) else 1


if __name__ == "__main__":
    sys.exit(main())
