"""Change points of a daily series: days from which its level, or its growth, is another one for good.

Three kinds of change are tried: steps between levels, steps around a common trend, and bends of a trend. Steps are
placed by optimal partitioning (`ruptures`), bends one after another. What decides between them, and whether there is
any change at all, is how much likelier they make the series than a steady level or trend in noise that remembers, at a
fixed price for each change: see `price`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log, pi, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from meshcast.services.forecaster import noise

__all__ = ["Change", "Changes", "Kind", "PRICE_MIN", "find_changes", "price", "segment_min"]

Floats = NDArray[np.float64]
Kind = Literal["level", "bend"]
_Shape = Literal["steady", "steps", "steps around a trend", "bends"]

PRICE_MIN = 11.0
"""What a change has to add to twice the log likelihood in short series; see `price`."""

_PRICE_OF_TREND = 8.0  # a slope is chosen once, not over all days; by the same simulations
_PRICE_OF_BENDS = 2.0  # on top of a change's
_CHANGES_MAX = 20
_BENDS_MAX = 8
_ROWS_MAX = 1_500  # longer series are averaged over equal stretches first: a guess's worth takes time in rows
# Optimal partitioning takes rows squared, and `ruptures` holds the interpreter's lock meanwhile: 2 ms here, 20 ms at
# 1,500 rows, in which a server answers nothing.
_PARTITION_ROWS_MAX = 500
_BEND_PLACES = 150
_BEND_MEMORY = (0.0, 0.5, 0.85, 1.0)
# From here on a step of two standard deviations outlives rich noise in 9 of 10 simulated series; at 60 rows in 6 of 10.
_RICH_ROWS_MIN = 100
_GAIN_OF_WALKS = 3.3  # of bends in random walks over what the tail formula has; simulated, 30 to 1,000 days
_RIVALS = 3  # of each shape, that are judged again under rich noise


@dataclass(frozen=True, slots=True)
class Change:
    """A day from which a series behaves differently."""

    index: int
    """Position of its first day among the known days."""
    kind: Kind
    """`level`: the level steps up or down. `bend`: the growth changes, and the level is continuous."""
    p_value: float
    """Probability of a change that is this clear somewhere in a steady series with as many days, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Changes:
    """All changes of a series, and the course that they describe."""

    points: tuple[Change, ...]
    """Ascending by index."""
    course: Floats
    """Level or trend between the changes, without noise; shape (n,), in the unit of the series."""


@dataclass(frozen=True, slots=True)
class _Guess:
    shape: _Shape
    places: tuple[int, ...]
    price: float


def find_changes(day: NDArray[np.int64], values: Floats) -> Changes:
    """Finds the days from which the level or the growth of a series is another one.

    Changes lie a week apart or more, 3 to 6 days in series under 70 days. Of a series with more than 1,500 days, means
    of equal stretches are searched, 7 days long for 10,000: its changes lie 7 stretches apart.

    Args:
        day: shape (n,), days since 1970-01-01, ascending; missing days are absent. The noise is taken to pass over
            a gap as over a single day.
        values: shape (n,), of a scale that has squares, without seasons; n >= 14.
    """
    scaled = noise.standardize(noise.clip_outliers(values))
    if scaled is None:
        return Changes((), np.full(len(values), float(values[0])))
    width = -(-len(scaled) // _ROWS_MAX)
    rows, at = _averaged(scaled, width), _averaged((day - day[0]) / max(int(day[-1] - day[0]), 1), width)
    series = _Series(at, rows)
    best = series.best()
    p_values = series.p_values(best)
    places = [place * width for place in best.places]
    if best.shape != "bends":
        places = _refined(scaled, places, width, segment_min(len(scaled)))
    points = tuple(Change(place, _kind(best.shape), p) for place, p in zip(places, p_values, strict=True))
    columns = _columns(_Guess(best.shape, tuple(places), 0), (day - day[0]) / max(int(day[-1] - day[0]), 1))
    return Changes(points, _course(columns, values, scaled))


def price(rows: int, kind: Kind) -> float:
    """What a change has to add to twice the log likelihood of a series.

    BIC's price of two parameters, the place and the size of the change, but at least what short series need, and more
    for bends, which random walks with drift resemble. Fixed on simulations alone (bench/change_points.py): with it
    white noise and random walks, normal or heavy-tailed, get a change point less often than in 5 % and in 20 %.
    """
    return max(PRICE_MIN, 2 * log(rows)) + (_PRICE_OF_BENDS if kind == "bend" else 0)


def segment_min(rows: int) -> int:
    """Fewest rows between two changes: a week, and less in series under 70 rows."""
    return max(3, min(7, rows // 10))


class _Series:
    """A standardised series of at most 1,500 rows, and what each guess at its changes is worth."""

    def __init__(self, at: Floats, rows: Floats) -> None:
        self._at, self._rows = at, rows
        self._rich = False

    def best(self) -> _Guess:
        """The guess that is worth most after its price; no changes are a guess too."""
        steady = [_Guess("steady", (), 0.0), _Guess("steps around a trend", (), _PRICE_OF_TREND)]
        worth = [(self._worth(guess), guess) for guess in [*steady, *self._steps(), *self._bends()]]
        best = max(worth, key=lambda pair: pair[0])[1]
        if best.places and len(self._rows) >= _RICH_ROWS_MIN:
            self._rich = True
            rivals = list(steady)
            for shape in ("steps", "steps around a trend", "bends"):
                ranked = sorted((pair for pair in worth if pair[1].shape == shape and pair[0] > 0), key=lambda p: -p[0])
                rivals += [guess for _, guess in ranked[:_RIVALS] if guess.places]
            best = max(rivals, key=self._worth)
        return self._pruned(best)

    def p_values(self, guess: _Guess) -> list[float]:
        """Probability of each change in a series without it."""
        kind = _kind(guess.shape)
        return [_p_value(self._gain_of(guess, place), len(self._rows), kind) for place in guess.places]

    def _worth(self, guess: _Guess) -> float:
        """Twice the log likelihood ahead of a steady level, less the price.

        A step's own day is freed from both: a random walk that jumps is no change of level, staying there is.
        """
        freed = () if guess.shape == "bends" else guess.places
        null = noise.fit(self._rows, _columns(_Guess("steady", (), 0), self._at), freed=freed, rich=self._rich)
        return self._fit(guess, freed).gain_over(null) - guess.price

    def _fit(self, guess: _Guess, freed: Sequence[int]) -> noise.Fit:
        return noise.fit(self._rows, _columns(guess, self._at), freed=freed, rich=self._rich)

    def _gain_of(self, guess: _Guess, place: int) -> float:
        """What one change of a guess adds to twice the log likelihood."""
        freed = () if guess.shape == "bends" else guess.places
        without = _Guess(guess.shape, tuple(other for other in guess.places if other != place), 0)
        return self._fit(guess, freed).gain_over(self._fit(without, freed))

    def _pruned(self, guess: _Guess) -> _Guess:
        """The guess without the changes that are not worth their price next to the others."""
        each = price(len(self._rows), _kind(guess.shape))
        while guess.places:
            gains = [self._gain_of(guess, place) for place in guess.places]
            least = int(np.argmin(gains))
            if gains[least] >= each:
                break
            kept = guess.places[:least] + guess.places[least + 1 :]
            guess = _Guess(guess.shape, kept, guess.price - each)
        return guess

    def _steps(self) -> list[_Guess]:
        """Best partitions by squared distance into 2, 3, ... levels, of the series and of it less its line.

        Of a series with more than 500 rows, means of 2 or 3 are parted, and then the rows around each place.
        """
        from ruptures import KernelCPD  # 0.6 s and 75 MB with scipy: only a process that analyses pays for it

        shortest = segment_min(len(self._rows))
        most = min(_CHANGES_MAX, len(self._rows) // shortest - 1)
        width = -(-len(self._rows) // _PARTITION_ROWS_MAX)
        each = price(len(self._rows), "level")
        found = []
        line = np.polyval(np.polyfit(self._at, self._rows, 1), self._at)
        shapes: list[tuple[_Shape, Floats, float]] = [
            ("steps", self._rows, 0.0),
            ("steps around a trend", self._rows - line, _PRICE_OF_TREND),
        ]
        for shape, rows, extra in shapes:
            partition = KernelCPD(kernel="linear", min_size=-(-shortest // width)).fit(_averaged(rows, width)[:, None])
            partition.predict(n_bkps=most)
            for count in range(1, most + 1):
                places = [int(place) * width for place in partition.predict(n_bkps=count)[:-1]]
                found.append(_Guess(shape, tuple(_refined(rows, places, width, shortest)), extra + each * count))
        return found

    def _bends(self) -> list[_Guess]:
        """Sets of bends, each the next best after the former, for a few memories of the noise."""
        n, shortest = len(self._rows), segment_min(len(self._rows))
        places = np.arange(shortest, n - shortest + 1, max(1, n // _BEND_PLACES))
        hinges = np.maximum(0, self._at[:, None] - self._at[places])
        each = price(n, "bend")
        found = set()
        for memory in _BEND_MEMORY:
            line = np.stack([np.ones(n), self._at], axis=1)
            known, _ = np.linalg.qr((line[1:] - memory * line[:-1])[:, int(memory == 1) :])
            left = self._rows[1:] - memory * self._rows[:-1]
            left = left - known @ (known.T @ left)
            bends = hinges[1:] - memory * hinges[:-1]
            bends = bends - known @ (known.T @ bends)
            chosen: list[int] = []
            free = np.ones(len(places), dtype=np.bool_)
            for _ in range(min(_BENDS_MAX, n // (2 * shortest))):
                size = (bends**2).sum(axis=0)
                able = free & (size > 1e-9 * size.max())
                if not able.any():
                    break
                gain = np.where(able, (bends.T @ left) ** 2 / np.where(able, size, 1), -1)
                nth = int(np.argmax(gain))
                chosen.append(int(places[nth]))
                free &= np.abs(places - places[nth]) >= shortest
                found.add(tuple(sorted(chosen)))
                unit = bends[:, nth] / np.sqrt(size[nth])
                left = left - unit * float(unit @ left)
                bends = bends - np.outer(unit, unit @ bends)
        return [_Guess("bends", bent, _PRICE_OF_TREND + each * len(bent)) for bent in sorted(found)]


def _kind(shape: _Shape) -> Kind:
    return "bend" if shape == "bends" else "level"


def _columns(guess: _Guess, at: Floats) -> Floats:
    """Columns of a regression on a guess; shape (n, p)."""
    if guess.shape == "bends":
        return np.stack([np.ones_like(at), at, *(np.maximum(0, at - at[place]) for place in guess.places)], axis=1)
    edges = [0, *guess.places, len(at)]
    levels = np.zeros((len(at), len(edges) - 1))
    for nth, (start, stop) in enumerate(pairwise(edges)):
        levels[start:stop, nth] = 1
    return np.column_stack([levels, at]) if guess.shape == "steps around a trend" else levels


def _course(columns: Floats, values: Floats, scaled: Floats) -> Floats:
    """Least squares of the clipped values on columns, back in the unit of the series."""
    weights, *_ = np.linalg.lstsq(columns, scaled, rcond=None)
    clipped = noise.clip_outliers(values)
    return np.asarray(columns @ weights * float(clipped.std()) + float(clipped.mean()))


def _averaged(values: Floats, width: int) -> Floats:
    """Means of stretches of `width` values; the last one may be shorter."""
    if width == 1:
        return np.asarray(values, dtype=np.float64)
    starts = np.arange(0, len(values), width)
    return np.asarray(np.add.reduceat(values, starts) / np.diff(np.append(starts, len(values))))


def _refined(values: Floats, places: Sequence[int], width: int, apart: int) -> list[int]:
    """Steps between means of `width` values, each moved to where it parts the values best, by squared distance.

    A step moves by less than a stretch, is judged by the values to its neighbours, 7 stretches away at most, and stays
    `apart` from them.
    """
    if width == 1:
        return list(places)
    refined = [0, *places, len(values)]
    for nth in range(1, len(refined) - 1):
        before, place, after = refined[nth - 1 : nth + 2]
        low, high = max(before, place - 7 * width), min(after, place + 7 * width)
        tries = np.arange(max(place - width + 1, before + apart), min(place + width, after - apart + 1))
        total = np.cumsum(values[low:high])
        left, size = total[tries - low - 1], tries - low
        explained = left**2 / size + (total[-1] - left) ** 2 / (high - tries)
        refined[nth] = int(tries[np.argmax(explained)])
    return refined[1:-1]


def _p_value(gain: float, rows: int, kind: Kind) -> float:
    """Chance of a gain this large at the best place of a steady series, or for a bend of a random walk.

    Source: the tail of the largest standardised Brownian bridge away from its ends; Csorgo and Horvath, Limit Theorems
        in Change-Point Analysis (Wiley, 1997), section 1.3, with one parameter changing.
    """
    if kind == "bend":
        gain -= _GAIN_OF_WALKS
    if gain < 3:  # the tail formula is for large gains; so small ones are what chance brings
        return 1.0
    end = segment_min(rows) / rows
    span = 2 * log((1 - end) / end)
    return min(1.0, sqrt(gain / (2 * pi)) * exp(-gain / 2) * (span * (1 - 1 / gain) + 4 / gain))
