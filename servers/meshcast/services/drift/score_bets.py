"""Bets on the mean of scores of ordered features: normal scores for location, their squares for spread."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from meshcast.services.drift.bounds import upper_means

__all__ = ["LOSS_MAX", "USELESS", "ScoreBets", "kinds_of", "score_bets"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LOSS_MAX = 0.8
"""Part of a bet's money that one row can take at most."""

USELESS = 1e-9
"""A bet that no row can gain more from, per unit of stake, is not made."""

_MONEY = (0.46, 0.20)  # of a feature's, on location and on spread, half of it up and half down
# In standard deviations of the score, with their shares of the money: what gains most against a shift of d beyond the
# bound is a stake of about d.
_STAKES = {0.03: 0.15, 0.09: 0.65, 0.27: 0.20}
_SCORE_MAX = 3.5  # of slots that the reference left empty; the outermost of 250 slots have 3.0


class ScoreBets(NamedTuple):
    """Bets on scores, by kind of feature (U kinds, S slots, K columns). All float64.

    Attributes:
        tables: shape (U, S, K), logarithm of what a row in a slot makes of a unit of money.
        scores: shape (U, S, 2), location and spread, in standard deviations from the reference's mean; 0 for nulls.
        facts: by name (`weight`, `stake`, `upper`, `direction`, `score`, `centre`, `spread`), each shape (U, K).
        is_useful: shape (U, K), bool.
    """

    tables: Floats
    scores: Floats
    facts: dict[str, Floats]
    is_useful: NDArray[np.bool_]


def kinds_of(
    counts: Ints, bins: NDArray[np.integer], ordered: NDArray[np.bool_], inflation: Floats
) -> tuple[Ints, Ints]:
    """The first feature of each kind of ordered features that are treated alike, and each feature's kind.

    Returns:
        Shape (U,), positions of features; and shape (F,), -1 for features that are not ordered or have one slot.
    """
    known: dict[bytes, int] = {}
    kind = np.full(len(counts), -1, dtype=np.int64)
    firsts: list[int] = []
    for at in np.flatnonzero(ordered & (bins > 1)):
        key = counts[at].tobytes() + int(bins[at]).to_bytes(4, "little") + inflation[at].tobytes()
        if key not in known:
            known[key] = len(firsts)
            firsts.append(int(at))
        kind[at] = known[key]
    return np.array(firsts, dtype=np.int64), kind


def score_bets(counts: Floats, bins: NDArray[np.integer], features: int, failure: float) -> ScoreBets:
    """Bets on scores for each kind of feature.

    Args:
        counts: shape (U, S), float64, of the reference, in independent rows.
        bins: shape (U,), value slots.
        features: that share the chance of failure.
        failure: chance that any bound of any feature fails; bounds share it as bets share the money.
    """
    kinds, slots = counts.shape
    values = np.arange(slots) < bins[:, None]
    held = np.where(values, counts, 0.0)
    normal = np.zeros((kinds, slots))
    for at in range(kinds):
        normal[at, : bins[at]] = _normal_scores(counts[at, : bins[at]])
    scores = np.stack([_standardized(normal, held, values, counts), _standardized(normal**2, held, values, counts)], 2)
    tables, facts, useful = [], [], []
    for score, money in enumerate(_MONEY):
        for direction in (1, -1):
            signed = direction * scores[:, :, score]
            upper = (
                upper_means(signed, counts, np.full(kinds, failure / features * money / 2)) if kinds else np.zeros(0)
            )
            low, high = signed.min(axis=1, initial=0), signed.max(axis=1, initial=0)
            for wanted, share in _STAKES.items():
                stake = np.minimum(wanted, LOSS_MAX / np.maximum(upper - low, USELESS))
                tables.append(np.log1p(stake[:, None] * (signed - upper[:, None])))
                facts.append((money / 2 * share, stake, upper, direction, score, 0.0, 1.0))
                useful.append(high - upper > USELESS)
    names = ("weight", "stake", "upper", "direction", "score", "centre", "spread")
    return ScoreBets(
        np.stack(tables, axis=2),
        scores,
        {
            name: np.stack([np.broadcast_to(np.asarray(fact[at], dtype=np.float64), kinds) for fact in facts], axis=1)
            for at, name in enumerate(names)
        },
        np.stack(useful, axis=1),
    )


def _normal_scores(counts: Floats) -> Floats:
    """Mean of a normal variable in each slot, where slots cut it in the counted shares; shape (bins,)."""
    rows = counts.sum()
    if rows == 0:
        return np.zeros(len(counts))
    edges = np.clip(np.concatenate([[0.0], np.cumsum(counts)]) / rows, 0, 1)
    density = np.exp(-(ndtri(edges) ** 2) / 2) / np.sqrt(2 * np.pi)
    inner: Floats = (density[:-1] - density[1:]) * rows / np.maximum(counts, 1)
    beside = np.clip(ndtri((edges[:-1] * rows + 0.5) / (rows + 1)), -_SCORE_MAX, _SCORE_MAX)
    return np.asarray(np.where(counts > 0, inner, beside))


def _standardized(raw: Floats, held: Floats, values: NDArray[np.bool_], counts: Floats) -> Floats:
    """Scores of value slots less their mean, over their standard deviation among all rows; others are neutral."""
    mean = (held * raw).sum(axis=1, keepdims=True) / np.maximum(held.sum(axis=1, keepdims=True), 1)
    centred = np.where(values, raw - mean, 0.0)
    rows = counts.sum(axis=1, keepdims=True)
    # One more row at the extreme, so that a constant has a scale, too.
    extreme = np.abs(centred).max(axis=1, keepdims=True, initial=0)
    spread = np.sqrt((held * centred**2).sum(axis=1, keepdims=True) / rows + extreme**2 / (rows + 1))
    return np.asarray(np.divide(centred, spread, out=np.zeros_like(centred), where=spread > USELESS))
