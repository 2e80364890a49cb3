"""Bets on shares of rows in stretches of slots: below quantiles, in tails, of a category, of nulls, of what is new."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.services.drift.bounds import share_above, share_below, unseen_above
from meshcast.services.drift.score_bets import LOSS_MAX, USELESS

__all__ = ["ShareBets", "share_bets", "times_met"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Shares of a feature's money by what is bet on, by how often that is what moves.
_CUTS, _STRETCHES, _TAILS, _NULLS_UP, _NULLS_DOWN = 0.16, 0.07, 0.04, 0.05, 0.02  # ordered features, beside scores
_CATEGORIES_UP, _CATEGORIES_DOWN, _UNSEEN = 0.50, 0.33, 0.10
_STAKES = {0.09: 0.6, 0.27: 0.4}  # in standard deviations of the indicator, with their shares of the money
_CUTS_AT = np.arange(1, 8) / 8
_STRETCHES_MAX = 16
_TAIL = 1 / 128
_PICKED = 2.0  # standard errors by which each category without a slot may be rarer in the reference than it is
_ROUNDS = 6  # of making a bound and its chance agree: each takes what is off to about its logarithm


class ShareBets(NamedTuple):
    """Bets on shares, each shape (n,). A row is a hit when its slot is start, .. or stop - 1.

    Attributes:
        feature: int64.
        start: int64.
        stop: int64.
        log_hit: logarithm of what a hit makes of a unit of money, float64.
        log_miss: and what another row makes of it.
        facts: by name as those of `ScoreBets`, float64.
    """

    feature: Ints
    start: Ints
    stop: Ints
    log_hit: Floats
    log_miss: Floats
    facts: dict[str, Floats]


class _Wanted(NamedTuple):
    """Shares to bet on, each shape (n,): `is_one`: of one category; `is_rest`: of those without a slot of their own."""

    feature: Ints
    start: Ints
    stop: Ints
    is_up: NDArray[np.bool_]
    weight: Floats
    is_one: NDArray[np.bool_]
    is_rest: NDArray[np.bool_]


def share_bets(
    counts: Ints,
    bins: NDArray[np.integer],
    ordered: NDArray[np.bool_],
    singletons: Ints | None,
    others: Ints | None,
    inflation: Floats,
    failure: float,
) -> ShareBets:
    """Bets on shares that are worth having, at each stake.

    Which categories the reference has, and which of them have a slot, is chance, too. Any number of categories might
    have been seen in place of those that were. So the chance that the bound below a category's share fails is in
    proportion to that bound: however many categories there are, such chances add up to no more than is allowed. A
    category that was seen once is not bet to be rarer then. Those without a slot are those that the reference happened
    to have least, less all that it happened not to have: they are bet to be more alone, and each may have been two
    standard errors more.

    Args:
        counts: shape (F, S), int64, of the reference; slot S - 2 counts nulls, S - 1 unseen categories.
        bins: shape (F,), value slots.
        ordered: shape (F,), bool.
        singletons: shape (F,), categories that the reference has once; None: those with a slot.
        others: shape (F,), categories without a slot of their own, which share the last one; None: there are none.
        inflation: shape (F,), rows of the reference to an independent one.
        failure: chance that any bound of any feature fails; bounds share it as bets share the money.
    """
    features, slots = counts.shape
    others = np.zeros(features, dtype=np.int64) if others is None else others
    wanted = _wanted(counts, bins, ordered, others)
    cumulated = np.concatenate([np.zeros((features, 1)), np.cumsum(counts, axis=1)], axis=1)
    rows = cumulated[wanted.feature, -1]
    hits = cumulated[wanted.feature, wanted.stop] - cumulated[wanted.feature, wanted.start]
    is_unseen = wanted.start == slots - 1
    its = wanted.feature[is_unseen]
    times, numbers = times_met(counts[its], bins[its], None if singletons is None else singletons[its], others[its])
    hits[is_unseen] = np.minimum((numbers * (times == 1)).sum(axis=1), rows[is_unseen])  # Good, Biometrika 40, 1953
    rows, hits = rows / inflation[wanted.feature], hits / inflation[wanted.feature]
    picked = hits + _PICKED * np.sqrt(hits * others[wanted.feature])
    may_be = np.where(wanted.is_rest, np.minimum(picked, rows), hits)
    each = failure / max(features, 1)
    chance = each * wanted.weight
    bound = np.where(wanted.is_up, share_above(may_be, rows, chance), share_below(hits, rows, chance))
    bound[is_unseen] = unseen_above(times, numbers / inflation[its, None], rows[is_unseen], chance[is_unseen])
    one = wanted.is_one & ~wanted.is_up
    for _ in range(_ROUNDS):
        bound[one] = share_below(hits[one], rows[one], each * _CATEGORIES_DOWN * np.minimum(bound, hits / rows)[one])
    direction = np.where(wanted.is_up, 1.0, -1.0)
    spread = np.sqrt(np.maximum(bound * (1 - bound), USELESS**2))
    worst = np.where(wanted.is_up, bound, 1 - bound)  # what a row can lose for each unit of stake
    useful = np.where(wanted.is_up, bound < 1 - USELESS, bound > USELESS)
    known: dict[str, list[Floats]] = {}
    for stake, part in _STAKES.items():
        staked = np.minimum(stake / spread, LOSS_MAX / np.maximum(worst, USELESS))
        facts = {
            "weight": wanted.weight * part,
            "stake": staked * spread,
            "upper": direction * (bound - hits / rows) / spread,
            "direction": direction,
            "score": np.full(len(hits), -1.0),
            "centre": hits / rows,
            "spread": spread,
            "log_hit": np.log1p(staked * direction * (1 - bound)),
            "log_miss": np.log1p(-staked * direction * bound),
        }
        for name, fact in facts.items():
            known.setdefault(name, []).append(fact[useful])
    joined = {name: np.concatenate(parts) for name, parts in known.items()}
    feature, start, stop = (np.tile(each[useful], len(_STAKES)) for each in (wanted.feature, wanted.start, wanted.stop))
    return ShareBets(feature, start, stop, joined.pop("log_hit"), joined.pop("log_miss"), joined)


def _wanted(counts: Ints, bins: NDArray[np.integer], ordered: NDArray[np.bool_], others: Ints) -> _Wanted:
    """The shares that are bet on, with their money."""
    slots = counts.shape[1]
    found: list[tuple[int, Ints, Ints, bool, float]] = []

    def bet(feature: int, start: Ints, stop: Ints, up: float, down: float = 0.0) -> None:
        found.extend((feature, start, stop, is_up, money) for is_up, money in ((True, up), (False, down)) if money)

    for at in range(len(counts)):
        null, values = np.array([slots - 2]), int(bins[at])
        bet(at, null, null + 1, _NULLS_UP, _NULLS_DOWN)
        if not ordered[at]:
            each, own = np.arange(values), np.arange(values - bool(others[at]))
            bet(at, each, each + 1, _CATEGORIES_UP)
            bet(at, own, own + 1, 0.0, _CATEGORIES_DOWN)
            bet(at, null + 1, null + 2, _UNSEEN)
        elif values > 1:
            cumulated = np.cumsum(counts[at, :values])
            shares = cumulated / max(int(cumulated[-1]), 1)
            cuts = np.unique(np.clip(np.searchsorted(shares, _CUTS_AT - USELESS) + 1, 1, values - 1))
            bet(at, np.zeros_like(cuts), cuts, _CUTS / 2, _CUTS / 2)
            inner = np.searchsorted(shares, np.arange(1, _STRETCHES_MAX) / _STRETCHES_MAX - USELESS) + 1
            ends = np.arange(values + 1) if values <= _STRETCHES_MAX else np.clip(inner, 1, values)
            edges = np.unique(np.concatenate([[0], ends, [values]]))
            bet(at, edges[:-1], edges[1:], _STRETCHES)
            low = int(np.clip(np.searchsorted(shares, _TAIL, side="right"), 1, values - 1))
            high = int(np.clip(np.searchsorted(shares, 1 - _TAIL - USELESS) + 1, 1, values - 1))
            bet(at, np.array([0, high]), np.array([low, values]), _TAILS)
    lengths = [len(start) for _, start, *_ in found]
    none = [np.zeros(0, dtype=np.int64)]
    feature = np.repeat(np.array([one[0] for one in found], dtype=np.int64), lengths)
    start = np.concatenate(none + [one[1] for one in found])
    is_category = ~ordered[feature] & (start < slots - 2)
    is_rest = is_category & (start == bins[feature] - 1) & (others[feature] > 0)
    return _Wanted(
        feature,
        start,
        np.concatenate(none + [one[2] for one in found]),
        np.repeat(np.array([one[3] for one in found], dtype=np.bool_), lengths),
        np.repeat(np.array([one[4] / max(len(one[1]), 1) for one in found], dtype=np.float64), lengths),
        is_category & ~is_rest,
        is_rest,
    )


def times_met(counts: Ints, bins: NDArray[np.integer], singletons: Ints | None, others: Ints) -> tuple[Floats, Floats]:
    """How often categories were met in the reference, and how many so often, as `unseen_above` takes them.

    Of categories without a slot of their own only those met once are known: the others may have been met twice.
    """
    own = (np.arange(counts.shape[1]) < (bins - (others > 0))[:, None]) & (counts > 0)
    once = ((counts == 1) & own).sum(axis=1)
    more = np.zeros_like(once) if singletons is None else np.maximum(singletons - once, 0)
    beside = np.stack([more, np.maximum(others - more, 0)], axis=1)
    times = np.concatenate([np.where(own, counts, 1), np.broadcast_to([1, 2], beside.shape)], axis=1)
    return times.astype(np.float64), np.concatenate([own, beside], axis=1).astype(np.float64)
