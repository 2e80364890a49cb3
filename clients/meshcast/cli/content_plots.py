"""Pictures of the report on a file of texts, each drawn for light and for dark pages, as SVG in a data URI."""

import base64
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.cli.calibration import Calibration
from meshcast.cli.content_report import QUESTIONS, Clock
from meshcast.cli.shown_text import excerpt
from meshcast.client import Claim, Topic

__all__ = [
    "DAYS",
    "Picture",
    "calibration_picture",
    "claims_picture",
    "clock_picture",
    "spread_picture",
    "topics_picture",
]

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
"""Days of the week by their numbers."""

_LABEL = 46  # characters of a label: more would take the space of what it labels


@dataclass(frozen=True, kw_only=True)
class _Theme:
    """Colours of a page: Okabe and Ito's blue and vermillion, lighter on dark, and greys between text and ground."""

    ink: str
    grid: str
    mute: str
    one: str
    other: str
    low: str


_LIGHT = _Theme(ink="#1f2328", grid="#d0d7de", mute="#818b98", one="#0072B2", other="#D55E00", low="#e6e9ec")
_DARK = _Theme(ink="#e6edf3", grid="#3d444d", mute="#8b949e", one="#56B4E9", other="#E69F00", low="#2d333b")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture, as data URIs."""

    light: str
    """For light pages."""
    dark: str
    """For dark pages."""


def spread_picture(probabilities: Mapping[str, NDArray[np.float64]]) -> Picture:
    """How the probabilities of both questions are spread, a panel each."""

    def draw(figure: Any, theme: _Theme) -> None:
        axes = figure.subplots(1, len(probabilities), squeeze=False).ravel()
        for axis, (question, p), color in zip(axes, probabilities.items(), (theme.one, theme.other), strict=False):
            axis.hist(p[~np.isnan(p)], bins=np.linspace(0, 1, 41), color=color)
            _dress(axis, theme)
            axis.set_title(f"to end {QUESTIONS[question]}", color=theme.ink, fontsize=10)
            axis.set_xlabel("probability")
            axis.set_ylabel("texts")

    return _picture(draw, (8.4, 2.8))


def calibration_picture(found: Mapping[str, Calibration]) -> Picture:
    """Reliability diagrams: the share that came true beside the probability, with 95 % intervals."""

    def draw(figure: Any, theme: _Theme) -> None:
        axes = figure.subplots(1, len(found), squeeze=False).ravel()
        for axis, (question, one), color in zip(axes, found.items(), (theme.one, theme.other), strict=False):
            mean = np.array([part.mean for part in one.bins])
            rate = np.array([part.rate for part in one.bins])
            error = np.array([[part.rate - part.lower, part.upper - part.rate] for part in one.bins]).T
            right, top = 1.1 * float(mean.max()), 1.05 * max(part.upper for part in one.bins)
            axis.plot([0, min(right, top)], [0, min(right, top)], color=theme.ink, linewidth=0.8, linestyle=":")
            axis.errorbar(mean, rate, yerr=np.abs(error), fmt="o", color=color, markersize=4, linewidth=1.2)
            _dress(axis, theme)
            axis.set_title(f"to end {QUESTIONS[question]}", color=theme.ink, fontsize=10)
            axis.set_xlabel("probability that was told")
            axis.set_ylabel("share that came true")
            axis.set_xlim(0, right)
            axis.set_ylim(0, top)

    return _picture(draw, (4.2 * len(found), 3.6))


def claims_picture(claims: Sequence[tuple[Claim, bool]], labels: Sequence[str]) -> Picture:
    """Effects with their 95 % intervals, one a label from top to bottom; those that are not claimed are grey."""

    def draw(figure: Any, theme: _Theme) -> None:
        axis = figure.subplots()
        place = np.arange(len(claims))[::-1]
        for at, (claim, is_claimed) in zip(place.tolist(), claims, strict=True):
            color = (theme.one if claim.effect >= 0 else theme.other) if is_claimed else theme.mute
            axis.plot([claim.lower, claim.upper], [at, at], color=color, linewidth=2.2)
            axis.plot([claim.effect], [at], "o" if is_claimed else "D", color=color, markersize=6)
        axis.axvline(0, color=theme.ink, linewidth=0.8, linestyle=":")
        _dress(axis, theme)
        _label(axis, place, labels)
        axis.set_xlabel("effect, in standard deviations of the outcome within its channel")
        axis.set_ylim(-0.7, len(claims) - 0.3)

    return _picture(draw, (8.4, 0.9 + 0.32 * len(claims)))


def topics_picture(topics: Sequence[Topic], effects: Mapping[int, Claim]) -> Picture:
    """Topics by their size; those that a claim is about are coloured by its direction."""

    def draw(figure: Any, theme: _Theme) -> None:
        axis = figure.subplots()
        place = np.arange(len(topics))[::-1]
        colors = []
        for topic in topics:
            claim = effects.get(topic.topic)
            colors.append(theme.grid if claim is None else theme.one if claim.effect >= 0 else theme.other)
        axis.barh(place, [topic.rows for topic in topics], color=colors, height=0.7)
        _dress(axis, theme)
        _label(axis, place, [f"{topic.topic}: {', '.join(topic.words[:4])}" for topic in topics])
        axis.set_xlabel("texts")
        axis.set_ylim(-0.7, len(topics) - 0.3)

    return _picture(draw, (8.4, 0.9 + 0.3 * len(topics)))


def clock_picture(clock: Clock) -> Picture:
    """Outcomes by weekday and hour; where no hour has enough of them, numbers of posts."""

    def draw(figure: Any, theme: _Theme) -> None:
        from matplotlib.colors import LinearSegmentedColormap
        from matplotlib.ticker import MaxNLocator

        axis = figure.subplots()
        has_outcomes = not np.isnan(clock.outcome).all()
        if has_outcomes:
            most = float(np.nanmax(np.abs(clock.outcome))) or 1.0
            ramp = LinearSegmentedColormap.from_list("effect", [theme.other, theme.low, theme.one])
            shown = axis.pcolormesh(np.ma.masked_invalid(clock.outcome), cmap=ramp, vmin=-most, vmax=most)
            label = "mean outcome, in standard deviations"
        else:
            ramp = LinearSegmentedColormap.from_list("posts", [theme.low, theme.one])
            shown = axis.pcolormesh(clock.rows, cmap=ramp, vmin=0, vmax=max(int(clock.rows.max()), 2))
            label = "posts"
        _dress(axis, theme)
        axis.grid(False)
        axis.set_yticks(np.arange(7) + 0.5, [day[:3] for day in DAYS])
        axis.set_xticks(np.arange(0, 24, 3) + 0.5, [f"{hour:02}" for hour in range(0, 24, 3)])
        axis.set_xlabel("hour of the day")
        axis.invert_yaxis()
        bar = figure.colorbar(shown, ax=axis, ticks=None if has_outcomes else MaxNLocator(integer=True))
        bar.set_label(label, color=theme.ink)
        bar.ax.tick_params(colors=theme.ink)
        bar.outline.set_edgecolor(theme.grid)

    return _picture(draw, (8.4, 3.0))


def _label(axis: Any, place: NDArray[np.int64], labels: Sequence[str]) -> None:
    axis.set_yticks(place, [excerpt(label, _LABEL) for label in labels])


def _dress(axis: Any, theme: _Theme) -> None:
    axis.tick_params(colors=theme.ink, labelsize=9)
    axis.xaxis.label.set_color(theme.ink)
    axis.yaxis.label.set_color(theme.ink)
    axis.grid(True, color=theme.grid, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.patch.set_alpha(0.0)
    for name, spine in axis.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(theme.grid)


def _picture(draw: Callable[[Any, _Theme], None], size: tuple[float, float]) -> Picture:
    return Picture(light=_svg(draw, _LIGHT, size), dark=_svg(draw, _DARK, size))


def _svg(draw: Callable[[Any, _Theme], None], theme: _Theme, size: tuple[float, float]) -> str:
    """A figure as SVG in a data URI; the same figure gives the same bytes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # not pyplot: it keeps figures, and may look for a screen

    data = io.BytesIO()
    # Texts stay texts, drawn in the reader's own fonts, which have more scripts than the one that measures them here.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "meshcast", "text.parse_math": False}
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_alpha(0.0)
        draw(figure, theme)
        figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(data.getvalue()).decode()
