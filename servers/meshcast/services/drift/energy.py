"""Energy distance between rows: columns of any kind brought to one scale, and how far a row is from a kept sample.

Source: Szekely and Rizzo, Energy statistics: A class of statistics based on distances, Journal of Statistical Planning
and Inference 143 (2013).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshcast.observations import Observations
from meshcast.rpc.errors import CorruptData
from meshcast.services.drift.packing import pack, unpack

__all__ = ["COLUMN", "SAMPLE_ROWS_MAX", "EnergySample", "Space", "distances", "energy_of_labels"]

Matrix = NDArray[np.float32]

COLUMN = "energy.distance"
"""Name of the derived column."""

SAMPLE_ROWS_MAX = 256
"""Most rows of the kept sample; a row is compared with each of them. More cost time and tell hardly more."""

_KIND = b"DEN1"
_BLOCK = 128  # rows of a matrix product
_CLIP = 4.0  # standard deviations: one wild value must not drown the other columns of its row
_TRIM = 0.01  # share on either side that does not tell the scale
_CATEGORIES = 16  # most frequent ones of a column, each a column of its own
_ONE_HOT_MAX = 4_096  # columns of categories together, as long as each has two


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """A scale that columns of any kind share: about 1 from one value to another of the same column.

    A number is centred and divided by its standard deviation, both without the outer 1 % on either side, and clipped to
    4; where every value was the same, any other value counts as 4. The most frequent categories are columns of 0 and 1.
    A null becomes 0.

    Attributes:
        numeric: names of the columns of numbers.
        center: shape (numeric,), float64.
        scale: shape (numeric,), float64, 0 where every value was the same.
        categorical: (name, categories that have a column) of each column of categories.
    """

    numeric: tuple[str, ...]
    center: NDArray[np.float64]
    scale: NDArray[np.float64]
    categorical: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def of(cls, observations: Observations) -> "Space":
        """The scale that rows give.

        Args:
            observations: one row or more.
        """
        numeric = tuple(observations.numeric)
        center, scale = _scales(_stacked(observations, numeric))
        each = max(2, min(_CATEGORIES, _ONE_HOT_MAX // max(1, len(observations.categorical))))
        categorical = []
        for name, column in observations.categorical.items():
            counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.names))
            most = sorted(
                (code for code in np.flatnonzero(counts).tolist()), key=lambda c: (-counts[c], column.names[c])
            )
            categorical.append((name, tuple(column.names[code] for code in most[:each])))
        return cls(numeric, center, scale, tuple(categorical))

    def matrix(self, observations: Observations) -> Matrix:
        """Rows on the scale.

        Args:
            observations: rows of the same columns, in any order of columns.

        Returns:
            Shape (rows, columns), float32, finite.
        """
        width = len(self.numeric) + sum(len(names) for _, names in self.categorical)
        matrix = np.zeros((observations.rows, width), np.float32)
        if self.numeric:
            values = _stacked(observations, self.numeric)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                values -= self.center
                values /= self.scale  # from a constant: 0 / 0 where it is met, infinite where it is left
            np.clip(values, -_CLIP, _CLIP, out=values)
            matrix[:, : len(self.numeric)] = np.where(np.isnan(values), 0.0, values)
        at = len(self.numeric)
        for name, names in self.categorical:
            column = observations.categorical[name]
            places = {category: place for place, category in enumerate(names)}
            place = np.array([*(places.get(category, -1) for category in column.names), -1], dtype=np.int64)[
                column.codes
            ]
            known = np.flatnonzero(place >= 0)
            matrix[known, at + place[known]] = 1.0
            at += len(names)
        return matrix


@dataclass(frozen=True, slots=True, eq=False)
class EnergySample:
    """A kept sample of a reference, from which the distance of rows is taken.

    Attributes:
        space: the scale of the reference.
        rows: shape (sample, columns), float32, the sample on that scale; 1 to 256 rows.
    """

    space: Space
    rows: Matrix

    @classmethod
    def of(cls, reference: Observations, *, seed: int = 0) -> "EnergySample":
        """A sample of a reference; the same rows and seed give the same sample.

        What this gives for rows of the sample itself is too near: leave them out of what later rows are compared with.
        """
        return cls.from_rows(Space.of(reference), reference.take(sample_rows(reference.rows, SAMPLE_ROWS_MAX, seed)))

    @classmethod
    def from_rows(cls, space: Space, sample: Observations) -> "EnergySample":
        """A sample of given rows on a scale."""
        return cls(space, space.matrix(sample))

    def distances(self, observations: Observations) -> NDArray[np.float32]:
        """Mean distance of each row to the sample, by the root of the number of columns of the scale.

        Args:
            observations: rows of the reference's columns.

        Returns:
            Shape (rows,), float32: 0 or more, finite; about 1.4 where columns are independent.
        """
        return self.of_matrix(self.space.matrix(observations))

    def of_matrix(self, matrix: Matrix) -> NDArray[np.float32]:
        """The same for rows that are on the scale already.

        Args:
            matrix: shape (rows, columns), float32, as `Space.matrix` gives it.

        Returns:
            Shape (rows,), float32.
        """
        scale = np.float32(1.0 / np.sqrt(max(1, self.rows.shape[1])))
        means = [
            distances(matrix[at : at + 4_096], self.rows).mean(axis=1) * scale for at in range(0, len(matrix), 4_096)
        ]
        return np.concatenate(means) if means else np.empty(0, np.float32)

    def to_bytes(self) -> bytes:
        """Packed state."""
        head = {"numeric": self.space.numeric, "categorical": self.space.categorical}
        return pack(_KIND, head, {"center": self.space.center, "scale": self.space.scale, "rows": self.rows})

    @staticmethod
    def from_bytes(data: bytes) -> "EnergySample":
        """Sample of packed state.

        Raises:
            CorruptData: it is truncated, altered, or no sample.
        """
        head, arrays = unpack(_KIND, data)
        try:
            categorical = tuple((str(name), tuple(map(str, names))) for name, names in head["categorical"])
            space = Space(tuple(map(str, head["numeric"])), arrays["center"], arrays["scale"], categorical)
            return EnergySample(space, arrays["rows"])
        except (KeyError, TypeError, ValueError) as wrong:
            raise CorruptData(f"the kept sample of a reference cannot be read: {wrong}") from wrong


def sample_rows(rows: int, at_most: int, seed: int) -> NDArray[np.int64]:
    """Positions of rows drawn without replacement, ascending; all of them where there are no more than wanted."""
    if rows <= at_most:
        return np.arange(rows, dtype=np.int64)
    return np.sort(np.random.default_rng([seed, rows]).permutation(rows)[:at_most]).astype(np.int64)


def distances(left: Matrix, right: Matrix) -> Matrix:
    """Euclidean distances between rows, by one matrix product.

    Args:
        left: shape (a, columns), float32.
        right: shape (b, columns), float32.

    Returns:
        Shape (a, b), float32.
    """
    squares = left @ (-2.0 * right.T)
    squares += np.einsum("ij,ij->i", left, left)[:, None]
    squares += np.einsum("ij,ij->i", right, right)
    np.maximum(squares, 0.0, out=squares)
    return np.sqrt(squares, out=squares)


def energy_of_labels(labels: Matrix, between: Matrix, window_rows: int) -> NDArray[np.float64]:
    """Energy distance between the rows that a label picks and the others, for many labels at once.

    Args:
        labels: shape (labels, rows), float32, 1 for rows of the window, `window_rows` of them in each.
        between: shape (rows, rows), float32, distances of each row to each. Any symmetric measure of conditionally
            negative type does: minus a positive definite kernel gives the squared maximum mean discrepancy.
        window_rows: rows of the window, at least 1 and fewer than all.

    Returns:
        Shape (labels,), float64: 2 E d(X, Y) - E d(X, X') - E d(Y, Y'), never below 0 but for rounding.
    """
    others = labels.shape[1] - window_rows
    total = between.sum(axis=1, dtype=np.float64)
    window = np.zeros(len(labels))  # within the window; of the symmetric rest one half is enough
    for at in range(0, len(between), _BLOCK):
        rows = slice(at, at + _BLOCK)
        beyond = labels[:, rows] @ between[rows, at:]
        window += np.einsum("ij,ij->i", beyond[:, :_BLOCK], labels[:, rows])
        window += 2 * np.einsum("ij,ij->i", beyond[:, _BLOCK:], labels[:, at + _BLOCK :])
    picked = labels @ total
    cross = picked - window
    rest = total.sum() - picked - cross
    return np.asarray(2 * cross / (window_rows * others) - window / window_rows**2 - rest / others**2)


def _stacked(observations: Observations, names: Sequence[str]) -> NDArray[np.float64]:
    """Columns of numbers side by side, shape (rows, names), float64, a new array."""
    stacked = np.empty((observations.rows, len(names)))
    for at, name in enumerate(names):
        stacked[:, at] = observations.numeric[name]
    return stacked


def _scales(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each column between its outer quantiles, or of all where these are equal."""
    center, scale = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    ordered = np.sort(values, axis=0)  # NaN last
    known = np.count_nonzero(~np.isnan(values), axis=0)
    for at in range(values.shape[1]):
        column = ordered[: known[at], at]
        column = column[np.isfinite(column)]
        if not len(column):
            continue
        cut = int(_TRIM * len(column))
        inner = column[cut : len(column) - cut]
        if inner[0] == inner[-1]:  # a few values apart from one that nearly all rows have
            inner = column
        middle = inner[0] / 2 + inner[-1] / 2
        reach = inner[-1] - middle  # sums of the largest numbers would overflow
        if reach > 0:
            inner = (inner - middle) / reach
            center[at], scale[at] = middle + reach * inner.mean(), reach * inner.std()
        else:
            center[at] = middle
    return center, scale
