"""The bag of n-grams as a convex problem: weights of hashed n-grams by ridge regression, and what they say unseen.

Both questions are learnt from a post's rank within its channel, which tells more than on which side of a line it fell:
the rank itself for being above the median, its third power, which looks at the top, for being viral.

Every column has two weights to a question: what it adds to any post, and what it adds where media are attached and
takes away where none are, since a word beside a picture is not what it is beside a link. How dear the pieces of words
and the second weights are was chosen on the posts of public pages of the second half of May 2016, which
`bench/analyzer_accuracy.py` neither trains on nor tests on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from meshcast.services.analyzer.grams import KIND_IDS

__all__ = ["BagWeights", "Bags", "fit_bag", "out_of_fold"]

Floats = NDArray[np.float32]

_STEPS_MAX = 80
_PRECISION = 4e-3  # of the residual's norm; AUC no longer moves past it
_TINY = 1e-6
_ALL = slice(None)
_PIECE_DEARNESS = 4.0  # words say more than their pieces, which are many and alike
_SIDE_DEARNESS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BagWeights:
    """A fitted bag.

    Attributes:
        rarity: shape (2 * buckets,), float32, weight of a bucket before normalisation (inverse document frequency).
        grams: shape (2 * buckets, 4), float32, what a bucket adds to the answers, and what it adds times the side.
        plan: shape (columns, 4), float32, the same of the columns beside the words.
        bias: shape (2,), float32.
    """

    rarity: Floats
    grams: Floats
    plan: Floats
    bias: Floats


class Bags:
    """Texts as rows of a sparse matrix: their n-grams' buckets, weighed by rarity, and the columns beside the words.

    Args:
        grams: int32, ids of all rows, one after the other.
        starts: shape (n + 1,), int64, where each row's begin.
        plan: shape (n, columns), float32, what is known beside the words, of about unit size.
        media: shape (n,), bool, whether media are attached: such a row's side is 1, that of others -1.
        counted: shape (n,), bool, rows whose n-grams are counted for rarity.
        buckets: buckets of each kind, a power of two.
        rows_min: counted rows that a bucket must occur in; others weigh nothing.
    """

    def __init__(
        self,
        grams: NDArray[np.int32],
        starts: NDArray[np.int64],
        plan: Floats,
        media: NDArray[np.bool_],
        counted: NDArray[np.bool_],
        *,
        buckets: int,
        rows_min: int = 2,
    ) -> None:
        n = len(starts) - 1
        bucket = grams % np.int32(buckets) + (grams >= KIND_IDS) * np.int32(buckets)
        row = np.repeat(np.arange(n, dtype=np.int32), np.diff(starts))
        found = np.bincount(bucket[counted[row]], minlength=2 * buckets)
        rarity = np.log((1 + counted.sum()) / (1 + found)) + 1
        self.rarity = np.where(found >= rows_min, rarity, 0).astype(np.float32)
        value = self.rarity[bucket]
        side = 2 * row + (bucket >= buckets)
        norm = np.sqrt(np.bincount(side, value.astype(np.float64) ** 2, minlength=2 * n) + _TINY)
        value /= norm[side].astype(np.float32)
        # The commonest buckets side by side: a product with the matrix then stays in the cache.
        self._picked = np.flatnonzero(found >= rows_min)
        self._picked = self._picked[np.argsort(-found[self._picked], kind="stable")]
        place = np.full(2 * buckets, -1, dtype=np.int32)
        place[self._picked] = np.arange(len(self._picked), dtype=np.int32)
        column = place[bucket]
        kept = column >= 0
        ends = np.concatenate([[0], np.cumsum(kept)])[starts]
        words = sparse.csr_matrix((value[kept], column[kept], ends), shape=(n, len(self._picked)))
        self.matrix = sparse.hstack([sparse.csr_matrix(plan), words]).tocsr()
        self.side = np.where(media, 1, -1).astype(np.float32)[:, None]
        pieces = np.concatenate([np.zeros(plan.shape[1], dtype=np.bool_), self._picked >= buckets])
        self.dearness = np.where(pieces, _PIECE_DEARNESS, 1).astype(np.float32)[:, None]
        self._plan_columns = plan.shape[1]

    def answers(self, solved: Floats, bias: Floats, rows: NDArray[Any] | slice = _ALL) -> Floats:
        """What a solution says of rows, all by default: (m, k)."""
        said: Floats = _both(self.matrix[rows] @ solved, self.side[rows]) + bias
        return said

    def weights(self, solved: Floats, bias: Floats) -> BagWeights:
        """A solution by bucket."""
        grams = np.zeros((len(self.rarity), solved.shape[1]), dtype=np.float32)
        grams[self._picked] = solved[self._plan_columns :]
        return BagWeights(rarity=self.rarity, grams=grams, plan=solved[: self._plan_columns], bias=bias)


def fit_bag(
    bags: Bags, targets: Floats, used: NDArray[np.bool_], *, penalty: Sequence[float], start: Floats | None = None
) -> tuple[Floats, Floats]:
    """Ridge regression of several targets at once, by conjugate gradients on the centred normal equations.

    Args:
        bags: n rows.
        targets: shape (n, k), float32.
        used: shape (n,), bool, rows to learn from.
        penalty: k penalties of the squared weights of words; pieces and second weights pay a multiple of it, the bias
            nothing.
        start: shape (columns, 2 k), weights to start from, as those fitted on nearly the same rows; None: zeros.

    Returns:
        Weights (columns, 2 k), the k that count times the side last, and bias (k,), float32, for `bags.answers`.

    Source: Saad, Iterative Methods for Sparse Linear Systems (SIAM, 2003), algorithm 9.1, with Jacobi's preconditioner.
    """
    ridge = np.asarray(penalty, dtype=np.float32) * bags.dearness
    ridge = np.concatenate([ridge, ridge * np.float32(_SIDE_DEARNESS)], axis=1)
    x, side = bags.matrix[used], bags.side[used]
    y = targets[used]
    back = x.T.tocsr()
    n, k = y.shape
    mean = np.repeat((back @ np.concatenate([np.ones_like(side), side], axis=1)) / np.float32(n), k, axis=1)
    level = y.mean(axis=0)
    square = np.asarray(x.multiply(x).sum(axis=0), dtype=np.float32).reshape(-1, 1)
    diagonal = square - n * mean**2 + ridge

    def told(there: Floats) -> Floats:
        product: Floats = back @ np.concatenate([there, side * there], axis=1)
        return product

    def normal(p: Floats) -> Floats:
        there = _both(x @ p, side) - _sum(mean * p)
        product: Floats = told(there) - mean * np.tile(there.sum(axis=0), 2) + ridge * p
        return product

    left = told(y - level)
    enough = _PRECISION**2 * _sum(left * left / diagonal)
    found = np.zeros_like(left)
    if start is not None:
        found += start
        left -= normal(start)
    shaped = left / diagonal
    direction, size = shaped, _sum(left * shaped)
    for _ in range(_STEPS_MAX):
        pushed = normal(direction)
        step = np.tile(size / _sum(direction * pushed), 2)
        found += step * direction
        left -= step * pushed
        shaped = left / diagonal
        last, size = size, _sum(left * shaped)
        if (size <= enough).all():
            break
        direction = shaped + np.tile(size / last, 2) * direction
    return found, (level - _sum(mean * found)).astype(np.float32)


def out_of_fold(
    bags: Bags,
    targets: Floats,
    used: NDArray[np.bool_],
    when: NDArray[np.int64],
    *,
    penalty: Sequence[float],
    folds: int,
    fitted: Callable[[int], None] = lambda _: None,
) -> Floats:
    """What bags say of rows that they were not fitted on: shape (n, k), float32.

    Rows that are used are answered by a bag of the other folds; folds follow each other in time, since neighbours in
    time are alike and a bag serves later than it was fitted. Rows that are not used are answered by one of all used.

    Args:
        bags: n rows.
        targets: shape (n, k), float32.
        used: shape (n,), bool.
        when: shape (n,), int64, time of each row.
        penalty: as `fit_bag`.
        folds: how many.
        fitted: told how many bags are fitted, of `folds` + 1.
    """
    whole, bias = fit_bag(bags, targets, used, penalty=penalty)
    answers = bags.answers(whole, bias)
    order = np.flatnonzero(used)[np.argsort(when[used], kind="stable")]
    for done, fold in enumerate(np.array_split(order, folds), start=1):
        fitted(done)
        rest = used.copy()
        rest[fold] = False
        weights, bias = fit_bag(bags, targets, rest, penalty=penalty, start=whole)
        answers[fold] = bags.answers(weights, bias, fold)
    return answers


def _both(parts: Floats, side: Floats) -> Floats:
    """What the first half of the columns says, and the second times the side: (n, 2 k) to (n, k)."""
    first, second = np.split(parts, 2, axis=1)
    said: Floats = first + side * second
    return said


def _sum(terms: Floats) -> Floats:
    """Sums over all columns and both weights: (columns, 2 k) to (k,)."""
    total: Floats = terms.sum(axis=0).reshape(2, -1).sum(axis=0)
    return total
