"""Bets against a reference: what a window's counts are worth as evidence that rows are not those of the reference.

A bet multiplies its money, row by row, by g = 1 + stake * (score(slot) - upper), where `upper` bounds the mean of the score
under the reference's distribution. For every distribution whose mean score is at most `upper` the expectation of g is at
most 1, whatever else the distribution is and whatever came before the row (g is never negative: stakes are small enough);
so the product over rows is a test supermartingale, and its value after a window depends on the counts of the slots alone.
The bounds of all bets hold together, for all features, but for a chance of `failure` over the draw of the reference: the
null is "no further away than the reference's own sampling error".

Scores of ordered features: normal scores (location; as strong as the mean for normal values and never weaker than it,
Chernoff and Savage 1958) and their squares (spread), each up and down; the shares below seven quantiles, up and down; the
shares of 16 stretches and of both tails, up. Of categories: the share of each, up and down. Of both: the share of nulls, up
and down; of categories also the share of unseen ones, up. Each bet is run at two or three stakes.

Sources: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting (JRSS B 2024); Shin, Ramdas and
Rinaldo, E-detectors (2023).
"""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from meshcast.services.drift.bounds import share_above, share_below, upper_means

__all__ = ["FAILURE", "Bets"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FAILURE = 0.01
"""Chance, over the draw of the reference, that any of the bounds fails."""

_METHOD = b"bets 1"  # goes into the digest: evidence of another method is of no use
# In standard deviations of the score; the stake that gains most against a shift of d beyond the bound is about d.
_STAKES = {0.03: 0.15, 0.09: 0.65, 0.27: 0.20}
_STAKES_SHARES = {0.09: 0.6, 0.27: 0.4}
_LOSS_MAX = 0.8  # of the money, with one row
# Money by what is bet on, by how often it is what moves; up and down share alike where there are both.
_LOCATION, _SPREAD, _CUTS, _STRETCHES, _TAILS, _NULLS = 0.46, 0.20, 0.16, 0.07, 0.04, 0.07
_CATEGORIES, _UNSEEN = 0.83, 0.10
_CUTS_AT = np.arange(1, 8) / 8
_STRETCHES_MAX = 16
_TAIL = 1 / 128
_SCORE_MAX = 3.5  # of slots that the reference left empty; the outermost of 256 slots have 3.0
_USELESS = 1e-9


class _Shares(NamedTuple):
    """Bets on the share of rows in slots start..stop-1; each shape (n,)."""

    feature: Ints
    start: Ints
    stop: Ints
    is_up: NDArray[np.bool_]
    weight: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Bets:
    """All bets on a layout's features, ascending by feature. F features, S slots, B bets, U kinds of ordered features.

    Attributes:
        rows: of the reference.
        feature: shape (B,), int64, feature of each bet.
        log_weight: shape (B,), float64, logarithm of its share of its feature's money; the shares of a feature add up to 1.
        offsets: shape (F + 1,), int64, where each feature's bets begin and end.
        stake: shape (B,), float64, per standard deviation of the score.
        upper: shape (B,), float64, bound of the mean score, in standard deviations from the reference's mean.
        direction: shape (B,), int8, 1 for bets on more or higher, -1 for less or lower.
        score: shape (B,), int8, 0 for location, 1 for spread, -1 for shares.
        digest: 16 bytes, of the reference's counts and the method.
    """

    rows: int
    feature: Ints
    log_weight: Floats
    offsets: Ints
    stake: Floats
    upper: Floats
    direction: NDArray[np.int8]
    score: NDArray[np.int8]
    digest: bytes
    _kind: Ints  # (F,) which table; -1 for features without
    _tables: Floats  # (U, S, K) log g
    _scores: Floats  # (U, S, 2) location and spread, standardized
    _scored: Ints  # positions of bets on scores
    _column: Ints  # and their column of the tables
    _shared: Ints  # positions of bets on shares
    _span: Ints  # (2, shares) flat positions in cumulated counts of their start and stop
    _log_hit: Floats
    _log_miss: Floats
    _centre: Floats  # (B,) share of the reference, of bets on shares
    _spread: Floats  # (B,) standard deviation that stake and upper are in

    @classmethod
    def of(
        cls,
        counts: Ints,
        bins: NDArray[np.integer],
        ordered: NDArray[np.bool_],
        *,
        failure: float = FAILURE,
        singletons: Ints | None = None,
    ) -> "Bets":
        """Bets against a reference.

        Args:
            counts: shape (F, S), int64, of the reference; slot S - 2 counts nulls, S - 1 unseen categories. Every feature
                has as many rows, at least 1.
            bins: shape (F,), value slots of each feature; slots from there to S - 3 are not used.
            ordered: shape (F,), bool, True where slots are ordered: numbers.
            failure: chance, over the draw of the reference, that any bound fails.
            singletons: shape (F,), categories that the reference has once, those without a slot of their own among
                them. Unset: those with one.
        """
        features, slots = counts.shape
        real = counts.astype(np.float64)
        rows = int(counts[0].sum()) if features else 0
        kinds, kind = _kinds(counts, bins, ordered)
        tables, scores, known = _score_tables(real[kinds], bins[kinds], features, failure)
        at, column = _flat_scores(kind, known)
        shares = _shares(real, bins, ordered)
        on_shares = _bet_on_shares(shares, real, _rare(counts, bins, ordered, singletons), failure)

        feature = np.concatenate([at, on_shares["feature"]]).astype(np.int64)
        order = np.argsort(feature, kind="stable")
        feature = feature[order]
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        from_scores = {name: values[kind[at], column] for name, values in known.items() if name != "is_used"}

        def joined(name: str) -> Floats:
            return np.asarray(np.concatenate([from_scores[name], on_shares[name]])[order], dtype=np.float64)

        weight = joined("weight")
        offsets = np.searchsorted(feature, np.arange(features + 1))
        total = np.bincount(feature, weights=weight, minlength=features)
        width = slots + 1
        flat = on_shares["feature"].astype(np.int64) * width
        return cls(
            rows=rows,
            feature=feature,
            log_weight=np.log(weight / total[feature]),
            offsets=offsets.astype(np.int64),
            stake=joined("stake"),
            upper=joined("upper"),
            direction=joined("direction").astype(np.int8),
            score=joined("score").astype(np.int8),
            digest=_digest(counts, bins, ordered, failure),
            _kind=kind,
            _tables=tables,
            _scores=scores,
            _scored=place[: len(at)],
            _column=at * tables.shape[2] + column,
            _shared=place[len(at) :],
            _span=np.stack([flat + on_shares["start"].astype(np.int64), flat + on_shares["stop"].astype(np.int64)]),
            _log_hit=on_shares["log_hit"],
            _log_miss=on_shares["log_miss"],
            _centre=joined("centre"),
            _spread=joined("spread"),
        )

    @property
    def features(self) -> int:
        """Number of features."""
        return len(self.offsets) - 1

    def log_increments(self, counts: Ints) -> Floats:
        """What a window's rows make of one unit of money on each bet; shape (B,), float64, natural logarithms.

        Args:
            counts: shape (F, S), int64, of the window.
        """
        out = np.zeros(len(self.feature))
        out[self._scored] = self._by_kind(counts, self._tables).ravel()[self._column]
        hits = self._hits(counts)
        misses = counts.sum(axis=1)[self.feature[self._shared]] - hits
        out[self._shared] = hits * self._log_hit + misses * self._log_miss
        return out

    def excesses(self, counts: Ints) -> Floats:
        """How far beyond its bound each bet's score lies, summed over rows, in standard deviations; shape (B,), float64.

        Args:
            counts: shape (F, S), int64, of a window or of several.
        """
        rows = counts.sum(axis=1)[self.feature]
        sums = np.zeros(len(self.feature))
        totals = self._by_kind(counts, self._scores).ravel()
        scored = self._scored
        sums[scored] = totals[self.feature[scored] * 2 + self.score[scored]]
        sums[self._shared] = self._hits(counts)
        return np.asarray(self.direction * (sums - self._centre * rows) / self._spread - self.upper * rows)

    def located(self) -> tuple[Ints, Floats, Floats]:
        """Bets on location upwards: positions (n,), their kinds' standardized scores (n, S), and log g (n, S)."""
        mask = (self.score[self._scored] == 0) & (self.direction[self._scored] == 1)
        at, column = self._scored[mask], self._column[mask] % self._tables.shape[2]
        kinds = self._kind[self.feature[at]]
        return at, self._scores[kinds, :, 0], self._tables[kinds, :, column]

    def _hits(self, counts: Ints) -> Floats:
        cumulated = np.zeros((counts.shape[0], counts.shape[1] + 1), dtype=np.int64)
        np.cumsum(counts, axis=1, out=cumulated[:, 1:])
        flat = cumulated.ravel()
        return (flat[self._span[1]] - flat[self._span[0]]).astype(np.float64)

    def _by_kind(self, counts: Ints, tables: Floats) -> Floats:
        """Each feature's counts times the table of its kind; shape (F, columns)."""
        real = counts.astype(np.float64)
        out = np.zeros((len(real), tables.shape[2]))
        if len(tables) == 1:
            np.matmul(real, tables[0], out=out)
        else:
            mine = self._kind >= 0
            out[mine] = np.matmul(real[mine, None, :], tables[self._kind[mine]])[:, 0]
        return out


def _digest(counts: Ints, bins: NDArray[np.integer], ordered: NDArray[np.bool_], failure: float) -> bytes:
    parts = (counts.astype("<i8"), bins.astype("<i8"), ordered.astype("u1"), np.array([failure], dtype="<f8"))
    seen = hashlib.blake2b(_METHOD + repr(counts.shape).encode(), digest_size=16)
    for part in parts:
        seen.update(np.ascontiguousarray(part).tobytes())
    return seen.digest()


def _kinds(counts: Ints, bins: NDArray[np.integer], ordered: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """One feature of each kind of ordered features that are counted alike, and each feature's kind."""
    first: dict[bytes, int] = {}
    kind = np.full(len(counts), -1, dtype=np.int64)
    firsts: list[int] = []
    for at in np.flatnonzero(ordered & (bins > 1)):
        key = counts[at].tobytes() + int(bins[at]).to_bytes(4, "little")
        if key not in first:
            first[key] = len(firsts)
            firsts.append(int(at))
        kind[at] = first[key]
    return np.array(firsts, dtype=np.int64), kind


def _normal_scores(counts: Floats) -> Floats:
    """Mean of a normal variable in each slot, where slots cut it in the counted shares; shape (bins,)."""
    rows = counts.sum()
    if rows == 0:
        return np.zeros(len(counts))
    edges = np.concatenate([[0.0], np.cumsum(counts)]) / rows
    density = np.exp(-(ndtri(np.clip(edges, 0, 1)) ** 2) / 2) / np.sqrt(2 * np.pi)
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = (density[:-1] - density[1:]) * rows / counts
    beside = np.clip(ndtri((edges[:-1] * rows + 0.5) / (rows + 1)), -_SCORE_MAX, _SCORE_MAX)
    return np.asarray(np.where(counts > 0, inner, beside))


def _score_tables(
    counts: Floats, bins: NDArray[np.integer], features: int, failure: float
) -> tuple[Floats, Floats, dict[str, Floats]]:
    """Log g by kind, slot and column; standardized scores by kind, slot and score; and facts of the columns by kind."""
    kinds, slots = counts.shape
    rows = counts.sum(axis=1, keepdims=True)
    scores = np.zeros((kinds, slots, 2))
    for at in range(kinds):
        scores[at, : bins[at], 0] = _normal_scores(counts[at, : bins[at]])
    scores[:, :, 1] = scores[:, :, 0] ** 2
    values = np.arange(slots) < bins[:, None]
    held = np.where(values, counts, 0.0)
    columns = [(score, direction, *stake) for score in (0, 1) for direction in (1, -1) for stake in _STAKES.items()]
    names = ("weight", "stake", "upper", "direction", "score", "centre", "spread")
    known = {name: np.zeros((kinds, len(columns))) for name in (*names, "is_used")}
    tables = np.zeros((kinds, slots, len(columns)))
    for score, money in enumerate((_LOCATION, _SPREAD)):
        raw = scores[:, :, score]
        centre = (held * raw).sum(axis=1, keepdims=True) / np.maximum(held.sum(axis=1, keepdims=True), 1)
        raw = np.where(values, raw - centre, 0.0)  # nulls are neutral: they are bet on by themselves
        extreme = np.abs(raw).max(axis=1, keepdims=True)
        spread = np.sqrt((held * raw**2 + 0.0).sum(axis=1, keepdims=True) / rows + extreme**2 / (rows + 1))
        standard = np.divide(raw, spread, out=np.zeros_like(raw), where=spread > _USELESS)
        scores[:, :, score] = standard
        for direction in (1, -1):
            signed = np.where(values, direction * standard, 0.0)
            chance = np.full(kinds, failure / features * money / 2)
            upper = upper_means(signed, counts, chance) if kinds else np.zeros(0)
            low, high = signed.min(axis=1), signed.max(axis=1)
            for at, column in enumerate(columns):
                if column[:2] != (score, direction):
                    continue
                stake = np.minimum(column[2], _LOSS_MAX / np.maximum(upper - low, _USELESS))
                tables[:, :, at] = np.log1p(stake[:, None] * (signed - upper[:, None]))
                facts = (money / 2 * column[3], stake, upper, direction, score, 0.0, 1.0)
                for name, fact in zip(names, facts, strict=True):
                    known[name][:, at] = fact
                known["is_used"][:, at] = high - upper > _USELESS
    return tables, scores, known


def _flat_scores(kind: Ints, known: dict[str, Floats]) -> tuple[Ints, Ints]:
    """Features and columns of the bets on scores that are worth having."""
    mine = np.flatnonzero(kind >= 0)
    which, column = np.nonzero(known["is_used"][kind[mine]])
    return mine[which], column


def _shares(counts: Floats, bins: NDArray[np.integer], ordered: NDArray[np.bool_]) -> _Shares:
    """The shares that are bet on, with their money."""
    slots = counts.shape[1]
    found: list[tuple[Ints, Ints, Ints, bool, float]] = []

    def bet(feature: int, start: Ints, stop: Ints, up: float, down: float = 0.0) -> None:
        for is_up, money in ((True, up), (False, down)):
            if money and len(start):
                found.append((np.full(len(start), feature), start, stop, is_up, money / len(start)))

    for at in range(len(counts)):
        null = np.array([slots - 2])
        bet(at, null, null + 1, _NULLS * 0.75, _NULLS * 0.25)
        values = int(bins[at])
        each = np.arange(values)
        if not ordered[at]:
            bet(at, each, each + 1, _CATEGORIES * 0.6, _CATEGORIES * 0.4)
            bet(at, null + 1, null + 2, _UNSEEN)
        elif values > 1:
            cumulated = np.cumsum(counts[at, :values])
            shares = cumulated / max(cumulated[-1], 1)
            cuts = np.unique(np.clip(np.searchsorted(shares, _CUTS_AT - _USELESS) + 1, 1, values - 1))
            bet(at, np.zeros_like(cuts), cuts, _CUTS / 2, _CUTS / 2)
            inner = np.searchsorted(shares, np.arange(1, _STRETCHES_MAX) / _STRETCHES_MAX - _USELESS) + 1
            edges = np.unique(np.concatenate([[0], np.clip(inner, 1, values), [values]]))
            if values <= _STRETCHES_MAX:
                edges = np.arange(values + 1)
            bet(at, edges[:-1], edges[1:], _STRETCHES)
            low = int(np.clip(np.searchsorted(shares, _TAIL, side="right"), 1, values - 1))
            high = int(np.clip(np.searchsorted(shares, 1 - _TAIL - _USELESS) + 1, 1, values - 1))
            bet(at, np.array([0, high]), np.array([low, values]), _TAILS)
    if not found:
        empty = np.zeros(0, dtype=np.int64)
        return _Shares(empty, empty, empty, empty.astype(bool), np.zeros(0))
    lengths = [len(one[0]) for one in found]
    return _Shares(
        *(np.concatenate([one[part] for one in found]).astype(np.int64) for part in range(3)),
        np.repeat([one[3] for one in found], lengths),
        np.repeat([one[4] for one in found], lengths),
    )


def _rare(
    counts: Ints, bins: NDArray[np.integer], ordered: NDArray[np.bool_], singletons: Ints | None
) -> NDArray[np.int64]:
    """Categories that the reference has once or twice; shape (F,).

    The share of rows that are unseen is estimated by those seen once, whose error has the variance of once and two times
    twice (Good 1953): seldom more than that of so many hits as are returned.
    """
    values = (np.arange(counts.shape[1]) < bins[:, None]) & ~ordered[:, None]
    once, twice = (((counts == times) & values).sum(axis=1) for times in (1, 2))
    return np.asarray((once if singletons is None else singletons) + twice)


def _bet_on_shares(shares: _Shares, counts: Floats, rare: Ints, failure: float) -> dict[str, Floats]:
    """All bets on shares that are worth having, at each stake."""
    features, slots = counts.shape
    cumulated = np.concatenate([np.zeros((features, 1)), np.cumsum(counts, axis=1)], axis=1)
    hits = cumulated[shares.feature, shares.stop] - cumulated[shares.feature, shares.start]
    rows = cumulated[shares.feature, -1]
    hits = np.where(shares.start == slots - 1, np.minimum(rare[shares.feature], rows), hits)
    chance = failure / max(features, 1) * shares.weight
    bound = np.where(shares.is_up, share_above(hits, rows, chance), share_below(hits, rows, chance))
    useful = np.where(shares.is_up, bound < 1 - _USELESS, bound > 0)
    spread = np.sqrt(np.maximum(bound * (1 - bound), 1e-18))
    direction = np.where(shares.is_up, 1.0, -1.0)
    worst = np.where(shares.is_up, bound, 1 - bound)  # what a row can lose for each unit of stake
    parts: list[dict[str, Floats]] = []
    for stake, part in _STAKES_SHARES.items():
        staked = np.minimum(stake / spread, _LOSS_MAX / worst)
        facts: dict[str, Floats] = {
            "feature": shares.feature.astype(np.float64),
            "start": shares.start.astype(np.float64),
            "stop": shares.stop.astype(np.float64),
            "weight": shares.weight * part,
            "stake": staked * spread,
            "upper": direction * (bound - hits / rows) / spread,
            "direction": direction,
            "score": np.full(len(hits), -1.0),
            "centre": hits / rows,
            "spread": spread,
            "log_hit": np.log1p(staked * direction * (1 - bound)),
            "log_miss": np.log1p(-staked * direction * bound),
        }
        parts.append({name: fact[useful] for name, fact in facts.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
