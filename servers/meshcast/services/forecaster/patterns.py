"""Growth patterns of a daily series: trend, seasons, change points, phases of growth and anomalies, and their strength.

    patterns = analyze(day, value, nonnegative=True)
    patterns.trend.growth_weekly, patterns.change_points[0].day

Seasons are found first and taken out, then the changes, and what is left between and around these gives trends and
anomalies. A non-negative series whose ups and downs grow with its level is analysed in logarithms: its seasons are
factors and its trends percentages.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from meshcast.rpc.errors import InvalidInput
from meshcast.series import KNOWN_MIN
from meshcast.services.forecaster import anomalies, noise
from meshcast.services.forecaster.changes import Changes, Kind, find_changes
from meshcast.services.forecaster.seasons import Season, spread_over_days, weekdays, weekly_season, yearly_season

__all__ = [
    "Anomaly",
    "ChangePoint",
    "Direction",
    "Patterns",
    "Phase",
    "SeasonPattern",
    "Trend",
    "analyze",
]

Floats = NDArray[np.float64]
Days = NDArray[np.int64]
Direction = Literal["growing", "flat", "declining"]

_STRENGTH_MAX = 1e6  # of a change without any noise around it
_POSITIVE_SHARE_MIN = 0.95  # of days: logarithms are not for series that are often 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """Growth over a stretch of days, seasons taken out."""

    first_day: int
    """First known day of the stretch, in days since 1970-01-01."""
    last_day: int
    """Last known day of it, in days since 1970-01-01."""
    slope: float
    """Growth a day at the stretch's level, in the unit of the series."""
    slope_lower: float
    """Lower end of its 95 % interval, which allows for autocorrelation up to a random walk; same unit."""
    slope_upper: float
    """Upper end of the same."""
    growth_weekly: float | None
    """Growth a week as a share of the level, as in 0.05 for 5 %; None where the level is not positive."""
    direction: Direction
    """`growing` or `declining` where the interval leaves 0 out, else `flat`."""
    probability: float
    """Probability that the slope has the sign it was estimated with, 0.5 to 1."""
    strength: float
    """Share of the variance around the mean that the line explains, 0 to 1."""
    level: float
    """Mean level of the stretch, in the unit of the series; the geometric mean where `Patterns.multiplicative`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeasonPattern:
    """A season of the week or of the year."""

    effects: tuple[float, ...]
    """Effect of Monday to Sunday (7) or January to December (12): a factor of the level where `multiplicative`,
    with a geometric mean of 1, else added to it in the unit of the series, with a mean of 0."""
    multiplicative: bool
    """Whether the effects are factors."""
    strength: float
    """Share of the variance around the trend that it explains, 0 to 1."""
    p_value: float
    """Probability of so strong a season by chance, 0 to 1."""
    present: bool
    """Whether it can be told from chance at 1 %; only then is it taken out before the rest is analysed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePoint:
    """A day from which the series behaves differently for good."""

    day: int
    """First day of the new behaviour, in days since 1970-01-01."""
    kind: Kind
    """`level`: the level steps up or down. `bend`: the growth changes, and the level is continuous."""
    level_before: float
    """Mean level of the phase before, in the unit of the series."""
    level_after: float
    """Mean level of the phase from it on, in the unit of the series."""
    relative_change: float | None
    """Level after over level before, less 1; None where the level before is not positive."""
    strength: float
    """Standard deviations of the noise around the phases, at most 1,000,000. `level`: size of the step. `bend`: how far
    the series comes away from its former line within the shorter of the two phases."""
    p_value: float
    """Probability of a change that is this clear somewhere in a steady series with as many days, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch between change points."""

    trend: Trend
    """Growth inside it alone, with its first and last day, level and direction."""
    days: int
    """Known days in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """A single day that does not fit the days around it."""

    day: int
    """The day, in days since 1970-01-01."""
    value: float
    """What the series was, in its unit."""
    expected: float
    """What the days around it and the seasons would have it be, in the unit of the series."""
    score: float
    """Distance in robust standard deviations, of logarithms where `Patterns.multiplicative`; negative when below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patterns:
    """Growth patterns of one series."""

    multiplicative: bool
    """Whether the series was analysed in logarithms."""
    trend: Trend
    """Growth over the whole series."""
    recent_trend: Trend
    """Growth since the last change point; that of the whole series where there is none."""
    weekly: SeasonPattern | None
    """The season of the week; None where too few days are known, and `notes` say so."""
    yearly: SeasonPattern | None
    """The season of the year; None where too few days are known, and `notes` say so."""
    change_points: tuple[ChangePoint, ...]
    """Ascending by day."""
    phases: tuple[Phase, ...]
    """What lies between the change points, ascending; together they hold every known day once."""
    anomalies: tuple[Anomaly, ...]
    """Ascending by day."""
    anomaly_scores: tuple[float, float]
    """Score at and below which a day is an anomaly, negative, and score at and above which it is one."""
    false_anomalies: float
    """Anomalies that chance alone may bring in this many days, as `anomalies.FALSE_PER_DAY` has it."""
    notes: tuple[str, ...]
    """What could not be found out and why, one sentence each."""


def analyze(day: Days, value: Floats, *, nonnegative: bool) -> Patterns:
    """Finds the growth patterns of a daily series.

    Args:
        day: shape (n,), int64, days since 1970-01-01, strictly ascending; missing days are absent; n >= 14.
        value: shape (n,), float64, finite, in any unit; the answer scales with it.
        nonnegative: the series cannot be negative. Only then may it be analysed in logarithms.

    Raises:
        InvalidInput: fewer than 14 days, days out of order, or values that are not finite, or negative against
            `nonnegative`.
    """
    day, value = np.asarray(day, dtype=np.int64), np.asarray(value, dtype=np.float64)
    _check(day, value, nonnegative)
    # A power of two, so that no digit changes: squares and sums then exist for values of any size.
    exponent = int(np.frexp(np.abs(value).max())[1])
    scaled = np.ldexp(value, -exponent)
    return _Analysis(day, scaled, exponent, multiplicative=nonnegative and _is_multiplicative(scaled)).patterns(value)


class _Analysis:
    """One series on its way through the analysis; `_rest` is what is left of it, in logarithms if multiplicative."""

    def __init__(self, day: Days, scaled: Floats, exponent: int, *, multiplicative: bool) -> None:
        self._day, self._exponent, self._multiplicative = day, exponent, multiplicative
        self._rest = np.log(_floored(scaled)) if multiplicative else scaled.copy()
        self._seasons = np.zeros_like(scaled)
        self._notes: list[str] = []

    def patterns(self, value: Floats) -> Patterns:
        """The analysis, in its order: what is found is taken out before the next is looked for."""
        weekly = self._take_out(weekly_season(self._day, self._rest), weekly=True)
        yearly = self._take_out(yearly_season(self._day, self._rest), weekly=False)
        changes = find_changes(self._day, self._rest)
        starts = np.array([0, *(point.index for point in changes.points)], dtype=np.int64)
        stops = np.append(starts[1:], len(self._day))
        clipped = noise.clip_outliers(self._rest)
        phases = tuple(
            Phase(trend=self._trend(clipped, int(start), int(stop)), days=int(stop - start))
            for start, stop in zip(starts, stops, strict=True)
        )
        whole = self._trend(clipped, 0, len(self._day)) if changes.points else phases[0].trend
        expected, scores = anomalies.scores(self._rest, changes.course, starts)
        lowest, highest = anomalies.thresholds(scores)
        return Patterns(
            multiplicative=self._multiplicative,
            trend=whole,
            recent_trend=phases[-1].trend,
            weekly=weekly,
            yearly=yearly,
            change_points=self._change_points(changes, phases),
            phases=phases,
            anomalies=tuple(
                Anomaly(
                    day=int(self._day[at]),
                    value=float(value[at]),
                    expected=self._in_units(float(expected[at] + self._seasons[at])),
                    score=float(scores[at]),
                )
                for at in np.flatnonzero((scores <= lowest) | (scores >= highest))
            ),
            anomaly_scores=(lowest, highest),
            false_anomalies=anomalies.FALSE_PER_DAY * len(self._day),
            notes=tuple(self._notes),
        )

    def _take_out(self, season: Season | str, *, weekly: bool) -> SeasonPattern | None:
        """The season as a pattern; taken out of the rest if it is present, a note if it is unknown."""
        if isinstance(season, str):
            self._notes.append(season)
            return None
        if season.is_present:
            daily = np.asarray(season.effects)[weekdays(self._day)] if weekly else spread_over_days(season, self._day)
            self._seasons += daily
            self._rest = self._rest - daily
        effects = np.exp(season.effects) if self._multiplicative else np.ldexp(season.effects, self._exponent)
        return SeasonPattern(
            effects=tuple(float(effect) for effect in effects),
            multiplicative=self._multiplicative,
            strength=season.strength,
            p_value=season.p_value,
            present=season.is_present,
        )

    def _trend(self, clipped: Floats, start: int, stop: int) -> Trend:
        """Growth from one known day to before another."""
        day, values = self._day[start:stop], clipped[start:stop]
        found = noise.slope(day.astype(np.float64), values)
        level = self._in_units(float(values.mean()))
        line = found.slope * (day - day.mean())
        spread = float(((values - values.mean()) ** 2).sum())
        left = float(((values - values.mean() - line) ** 2).sum())
        if self._multiplicative:
            weekly: float | None = float(np.expm1(min(7 * found.slope, 700.0)))
        else:
            weekly = _ratio(7 * found.slope, float(values.mean()))

        def in_units(growth: float) -> float:
            return growth * level if self._multiplicative else float(np.ldexp(growth, self._exponent))

        direction: Direction = "growing" if found.lower > 0 else "declining" if found.upper < 0 else "flat"
        return Trend(
            first_day=int(day[0]),
            last_day=int(day[-1]),
            slope=in_units(found.slope),
            slope_lower=in_units(found.lower),
            slope_upper=in_units(found.upper),
            growth_weekly=weekly,
            direction=direction,
            probability=max(found.probability_up, 1 - found.probability_up),
            strength=max(0.0, 1 - left / spread) if spread > 0 else 0.0,
            level=level,
        )

    def _change_points(self, changes: Changes, phases: tuple[Phase, ...]) -> tuple[ChangePoint, ...]:
        around = noise.robust_spread(self._rest - changes.course)
        found = []
        for nth, point in enumerate(changes.points):
            before, after = phases[nth].trend, phases[nth + 1].trend
            if point.kind == "level":
                size = abs(float(changes.course[point.index] - changes.course[point.index - 1]))
            else:
                size = self._came_away(changes.course, point.index, phases[nth], phases[nth + 1])
            found.append(
                ChangePoint(
                    day=int(self._day[point.index]),
                    kind=point.kind,
                    level_before=before.level,
                    level_after=after.level,
                    relative_change=_ratio(after.level - before.level, before.level),
                    strength=min(size / around, _STRENGTH_MAX) if size < _STRENGTH_MAX * around else _STRENGTH_MAX,
                    p_value=point.p_value,
                )
            )
        return tuple(found)

    def _came_away(self, course: Floats, index: int, before: Phase, after: Phase) -> float:
        """Distance of the course after a bend from its line before, at the end of the shorter of the two phases."""
        first = index - before.days
        last = index + after.days - 1
        then = float(course[index] - course[first]) / float(self._day[index] - self._day[first])
        now = float(course[last] - course[index]) / max(float(self._day[last] - self._day[index]), 1.0)
        days = min(self._day[index] - self._day[first], self._day[last] - self._day[index])
        return abs(now - then) * float(days)

    def _in_units(self, rest: float) -> float:
        """A level, back in the unit of the series."""
        return float(np.ldexp(np.exp(rest) if self._multiplicative else rest, self._exponent))


def _ratio(part: float, level: float) -> float | None:
    """Share of a level; None where the level is not positive, or so small that the share is no number."""
    share = part / level if level > 0 else np.inf
    return share if np.isfinite(share) else None


def _check(day: Days, value: Floats, nonnegative: bool) -> None:
    if day.ndim != 1 or day.shape != value.shape or len(day) < KNOWN_MIN:
        raise InvalidInput(f"growth patterns need at least {KNOWN_MIN} days with one value each, got {len(day)}")
    if (day[1:] <= day[:-1]).any():
        raise InvalidInput("the days of a series must ascend, each once")
    if not np.isfinite(value).all():
        raise InvalidInput("the values of a series must be finite")
    if nonnegative and (value < 0).any():
        raise InvalidInput("a series that was declared non-negative has negative values")


def _is_multiplicative(values: Floats) -> bool:
    """Whether logarithms make a non-negative series likelier: where its ups and downs grow with its level.

    Source: Box and Cox, An Analysis of Transformations (J. R. Stat. Soc. B 26, 1964), for powers 1 and 0.
    """
    if (values > 0).mean() < _POSITIVE_SHARE_MIN:
        return False
    logs = np.log(_floored(values))
    plain, in_logs = _log_variance(values), _log_variance(logs)
    return plain is not None and in_logs is not None and in_logs + 2 * float(logs.mean()) < plain


def _log_variance(values: Floats) -> float | None:
    """Logarithm of the variance of a day given the day before; None where nothing varies."""
    clipped = noise.clip_outliers(values)
    scaled = noise.standardize(clipped)
    if scaled is None:
        return None
    found = noise.fit(scaled, np.ones((len(values), 1)))
    largest = float(np.abs(clipped).max())  # without a day that was clipped the rest can be too small to have squares
    return float(np.log(found.rss / found.rows * (clipped / largest).var()) + 2 * np.log(largest))


def _floored(values: Floats) -> Floats:
    """Values with zeros raised to half the smallest that is not, and to a number with full digits; all at most 1."""
    return np.asarray(np.maximum(values, max(float(values[values > 0].min()) / 2, np.finfo(np.float64).tiny)))
