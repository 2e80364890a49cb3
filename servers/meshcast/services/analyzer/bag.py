"""The bag of n-grams as a convex problem: weights of hashed n-grams by ridge regression, and what they say unseen.

Both questions are learnt from a post's rank within its channel, which tells more than on which side of a line it fell:
the rank itself for being above the median, its third power, which looks at the top, for being viral.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from meshcast.services.analyzer.grams import KIND_IDS

__all__ = ["BagWeights", "Bags", "fit_bag", "out_of_fold"]

Floats = NDArray[np.float32]

_STEPS_MAX = 80
_PRECISION = 4e-3  # of the residual's norm; AUC no longer moves past it
_TINY = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BagWeights:
    """A fitted bag.

    Attributes:
        rarity: shape (2 * buckets,), float32, weight of a bucket before normalisation (inverse document frequency).
        grams: shape (2 * buckets, 2), float32, what a bucket adds to the answers.
        plan: shape (columns, 2), float32, what the columns beside the words add.
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
        counted: shape (n,), bool, rows whose n-grams are counted for rarity.
        buckets: buckets of each kind, a power of two.
        rows_min: counted rows that a bucket must occur in; others weigh nothing.
    """

    def __init__(
        self,
        grams: NDArray[np.int32],
        starts: NDArray[np.int64],
        plan: Floats,
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
        self._plan_columns = plan.shape[1]

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
        penalty: k penalties of the squared weights; the bias is free.
        start: shape (columns, k), weights to start from, as those fitted on nearly the same rows; None: zeros.

    Returns:
        Weights (columns, k) and bias (k,), float32, for rows of `bags.matrix`.

    Source: Saad, Iterative Methods for Sparse Linear Systems (SIAM, 2003), algorithm 9.1, with Jacobi's preconditioner.
    """
    ridge = np.asarray(penalty, dtype=np.float32)
    x = bags.matrix[used]
    y = targets[used]
    back = x.T.tocsr()
    n = len(y)
    mean = np.asarray(x.mean(axis=0), dtype=np.float32).reshape(-1, 1)
    level = y.mean(axis=0)
    diagonal = np.asarray(x.multiply(x).sum(axis=0), dtype=np.float32).reshape(-1, 1) - n * mean**2 + ridge

    def normal(p: Floats) -> Floats:
        there = x @ p - (mean * p).sum(axis=0)
        product: Floats = back @ there - mean * there.sum(axis=0) + ridge * p
        return product

    left: Floats = back @ (y - level)
    enough = _PRECISION**2 * (left * left / diagonal).sum(axis=0)
    found = np.zeros_like(left)
    if start is not None:
        found += start
        left -= normal(start)
    shaped = left / diagonal
    direction, size = shaped, (left * shaped).sum(axis=0)
    for _ in range(_STEPS_MAX):
        pushed = normal(direction)
        step = size / (direction * pushed).sum(axis=0)
        found += step * direction
        left -= step * pushed
        shaped = left / diagonal
        last, size = size, (left * shaped).sum(axis=0)
        if (size <= enough).all():
            break
        direction = shaped + (size / last) * direction
    return found, (level - (mean * found).sum(axis=0)).astype(np.float32)


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
    answers: Floats = bags.matrix @ whole + bias
    order = np.flatnonzero(used)[np.argsort(when[used], kind="stable")]
    for done, fold in enumerate(np.array_split(order, folds), start=1):
        fitted(done)
        rest = used.copy()
        rest[fold] = False
        weights, bias = fit_bag(bags, targets, rest, penalty=penalty, start=whole)
        answers[fold] = bags.matrix[fold] @ weights + bias
    return answers
