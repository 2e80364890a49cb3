"""Heads: small classifiers over embeddings, trained from a caller's examples in the serving process.

A head is a multinomial logistic regression with an L2 penalty. Its loss is convex, so that the same examples give the
same head. Its probabilities agree with what was seen; how well they agree with what comes depends on how much was seen,
and is not measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from meshcast.rpc.errors import Cancelled

__all__ = ["EXAMPLES_MAX", "LABELS_MAX", "HeadWeights", "Trained", "train"]

EXAMPLES_MAX, LABELS_MAX = 4_096, 256
"""Most examples and labels of a head, of the contract: a fit of so many takes 4.4 seconds of a core at worst, which
is with labels drawn at random."""

_STRENGTHS = (1.0, 10.0, 100.0)  # inverse penalties; embeddings have length 1, so little data asks for the first
_FOLDS = 5
_STEPS_MAX = 100
_GRADIENT_MAX, _GAIN_MIN = (
    1e-4,
    1e-6,
)  # mean log loss a unit of weight, and share of it a step: far below what folds differ by
_PROBABILITY_MIN = 1e-6  # one example that a fold is sure of must not decide which penalty is best

Floats = NDArray[np.float32]
Positions = NDArray[np.int64]
Fit = Callable[[Floats, Positions, int, float, NDArray[np.float64] | None], NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeadWeights:
    """What a head computes.

    Attributes:
        weights: shape (labels, width), float32.
        bias: shape (labels,), float32.
    """

    weights: Floats
    bias: Floats

    def probabilities(self, embeddings: Floats) -> Floats:
        """Probability of each label.

        Args:
            embeddings: shape (n, width), of length 1.

        Returns:
            Shape (n, labels), float32, each row with the sum 1.
        """
        return _softmax(_scores(embeddings, self.weights, self.bias))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A head, and how it does on examples that it did not see.

    Attributes:
        labels: ascending; the order of the weights.
        head: trained on all examples.
        examples: that it was trained on.
        accuracy: share of the examples that are right in cross-validation.
        majority: the same share when the most frequent label is always given.
        strength: inverse penalty that was chosen by the log loss in cross-validation.
    """

    labels: tuple[str, ...]
    head: HeadWeights
    examples: int
    accuracy: float
    majority: float
    strength: float


def train(
    embeddings: Floats, labels: Sequence[str], texts: Sequence[str], *, is_over: Callable[[], bool] = lambda: False
) -> Trained:
    """Trains a head. The same arguments give the same head.

    Args:
        embeddings: shape (n, width), of length 1.
        labels: of the examples, n; two different ones at least.
        texts: of the examples, n; equal ones are judged by a head that saw none of them, so two must differ.
        is_over: true once nobody waits for the head.

    Raises:
        Cancelled: `is_over`.

    Source: penalty and folds as in Hastie, Tibshirani, Friedman, The Elements of Statistical Learning (2009), 4.4 and
        7.10.
    """
    names, target = np.unique(np.asarray(labels, dtype=object), return_inverse=True)
    target = target.astype(np.int64)
    fold = _folds(texts, target)
    fit = partial(_fit, is_over)
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    held = _cross_validated(embeddings, target, len(names), fold, fit)
    right = np.arange(len(target)), target
    losses = [-float(np.log(np.maximum(found[right], _PROBABILITY_MIN)).mean()) for found in held]
    best = int(np.argmin(losses))
    weights = None
    for strength in _STRENGTHS[: best + 1]:
        weights = fit(embeddings, target, len(names), strength, weights)
    assert weights is not None
    return Trained(
        labels=tuple(str(name) for name in names),
        head=HeadWeights(weights=weights[:, :-1].astype(np.float32), bias=weights[:, -1].astype(np.float32)),
        examples=len(target),
        accuracy=float((held[best].argmax(axis=1) == target).mean()),
        majority=float(np.bincount(target).max() / len(target)),
        strength=_STRENGTHS[best],
    )


def _folds(texts: Sequence[str], target: Positions) -> Positions:
    """The fold of each example, (n,): labels are spread evenly, equal texts stay together."""
    order = np.argsort(target, kind="stable")
    fold_of: dict[str, int] = {}
    for at in order.tolist():
        fold_of.setdefault(texts[at], len(fold_of) % _FOLDS)
    return np.array([fold_of[text] for text in texts], dtype=np.int64)


def _cross_validated(embeddings: Floats, target: Positions, labels: int, fold: Positions, fit: Fit) -> list[Floats]:
    """For each strength, the probabilities (n, labels) of heads that did not see the example."""
    held = [np.empty((len(target), labels), dtype=np.float32) for _ in _STRENGTHS]
    for out in range(int(fold.max()) + 1):
        seen, unseen = np.flatnonzero(fold != out), np.flatnonzero(fold == out)
        weights = None
        for strength, found in zip(_STRENGTHS, held, strict=True):
            # The fit of a stronger penalty is near the next one's: it is where that one starts.
            weights = fit(embeddings[seen], target[seen], labels, strength, weights)
            scores = _scores(embeddings[unseen], weights[:, :-1].astype(np.float32), weights[:, -1].astype(np.float32))
            found[unseen] = _softmax(scores)
    return held


def _fit(
    is_over: Callable[[], bool],
    embeddings: Floats,
    target: Positions,
    labels: int,
    strength: float,
    start: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """Weights and, in the last column, biases, (labels, width + 1), of least penalised mean log loss."""
    from scipy.optimize import minimize  # a tenth of a second and 30 MB, which only those pay who train

    rows, width = embeddings.shape
    known = np.arange(rows), target
    penalty = 1 / (strength * rows)

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        if is_over():
            raise Cancelled("nobody waits for the head any longer")
        weights = flat.reshape(labels, width + 1)
        probabilities = _softmax(
            _scores(embeddings, weights[:, :-1].astype(np.float32), weights[:, -1].astype(np.float32))
        )
        error = -float(np.log(np.maximum(probabilities[known], np.float32(1e-30))).mean(dtype=np.float64))
        probabilities[known] -= 1
        slope = np.zeros_like(weights)
        slope[:, :-1] = probabilities.T @ embeddings
        slope[:, -1] = probabilities.sum(axis=0, dtype=np.float64)
        slope /= rows
        slope[:, :-1] += penalty * weights[:, :-1]
        return error + penalty / 2 * float((weights[:, :-1] ** 2).sum()), slope.ravel()

    first = np.zeros((labels, width + 1)) if start is None else start
    found = minimize(
        loss,
        first.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _STEPS_MAX, "gtol": _GRADIENT_MAX, "ftol": _GAIN_MIN},
    )
    fitted: NDArray[np.float64] = found.x.reshape(labels, width + 1)
    return fitted


def _scores(embeddings: Floats, weights: Floats, bias: Floats) -> Floats:
    scores: Floats = embeddings @ weights.T
    scores += bias
    return scores


def _softmax(scores: Floats) -> Floats:
    scores = scores - scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    return scores
