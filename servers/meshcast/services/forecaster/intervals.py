"""Adaptive intervals: how far a model's quantiles must be stretched for one series, so that its levels hold.

A tracker compares what came with what the model had said and keeps, for each central interval of the graph's grid, a
factor on its distance from the median. Two things move it. A forecast of the scale, common to all levels and horizons,
follows the size of the newest errors within weeks. A quantile tracker a level corrects what is left, and it is the one
that holds the level whatever the errors do. A level's interval is widened by a step after a miss and narrowed by a
smaller one after a hit, so that both balance only at the level.

Errors of one forecast depend on each other: a level that was missed on the second day is missed on the third too. So
horizons fall into buckets that are tracked by themselves, and a bucket of b days counts b errors as one.

Source: quantile tracking and the forecast of the scale, Angelopoulos, Candès and Tibshirani, Conformal PID Control for
Time Series Prediction (2023); the feedback on misses, Gibbs and Candès, Adaptive Conformal Inference Under Distribution
Shift (2021).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from meshcast.services.forecaster.signature import LEVELS

__all__ = [
    "CENTRAL",
    "LEVEL_MAX",
    "LEVEL_MIN",
    "Evidence",
    "IntervalTracker",
    "adapted",
    "central_levels",
    "quantiles_at",
]

Floats = NDArray[np.float32]

CENTRAL = (0.5, 0.8, 0.9, 0.95)
"""Central intervals that are tracked: those whose two ends are levels of the graph's grid, the narrowest first."""

LEVEL_MIN, LEVEL_MAX = 0.005, 0.995
"""Levels between which a quantile can be read off a fan."""

WINDOW = 500
"""Newest comparisons that the stated coverage is taken over."""

_MEDIAN = LEVELS.index(0.5)
_LOWER = tuple(_MEDIAN - 1 - k for k in range(len(CENTRAL)))
_UPPER = tuple(_MEDIAN + 1 + k for k in range(len(CENTRAL)))

_SCORES = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
_MEAN_SCORE = math.sqrt(2 / math.pi)  # mean size of a normal score, where the fan is right

STEP = 0.05
"""Move of a factor's logarithm after a miss, times the level; after a hit, times the level less 1."""

SCALE_RATE = 0.03
"""Weight of the newest error in the forecast of the scale: half of it is forgotten after 23."""

HORIZONS = (1, 3, 7, 14, 30, 90)
"""Last day of each bucket of horizons."""

_FREAK = 4.0  # scales; a single error beyond it counts as one of this size in the forecast of the scale
_LOG_MIN, _LOG_MAX = math.log(1 / 20), math.log(100)  # of a factor: an interval stays finite, and stays one


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """How the intervals of one level have held so far.

    Attributes:
        level: of the central interval.
        compared: forecast values that were compared with an actual one.
        coverage: share of the newest 500 of those that were inside the interval as it was answered; None without any.
        width_factor: how much wider than the model's the interval is drawn now; the geometric mean over the buckets of
            horizons that were compared.
    """

    level: float
    compared: int
    coverage: float | None
    width_factor: float


class IntervalTracker:
    """How far the model's intervals must be stretched for one series; a new one leaves them exactly as they are.

    The same updates in the same order give the same state.

    Args:
        step: move of a factor's logarithm after a miss, times the level.
        scale_rate: weight of the newest error in the forecast of the scale; 0 leaves the scale alone.
        horizons: last day of each bucket of horizons, rising; the last bucket takes all days beyond.
    """

    def __init__(
        self, *, step: float = STEP, scale_rate: float = SCALE_RATE, horizons: Sequence[int] = HORIZONS
    ) -> None:
        self._step, self._scale_rate, self._horizons = step, scale_rate, tuple(horizons)
        self._ends = np.array(self._horizons)
        first = (0, *self._horizons[:-1])
        self._share = [1.0 / (last - before) for before, last in zip(first, self._horizons, strict=True)]
        self._log_scale = 0.0
        self._shift = [[0.0] * len(CENTRAL) for _ in self._horizons]  # logarithms, on top of the scale
        self._seen = [0] * len(self._horizons)
        self._compared = 0
        self._inside = b""  # a byte for each of the newest, oldest first; bit k: inside the k-th central interval
        self._factors: Floats | None = None  # of the most days that were asked for; None after a change

    @property
    def compared(self) -> int:
        """Forecast values that were compared with an actual one."""
        return self._compared

    @property
    def is_neutral(self) -> bool:
        """True while the model's intervals are drawn as they are."""
        return self._log_scale == 0.0 and not any(map(any, self._shift))

    def factors(self, days: int) -> Floats:
        """What the distances from the median are multiplied with.

        Args:
            days: of the forecast.

        Returns:
            Shape (days, 4), float32, by day ahead and by `CENTRAL`; all within 1/20 and 100.
        """
        if self._factors is None or len(self._factors) < days:
            by_bucket = np.exp([self._logs(bucket) for bucket in range(len(self._horizons))])
            self._factors = by_bucket.astype(np.float32)[self._bucket(np.arange(1, days + 1))]
        return self._factors[:days]

    def evidence(self) -> tuple[Evidence, ...]:
        """How the intervals have held, ascending by level."""
        seen = [bucket for bucket, count in enumerate(self._seen) if count]
        inside = np.frombuffer(self._inside, dtype=np.uint8)
        found = []
        for k, level in enumerate(CENTRAL):
            log_factor = math.fsum(self._logs(bucket)[k] for bucket in seen) / len(seen) if seen else 0.0
            coverage = float((inside >> k & 1).mean()) if len(inside) else None
            found.append(
                Evidence(level=level, compared=self._compared, coverage=coverage, width_factor=math.exp(log_factor))
            )
        return tuple(found)

    def update(
        self,
        day: NDArray[np.int64],
        ahead: NDArray[np.int64],
        value: NDArray[np.float64],
        quantiles: NDArray[Any],
        answered: NDArray[Any] | None = None,
    ) -> None:
        """Takes what came for some forecast values, in order of the days.

        Args:
            day: shape (n,), the day of each comparison, rising. Comparisons of one day change the state together.
            ahead: shape (n,), how many days ahead it was forecast, from 1.
            value: shape (n,), what came, finite.
            quantiles: shape (n, 9), what the model had said, before any adaptation.
            answered: shape (n, 9), what was answered, for the stated coverage; None where it is the same.
        """
        scores, size, has_width = _scores(value, quantiles)  # (n, 4), (n,), (n, 4)
        said = quantiles if answered is None else answered
        inside = _inside(value, said)
        bounds = np.flatnonzero(np.diff(day)) + 1
        bucket = self._bucket(ahead)
        rows = list(zip(bucket.tolist(), scores.tolist(), size.tolist(), has_width.tolist(), strict=True))
        for start, stop in zip([0, *bounds.tolist()], [*bounds.tolist(), len(rows)], strict=True):
            self._update_day(rows[start:stop])
        self._compared += len(inside)
        self._inside = (self._inside + inside.tobytes())[-WINDOW:]
        self._factors = None

    def snapshot(self) -> dict[str, Any]:
        """The state as plain values that JSON can hold; parameters are not part of it."""
        return {
            "horizons": list(self._horizons),
            "levels": list(CENTRAL),
            "log_scale": self._log_scale,
            "shift": [list(shifts) for shifts in self._shift],
            "seen": list(self._seen),
            "compared": self._compared,
            "inside": "".join(f"{bits:x}" for bits in self._inside),  # four levels, four bits, one digit
        }

    @classmethod
    def restore(cls, snapshot: Mapping[str, Any], **parameters: Any) -> Self:
        """The tracker of a snapshot, with the parameters of the constructor.

        Raises:
            ValueError: the snapshot is of other buckets or levels, or no snapshot.
        """
        tracker = cls(**parameters)
        try:
            if tuple(snapshot["horizons"]) != tracker._horizons or tuple(snapshot["levels"]) != CENTRAL:
                raise ValueError("a snapshot of other horizons or levels")
            tracker._log_scale = float(snapshot["log_scale"])
            tracker._shift = [[float(shift) for shift in shifts] for shifts in snapshot["shift"]]
            tracker._seen = [int(count) for count in snapshot["seen"]]
            compared, inside = int(snapshot["compared"]), str(snapshot["inside"])
            if len(inside) != min(compared, WINDOW):
                raise ValueError("a snapshot that says otherwise how many values it compared")
            tracker._compared, tracker._inside = compared, bytes(int(digit, 16) for digit in inside)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no snapshot of a tracker: {error!r}") from error
        return tracker

    def _update_day(self, rows: Sequence[tuple[int, list[float], float, list[bool]]]) -> None:
        """One day's comparisons: bucket, distance by level, size of the normal score, whether the level has a width."""
        cap = _FREAK * math.exp(self._log_scale)
        by_bucket: dict[int, list[tuple[list[float], float, list[bool]]]] = {}
        for bucket, scores, size, has_width in rows:
            self._seen[bucket] += 1
            if has_width[-1]:
                by_bucket.setdefault(bucket, []).append((scores, min(size, cap), has_width))
        weight_sum = size_sum = 0.0
        for bucket, found in by_bucket.items():
            share, count = self._share[bucket], len(found)
            factors = [math.exp(log) for log in self._logs(bucket)]
            missed, asked = [0] * len(CENTRAL), [0] * len(CENTRAL)
            for scores, _, has_width in found:
                outside = True
                for k, factor in enumerate(factors):
                    outside = outside and scores[k] > factor  # inside one is inside every wider one: they never cross
                    if has_width[k]:  # an interval without a width says nothing about how it ought to be stretched
                        asked[k] += 1
                        missed[k] += outside
            shifts = self._shift[bucket]
            for k, level in enumerate(CENTRAL):
                if asked[k]:
                    shifts[k] += self._step * share * (missed[k] / asked[k] - (1.0 - level))
            weight_sum += share
            size_sum += share * sum(size for _, size, _ in found) / count
        if weight_sum and self._scale_rate:
            rate = self._scale_rate * min(1.0, weight_sum)
            size = size_sum / weight_sum / _MEAN_SCORE
            log_scale = math.log((1.0 - rate) * math.exp(self._log_scale) + rate * size)
            self._log_scale = min(max(log_scale, _LOG_MIN), _LOG_MAX)
        for bucket in by_bucket:  # a factor at its bound must not run on beyond it unseen
            shifts = self._shift[bucket]
            for k, shift in enumerate(shifts):
                shifts[k] = min(max(shift, _LOG_MIN - self._log_scale), _LOG_MAX - self._log_scale)

    def _logs(self, bucket: int) -> list[float]:
        return [min(max(self._log_scale + shift, _LOG_MIN), _LOG_MAX) for shift in self._shift[bucket]]

    def _bucket(self, ahead: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.minimum(np.searchsorted(self._ends, ahead), len(self._horizons) - 1)


def adapted(
    quantiles: Floats, trackers: Sequence[IntervalTracker | None], nonnegative: NDArray[np.bool_] | None = None
) -> Floats:
    """The model's quantiles, stretched around the median as each row's tracker says. They never cross.

    Args:
        quantiles: shape (rows, days, 9), float32, ascending, from the first day ahead on.
        trackers: one a row; None leaves the row as it is.
        nonnegative: shape (rows,), True where the series cannot be negative, so that nothing falls below 0.

    Returns:
        Shape (rows, days, 9), float32: `quantiles` itself where no row moves.
    """
    moved = [row for row, tracker in enumerate(trackers) if tracker is not None and not tracker.is_neutral]
    if not moved:
        return quantiles
    days = quantiles.shape[1]
    own = quantiles[moved]
    factors = np.stack([tracker.factors(days) for row in moved if (tracker := trackers[row]) is not None])
    median = own[:, :, _MEDIAN]
    for columns, sign in ((_LOWER, -1.0), (_UPPER, 1.0)):
        reach = np.zeros_like(median)
        for k, column in enumerate(columns):
            reach = np.maximum(reach, np.abs(own[:, :, column] - median) * factors[:, :, k])
            own[:, :, column] = median + np.float32(sign) * reach
    if nonnegative is not None:
        bounded = nonnegative[moved]
        own[bounded] = np.maximum(own[bounded], 0.0)
    result = quantiles.copy()
    result[moved] = own
    return result


def quantiles_at(quantiles: Floats, levels: Sequence[float], nonnegative: NDArray[np.bool_] | bool = False) -> Floats:
    """Quantiles at any levels, read off the graph's nine.

    Between two levels the quantile is linear in the normal score of the level, so that a normal distribution is met
    exactly; beyond the outermost it goes on with the slope of the last two. Levels of the grid come out as they are,
    and a higher level never gives a lower quantile.

    Args:
        quantiles: shape (..., 9), ascending.
        levels: from 0.005 to 0.995.
        nonnegative: True, or shape of `quantiles` without the last two axes (days and levels), True where nothing may
            fall below 0.

    Returns:
        Shape (..., k), float32, laid out level after level: `numpy.moveaxis(result, -1, 0)` is contiguous.
    """
    result = np.empty((len(levels), *quantiles.shape[:-1]), dtype=np.float32)
    for k, level in enumerate(levels):
        at = int(np.searchsorted(LEVELS, level - 1e-9))
        if at < len(LEVELS) and abs(LEVELS[at] - level) < 1e-9:
            result[k] = quantiles[..., at]
            continue
        left = min(max(at - 1, 0), len(LEVELS) - 2)
        share = (NormalDist().inv_cdf(level) - _SCORES[left]) / (_SCORES[left + 1] - _SCORES[left])
        low, high = quantiles[..., left], quantiles[..., left + 1]
        width, out = high - low, result[k, ...]
        if share < 0.0:
            np.add(low, np.float32(share) * width, out=out)
            if np.any(nonnegative):
                floor = np.where(nonnegative, np.float32(0.0), np.float32(-np.inf))
                np.maximum(out, floor[..., None] if floor.ndim else floor, out=out)
        elif share > 1.0:
            np.add(high, np.float32(share - 1.0) * width, out=out)
        else:
            np.minimum(low + np.float32(share) * width, high, out=out)
    return np.moveaxis(result, 0, -1)


def central_levels(levels: Sequence[float]) -> list[float]:
    """The quantiles that end central intervals: the lower ends of all, then the upper ends, as `levels` go."""
    return [(1.0 - level) / 2.0 for level in levels] + [(1.0 + level) / 2.0 for level in levels]


def _scores(
    value: NDArray[np.float64], quantiles: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """What came, in terms of the model's fan.

    Returns:
        Distance from the median in the model's own of each central interval on that side (n, 4), infinite where that is
        0 and it is not; size of the normal score (n,); whether each central interval has a width (n, 4).
    """
    fan = quantiles.astype(np.float64)
    off = value - fan[:, _MEDIAN]
    own = np.where((off < 0.0)[:, None], fan[:, _MEDIAN, None] - fan[:, _LOWER], fan[:, _UPPER] - fan[:, _MEDIAN, None])
    distance = np.abs(off)[:, None]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scores = np.where(distance == 0.0, 0.0, distance / own)
    width = fan[:, -1] - fan[:, 0]
    segment = np.clip((value[:, None] > fan).sum(axis=1), 1, len(LEVELS) - 1)
    row = np.arange(len(fan))
    low, high = fan[row, segment - 1], fan[row, segment]
    rise = np.maximum(high - low, 1e-9 * width)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = np.where(value == low, 0.0, (value - low) / rise)
    size = np.abs(_SCORES[segment - 1] + share * (_SCORES[segment] - _SCORES[segment - 1]))
    return scores, size, fan[:, _UPPER] > fan[:, _LOWER]


def _inside(value: NDArray[np.float64], answered: NDArray[Any]) -> NDArray[np.uint8]:
    """Bit k: the value is inside the k-th central interval; shape (n,)."""
    covered = (value[:, None] >= answered[:, _LOWER]) & (value[:, None] <= answered[:, _UPPER])
    return np.packbits(covered, axis=1, bitorder="little")[:, 0]
