"""Seasons of a daily series: the weekday's and the month's part in its level, and whether chance would do as well."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshcast.services.forecaster import noise

__all__ = ["YEAR_DAYS_MIN", "Season", "spread_over_days", "weekdays", "weekly_season", "yearly_season"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LEVEL = 0.01  # of significance: a season that is not there is claimed in 1 of 100 series
_SEEN_MIN = 2  # times that each weekday or month must be known
_MONTH_DAYS_MIN = 10  # known days that make a month's mean
YEAR_DAYS_MIN = 730
"""Days from first to last that a yearly season needs: a month seen once cannot be told from a change."""


@dataclass(frozen=True, slots=True)
class Season:
    """A season, whether it can be told from chance or not."""

    effects: tuple[float, ...]
    """Effect of Monday to Sunday (7) or January to December (12), added to the level; mean 0, in the series' unit."""
    strength: float
    """Share of the variance around the trend that it explains, 0 to 1."""
    p_value: float
    """Probability of so strong a season by chance, 0 to 1."""

    @property
    def is_present(self) -> bool:
        """Whether it can be told from chance at 1 %."""
        return self.p_value < _LEVEL


def weekdays(day: Ints) -> Ints:
    """Day of the week, Monday = 0; `day` counts from 1970-01-01, a Thursday; shape (n,)."""
    return np.asarray((day + 3) % 7)


def weekly_season(day: Ints, values: Floats) -> Season | str:
    """Season of the week, or a sentence that says why it cannot be told.

    Args:
        day: shape (n,), days since 1970-01-01, ascending; missing days are absent.
        values: shape (n,), of a scale that has squares.
    """
    at = weekdays(day)
    if np.bincount(at, minlength=7).min() < _SEEN_MIN:
        return "The season of the week is unknown: some weekday has fewer than 2 known days."
    # Lone outliers are judged within the week's own shape, or a peak on every Sunday would be one.
    rough = _centred(values - noise.running_median(values, 7), at, 7)
    clipped = noise.clip_outliers(values - rough[at]) + rough[at]
    season = _season(clipped, at, 7, np.ones((len(day), 1)))
    trend = _smooth(clipped - np.asarray(season.effects)[at])
    return _with_strength(season, at, clipped - trend)


def yearly_season(day: Ints, values: Floats) -> Season | str:
    """Season of the year from the means of the months, or a sentence that says why it cannot be told.

    Args:
        day: shape (n,), days since 1970-01-01, ascending; missing days are absent.
        values: shape (n,), of a scale that has squares, without the season of the week.
    """
    if len(day) == 0 or day[-1] - day[0] < YEAR_DAYS_MIN:
        return "The season of the year is unknown: less than two years lie between the first day and the last."
    month = day.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    number, start, count = np.unique(month, return_index=True, return_counts=True)
    means = np.add.reduceat(noise.clip_outliers(values) / count.max(), start) / (count / count.max())
    known = count >= _MONTH_DAYS_MIN
    number, means = number[known], means[known]
    at = number % 12
    if np.bincount(at, minlength=12).min() < _SEEN_MIN:
        return "The season of the year is unknown: some month of the year has not been known twice."
    line = np.linspace(-1, 1, len(at))
    season = _season(means, at, 12, np.stack([np.ones_like(line), line], axis=1))
    left = means - np.asarray(season.effects)[at]
    trend = noise.running_median(left, min(5, 2 * len(left) - 1))
    return _with_strength(season, at, means - trend)


def spread_over_days(season: Season, day: Ints) -> Floats:
    """A yearly season's effect on each day: from the middle of a month straight to that of the next; shape (n,)."""
    date = day.astype("datetime64[D]")
    first = date.astype("datetime64[M]")
    length = ((first + 1).astype("datetime64[D]") - first.astype("datetime64[D]")).astype(np.int64)
    where = first.astype(np.int64) + ((date - first.astype("datetime64[D]")).astype(np.int64) + 0.5) / length - 0.5
    before = np.floor(where).astype(np.int64)
    effects = np.asarray(season.effects)
    share = where - before
    return np.asarray(effects[before % 12] * (1 - share) + effects[(before + 1) % 12] * share)


def _season(values: Floats, at: Ints, period: int, others: Floats) -> Season:
    """Effects and p-value by regression under noise that remembers; strength is left at 0.

    Source: F test of the restriction that all effects are 0, on the whitened regression.
    """
    from scipy.special import fdtrc

    nothing = Season((0.0,) * period, 0.0, 1.0)
    scaled = noise.standardize(values)
    freedom = len(values) - 1 - others.shape[1] - (period - 1) - 1
    if scaled is None or freedom < 1:
        return nothing
    columns = (at[:, None] == np.arange(period - 1)) - (at == period - 1)[:, None].astype(np.float64)
    without = noise.fit(scaled, others)
    fit = noise.fit(scaled, np.concatenate([others, columns], axis=1))
    ratio = max(without.rss / fit.rss - 1, 0.0) * freedom / (period - 1)
    p_value = float(fdtrc(period - 1, freedom, ratio))
    design = np.concatenate([others, columns], axis=1)
    whitened = np.column_stack([design, scaled])[1:] - fit.memory * np.column_stack([design, scaled])[:-1]
    weights, *_ = np.linalg.lstsq(whitened[:, :-1], whitened[:, -1], rcond=None)
    free = weights[others.shape[1] :]
    effects = np.append(free, -free.sum()) * float(values.std())
    return Season(tuple(float(effect) for effect in effects), 0.0, p_value)


def _with_strength(season: Season, at: Ints, around_trend: Floats) -> Season:
    """The season with its strength.

    Source: Hyndman and Athanasopoulos, Forecasting: Principles and Practice (2021), section 4.3.
    """
    spread = float(around_trend.var())
    rest = float((around_trend - np.asarray(season.effects)[at]).var())
    strength = max(0.0, 1 - rest / spread) if spread > 0 else 0.0
    return Season(season.effects, strength, season.p_value)


def _smooth(values: Floats) -> Floats:
    """Running median over about two weeks; shape (n,)."""
    return noise.running_median(values, min(15, 2 * len(values) - 1))


def _centred(residuals: Floats, at: Ints, period: int) -> Floats:
    """Medians of residuals by place in the season, less their mean; shape (period,)."""
    middle = np.array([np.median(residuals[at == place]) for place in range(period)])
    return np.asarray(middle - middle.mean())
