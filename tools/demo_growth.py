"""The demo's daily series: the account's daily engagement, forecast by the mesh over 2017 and held against what came.

`python tools/demo_growth.py posts.csv daily.csv` sums the posts' engagement by day (UTC), writes the sums as a series
file, and asks the mesh that runs here: a forecast of 14 days every 14 days through 2017, which training never saw, each
followed by what really happened, so that the intervals of the next one have learnt from it. Every figure that it prints
is computed from those answers. At the end it asks for all parts of a composite answer.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from demo_posts import PLANNED_TEXT
from meshcast.cli.settings import connect
from meshcast.client import (
    ComprehensivePart,
    Content,
    Forecast,
    GrowthQuestion,
    IntervalEvidence,
    MeshClient,
    PlannedPost,
)
from meshcast.posts import PostTable, engagement, read_posts
from meshcast.rpc import NotFound
from meshcast.series import SeriesTable, day_of, day_texts, write_series

__all__ = ["Scores", "daily_engagement", "main", "score"]

SERIES = "daily engagement"
DAYS = 14
"""Days ahead, and days between origins."""
FIRST, LAST = date(2017, 1, 1), date(2017, 12, 31)
"""First and last day that is forecast."""
SEEN_UNTIL = "March 2016"
"""Last month of the account that training saw, as the card of the model that ships says."""
LEVELS = (0.8, 0.95)
INSTALLED = {"engagement", "growth", "content"}
"""Parts of a composite answer that the mesh of the demo has services for."""
HISTORY_POSTS = 100
DAY_S = 86_400
BARS = " ▁▂▃▄▅▆▇█"

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Forecasts of all origins, beside what happened.

    Attributes:
        actual: shape (m, 14), what happened.
        history: of each origin, the values of all days before it.
        median: shape (m, 14).
        bounds: shape (m, levels, 2, 14), lower and upper ends of the intervals that have adapted.
        drawn: the same as the model draws them, without what happened before.
        evidence: what the intervals had adapted to at the end.
    """

    actual: Floats
    history: list[Floats]
    median: Floats
    bounds: Floats
    drawn: Floats
    evidence: Sequence[IntervalEvidence]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Figures over all origins.

    Attributes:
        mase: by method; each origin's mean error over the 14 days, divided by the mean change from week to week in its
            history, then the mean over origins.
        covered: by level, the share of days inside the interval.
        width: by level, the mean width of the interval, in the unit of the series.
    """

    mase: Mapping[str, float]
    covered: Mapping[float, float]
    width: Mapping[float, float]


def daily_engagement(posts: PostTable) -> SeriesTable:
    """Engagement of all posts of a day (UTC), from the first day to the last; a day without posts has 0."""
    day = posts.published_unix_s // DAY_S
    total = np.nan_to_num(engagement(posts).astype(np.float64))
    days = np.arange(day.min(), day.max() + 1)
    sums = np.bincount(day - day.min(), weights=total, minlength=len(days))
    return SeriesTable.of(days, sums, series=[SERIES] * len(days))


def score(asked: Asked, bounds: Floats) -> Scores:
    """Scores of the forecasts, and of what a person would have guessed from the same history.

    Args:
        asked: the forecasts.
        bounds: the intervals to be scored.
    """
    week = np.arange(DAYS) % 7
    methods = {
        "the mesh": asked.median,
        "seasonal naive": np.array([past[-7:][week] for past in asked.history]),
        "weekday mean of 4 weeks": np.array([past[-28:].reshape(4, 7).mean(axis=0)[week] for past in asked.history]),
    }
    scale = np.array([np.abs(past[7:] - past[:-7]).mean() for past in asked.history])
    inside = (asked.actual[:, None] >= bounds[:, :, 0]) & (asked.actual[:, None] <= bounds[:, :, 1])
    width = bounds[:, :, 1] - bounds[:, :, 0]
    return Scores(
        mase={name: float((np.abs(made - asked.actual).mean(axis=1) / scale).mean()) for name, made in methods.items()},
        covered={level: float(inside[:, at].mean()) for at, level in enumerate(LEVELS)},
        width={level: float(width[:, at].mean()) for at, level in enumerate(LEVELS)},
    )


async def ask(mesh: MeshClient, table: SeriesTable) -> Asked:
    """Forecasts every origin, and records what happened before the next one.

    Raises:
        MeshError: the mesh says no.
    """
    actual, history, adapted, drawn = [], [], [], []
    evidence: Sequence[IntervalEvidence] = ()
    first = int(table.day[0])
    for origin in range(day_of(FIRST) - first, day_of(LAST) - first - DAYS + 2, DAYS):
        past, future = table[:origin], table[origin : origin + DAYS]
        forecast = await mesh.forecast_growth(past, horizon_days=DAYS, levels=LEVELS, nonnegative=True)
        # Without a name a forecast never adapts: what the model itself draws, to be compared.
        plain = await mesh.forecast_growth(past, series="", horizon_days=DAYS, levels=LEVELS, nonnegative=True)
        await _until_stored(mesh, forecast.forecast_id)
        evidence = (await mesh.record_actuals(future)).evidence
        actual.append(future.value)
        history.append(past.value)
        adapted.append(forecast)
        drawn.append(plain)
    return Asked(
        actual=np.array(actual),
        history=history,
        median=np.array([forecast.median for forecast in adapted]),
        bounds=_bounds(adapted),
        drawn=_bounds(drawn),
        evidence=evidence,
    )


def _bounds(forecasts: Sequence[Forecast]) -> Floats:
    return np.array([[forecast.intervals[level] for level in LEVELS] for forecast in forecasts])


async def _until_stored(mesh: MeshClient, forecast_id: str) -> None:
    """Waits until a forecast can be read back, within a second of its answer: what happened is compared with that."""
    async with asyncio.timeout(5):
        while True:
            try:
                await mesh.read_forecast(forecast_id)
                return
            except NotFound:
                await asyncio.sleep(0.01)


async def comprehensive(mesh: MeshClient, posts: PostTable, table: SeriesTable) -> list[ComprehensivePart]:
    """The parts of one composite answer in the order in which they came, the summary last.

    Raises:
        MeshError: the mesh says no.
    """
    noon = datetime.combine(LAST + timedelta(days=2), datetime.min.time(), UTC) + timedelta(hours=12)
    planned = PlannedPost(published_at=noon, content_length=len(PLANNED_TEXT), has_media=False)
    growth = GrowthQuestion(history=table, nonnegative=True)
    content = Content(text=PLANNED_TEXT, hour_of_day=noon.hour)
    answers = mesh.predict_comprehensive(planned, posts[-HISTORY_POSTS:], growth=growth, content=content)
    return [part async for part in answers]


def show_series(console: Console, table: SeriesTable, file: Path) -> None:
    """Prints what is forecast: the sums by month as bars."""
    months = table.day.astype("datetime64[D]").astype("datetime64[M]")
    sums = np.array([table.value[months == month].mean() for month in np.unique(months)])
    bars = "".join(BARS[round(share * (len(BARS) - 1))] for share in sums / sums.max())
    first, last = day_texts(table.day[[0, -1]])
    console.print(f"written to {file}", highlight=False, soft_wrap=True)
    console.print(f"{len(table):,} days, {first} to {last}; daily mean by month, at most {sums.max():,.0f}:")
    console.print(f"[cyan]{bars}[/]")


def show_scores(console: Console, asked: Asked, seconds: float) -> None:
    """Prints the figures."""
    adapted, drawn = score(asked, asked.bounds), score(asked, asked.drawn)
    errors = Table(
        title=f"Error over {len(asked.actual)} origins, {DAYS} days ahead each, {FIRST} to {LAST}", title_justify="left"
    )
    errors.add_column("forecast by", no_wrap=True)
    errors.add_column("MASE, lower is better", justify="right")
    best = min(adapted.mase.values())
    for name, value in adapted.mase.items():
        errors.add_row(name, f"[green]{value:.3f}[/]" if value == best else f"{value:.3f}")
    console.print(errors)
    console.print(
        "MASE (season 7): the error over the mean change from week to week in each origin's whole history; above 1 "
        f"here because its first years were tiny. The shipped model learnt from the account up to {SEEN_UNTIL}",
        highlight=False,
    )
    held = Table(title="Intervals: share of days inside, and mean width", title_justify="left")
    for heading in ("stated", "adapting", "width", "as the model draws them", "width"):
        held.add_column(heading, justify="right")
    for level in LEVELS:
        held.add_row(
            f"{level:.0%}",
            f"{adapted.covered[level]:.1%}",
            f"{adapted.width[level]:,.0f}",
            f"{drawn.covered[level]:.1%}",
            f"{drawn.width[level]:,.0f}",
        )
    console.print(held)
    for one in asked.evidence:
        if one.level not in LEVELS:
            continue
        console.print(
            f"the {one.level:.0%} interval is drawn {one.width_factor:.2f} times as wide as the model's now, after "
            f"{one.compared:,} comparisons",
            highlight=False,
        )
    console.print(
        f"{len(asked.actual)} origins, forecast and recorded through the gateway in {seconds:.1f} s", highlight=False
    )


def show_comprehensive(console: Console, answers: Sequence[ComprehensivePart]) -> bool:
    """Prints one composite answer; returns whether the parts that this mesh has services for were answered.

    A part whose service is not installed is no fault: the gateway answers with the others.
    """
    *parts, last = answers
    table = Table(title="One question to the mesh, its parts as they came", title_justify="left")
    for heading in ("part", "answer", "model", "ms"):
        table.add_column(heading, justify="right" if heading == "ms" else "left")
    for part in parts:
        said, model = f"[dim]{part.error.message if part.error else ''}[/]", ""
        if part.error is not None and part.part not in INSTALLED:
            said = "[dim]not installed; the mesh answers with the others[/]"
        elif part.prediction is not None:
            said = f"a post planned for noon: {part.prediction.engagement:,.0f} forwards and reactions"
            model = part.prediction.receipt.model
        elif part.forecast is not None:
            level, band = next(iter(part.forecast.intervals.items()))
            said = (
                f"{len(part.forecast)} days from {part.forecast.first_day}, {part.forecast.median.mean():,.0f} a day; "
                f"on the first, {band.lower[0]:,.0f} to {band.upper[0]:,.0f} with {level:.0%}"
            )
            model = part.forecast.receipt.model
        elif part.judgement is not None:
            judgement = part.judgement
            said = f"its text: above the usual {judgement.above_median:.0%}, among the top tenth {judgement.viral:.0%}"
            model = judgement.receipt.model
        table.add_row(part.part, said, model, f"{part.receipt.message.gateway.elapsed_us / 1e3:.1f}")
    console.print(table)
    answered = sorted(part.part for part in parts if part.error is None)
    elapsed_ms = last.summary.elapsed_us / 1e3 if last.summary is not None else 0.0
    console.print(f"answered: {', '.join(answered) or 'none'}, in {elapsed_ms:.1f} ms", highlight=False)
    return {*answered} >= INSTALLED


async def run(
    console: Console, posts_file: Path, series_file: Path, state_dir: Path | None, target: str | None
) -> bool:
    """Runs this part of the demo; returns whether the mesh's parts of the composite question were answered.

    Raises:
        MeshError: the mesh says no.
    """
    posts = read_posts(posts_file)
    table = daily_engagement(posts)
    write_series(series_file, table)
    show_series(console, table, series_file)
    connection = connect(target, config=None, state_dir=state_dir)
    async with MeshClient(connection.target, tls=connection.tls) as mesh:
        began = time.monotonic()
        asked = await ask(mesh, table)
        show_scores(console, asked, time.monotonic() - began)
        answers = await comprehensive(mesh, posts, table)
    return show_comprehensive(console, answers)


def main() -> int:
    """Runs it; returns the exit code: 1 when a part of the composite answer is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("posts", type=Path, help="posts file, as tools/demo_posts.py writes it")
    parser.add_argument("series", type=Path, help="series file to write")
    parser.add_argument("--state-dir", type=Path, help="state folder of the mesh that is asked")
    parser.add_argument("--target", help="host:port of the gateway, in place of that")
    options = parser.parse_args()
    console = Console()
    return 0 if asyncio.run(run(console, options.posts, options.series, options.state_dir, options.target)) else 1


if __name__ == "__main__":
    sys.exit(main())
