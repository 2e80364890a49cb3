"""Made-up daily series for training: levels, trends, seasons, bursts, shifts and noise of every size, drawn at random.

They stand for what no open set holds in number: the views, reactions and posts of many accounts, most of them small,
bursty and over-dispersed. Nothing here is fitted to any series.
"""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_counts", "draw_signed"]

Floats = NDArray[np.float64]


def draw_counts(rng: np.random.Generator, series: int, days: int, first_day: NDArray[np.int64]) -> Floats:
    """Non-negative series.

    Args:
        rng: source of chance.
        series: how many, n.
        days: length of each.
        first_day: shape (n,), days since 1970-01-01, so that weekly and yearly seasons lie where the calendar has them.

    Returns:
        Shape (n, days), float64, at least 0.
    """
    log = _course(rng, series, days, first_day)
    bursty = rng.random(series) < 0.5
    log += bursty[:, None] * _bursts(rng, series, days)
    noise = _noise(rng, series, days) * _log_uniform(rng, 0.02, 0.9, series)[:, None]
    level = rng.uniform(-1.0, 12.0, series)
    quiet = log - log.mean(axis=1, keepdims=True) + level[:, None]
    value = np.exp(np.clip(quiet + noise, -20, 30))
    counted = rng.random(series) < 0.5
    # Poisson and over-dispersed counts: a gamma share of the mean first
    shape = _log_uniform(rng, 0.5, 300.0, series)[:, None]
    dispersed = rng.gamma(np.broadcast_to(shape, value.shape)) / shape
    counts = rng.poisson(np.minimum(np.exp(np.clip(quiet, -20, 17)) * dispersed, 1e8)).astype(np.float64)
    value = np.where(counted[:, None], counts, value)
    # days without anything, more often at some accounts than at others
    empty_share = np.where(rng.random(series) < 0.15, rng.uniform(0.02, 0.6, series), 0.0)
    value[rng.random(value.shape) < empty_share[:, None]] = 0.0
    outliers = rng.random(value.shape) < np.where(rng.random(series) < 0.3, 0.01, 0.0)[:, None]
    value[outliers] *= np.exp(rng.normal(0.5, 1.2, int(outliers.sum())))
    rounded = rng.random(series) < 0.3
    found: Floats = np.where(rounded[:, None], np.round(value), value)
    return found


def draw_signed(rng: np.random.Generator, series: int, days: int, first_day: NDArray[np.int64]) -> Floats:
    """Series that may fall below 0: temperatures, balances, changes. Arguments and result as `draw_counts`."""
    course = _course(rng, series, days, first_day)
    course += _noise(rng, series, days) * _log_uniform(rng, 0.02, 1.0, series)[:, None]
    offset = rng.normal(0.0, 1.0, series) * _log_uniform(rng, 0.1, 30.0, series)
    size = _log_uniform(rng, 1e-2, 1e4, series)[:, None]
    found: Floats = (course - course.mean(axis=1, keepdims=True) + offset[:, None]) * size
    return found


def _course(rng: np.random.Generator, series: int, days: int, first_day: NDArray[np.int64]) -> Floats:
    """Everything that moves slowly or comes again, on a logarithmic (or plain) scale, (series, days)."""
    time = np.arange(days, dtype=np.float64)
    # a wandering level, for some a reverting one
    wander = np.cumsum(rng.normal(size=(series, days)), axis=1) * _log_uniform(rng, 5e-4, 0.08, series)[:, None]
    wander *= (rng.random(series) < 0.7)[:, None]
    total = wander + _reverting(rng, series, days) * (rng.random(series) < 0.6)[:, None]
    # trends that bend
    bends = 3
    at = np.sort(rng.uniform(0, days, (series, bends)), axis=1)
    slopes = rng.normal(size=(series, bends + 1)) * _log_uniform(rng, 1e-4, 0.01, series)[:, None]
    trend = slopes[:, :1] * time
    for k in range(bends):
        trend = trend + (slopes[:, k + 1 : k + 2] - slopes[:, k : k + 1]) * np.maximum(time - at[:, k : k + 1], 0.0)
    total += trend * (rng.random(series) < 0.5)[:, None]
    # level shifts
    shifts = rng.random((series, days)) < (_log_uniform(rng, 5e-4, 0.01, series) * (rng.random(series) < 0.4))[:, None]
    total += np.cumsum(shifts * rng.normal(0, 0.5, (series, days)), axis=1)
    # weekly season: two of seven days apart, or any shape; it may change over time
    weekday = (first_day[:, None] + 3 + np.arange(days)) % 7
    weekend = np.where(np.arange(7) >= 5, 1.0, 0.0) * rng.choice([-1.0, 1.0], series, p=[0.7, 0.3])[:, None]
    shape = np.where((rng.random(series) < 0.5)[:, None], weekend + rng.normal(0, 0.15, (series, 7)), 0.0)
    shape = np.where(shape.any(axis=1, keepdims=True), shape, rng.normal(0, 0.7, (series, 7)))
    later = shape + rng.normal(0, 0.5, (series, 7)) * (rng.random(series) < 0.3)[:, None]
    rows = np.arange(series)[:, None]
    fade = (time / days)[None]
    weekly = shape[rows, weekday] * (1 - fade) + later[rows, weekday] * fade
    total += weekly * (_log_uniform(rng, 0.02, 1.2, series) * (rng.random(series) < 0.75))[:, None]
    # yearly season and holidays
    angle = (first_day[:, None] + np.arange(days)) * (math.tau / 365.25)
    yearly = np.zeros((series, days))
    for k in (1, 2, 3):
        size = rng.normal(size=(series, 1)) / k
        yearly += size * np.sin(k * angle + rng.uniform(0, math.tau, (series, 1)))
    total += yearly * (_log_uniform(rng, 0.02, 0.6, series) * (rng.random(series) < 0.5))[:, None]
    return total


def _reverting(rng: np.random.Generator, series: int, days: int) -> Floats:
    keep = 1 - _log_uniform(rng, 0.02, 0.7, series)
    drawn = _noise(rng, series, days) * np.sqrt(1 - keep**2)[:, None] * _log_uniform(rng, 0.03, 0.8, series)[:, None]
    found = np.zeros((series, days))
    state = np.zeros(series)
    for day in range(days):
        state = keep * state + drawn[:, day]
        found[:, day] = state
    return found


def _bursts(rng: np.random.Generator, series: int, days: int) -> Floats:
    """Sudden attention that fades within days or weeks, as news and shared posts bring it."""
    often = _log_uniform(rng, 0.002, 0.1, series)[:, None]
    heights = (rng.random((series, days)) < often) * rng.exponential(
        _log_uniform(rng, 0.2, 1.8, series)[:, None], (series, days)
    )
    keep = np.exp(-1 / _log_uniform(rng, 0.4, 12.0, series))
    found = np.zeros((series, days))
    state = np.zeros(series)
    for day in range(days):
        state = np.maximum(keep * state, heights[:, day])
        found[:, day] = state
    return found


def _noise(rng: np.random.Generator, series: int, days: int) -> Floats:
    """Independent noise of unit size, from nearly normal to heavy-tailed."""
    freedom = _log_uniform(rng, 2.5, 30.0, series)[:, None]
    chi = 2 * rng.gamma(np.broadcast_to(freedom / 2, (series, days)))
    return np.asarray(rng.normal(size=(series, days)) * np.sqrt(freedom / np.maximum(chi, 1e-3)))


def _log_uniform(rng: np.random.Generator, low: float, high: float, count: int) -> Floats:
    return np.exp(rng.uniform(math.log(low), math.log(high), count))
