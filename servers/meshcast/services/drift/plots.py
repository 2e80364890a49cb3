"""Plots: one picture of a feature, reference against window, as PNG. matplotlib is imported at the first one."""

import importlib.util
import io
import threading
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc.errors import Precondition
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.tally import Tally
from meshcast.services.drift.words import counted, number, percent

__all__ = ["PLOTS_MAX", "need_matplotlib", "plot_features"]

Vector = NDArray[np.float64]

PLOTS_MAX = 16
"""Pictures of one report, of the contract."""

_REFERENCE, _WINDOW, _INK, _GRID = "#8a94a6", "#c2410c", "#1f2937", "#e5e7eb"
_SIZE, _DPI = (7.2, 3.3), 110
_CELLS = 40
_FEW_VALUES = 12
_BARS = 14
_TAILS = (0.005, 0.995)  # of both sides together; what lies beyond is said, not drawn
_WIDE_SHARE, _PARTS = 0.05, 32  # outermost bins that hold more are parted
_SPAN_LOG = 30.0  # times the middle half that the tails reach, from which on the axis is logarithmic
_NAME_MAX = 60

_drawing = threading.Lock()  # matplotlib's fonts and settings are shared by all threads


def need_matplotlib() -> None:
    """Refuses plots where they cannot be drawn.

    Raises:
        Precondition: EXTRA_MISSING, matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise Precondition(
            "plots need matplotlib, which is not installed here: pip install 'meshcast[plot]'",
            reason=error_reason_pb2.ERROR_REASON_EXTRA_MISSING,
            extra="plot",
            command="pip install 'meshcast[plot]'",
        )


def plot_features(
    layout: Layout, reference: Tally, window: Tally, features: Sequence[int], *, what: Mapping[int, str]
) -> dict[int, bytes]:
    """Pictures of features.

    Args:
        layout: of both sides.
        reference: tally of the reference's rows.
        window: tally of the window's rows.
        features: positions of the features in the layout.
        what: what moved, in words, by position; it stands above the picture.

    Returns:
        A PNG by position.

    Raises:
        Precondition: EXTRA_MISSING, matplotlib is not installed.
    """
    need_matplotlib()
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: it keeps figures, and may look for a screen

    found = {}
    with _drawing, rc_context({"text.parse_math": False, "font.size": 9}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        for at in features:
            figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained", facecolor="white")
            FigureCanvasAgg(figure)
            _draw(figure, layout, reference, window, at, what.get(at, ""))
            data = io.BytesIO()
            figure.savefig(data, format="png", metadata={"Software": None})
            found[at] = data.getvalue()
    return found


def _draw(figure: Any, layout: Layout, reference: Tally, window: Tally, at: int, what: str) -> None:
    feature = layout.features[at]
    sides = (reference, window)
    figure.suptitle(_cut(feature.name, _NAME_MAX), x=0.01, ha="left", fontsize=11, fontweight="bold", color=_INK)
    odd = _odd_shares(layout, sides, at)
    if odd:
        main, beside = figure.subplots(1, 2, width_ratios=(6, 0.55 + 0.55 * len(odd)))
        _draw_odd(beside, odd)
    else:
        main = figure.subplots()
    has_values = [int(side.rows - side.nulls[at]) > 0 for side in sides]
    if not any(has_values):
        main.text(0.5, 0.5, "no values on either side", ha="center", va="center", color=_INK)
        main.set_axis_off()
    elif feature.kind == "categorical":
        _draw_categories(main, layout, sides, at)
    elif 1 < layout.bins[at] <= _FEW_VALUES:
        _draw_few(main, layout, sides, at)
    else:
        _draw_numbers(main, layout, sides, at)
    _plain(main)
    main.set_title(_cut(what, 100 - 24 * bool(odd)), loc="left", fontsize=8.5, color=_INK)


def _draw_numbers(axis: Any, layout: Layout, sides: Sequence[Tally], at: int) -> None:
    """Shares over cells of a sensible axis."""
    lowest = float(min(side.extremes[at, 0] for side in sides))
    highest = float(max(side.extremes[at, 1] for side in sides))
    if not np.isfinite([lowest, highest]).all():
        axis.text(0.5, 0.5, "infinite values only", ha="center", va="center", color=_INK)
        return
    drawn = [_bounds(layout, side, at, lowest, highest) for side in sides]
    low, high = _range(drawn)
    scale = _axis_scale(*drawn[0], low, high)
    forward, backward = _transforms(scale)
    grid = _grid(layout.edges(at), forward, low, high, is_linear=scale == "linear")
    outside = []
    for (bounds, shares), colour, label, side in zip(
        drawn, (_REFERENCE, _WINDOW), ("reference", "window"), sides, strict=True
    ):
        cells = _spread_over(forward(bounds), shares, grid)
        name = f"{label} ({counted(int(side.rows - side.nulls[at]), 'value')})"
        if colour == _REFERENCE:
            axis.stairs(100 * cells, grid, fill=True, color=colour, alpha=0.55, label=name)
        else:
            axis.stairs(100 * cells, grid, color=colour, linewidth=1.8, label=name)
        outside.append(max(0.0, float(shares.sum() - cells.sum())))
    axis.set_xlim(grid[0], grid[-1])
    if ticks := _ticks(scale, backward(grid[[0, -1]])):
        axis.set_xticks(forward(np.array(ticks)), [f"{tick:,g}" for tick in ticks])
    axis.set_ylabel("% of values")
    note = " (logarithmic axis)" * (scale != "linear")
    if max(outside) > 0.0005:
        note += f"; not drawn: {percent(outside[0])} and {percent(outside[1])} in the tails"
    axis.set_xlabel(f"value{note}")
    axis.legend(frameon=False, fontsize=8.5, loc="best")


def _bounds(layout: Layout, tally: Tally, at: int, lowest: float, highest: float) -> tuple[Vector, Vector]:
    """Bounds of bins, shape (b + 1,), and their shares, shape (b,), the outermost parted further by the sketch."""
    edges = layout.edges(at)
    counts = tally.counts[at, : len(edges) + 1].astype(np.float64)
    counts[[0, -1]] -= tally.infinite[at] if len(edges) else tally.infinities[at]
    shares = counts / max(counts.sum(), 1.0)
    bounds = np.concatenate([[min([lowest, *edges[:1]])], edges, [max([highest, *edges[-1:]])]])
    first, last = float(shares[0]), float(shares[-1])
    if tally.sketches is None or max(first, last) < _WIDE_SHARE or not len(edges):
        return bounds, shares
    step = np.linspace(0, 1, _PARTS + 1)
    inner = layout.quantiles(tally, np.concatenate([first * step, 1 - last + last * step]))[at]
    if np.isnan(inner).any():
        return bounds, shares
    left = np.clip(inner[: _PARTS + 1], bounds[0], bounds[1])
    right = np.clip(inner[_PARTS + 1 :], bounds[-2], bounds[-1])
    left[-1], right[0] = bounds[1], bounds[-2]
    parted = [np.full(_PARTS, first / _PARTS), shares[1:-1], np.full(_PARTS, last / _PARTS)]
    return np.concatenate([left, bounds[2:-2], right]), np.concatenate(parted)


def _grid(edges: Vector, forward: Any, low: float, high: float, *, is_linear: bool) -> Vector:
    """Bounds of the cells that are drawn; whole numbers get cells of whole numbers."""
    is_whole = (np.abs(edges - np.round(edges)) <= 1e-6 * np.maximum(np.abs(edges), 1)).all()  # and just above
    if is_linear and len(edges) and 1 <= high - low < 1e6 and is_whole:
        step = np.ceil((high - low + 1) / _CELLS)
        return np.asarray(np.arange(np.floor(low), high + 1 + step, step))
    ends = forward(np.array([low, high]))
    if ends[1] - ends[0] <= 1e-9 * abs(ends[0]):
        ends = ends + max(1.0, abs(float(ends[0]))) * np.array([-0.5, 0.5])
    return np.asarray(np.linspace(float(ends[0]), float(ends[1]), _CELLS + 1))


def _draw_few(axis: Any, layout: Layout, sides: Sequence[Tally], at: int) -> None:
    """Paired bars of a number that has few values."""
    edges = layout.edges(at)
    shares = [side.counts[at, : len(edges) + 1] / max(int(side.rows - side.nulls[at]), 1) for side in sides]
    labels = [f"< {number(float(edges[0]))}"]
    for left, right in pairwise(edges.tolist()):
        is_one = right - left <= 1e-6 * max(abs(left), 1e-30)
        labels.append(number(left) if is_one else f"{number(left)} to {number(right)}")
    labels.append(f"≥ {number(float(edges[-1]))}")
    if len(edges) > 1 and edges[-1] - edges[-2] <= 1e-6 * abs(edges[-2]):
        labels[-1] = f"> {number(float(edges[-2]))}"
    shown = np.flatnonzero((shares[0] > 0) | (shares[1] > 0))
    _bars(axis, [labels[place] for place in shown], [share[shown] for share in shares], sides, at)


def _draw_categories(axis: Any, layout: Layout, sides: Sequence[Tally], at: int) -> None:
    """Paired bars, the most frequent categories first; those that moved most are always among them."""
    names = [*layout.categories[at - len(layout.cuts)]]
    if layout.bins[at] > len(names):
        names.append("other")
    shares = [side.counts[at, : len(names)] / max(int(side.rows - side.nulls[at]), 1) for side in sides]
    weight = np.maximum(shares[0], shares[1]) + 4 * np.abs(shares[1] - shares[0])
    shown = np.sort(np.argsort(-weight, kind="stable")[:_BARS])
    _bars(axis, [names[place] for place in shown], [share[shown] for share in shares], sides, at)
    rest = len(names) - len(shown)
    if rest > 0:
        axis.set_xlabel(f"and {rest:,} more categories")


def _bars(axis: Any, names: Sequence[str], shares: Sequence[Vector], sides: Sequence[Tally], at: int) -> None:
    place = np.arange(len(names))
    for share, offset, colour, label, side in zip(
        shares, (-0.2, 0.2), (_REFERENCE, _WINDOW), ("reference", "window"), sides, strict=True
    ):
        name = f"{label} ({counted(int(side.rows - side.nulls[at]), 'value')})"
        axis.bar(place + offset, 100 * share, width=0.38, color=colour, label=name)
    length = 16 if len(names) <= 6 else 12
    labels = [_middle_cut(name, length) for name in names]
    axis.set_xticks(place, labels)
    axis.set_xlim(-0.6, max(len(names), 2) - 0.4)
    if sum(map(len, labels)) > 60:
        axis.tick_params(axis="x", rotation=40)
        for text in axis.get_xticklabels():
            text.set_horizontalalignment("right")
            text.set_rotation_mode("anchor")
    axis.set_ylabel("% of values")
    axis.margins(y=0.18)
    axis.legend(frameon=False, fontsize=8.5, loc="upper right", ncols=2)


def _odd_shares(layout: Layout, sides: Sequence[Tally], at: int) -> dict[str, tuple[float, float]]:
    """Shares of rows without a value of the reference's, by what they have instead; only those that some rows have."""
    rows = [max(side.rows, 1) for side in sides]
    found = {
        "null": [int(side.nulls[at]) for side in sides],
        "new\ncategory": [int(side.unseen_rows[at]) for side in sides],
        "infinite": [int(side.infinities[at]) for side in sides],
    }
    return {name: (many[0] / rows[0], many[1] / rows[1]) for name, many in found.items() if any(many)}


def _draw_odd(axis: Any, odd: Mapping[str, tuple[float, float]]) -> None:
    place = np.arange(len(odd))
    for side, (offset, colour) in enumerate(((-0.2, _REFERENCE), (0.2, _WINDOW))):
        heights = [100 * shares[side] for shares in odd.values()]
        axis.bar(place + offset, heights, width=0.38, color=colour)
        for where, height in zip(place + offset, heights, strict=True):
            axis.text(where, height, f"{height:.3g}", ha="center", va="bottom", fontsize=7.5, color=_INK)
    axis.set_xticks(place, list(odd))
    axis.set_xlim(-0.6, len(odd) - 0.4)
    axis.set_ylim(0, 1.15 * max(1.0, *(100 * max(shares) for shares in odd.values())))
    axis.set_title("% of rows", loc="left", fontsize=8.5, color=_INK)
    _plain(axis)


def _range(drawn: Sequence[tuple[Vector, Vector]]) -> tuple[float, float]:
    """Where the axis begins and ends: the tails of either side, whole bins."""
    low, high = [], []
    for bounds, shares in drawn:
        if shares.sum() > 0:
            upto = np.cumsum(shares)
            low.append(bounds[min(int(np.searchsorted(upto, _TAILS[0], side="right")), len(shares) - 1)])
            high.append(bounds[min(int(np.searchsorted(upto, _TAILS[1])) + 1, len(shares))])
    return float(min(low)), float(max(high))


def _axis_scale(bounds: Vector, shares: Vector, low: float, high: float) -> str:
    """`linear`, `log` for what spans magnitudes above 0, `symlog` for what does so on both sides."""
    upto = np.cumsum(shares)
    quarters = [float(bounds[min(int(np.searchsorted(upto, q)) + 1, len(shares))]) for q in (0.25, 0.75)]
    if high - low <= _SPAN_LOG * max(quarters[1] - quarters[0], 1e-300):
        return "linear"
    return "log" if low > 0 else "symlog"


def _transforms(scale: str) -> tuple[Any, Any]:
    if scale == "log":
        return np.log10, lambda x: 10.0**x
    if scale == "symlog":
        return (lambda x: np.arcsinh(x / 2) / np.log(10)), (lambda x: 2 * np.sinh(x * np.log(10)))
    return (lambda x: x), (lambda x: x)


def _ticks(scale: str, ends: Vector) -> list[float] | None:
    if scale == "linear":
        return None
    powers = np.arange(-300, 301)
    ticks = 10.0**powers
    if scale == "symlog":
        ticks = np.concatenate([-ticks[powers >= 0][::-1], [0.0], ticks[powers >= 0]])
    ticks = ticks[(ticks >= ends[0]) & (ticks <= ends[1])]
    step = max(1, -(-len(ticks) // 8))
    return [float(tick) for tick in ticks[::step]]


def _spread_over(bounds: Vector, shares: Vector, grid: Vector) -> Vector:
    """Shares of bins dealt out evenly to the bins of a grid; a bin without width goes where it lies.

    Args:
        bounds: shape (bins + 1,), not descending, on the axis.
        shares: shape (bins,).
        grid: shape (cells + 1,), ascending.
    """
    step = grid[1] - grid[0]
    left, right = bounds[:-1], np.maximum(bounds[1:], bounds[:-1])
    found = np.zeros(len(grid) - 1)
    atom = right - left <= 1e-3 * step
    cells = np.clip(((left - grid[0]) / step).astype(np.int64), 0, len(found) - 1)
    inside = atom & (left >= grid[0]) & (left <= grid[-1])
    np.add.at(found, cells[inside], shares[inside])
    smooth = np.concatenate([[0.0], np.cumsum(np.where(atom, 0.0, shares))])
    found += np.diff(np.interp(grid, bounds, smooth, left=0.0, right=float(smooth[-1])))
    return found


def _plain(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(_GRID)
    axis.tick_params(colors=_INK, labelsize=8.5)
    axis.grid(axis="y", color=_GRID, linewidth=0.6)
    axis.set_axisbelow(True)


def _middle_cut(text: str, length: int) -> str:
    """A name without its middle: many begin alike."""
    return text if len(text) <= length else f"{text[: length - 6]}…{text[-5:]}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
