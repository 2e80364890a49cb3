"""Growth patterns as values: trend, seasons, change points, phases and anomalies of a series."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.client.forecasts import date_of
from meshcast.client.receipts import Receipt

Direction = Literal["growing", "flat", "declining"]
"""Which way a series goes; flat where no growth can be told from chance."""

ChangeKind = Literal["level", "bend"]
"""How a series changed: its level stepped, or its growth changed without a step."""

_KINDS: Mapping[int, ChangeKind] = {pb.CHANGE_KIND_LEVEL: "level", pb.CHANGE_KIND_BEND: "bend"}
_DIRECTIONS: Mapping[int, Direction] = {
    pb.DIRECTION_GROWING: "growing",
    pb.DIRECTION_FLAT: "flat",
    pb.DIRECTION_DECLINING: "declining",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """Growth over a stretch of days."""

    first_day: date
    """First day."""
    last_day: date
    """Last day."""
    slope: float
    """Growth a day, in the unit of the series."""
    slope_lower: float
    """Lower end of its 95 % confidence interval, which allows for autocorrelation."""
    slope_upper: float
    """Upper end of the same."""
    growth_weekly: float | None
    """Growth a week as a share of the level; None where the level is not positive."""
    direction: Direction
    """Growing or declining when the interval leaves 0 out."""
    probability: float
    """Probability that the slope has the sign it was estimated with."""
    strength: float
    """Share of the variance around the mean that the trend explains."""
    level: float
    """Mean level of the stretch; the geometric mean where the analysis is multiplicative."""

    @classmethod
    def of(cls, message: pb.Trend) -> "Trend":
        """The value of a message.

        Raises:
            Internal: it holds a date that is none.
        """
        return cls(
            first_day=date_of(message.first_date),
            last_day=date_of(message.last_date),
            slope=message.slope,
            slope_lower=message.slope_lower,
            slope_upper=message.slope_upper,
            growth_weekly=message.growth_weekly if message.HasField("growth_weekly") else None,
            direction=_DIRECTIONS.get(message.direction, "flat"),
            probability=message.probability,
            strength=message.strength,
            level=message.level,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Season:
    """A season of the week (seven effects, Monday first) or of the year (twelve, January first)."""

    effects: NDArray[np.float64]
    """A factor of the level when `multiplicative`, else added to it."""
    multiplicative: bool
    """Whether the effects are factors."""
    strength: float
    """Share of the variance without trend that it explains."""
    p_value: float
    """Probability of so strong a season by chance."""
    present: bool
    """Whether it can be told from chance at 1 %."""

    @classmethod
    def of(cls, message: pb.WeeklySeason | pb.YearlySeason) -> "Season":
        """The value of a message."""
        return cls(
            effects=np.array(message.effects, dtype=np.float64),
            multiplicative=message.multiplicative,
            strength=message.strength,
            p_value=message.p_value,
            present=message.present,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePoint:
    """A day from which a series behaves differently for good."""

    day: date
    """First day of the new behaviour."""
    kind: ChangeKind
    """How it changed."""
    level_before: float
    """Mean level of the phase before it."""
    level_after: float
    """Mean level of the phase from it on."""
    relative_change: float | None
    """Level after over level before, less 1; None where the level before is not positive."""
    strength: float
    """Size of the change in standard deviations of the noise around the phases."""
    p_value: float
    """Probability of so clear a change by chance, somewhere in a steady series of as many days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthPhase:
    """A stretch between change points."""

    trend: Trend
    """Growth inside it, with its first and last day, and its level."""
    days: int
    """Known days in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesAnomaly:
    """A day that does not fit."""

    day: date
    """The day."""
    value: float
    """What the series was."""
    expected: float
    """What trend and seasons would have it be."""
    score: float
    """Distance in robust standard deviations, negative when below."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GrowthPatterns:
    """What moved a series so far."""

    trend: Trend
    """Growth over the whole series."""
    recent_trend: Trend
    """Growth since the last change point."""
    weekly: Season | None
    """The season of the week; None when too few days are known."""
    yearly: Season | None
    """The season of the year; None when less than two years are known."""
    change_points: tuple[ChangePoint, ...]
    """Days from which the series behaves differently for good, ascending."""
    phases: tuple[GrowthPhase, ...]
    """What lies between the change points, ascending."""
    anomalies: tuple[SeriesAnomaly, ...]
    """Single days that do not fit, ascending."""
    anomaly_scores: tuple[float, float]
    """Scores at and beyond which a day is an anomaly: the low one, negative, and the high one."""
    false_anomalies: float
    """Anomalies to be expected in so many days by chance alone."""
    multiplicative: bool
    """Whether the series was analysed in logarithms."""
    notes: tuple[str, ...]
    """What could not be found out and why."""
    receipt: Receipt
    """Receipt of the call."""

    @classmethod
    def of(cls, response: pb.AnalyzeGrowthPatternsResponse) -> "GrowthPatterns":
        """The value of a message.

        Raises:
            Internal: it holds a date that is none.
        """
        return cls(
            trend=Trend.of(response.trend),
            recent_trend=Trend.of(response.recent_trend),
            weekly=Season.of(response.weekly) if response.HasField("weekly") else None,
            yearly=Season.of(response.yearly) if response.HasField("yearly") else None,
            change_points=tuple(
                ChangePoint(
                    day=date_of(point.date),
                    kind=_KINDS.get(point.kind, "level"),
                    level_before=point.level_before,
                    level_after=point.level_after,
                    relative_change=point.relative_change if point.HasField("relative_change") else None,
                    strength=point.strength,
                    p_value=point.p_value,
                )
                for point in response.change_points
            ),
            phases=tuple(GrowthPhase(trend=Trend.of(phase.trend), days=phase.days) for phase in response.phases),
            anomalies=tuple(
                SeriesAnomaly(day=date_of(one.date), value=one.value, expected=one.expected, score=one.score)
                for one in response.anomalies
            ),
            anomaly_scores=(response.anomaly_score_low, response.anomaly_score_high),
            false_anomalies=response.false_anomalies,
            multiplicative=response.multiplicative,
            notes=tuple(response.notes),
            receipt=Receipt(response.receipt),
        )
