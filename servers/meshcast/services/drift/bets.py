"""Bets against a reference: what a window's counts are worth as evidence that rows are not those of the reference.

A bet multiplies its money, row by row, by g = 1 + stake * (score(slot) - upper), where `upper` bounds the mean of the
score under the reference's distribution. For every distribution whose mean score is at most `upper` the expectation of
g is at most 1, whatever else the distribution is and whatever came before the row (g is never negative: stakes are
small enough). So the product over rows is a test supermartingale, and its value after a window depends on the counts
of the slots alone. The bounds of all bets hold together, for all features, but for a chance of `failure` over the draw
of the reference: the null is "no further away than the reference's own sampling error".

Scores of ordered features: normal scores (location; as strong as the mean for normal values and never weaker than it,
Chernoff and Savage 1958) and their squares (spread), each up and down; the shares below seven quantiles, up and down;
the shares of 16 stretches and of both tails, up. Of categories: the share of each, up and down, and that of unseen
ones, up. Of both: the share of nulls, up and down. Each bet is run at two or three stakes.

Rows that depend on those before them are worth less. Where blocks of the reference's rows vary more than independent
rows would (`dependence`), it counts as so many rows fewer, and g is raised to a power as much smaller: for normal means
that makes good the larger variance. It is an estimate, not a guarantee, and it takes a reference in its order.

Sources: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting (JRSS B 2024); Shin, Ramdas
and Rinaldo, E-detectors: a nonparametric framework for sequential change detection (2023).
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from meshcast.services.drift.layout import Layout
from meshcast.services.drift.score_bets import kinds_of, score_bets
from meshcast.services.drift.share_bets import share_bets
from meshcast.services.drift.tally import Tally

__all__ = ["FAILURE", "Bets"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FAILURE = 0.01
"""Chance, over the draw of the reference, that any of the bounds fails."""

_FEATURES_AT_ONCE = 64  # of different kinds, whose tables are gathered for a product: 1.5 MB
_METHOD = b"bets 3"  # goes into the digest: evidence of another method is of no use


@dataclass(frozen=True, kw_only=True, eq=False)
class Bets:
    """All bets on a reference's features, ascending by feature. F features, S slots, B bets, U kinds, K columns.

    Attributes:
        rows: of the reference.
        features: number of features.
        feature: shape (B,), int64, feature of each bet.
        log_weight: shape (B,), logarithm of its share of its feature's money; the shares of a feature add up to 1.
        stake: shape (B,), per standard deviation of the score.
        upper: shape (B,), bound of the mean score, in standard deviations from the reference's mean.
        direction: shape (B,), 1 for bets on more or higher, -1 for less or lower.
        score: shape (B,), 0 for location, 1 for spread, -1 for shares.
        digest: 16 bytes, of the reference's counts and the method.
        inflation: shape (F,), rows to an independent one.
        kind: shape (F,), int64, features that were counted alike in the reference share tables; -1: no scores.
        kinds: shape (U,), int64, one feature of each kind.
        reference: shape (U, S), float64, its counts in the reference.
        tables: shape (U, S, K), as `ScoreBets.tables`, by inflation.
        scores: shape (U, S, 2), as `ScoreBets.scores`.
    """

    rows: int
    features: int
    feature: Ints
    log_weight: Floats
    stake: Floats
    upper: Floats
    direction: Floats
    score: Floats
    digest: bytes
    inflation: Floats
    kind: Ints
    kinds: Ints
    reference: Floats
    tables: Floats
    scores: Floats
    _centre: Floats  # (B,) mean of the score in the reference
    _spread: Floats  # (B,) its standard deviation
    _scored: Ints  # positions of the bets on scores
    _cell: Ints  # and where each is in (F, K)
    _shared: Ints  # positions of the bets on shares
    _from: Ints  # and where each one's hits begin in cumulated counts (F, S + 1)
    _upto: Ints
    _log_hit: Floats
    _log_miss: Floats

    @classmethod
    def of(
        cls,
        counts: Ints,
        bins: NDArray[np.integer],
        ordered: NDArray[np.bool_],
        *,
        singletons: Ints | None = None,
        others: Ints | None = None,
        inflation: Floats | None = None,
        failure: float = FAILURE,
    ) -> "Bets":
        """Bets against a reference.

        Args:
            counts: shape (F, S), int64, of the reference; slot S - 2 counts nulls, S - 1 unseen categories. Every
                feature has as many rows, at least 1.
            bins: shape (F,), value slots of each feature; slots from there to S - 3 are not used.
            ordered: shape (F,), bool, True where slots are ordered: numbers.
            singletons: shape (F,), categories that the reference has once, those without a slot of their own among
                them. Unset: those with one.
            others: shape (F,), categories without a slot of their own, which share the last value slot. Unset: none.
            inflation: shape (F,), rows to an independent one, as `inflations` has it. Unset: 1.
            failure: chance, over the draw of the reference, that any bound fails.
        """
        features, slots = counts.shape
        inflation = np.ones(features) if inflation is None else inflation
        kinds, kind = kinds_of(counts, bins, ordered, inflation)
        inflated = inflation[kinds, None]
        on_scores = score_bets(counts[kinds] / inflated, bins[kinds], features, failure)
        on_shares = share_bets(counts, bins, ordered, singletons, others, inflation, failure)
        with_scores = np.flatnonzero(kind >= 0)
        which, column = np.nonzero(on_scores.is_useful[kind[with_scores]])
        scored = with_scores[which]

        unsorted = np.concatenate([scored, on_shares.feature])
        order = np.argsort(unsorted, kind="stable")
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        feature = unsorted[order]
        facts = {
            name: np.concatenate([values[kind[scored], column], on_shares.facts[name]])[order]
            for name, values in on_scores.facts.items()
        }
        money = np.bincount(feature, weights=facts["weight"], minlength=features)
        return cls(
            rows=int(counts[0].sum()) if features else 0,
            features=features,
            feature=feature,
            log_weight=np.log(facts["weight"] / money[feature]),
            stake=facts["stake"],
            upper=facts["upper"],
            direction=facts["direction"],
            score=facts["score"],
            digest=_digest(counts, bins, ordered, singletons, others, inflation, failure),
            inflation=inflation,
            kind=kind,
            kinds=kinds,
            reference=counts[kinds].astype(np.float64),
            tables=on_scores.tables / inflated[:, :, None],
            scores=on_scores.scores,
            _centre=facts["centre"],
            _spread=facts["spread"],
            _scored=place[: len(scored)],
            _cell=scored * on_scores.tables.shape[2] + column,
            _shared=place[len(scored) :],
            _from=on_shares.feature * (slots + 1) + on_shares.start,
            _upto=on_shares.feature * (slots + 1) + on_shares.stop,
            _log_hit=on_shares.log_hit / inflation[on_shares.feature],
            _log_miss=on_shares.log_miss / inflation[on_shares.feature],
        )

    @classmethod
    def against(cls, layout: Layout, tally: Tally, *, failure: float = FAILURE) -> "Bets":
        """Bets against a reference that was counted.

        Args:
            layout: of its columns.
            tally: of its rows.
            failure: as in `of`.
        """
        return cls.of(
            tally.counts,
            layout.bins,
            layout.ordered,
            singletons=layout.singletons,
            others=layout.others,
            inflation=layout.inflation,
            failure=failure,
        )

    def log_increments(self, counts: Ints) -> Floats:
        """What a window's rows make of a unit of money on each bet; shape (B,), float64, natural logarithms.

        Args:
            counts: shape (F, S), int64, of the window.
        """
        out = np.empty(len(self.feature))
        out[self._scored] = self._by_kind(counts, self.tables).ravel()[self._cell]
        hits = self._hits(counts)
        rows = counts.sum(axis=1)[self.feature[self._shared]]
        out[self._shared] = hits * self._log_hit + (rows - hits) * self._log_miss
        return out

    def excesses(self, counts: Ints) -> Floats:
        """How far each bet's score lies beyond its bound, added up over rows, in standard deviations; shape (B,).

        Args:
            counts: shape (F, S), int64, of a window or of several.
        """
        rows = counts.sum(axis=1)[self.feature]
        sums = np.empty(len(self.feature))
        sums[self._scored] = self._by_kind(counts, self.scores).ravel()[self._score_cell]
        sums[self._shared] = self._hits(counts)
        return np.asarray(self.direction * (sums - self._centre * rows) / self._spread - self.upper * rows)

    def means(self, logs: Floats) -> Floats:
        """Logarithms of each feature's mean over its bets, weighted by money; -inf where it has none; shape (F,).

        Args:
            logs: shape (B,), float64.
        """
        worth = logs + self.log_weight
        top = self.largest(worth)
        safe = np.where(np.isfinite(top), top, 0)
        sums = np.bincount(self.feature, weights=np.exp(worth - safe[self.feature]), minlength=self.features)
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(sums) + safe)

    def largest(self, values: Floats) -> Floats:
        """Each feature's largest of values of its bets, shape (B,); -inf where it has none; shape (F,)."""
        out = np.full(self.features, -np.inf)
        if len(values):
            out[self._with_bets] = np.maximum.reduceat(values, self._begins)
        return out

    @cached_property
    def _with_bets(self) -> Ints:
        return np.unique(self.feature)

    @cached_property
    def _begins(self) -> Ints:
        return np.searchsorted(self.feature, self._with_bets)

    @cached_property
    def _score_cell(self) -> Ints:
        return (self.feature[self._scored] * 2 + self.score[self._scored]).astype(np.int64)

    def _hits(self, counts: Ints) -> Floats:
        cumulated = np.zeros((counts.shape[0], counts.shape[1] + 1), dtype=np.int64)
        np.cumsum(counts, axis=1, out=cumulated[:, 1:])
        flat = cumulated.ravel()
        return (flat[self._upto] - flat[self._from]).astype(np.float64)

    def _by_kind(self, counts: Ints, tables: Floats) -> Floats:
        """Each feature's counts times the table of its kind; shape (F, columns)."""
        real = counts.astype(np.float64)
        out = np.zeros((len(real), tables.shape[2]))
        if len(tables) == 1:
            np.matmul(real, tables[0], out=out)
            return out
        mine = np.flatnonzero(self.kind >= 0)
        for at in range(0, len(mine), _FEATURES_AT_ONCE):
            some = mine[at : at + _FEATURES_AT_ONCE]
            out[some] = np.matmul(real[some, None, :], tables[self.kind[some]])[:, 0]
        return out


def _digest(
    counts: Ints,
    bins: NDArray[np.integer],
    ordered: NDArray[np.bool_],
    singletons: Ints | None,
    others: Ints | None,
    inflation: Floats,
    failure: float,
) -> bytes:
    once, rest = (np.zeros(0) if one is None else one for one in (singletons, others))
    parts = (
        counts,
        bins.astype("<i8"),
        ordered,
        once.astype("<i8"),
        rest.astype("<i8"),
        inflation,
        np.array([failure]),
    )
    seen = hashlib.blake2b(_METHOD + repr(counts.shape).encode(), digest_size=16)
    for part in parts:
        seen.update(np.ascontiguousarray(part).tobytes())
    return seen.digest()
