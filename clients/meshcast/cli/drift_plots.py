"""Pictures of the drift report: reference against window of each feature, the blame, and the evidence over windows."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.cli.drift_found import OverWindows
from meshcast.cli.picture import Picture, Theme, dress, label, picture
from meshcast.client import FeatureDrift
from meshcast.observations import CategoryColumn, Observations

__all__ = ["Shares", "blame_picture", "feature_picture", "shares_of", "windows_picture"]

_BINS = 40
_FEW_VALUES = 24  # numbers that are drawn one by one
_CATEGORIES = 14
_LN10 = float(np.log(10.0))

Floats = NDArray[np.float64]


class Shares(NamedTuple):
    """How the values of a feature are spread in reference and window.

    Attributes:
        labels: what each share is of.
        edges: shape (bins + 1,), of the bins; None where each share is of one value.
        is_log: whether the edges grow in equal ratios.
        is_number: whether the values are numbers.
        reference: shape (n,), shares of the known values.
        window: the same of the window.
    """

    labels: tuple[str, ...]
    edges: Floats | None
    is_log: bool
    is_number: bool
    reference: Floats
    window: Floats


def _number_shares(reference: NDArray[Any], window: NDArray[Any]) -> Shares | None:
    """How numbers are spread; None where one of the two has none. Values beyond the outermost bins fall into those."""
    one, other = (np.asarray(values[np.isfinite(values)], dtype=np.float64) for values in (reference, window))
    if not (len(one) and len(other)):
        return None
    values = np.unique(np.concatenate([one, other]))
    if len(values) <= _FEW_VALUES:
        found = [np.bincount(np.searchsorted(values, part), minlength=len(values)) / len(part) for part in (one, other)]
        return Shares(tuple(f"{value:.6g}" for value in values.tolist()), None, False, True, found[0], found[1])
    low = min(float(np.quantile(part, 0.002)) for part in (one, other))
    high = max(float(np.quantile(part, 0.998)) for part in (one, other))
    if not low < high:
        low, high = float(values[0]), float(values[-1])
    middle = float(np.median(one))
    is_log = low > 0 and high > 30 * middle
    edges = np.geomspace(low, high, _BINS + 1) if is_log else np.linspace(low, high, _BINS + 1)
    found = [np.histogram(part.clip(low, high), edges)[0] / len(part) for part in (one, other)]
    labels = tuple(f"{a:,.6g} to {b:,.6g}" for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    return Shares(labels, edges, is_log, True, found[0], found[1])


def _category_shares(reference: CategoryColumn, window: CategoryColumn) -> Shares | None:
    """How categories are spread, most frequent first; None where one of the two has none. The rest is one category."""
    counts: list[dict[str, int]] = []
    for column in (reference, window):
        known = column.codes[column.codes >= 0]
        rows = np.bincount(known, minlength=len(column.names)).tolist()
        counts.append({name: count for name, count in zip(column.names, rows, strict=True) if count})
    sums = [sum(one.values()) for one in counts]
    if not all(sums):
        return None
    share = {
        name: (counts[0].get(name, 0) / sums[0], counts[1].get(name, 0) / sums[1])
        for name in {**counts[0], **counts[1]}
    }
    ranked = sorted(share, key=lambda name: -max(share[name]))
    shown, rest = ranked[:_CATEGORIES], ranked[_CATEGORIES:]
    labels = [name if name in counts[0] else f"{name} (new)" for name in shown]
    pairs = [share[name] for name in shown]
    if rest:
        labels.append(f"{len(rest):,} others")
        pairs.append((sum(share[name][0] for name in rest), sum(share[name][1] for name in rest)))
    found = np.array(pairs)
    return Shares(tuple(labels), None, False, False, found[:, 0], found[:, 1])


def shares_of(name: str, reference: Observations, window: Observations) -> Shares | None:
    """How a feature is spread in both samples."""
    if name in reference.numeric:
        return _number_shares(reference.numeric[name], window.numeric[name])
    return _category_shares(reference.categorical[name], window.categorical[name])


def feature_picture(shares: Shares, what: str) -> Picture:
    """Reference (filled) against window (a line), or pairs of bars where values are few."""

    def spread(figure: Any, theme: Theme) -> None:
        axis = figure.subplots()
        edges = shares.edges
        assert edges is not None
        axis.stairs(100 * shares.reference, edges, fill=True, color=theme.grid, label="reference")
        axis.stairs(100 * shares.reference, edges, color=theme.mute, linewidth=1.0)
        axis.stairs(100 * shares.window, edges, color=theme.other, linewidth=2.0, label="window")
        if shares.is_log:
            axis.set_xscale("log")
        dress(axis, theme)
        axis.set_xlabel(what)
        axis.set_ylabel("% of rows")
        axis.set_ylim(bottom=0)
        axis.margins(x=0.01)
        _legend(axis, theme)

    def steps(figure: Any, theme: Theme) -> None:
        axis = figure.subplots()
        place = np.arange(len(shares.labels))
        axis.bar(place - 0.2, 100 * shares.reference, width=0.38, color=theme.mute, label="reference")
        axis.bar(place + 0.2, 100 * shares.window, width=0.38, color=theme.other, label="window")
        dress(axis, theme)
        axis.set_xticks(place, shares.labels, rotation=0 if max(map(len, shares.labels)) < 5 else 45)
        axis.set_xlabel(what)
        axis.set_ylabel("% of rows")
        _legend(axis, theme)

    def bars(figure: Any, theme: Theme) -> None:
        axis = figure.subplots()
        place = np.arange(len(shares.labels))[::-1]
        axis.barh(place + 0.2, 100 * shares.reference, height=0.38, color=theme.mute, label="reference")
        axis.barh(place - 0.2, 100 * shares.window, height=0.38, color=theme.other, label="window")
        dress(axis, theme)
        label(axis, place, shares.labels)
        axis.set_xlabel(f"{what}, % of rows")
        axis.set_ylim(-0.7, len(place) - 0.3)
        _legend(axis, theme)

    if shares.edges is not None:
        return picture(spread, (8.4, 2.9))
    if shares.is_number:
        return picture(steps, (8.4, 2.9))
    return picture(bars, (8.4, 1.1 + 0.34 * len(shares.labels)))


def blame_picture(features: Sequence[FeatureDrift]) -> Picture:
    """Features by how far they moved; those that drift is called for are coloured."""

    def draw(figure: Any, theme: Theme) -> None:
        axis = figure.subplots()
        place = np.arange(len(features))[::-1]
        colors = [theme.other if one.is_drifted else theme.grid for one in features]
        sizes = [one.effects.kolmogorov_smirnov for one in features]
        axis.barh(place, sizes, color=colors, height=0.7)
        for at, one, size in zip(place.tolist(), features, sizes, strict=True):
            if one.is_drifted and one.blame > 0:
                told = f" {100 * one.blame:.0f} % of the blame"
                axis.text(size, at, told, color=theme.ink, fontsize=8, va="center")
        dress(axis, theme)
        label(axis, place, [one.name for one in features])
        axis.set_xlabel("distance of the distributions, 0 to 1")
        axis.set_xlim(0, min(1.0, 1.3 * max([*sizes, 0.05])))
        axis.set_ylim(-0.7, len(features) - 0.3)

    return picture(draw, (8.4, 0.9 + 0.3 * len(features)))


def windows_picture(over: OverWindows) -> Picture:
    """The evidence behind each window, and the level at which an alarm is raised."""

    def draw(figure: Any, theme: Theme) -> None:
        axis = figure.subplots()
        has_times = all(point.end_at is not None for point in over.points)
        place: Any = [point.number for point in over.points]
        if has_times:
            place = np.array(
                [point.end_at.replace(tzinfo=None) for point in over.points if point.end_at], dtype="M8[us]"
            )
        value = np.array([point.evidence.log_value for point in over.points]) / _LN10
        level = np.array([point.evidence.log_threshold for point in over.points]) / _LN10
        axis.plot(place, value, color=theme.one, linewidth=1.8, marker="o" if len(value) < 40 else "", markersize=3)
        axis.plot(place, level, color=theme.other, linewidth=1.4, linestyle="--")
        axis.annotate(
            "alarm",
            (place[-1], level[-1]),
            color=theme.other,
            fontsize=9,
            xytext=(0, 4),
            textcoords="offset points",
            ha="right",
        )
        raised = over.raised
        if raised is not None:
            marks = [(raised.position, raised.observed_at, theme.other, "-")]
            if raised.onset is not None and raised.onset.window != raised.position:
                marks.append((raised.onset.window, raised.onset.start_at, theme.mute, ":"))
            for window, at, color, style in marks:
                x: Any = np.datetime64(at.replace(tzinfo=None)) if has_times and at is not None else window
                if not has_times or at is not None:
                    axis.axvline(x, color=color, linewidth=1.2, linestyle=style)
        dress(axis, theme)
        if has_times:
            from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

            locator = AutoDateLocator(minticks=3, maxticks=8)  # type: ignore[no-untyped-call]
            axis.xaxis.set_major_locator(locator)
            axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
            axis.xaxis.get_offset_text().set_color(theme.ink)
        else:
            axis.set_xlabel("window")
        axis.set_ylabel("evidence, powers of ten")

    return picture(draw, (8.4, 3.0))


def _legend(axis: Any, theme: Theme) -> None:
    shown = axis.legend(frameon=False, fontsize=9)
    for text in shown.get_texts():
        text.set_color(theme.ink)
