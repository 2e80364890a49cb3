"""Forecasts of a series file as a person reads them and as they are written: a row a series, a row a day."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from meshcast.cli.plain import plain
from meshcast.cli.problem import ExitCode, Problem
from meshcast.cli.series_file import shown_name
from meshcast.client import Forecast, GrowthPatterns
from meshcast.rpc import MeshError

__all__ = [
    "SeriesForecast",
    "columns",
    "document",
    "pattern_lines",
    "refusal",
    "signed_share",
    "summary",
    "week_change",
]

_WEEK = 7
_ROWS_SHOWN = 40
_REASONS_SHOWN = 5
_EVENTS_SHOWN = 6

_ARROWS = {"growing": "▲", "flat": "▬ flat", "declining": "▼"}


@dataclass(frozen=True, kw_only=True)
class SeriesForecast:
    """One series of a file and what was answered about it.

    Attributes:
        name: as the file has it; empty where it has none.
        day: shape (n,), int64, days since 1970-01-01.
        value: shape (n,), float64.
        forecast: the answer; None when it was refused.
        error: why it was refused.
        patterns: what moved it so far, where that was asked for.
    """

    name: str
    day: NDArray[np.int64]
    value: NDArray[np.float64]
    forecast: Forecast | None = None
    error: MeshError | None = None
    patterns: GrowthPatterns | None = None


def week_change(series: SeriesForecast) -> float | None:
    """How much the forecast's last week lies above the history's last one, as in 0.1; None where that means nothing.

    Means of the known days of whole weeks are compared, so that weekdays do not matter.
    """
    if series.forecast is None or len(series.forecast) < _WEEK:
        return None
    newest = series.value[series.day > series.day[-1] - _WEEK]
    before, after = float(np.mean(newest)), float(np.mean(series.forecast.median[-_WEEK:]))
    # Of an incomplete week the mean may be of weekends alone; of a mean around 0 there is no share.
    return after / before - 1 if len(newest) == _WEEK and before > 0 else None


def summary(found: Sequence[SeriesForecast], *, with_patterns: bool) -> Table:
    """A table for a person: a row a series, at most forty of them."""
    told = [(series, series.forecast) for series in found if series.forecast is not None]
    horizon = max((len(forecast) for _, forecast in told), default=0)
    level = next((next(iter(forecast.intervals), None) for _, forecast in told), None)
    week = min(_WEEK, horizon)
    table = Table()
    table.add_column("series", overflow="fold")
    headings = ["last\nvalue", f"mean of\nnext {week} days", f"on\nday {horizon}"]
    headings += [] if level is None else [f"its\n{percent(level)} % interval"]
    headings += ["trend,\na week" if with_patterns else "change\nof a week"]
    for heading in headings:
        # Not no_wrap: where the terminal is narrow, rich would take all of the space from the names.
        table.add_column(heading, justify="right", overflow="fold")
    for series, forecast in told[:_ROWS_SHOWN]:
        cells = [
            shown_name(series.name),
            number(float(series.value[-1])),
            number(float(np.mean(forecast.median[:week]))),
            number(float(forecast.median[-1])),
        ]
        if level is not None:
            lower, upper = forecast.intervals[level]
            cells.append(f"{number(float(lower[-1]))} to {number(float(upper[-1]))}")
        table.add_row(*map(escape, cells), _trend(series) if with_patterns else _share(week_change(series)))
    ends = sorted({forecast.first_day - timedelta(days=1) for _, forecast in told})
    known = f"known up to {ends[0]}" + (f" to {ends[-1]}" if len(ends) > 1 else "") if ends else ""
    more = f"; {len(told) - _ROWS_SHOWN:,} more series: --out writes all of them" if len(told) > _ROWS_SHOWN else ""
    table.caption = known + more
    return table


def pattern_lines(patterns: GrowthPatterns) -> Iterator[str]:
    """What moved a series so far, one sentence a line."""
    recent = patterns.recent_trend
    since = f" since {recent.first_day}" if patterns.change_points else ""
    yield f"{recent.direction}{since}: {_slope(recent.slope, recent.slope_lower, recent.slope_upper)} a day"
    for kind, season in (("week", patterns.weekly), ("year", patterns.yearly)):
        if season is not None and season.present:
            yield f"season of the {kind}: explains {season.strength:.0%} of the variance without trend"
    for point in patterns.change_points[-_EVENTS_SHOWN:]:
        what = "level" if point.kind == "level" else "growth"
        yield f"{what} changed on {point.day}: {number(point.level_before)} to {number(point.level_after)}"
    if len(patterns.change_points) > _EVENTS_SHOWN:
        yield f"and {len(patterns.change_points) - _EVENTS_SHOWN} changes before"
    for one in sorted(patterns.anomalies, key=lambda one: -abs(one.score))[:_EVENTS_SHOWN]:
        yield f"unusual on {one.day}: {number(one.value)}, expected about {number(one.expected)}"
    if len(patterns.anomalies) > _EVENTS_SHOWN:
        yield f"and {len(patterns.anomalies) - _EVENTS_SHOWN} lesser unusual days"
    yield from patterns.notes


def columns(series: SeriesForecast) -> dict[str, Sequence[str] | NDArray[np.generic]]:
    """A forecast as it is written: a row a day."""
    forecast = series.forecast
    assert forecast is not None
    days = len(forecast)
    written: dict[str, Sequence[str] | NDArray[np.generic]] = {
        "date": forecast.days.astype(str),
        "series": [series.name] * days,
        "median": forecast.median.astype(np.float32),  # as the model gives it: more digits say nothing
    }
    for level, (lower, upper) in forecast.intervals.items():
        written[f"lower_{percent(level)}"] = lower.astype(np.float32)
        written[f"upper_{percent(level)}"] = upper.astype(np.float32)
    written["forecast_id"] = [forecast.forecast_id] * days
    written["model_version"] = np.full(days, forecast.receipt.model_version)
    return written


def document(series: SeriesForecast) -> dict[str, object]:
    """One series as JSON."""
    found: dict[str, object] = {"series": series.name}
    if series.error is not None:
        return found | {"error": _why(series.error)}
    forecast = series.forecast
    assert forecast is not None
    found |= {
        "first_date": forecast.first_day.isoformat(),
        "median": _short(forecast.median),
        "intervals": [
            {"level": level, "lower": _short(band.lower), "upper": _short(band.upper)}
            for level, band in forecast.intervals.items()
        ],
        "forecast_id": forecast.forecast_id,
        "model_version": forecast.receipt.model_version,
    }
    if series.patterns is not None:
        found["patterns"] = plain(series.patterns)
    return found


def refusal(found: Sequence[SeriesForecast]) -> Problem | None:
    """What to say of the series that were refused: the reasons, the most frequent first; None when there are none."""
    reasons: dict[str, list[str]] = {}
    for series in found:
        if series.error is not None:
            reasons.setdefault(_why(series.error), []).append(series.name)
    if not reasons:
        return None
    refused = sum(map(len, reasons.values()))
    details = []
    for why, names in sorted(reasons.items(), key=lambda item: -len(item[1]))[:_REASONS_SHOWN]:
        which = shown_name(names[0]) + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")
        details.append(f"{which}: {why}")
    if len(reasons) > _REASONS_SHOWN:
        details.append(f"and {len(reasons) - _REASONS_SHOWN:,} more reasons")
    return Problem(f"{refused:,} of {len(found):,} series were refused", exit_code=ExitCode.REFUSED, details=details)


def number(value: float) -> str:
    """A value with about four digits, as a person would write it."""
    if value != value:
        return "-"
    value += 0.0  # of -0.0 it makes 0.0
    size = abs(value)
    if size >= 1e12 or 0 < size < 1e-4:
        return f"{value:.3g}"
    for least, letter in ((1e9, "G"), (1e6, "M")):
        if size >= least:
            return f"{value / least:.2f}{letter}"
    digits = 0 if size >= 1000 or float(value).is_integer() else max(0, 3 - int(np.floor(np.log10(size))))
    return f"{value:,.{min(digits, 7)}f}"


def signed_share(share: float) -> str:
    """A change as in +2.0%; what rounds to nothing has no sign."""
    shown = f"{share:+.1%}"
    return "0.0%" if shown in ("+0.0%", "-0.0%") else shown


def percent(level: float) -> str:
    """A level as column names have it: 0.8 is 80, 0.975 is 97.5."""
    return f"{level * 100:.6g}"


def _short(values: NDArray[np.float64]) -> list[float]:
    """Values of a model with the digits that float32 holds."""
    return [float(str(value)) for value in values.astype(np.float32)]


def _share(share: float | None) -> str:
    return "-" if share is None else signed_share(share)


def _trend(series: SeriesForecast) -> str:
    if series.patterns is None:
        return "-"
    trend = series.patterns.recent_trend
    growth = "" if trend.growth_weekly is None or trend.direction == "flat" else f" {signed_share(trend.growth_weekly)}"
    return _ARROWS[trend.direction] + growth


def _slope(slope: float, lower: float, upper: float) -> str:
    signs = [("+" if value > 0 else "") + number(value) for value in (slope, lower, upper)]
    return f"{signs[0]} ({signs[1]} to {signs[2]})"


def _why(error: MeshError) -> str:
    # A row's own field is its place in a message, which says nothing to someone who gave a file.
    return "; ".join(violation.description for violation in error.violations) or error.message
