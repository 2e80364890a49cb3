"""Pictures of forecasts: the history, the median and the fan of intervals, a panel a series."""

import math
import warnings
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from meshcast.cli.forecast_table import SeriesForecast, percent
from meshcast.cli.problem import Problem, need_matplotlib
from meshcast.cli.series_file import shown_name

__all__ = ["PANELS_MAX", "check_plot", "draw"]

PANELS_MAX = 12
"""Series of a picture: more would be too small to read."""

_KINDS = (".png", ".svg", ".pdf")
_DAYS_SHOWN = 120  # of the history, or four horizons; twice as many with the patterns marked
_NAME_MAX = 60

# Okabe and Ito's palette, which people with any colour vision tell apart; marks differ in shape as well.
_HISTORY, _FORECAST, _CHANGE, _UNUSUAL = "#404040", "#0072B2", "#D55E00", "#CC79A7"


def check_plot(path: Path) -> None:
    """Refuses a picture that could not be drawn, before anything is asked.

    Raises:
        Problem: its kind or folder is none, or the extra `plot` is not installed.
    """
    if path.suffix.lower() not in _KINDS:
        raise Problem(
            f"--plot {path}: unknown kind of picture", way_out=f"end its name with one of {', '.join(_KINDS)}"
        )
    if not path.parent.is_dir():
        raise Problem(f"--plot {path}: there is no folder {path.parent}")
    need_matplotlib("drawing")


def draw(path: Path, found: Sequence[SeriesForecast], *, is_nonnegative: bool) -> None:
    """Draws the first `PANELS_MAX` forecasts into a file, without a window.

    Args:
        path: .png, .svg or .pdf.
        found: series that were forecast.
        is_nonnegative: whether the value axes begin at 0.
    """
    from matplotlib.figure import Figure  # not pyplot: it keeps figures, and may look for a screen

    shown = found[:PANELS_MAX]
    columns = 1 if len(shown) == 1 else 2 if len(shown) <= 6 else 3
    rows = math.ceil(len(shown) / columns)
    size = (10.0, 5.0) if len(shown) == 1 else (6.2 * columns, 3.1 * rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    handles: dict[str, Any] = {}
    for axis, series in zip(axes, shown, strict=False):
        _panel(axis, series, is_nonnegative)
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(handles), 4), frameon=False
    )
    part = path.with_name(f".{path.name}.partial")
    try:
        with warnings.catch_warnings():
            # A name in a script that the font lacks is drawn as boxes; the terminal has shown it.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(part, dpi=150, format=path.suffix.lower().removeprefix("."))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _panel(axis: Any, series: SeriesForecast, is_nonnegative: bool) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import FuncFormatter

    forecast = series.forecast
    assert forecast is not None
    days_shown = max(_DAYS_SHOWN, 4 * len(forecast)) * (1 if series.patterns is None else 2)
    first, last = int(series.day[-1]) - days_shown, int(series.day[-1])
    picked = series.day > first
    day, value = _with_gaps(series.day[picked], series.value[picked])
    axis.plot(day, value, color=_HISTORY, linewidth=1.1, label="history")
    alone = _alone(value)
    if alone.any():  # a day between two missing ones has no line
        axis.plot(day[alone], value[alone], ".", color=_HISTORY, markersize=3)
    ahead = forecast.days
    bands = list(forecast.intervals.items())[::-1]
    for rank, (level, band) in enumerate(bands):  # widest first, so that the narrower lie on top of it
        shade = _blend(_FORECAST, 0.18 + 0.32 * rank / max(1, len(bands) - 1))
        label = f"{percent(level)} % interval"
        axis.fill_between(ahead, band.lower, band.upper, color=shade, linewidth=0, label=label)
    axis.plot(ahead, forecast.median, color=_FORECAST, linewidth=1.8, label="forecast (median)")
    axis.axvline(np.datetime64(last, "D"), color=_HISTORY, linewidth=0.7, linestyle=":")
    if series.patterns is not None:
        _mark(axis, series, _date(first))
    name = shown_name(series.name)
    axis.set_title(name if len(name) <= _NAME_MAX else f"{name[: _NAME_MAX - 1]}…", parse_math=False, fontsize=10)
    axis.set_ylabel("value a day")
    axis.set_xlabel("date")
    locator = AutoDateLocator(minticks=3, maxticks=8)  # type: ignore[no-untyped-call]
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axis.yaxis.set_major_formatter(FuncFormatter(lambda number, _: _tick(number)))
    if is_nonnegative:
        axis.set_ylim(bottom=0)
    axis.margins(x=0.01)
    axis.grid(True, color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _mark(axis: Any, series: SeriesForecast, first: date) -> None:
    """Marks the change points and the unusual days that lie in the picture."""
    assert series.patterns is not None
    label = "change"
    for point in series.patterns.change_points:
        if point.day > first:
            axis.axvline(np.datetime64(point.day), color=_CHANGE, linewidth=1.2, linestyle="--", label=label)
            label = "_"  # one entry in the legend
    unusual = [one for one in series.patterns.anomalies if one.day > first]
    if unusual:
        axis.plot(
            np.array([one.day for one in unusual], dtype="datetime64[D]"),
            [one.value for one in unusual],
            "D",
            markerfacecolor="none",
            markeredgecolor=_UNUSUAL,
            markeredgewidth=1.4,
            markersize=6,
            label="unusual day",
        )


def _blend(color: str, share: float) -> str:
    """A colour mixed with white, of which it keeps a share: opaque, so that bands on top of each other keep theirs."""
    parts = (round(255 - share * (255 - int(color[at : at + 2], 16))) for at in (1, 3, 5))
    return "#" + "".join(f"{part:02x}" for part in parts)


def _with_gaps(day: Any, value: Any) -> tuple[Any, Any]:
    """Days and values with NaN on each missing day, so that no line is drawn across it."""
    every = np.arange(day[0], day[-1] + 1)
    values = np.full(len(every), np.nan)
    values[day - day[0]] = value
    return every.astype("datetime64[D]"), values


def _alone(value: Any) -> Any:
    """Which values have no neighbour to draw a line to."""
    missing = np.concatenate([[True], np.isnan(value), [True]])
    return ~missing[1:-1] & missing[:-2] & missing[2:]


def _date(day: int) -> date:
    found: date = np.datetime64(day, "D").astype(date)
    return found


def _tick(value: float) -> str:
    if value and not 1e-4 <= abs(value) < 1e15:
        return f"{value:g}"
    return f"{value:,.10g}" if abs(value) < 1e9 else f"{value:.4g}"
