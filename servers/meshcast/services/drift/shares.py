"""Shares of rows: up to a value, of a category, or null; tests of them under many labels are one matrix product."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshcast.observations import CategoryColumn, Floats, Observations

__all__ = ["Shares", "shares_of"]

Matrix = NDArray[np.float32]

_CUTS = 16  # values of a column at which its distribution functions are compared
_CUTS_LEAST = 4
_CUTS_ALL = 8_192  # over all columns, as long as each has 4
_CATEGORIES = 31  # most frequent ones; the others are one
_ROWS_EXTRA = 3.0  # added to a share's variance, in rows: the rarest shares would drown the others


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """Rows as members of shares; a share that all rows or none have is left out.

    Attributes:
        matrix: shape (rows, shares), float32, 1 for members.
        starts: shape (columns,), int64, first share of each column that has any.
        is_ordered: shape (columns,), bool: its shares are rows up to a value, each within the next; disjoint otherwise.
        weights: shape (shares,), float32, 1 / sqrt(p (1 - p) + 3 / rows) of a share p of all rows.
    """

    matrix: Matrix
    starts: NDArray[np.int64]
    is_ordered: NDArray[np.bool_]
    weights: Matrix

    def differences(self, labels: Matrix, window_rows: int) -> Matrix:
        """Absolute difference of each share between window and reference, under each label.

        Args:
            labels: shape (labels, rows), float32, 1 for rows of the window, `window_rows` of them in each.
            window_rows: at least 1 and fewer than all.

        Returns:
            Shape (labels, shares), float32, 0 to 1.
        """
        others = labels.shape[1] - window_rows
        members = self.matrix.sum(axis=0, dtype=np.float32)
        found: Matrix = labels @ self.matrix
        found *= np.float32(1 / window_rows + 1 / others)
        found -= members * np.float32(1 / others)
        return np.abs(found, out=found)

    def distances(self, differences: Matrix) -> Matrix:
        """Distance between window and reference by column: Kolmogorov-Smirnov where ordered, else total variation.

        Args:
            differences: shape (labels, shares), as `differences` gives them.

        Returns:
            Shape (labels, columns), float32, 0 to 1.
        """
        largest = np.maximum.reduceat(differences, self.starts, axis=1)
        if self.is_ordered.all():
            return largest
        half = np.add.reduceat(differences, self.starts, axis=1) / np.float32(2)
        return np.where(self.is_ordered, largest, half)


def shares_of(observations: Observations, names: Sequence[str], *, features: int = 0) -> Shares:
    """The shares of some columns of pooled rows.

    Args:
        observations: rows of both sides.
        names: of the columns.
        features: number of columns of the whole test, where these are a part of it; it bounds the cuts of each.
    """
    cuts = max(_CUTS_LEAST, min(_CUTS, _CUTS_ALL // max(1, features or len(names))))
    rows = observations.rows
    blocks: list[NDArray[np.bool_]] = []
    starts, is_ordered, at = [], [], 0
    for name in names:
        is_number = name in observations.numeric
        block = _ordered(observations.numeric[name], cuts) if is_number else _disjoint(observations.categorical[name])
        if block.shape[1]:
            blocks.append(block)
            starts.append(at)
            is_ordered.append(is_number)
            at += block.shape[1]
    matrix = np.empty((rows, at), np.float32)
    for start, block in zip(starts, blocks, strict=True):
        matrix[:, start : start + block.shape[1]] = block
    share = matrix.mean(axis=0)
    weights = (1.0 / np.sqrt(share * (1 - share) + _ROWS_EXTRA / max(rows, 1))).astype(np.float32)
    return Shares(matrix, np.array(starts, np.int64), np.array(is_ordered, np.bool_), weights)


def _ordered(values: Floats, cuts: int) -> NDArray[np.bool_]:
    """Rows up to values that part the rows evenly, below values that many rows share, and rows that are no nulls."""
    rows = len(values)
    ordered = np.sort(values)  # NaN last
    known = rows - int(np.count_nonzero(np.isnan(ordered[-1:]) and np.isnan(ordered)))
    if not known:
        return np.empty((rows, 0), np.bool_)
    ordered = ordered[:known]
    edge = np.unique(ordered[((np.arange(cuts) + 0.5) / cuts * known).astype(np.int64)])
    upto = np.searchsorted(ordered, edge, side="right")
    below = np.searchsorted(ordered, edge, side="left")
    heavy = (upto - below > known / cuts) & (below > 0)
    heavy[1:] &= below[1:] != upto[:-1]
    threshold = np.sort(np.concatenate([edge[upto < known], np.nextafter(edge[heavy], -np.inf, dtype=edge.dtype)]))
    if known < rows:
        threshold = np.append(threshold, edge.dtype.type(np.inf))
    return np.asarray(values[:, None] <= threshold)


def _disjoint(column: CategoryColumn) -> NDArray[np.bool_]:
    """Rows of each of the most frequent categories, rows of the others, and nulls."""
    counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.names))
    most = np.argsort(-counts, kind="stable")
    place = np.full(len(counts) + 1, _CATEGORIES, np.int64)
    place[most[:_CATEGORIES]] = np.arange(min(_CATEGORIES, len(most)))
    place[-1] = _CATEGORIES + 1  # the place that -1 finds
    members = place[column.codes][:, None] == np.arange(_CATEGORIES + 2)
    held = members.sum(axis=0)
    return np.asarray(members[:, (held > 0) & (held < len(column.codes))])
