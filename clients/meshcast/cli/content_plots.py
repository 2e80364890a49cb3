"""Pictures of the report on a file of texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.cli.calibration import Calibration
from meshcast.cli.content_report import QUESTIONS, Clock
from meshcast.cli.picture import Picture, Theme, dress, label, picture
from meshcast.client import Claim, Topic

__all__ = [
    "DAYS",
    "calibration_picture",
    "claims_picture",
    "clock_picture",
    "spread_picture",
    "topics_picture",
]

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
"""Days of the week by their numbers."""


def spread_picture(probabilities: Mapping[str, NDArray[np.float64]]) -> Picture:
    """How the probabilities of both questions are spread, a panel each."""

    def draw(figure: Any, theme: Theme) -> None:
        axes = figure.subplots(1, len(probabilities), squeeze=False).ravel()
        for axis, (question, p), color in zip(axes, probabilities.items(), (theme.one, theme.other), strict=False):
            axis.hist(p[~np.isnan(p)], bins=np.linspace(0, 1, 41), color=color)
            dress(axis, theme)
            axis.set_title(f"to end {QUESTIONS[question]}", color=theme.ink, fontsize=10)
            axis.set_xlabel("probability")
            axis.set_ylabel("texts")

    return picture(draw, (8.4, 2.8))


def calibration_picture(found: Mapping[str, Calibration]) -> Picture:
    """Reliability diagrams: the share that came true beside the probability, with 95 % intervals."""

    def draw(figure: Any, theme: Theme) -> None:
        axes = figure.subplots(1, len(found), squeeze=False).ravel()
        for axis, (question, one), color in zip(axes, found.items(), (theme.one, theme.other), strict=False):
            mean = np.array([part.mean for part in one.bins])
            rate = np.array([part.rate for part in one.bins])
            error = np.array([[part.rate - part.lower, part.upper - part.rate] for part in one.bins]).T
            right, top = 1.1 * float(mean.max()), 1.05 * max(part.upper for part in one.bins)
            axis.plot([0, min(right, top)], [0, min(right, top)], color=theme.ink, linewidth=0.8, linestyle=":")
            axis.errorbar(mean, rate, yerr=np.abs(error), fmt="o", color=color, markersize=4, linewidth=1.2)
            dress(axis, theme)
            axis.set_title(f"to end {QUESTIONS[question]}", color=theme.ink, fontsize=10)
            axis.set_xlabel("probability that was told")
            axis.set_ylabel("share that came true")
            axis.set_xlim(0, right)
            axis.set_ylim(0, top)

    return picture(draw, (4.2 * len(found), 3.6))


def claims_picture(claims: Sequence[tuple[Claim, bool]], labels: Sequence[str]) -> Picture:
    """Effects with their 95 % intervals, one a label from top to bottom; those that are not claimed are grey."""

    def draw(figure: Any, theme: Theme) -> None:
        axis = figure.subplots()
        place = np.arange(len(claims))[::-1]
        for at, (claim, is_claimed) in zip(place.tolist(), claims, strict=True):
            color = (theme.one if claim.effect >= 0 else theme.other) if is_claimed else theme.mute
            axis.plot([claim.lower, claim.upper], [at, at], color=color, linewidth=2.2)
            axis.plot([claim.effect], [at], "o" if is_claimed else "D", color=color, markersize=6)
        axis.axvline(0, color=theme.ink, linewidth=0.8, linestyle=":")
        dress(axis, theme)
        label(axis, place, labels)
        axis.set_xlabel("effect, in standard deviations of the outcome within its channel")
        axis.set_ylim(-0.7, len(claims) - 0.3)

    return picture(draw, (8.4, 0.9 + 0.32 * len(claims)))


def topics_picture(topics: Sequence[Topic], effects: Mapping[int, Claim]) -> Picture:
    """Topics by their size; those that a claim is about are coloured by its direction."""

    def draw(figure: Any, theme: Theme) -> None:
        axis = figure.subplots()
        place = np.arange(len(topics))[::-1]
        colors = []
        for topic in topics:
            claim = effects.get(topic.topic)
            colors.append(theme.grid if claim is None else theme.one if claim.effect >= 0 else theme.other)
        axis.barh(place, [topic.rows for topic in topics], color=colors, height=0.7)
        dress(axis, theme)
        label(axis, place, [f"{topic.topic}: {', '.join(topic.words[:4])}" for topic in topics])
        axis.set_xlabel("texts")
        axis.set_ylim(-0.7, len(topics) - 0.3)

    return picture(draw, (8.4, 0.9 + 0.3 * len(topics)))


def clock_picture(clock: Clock) -> Picture:
    """Outcomes by weekday and hour; where no hour has enough of them, numbers of posts."""

    def draw(figure: Any, theme: Theme) -> None:
        from matplotlib.colors import LinearSegmentedColormap
        from matplotlib.ticker import MaxNLocator

        axis = figure.subplots()
        has_outcomes = not np.isnan(clock.outcome).all()
        if has_outcomes:
            most = float(np.nanmax(np.abs(clock.outcome))) or 1.0
            ramp = LinearSegmentedColormap.from_list("effect", [theme.other, theme.low, theme.one])
            shown = axis.pcolormesh(np.ma.masked_invalid(clock.outcome), cmap=ramp, vmin=-most, vmax=most)
            told = "mean outcome, in standard deviations"
        else:
            ramp = LinearSegmentedColormap.from_list("posts", [theme.low, theme.one])
            shown = axis.pcolormesh(clock.rows, cmap=ramp, vmin=0, vmax=max(int(clock.rows.max()), 2))
            told = "posts"
        dress(axis, theme)
        axis.grid(False)
        axis.set_yticks(np.arange(7) + 0.5, [day[:3] for day in DAYS])
        axis.set_xticks(np.arange(0, 24, 3) + 0.5, [f"{hour:02}" for hour in range(0, 24, 3)])
        axis.set_xlabel("hour of the day")
        axis.invert_yaxis()
        bar = figure.colorbar(shown, ax=axis, ticks=None if has_outcomes else MaxNLocator(integer=True))
        bar.set_label(told, color=theme.ink)
        bar.ax.tick_params(colors=theme.ink)
        bar.outline.set_edgecolor(theme.grid)

    return picture(draw, (8.4, 3.0))
