"""Claims: what goes with a better or worse outcome, tested against chance for all comparisons of a report at once.

Each comparison is of rows that have something with rows that have it not, within strata: stretches of about 60 posts of
one channel, in the order of time. Inside of a stratum outcomes are replaced by their ranks on the normal scale, less a
straight line over time, so neither the level and spread of a channel, nor a trend, nor the shape of the outcomes'
distribution can make a claim. Chance is what remains when the outcomes change places within their strata.

Assumed is that, but for what is compared, the posts of a stratum are alike whatever their order. Outcomes of one day
may be alike: how much they are is measured, and a comparison's standard error grows with it and with how far days have
it or have it not as a whole. Posts of unknown time are taken to share days as often as the others do. Of fewer than 20
days it cannot be measured, so the days themselves are the strata, and what is the day's own goes out. Without dates,
or all on one day, posts are taken as independent.

Sources: Westfall and Young, Resampling-Based Multiple Testing (1993), for the largest of all statistics; Freedman and
Lane, A Nonstochastic Interpretation of Reported Significance Levels (J. Bus. Econ. Stat. 1, 1983), for residuals that
change places; Chung and Romano, Exact and Asymptotically Robust Permutation Tests (Ann. Stat. 41, 2013), for statistics
that carry their own standard error; Moulton, Random Group Effects and the Precision of Regression Estimates (J.
Econometrics 32, 1986), for what days add to it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshcast.runtime.calibration import mean_ranks

__all__ = ["CLUSTERS_MIN", "ROWS_MIN", "Design", "Finding", "design_of", "findings"]

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

ROWS_MIN = 10
"""Rows with a known outcome that must have something, and that must not, for a comparison."""
CLUSTERS_MIN = 20
"""Days of which outcomes must be known before it can be told how much those of one day are alike; of fewer, posts are
compared with others of their day alone."""

_STRATUM = 60
_LINE_MIN = 8  # rows of a dated stratum from which a line over time is taken out
_TOPICS_SHARE = 1 / 2  # of the error rate that claims about topics may use up
_OTHERS_SHARE = 1 / 6  # that all other claims may; the rest is kept for what changing places does not show
_PERMUTATIONS = 999
_PERMUTATIONS_MAX = 9_999
_BATCH = 25
_DRAWS = 100
_ROUNDING = 1e-5  # by which figures that are equal may differ
_REACH = 1.959964  # standard errors from the middle to an end of a 95 % interval


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Design:
    """Outcomes, made comparable.

    Attributes:
        rows: shape (m,), int64, positions of the rows that are compared, stratum by stratum.
        stratum: shape (m,), int64, ascending from 0.
        cluster: shape (m,), int64, rows of one number may depend on each other; from 0.
        place: shape (m,), float64, place in time inside of the stratum, mean 0; 0 where no line is taken out.
        score: shape (m,), float64, normal scores of the outcomes, variance 1.
        unit: what one of a score's standard deviations is in the outcome's own unit.
        by_day: whether the clusters are days; of rows of unknown time each is one of its own.
        within_days: whether rows are compared with others of their day alone.
        dated_share: share of the rows whose day is known.
    """

    rows: Ints
    stratum: Ints
    cluster: Ints
    place: Floats
    score: Floats
    unit: float
    by_day: bool
    within_days: bool
    dated_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A comparison of rows that have something with rows that have it not."""

    effect: float
    """Difference in standard deviations of the outcome within its stratum, on the normal scale."""
    lower: float
    """Lower end of its 95 % confidence interval."""
    upper: float
    """Upper end of the same."""
    rows_with: int
    """Compared rows that have it."""
    rows_without: int
    """Compared rows that have it not."""
    statistic: float
    """The effect over its standard error where there is none."""
    p_value: float
    """Probability of so large a statistic by chance."""
    p_corrected: float
    """Probability that the largest statistic of all comparisons of its kind is so large by chance, over the share of
    the error rate that the kind has: a half for topics, a sixth for all else; at most 1. The third that is left is kept
    for what changing places does not show, as outcomes that depend on each other for longer than a day."""


def design_of(outcome: Floats, channel: Ints, day: Floats | None, order: Floats | None) -> Design | None:
    """Outcomes made comparable; None where fewer than two of a stratum are known.

    Args:
        outcome: shape (n,), NaN where unknown.
        channel: shape (n,), numbers of channels.
        day: shape (n,), number of the day, NaN where unknown; None: no dates.
        order: shape (n,), time of publication, NaN where unknown; None: no dates.
    """
    from scipy.special import ndtri

    known = np.flatnonzero(np.isfinite(outcome))
    time = np.full(len(outcome), np.nan) if order is None else order
    days = np.full(len(outcome), np.nan) if day is None else day
    is_dated = np.isfinite(days) & np.isfinite(time)
    seen = len(np.unique(days[known[is_dated[known]]]))
    by_day, within_days = seen >= CLUSTERS_MIN, 2 <= seen < CLUSTERS_MIN
    if within_days and 2 * np.count_nonzero(is_dated[known]) >= len(known):
        known = known[is_dated[known]]  # the others are of these days too, and nobody knows of which
    strata: list[tuple[Ints, bool]] = []
    for number in np.unique(channel[known]).tolist():
        own = known[channel[known] == number]
        dated = own[is_dated[own]]
        dated = dated[np.argsort(time[dated], kind="stable")]
        for stretch in np.split(dated, np.flatnonzero(np.diff(days[dated])) + 1) if within_days else [dated]:
            parts = np.array_split(stretch, max(round(len(stretch) / _STRATUM), 1))
            strata += [(part, not within_days) for part in parts]  # the hour is no trend
        strata.append((own[~is_dated[own]], False))
    rows: list[Ints] = []
    stratum: list[Ints] = []
    score: list[Floats] = []
    place: list[Floats] = []
    for members, in_time in strata:
        ranks = mean_ranks(outcome[members]) - 1
        if len(members) < 2 or ranks.min() == ranks.max():
            continue
        normal: Floats = np.asarray(ndtri((ranks + 0.5) / len(members)), dtype=np.float64)
        found: Floats = normal - normal.mean()
        line: Floats = np.zeros(len(members))
        if in_time and len(members) >= _LINE_MIN:
            line = np.arange(len(members), dtype=np.float64) - (len(members) - 1) / 2
            found = found - line * (float(line @ found) / float(line @ line))
        rows.append(members)
        stratum.append(np.full(len(members), len(rows) - 1))
        score.append(found)
        place.append(line)
    if not rows:
        return None
    at, scores = np.concatenate(rows), np.concatenate(score)
    strata_of, places = np.concatenate(stratum), np.concatenate(place)
    scores /= np.sqrt(np.mean(scores**2))
    cluster = np.arange(len(at)) + len(at)
    if by_day:
        cluster[is_dated[at]] = np.unique(days[at[is_dated[at]]], return_inverse=True)[1]
    return Design(
        rows=at,
        stratum=strata_of,
        cluster=np.unique(cluster, return_inverse=True)[1].astype(np.int64),
        place=places,
        score=scores,
        unit=_unit(outcome[at], scores, strata_of),
        by_day=by_day,
        within_days=within_days,
        dated_share=float(is_dated[at].mean()),
    )


def findings(
    design: Design,
    masks: Sequence[Mask],
    is_topic: Sequence[bool],
    *,
    error_rate: float,
    seed: int,
    check: Callable[[], None],
) -> list[Finding | None]:
    """What comes of comparisons, in their order; None where too few rows have it or have it not.

    Args:
        design: of the outcomes.
        masks: of each comparison, shape (n,) over all rows, True where a row has it.
        is_topic: of each comparison, whether it is of a topic.
        error_rate: at which claims will be made; more permutations are drawn for a smaller one.
        seed: of the permutations.
        check: called between steps; raises to give up.
    """
    contrast = np.array([mask[design.rows] for mask in masks], dtype=np.float32).reshape(len(masks), len(design.rows))
    counts = contrast.sum(axis=1)
    _take_out(contrast, design)
    weight = np.einsum("jm,jm->j", contrast, contrast)
    tested = np.flatnonzero((counts >= ROWS_MIN) & (counts <= len(design.rows) - ROWS_MIN) & (weight >= ROWS_MIN / 2))
    found: list[Finding | None] = [None] * len(masks)
    if not len(tested):
        return found
    check()
    contrasts = _Contrasts(contrast[tested], design, check)
    del contrast
    statistic = contrasts.statistics(design.score[:, None].astype(np.float32))[:, 0]
    seen = np.abs(statistic) * (1 - _ROUNDING)
    count = int(np.clip(np.ceil(50 / error_rate), _PERMUTATIONS, _PERMUTATIONS_MAX))
    of_topics = np.array(is_topic, dtype=np.bool_)[tested]
    share = np.where(of_topics, _TOPICS_SHARE, _OTHERS_SHARE)
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, count, _BATCH):
        check()
        parts.append(contrasts.statistics(_shuffled(design, min(_BATCH, count - start), rng)))
    drawn = np.concatenate(parts, axis=1)
    # Rows that changed places are no longer alike by day, so they understate what a few good days do to a weekday.
    spread = np.where(contrasts.is_of_days, np.minimum(drawn.std(axis=1), 1), 1)
    drawn = np.abs(drawn) / spread[:, None]
    own = (drawn >= seen[:, None]).sum(axis=1)
    most = np.zeros(len(tested))
    for kind in (of_topics, ~of_topics):
        if kind.any():
            most[kind] = (drawn[kind].max(axis=0) >= seen[kind, None]).sum(axis=1)
    effects, lower, upper = contrasts.effects(design.score)
    for k, at in enumerate(tested.tolist()):
        found[at] = Finding(
            effect=float(effects[k]),
            lower=float(lower[k]),
            upper=float(upper[k]),
            rows_with=int(counts[at]),
            rows_without=len(design.rows) - int(counts[at]),
            statistic=float(statistic[k]),
            p_value=float((1 + own[k]) / (1 + count)),
            p_corrected=min(float((1 + most[k]) / (1 + count) / share[k]), 1.0),
        )
    return found


class _Contrasts:
    """Comparisons j of m rows, and what their errors are.

    Outcomes are taken as the sum of what is the day's own and what is the row's own. How much of each there is follows
    from two figures, the variance of the scores and the mean product of two scores of a day, which strata and lines
    over time make smaller than they were; how much smaller is seen from random numbers put through the same.

    Args:
        contrast: shape (j, m), float32, what each row counts for in each comparison; 0 in sum over any stratum.
        design: of the outcomes.
        check: called between steps; raises to give up.

    Attributes:
        is_of_days: shape (j,), True for comparisons of days rather than of rows.
    """

    def __init__(self, contrast: Singles, design: Design, check: Callable[[], None]) -> None:
        order = self._order = np.argsort(design.cluster, kind="stable")
        self._contrast = contrast[:, order]
        self._square = self._contrast**2
        self._starts = np.flatnonzero(np.diff(design.cluster[order], prepend=-1))
        self._by_day = design.by_day and len(self._starts) < len(order)  # one post a day is alike with no other
        self.is_of_days = np.zeros(len(contrast), dtype=np.bool_)
        if self._by_day:
            sums = np.add.reduceat(self._contrast, self._starts, axis=1)
            square = self._square.sum(axis=1, dtype=np.float64)
            # Where the rows of a day cancel out, days that are alike make a comparison surer; that is not relied upon.
            # Of two rows of a day, the days of both are known in a share squared of all cases.
            self._together = np.maximum((sums**2).sum(axis=1, dtype=np.float64) - square, 0) / design.dated_share**2
            self.is_of_days = self._together > square
            rng = np.random.default_rng(0)
            figures = np.zeros((2, 2))
            for _ in range(_DRAWS):
                check()
                days, own = rng.standard_normal(len(self._starts))[design.cluster], rng.standard_normal(len(order))
                part = np.stack([days, own]).astype(np.float32)
                _take_out(part, design)
                part = part[:, order].T
                figures += [np.mean(part**2, axis=0) / _DRAWS, self._alike(part) / _DRAWS]
            self._parts_of = np.linalg.inv(figures)

    def statistics(self, scores: Singles) -> Floats:
        """Each comparison's sum over its standard error, shape (j, p).

        Args:
            scores: shape (m, p), float32, p arrangements of the outcomes.
        """
        ordered = scores[self._order]
        variance = self._variance(self._square @ ordered**2, ordered)
        return np.asarray(self._contrast @ ordered / np.sqrt(np.maximum(variance, 1e-300)))

    def effects(self, score: Floats) -> tuple[Floats, Floats, Floats]:
        """Differences and the ends of their 95 % confidence intervals, each (j,)."""
        ordered = score[self._order].astype(np.float32)
        weight = self._square.sum(axis=1, dtype=np.float64)
        effect = np.asarray(self._contrast @ ordered / weight)
        alone = np.empty((len(effect), 1))
        for at, (own, square) in enumerate(zip(self._contrast, self._square, strict=True)):
            alone[at] = square @ (ordered - np.float32(effect[at]) * own) ** 2
        variance = self._variance(alone, ordered[:, None])[:, 0]
        reach = _REACH * np.sqrt(variance) / weight
        return effect, effect - reach, effect + reach

    def _variance(self, alone: Floats | Singles, ordered: Singles) -> Floats:
        """Variances of the sums, shape (j, p), from what they were if no two rows were alike."""
        if not self._by_day:
            return alone.astype(np.float64)
        figures = np.stack([np.mean(ordered**2, axis=0, dtype=np.float64), self._alike(ordered)])
        of_day, of_row = self._parts_of @ figures  # either may come out below 0 by chance, so that none is too large
        variance = (of_day + of_row) * alone + of_day * self._together[:, None]
        return np.asarray(np.maximum(variance, alone / 2))

    def _alike(self, ordered: Singles) -> Floats:
        """Sum of the products of two scores of a day over all rows, shape (p,)."""
        sums = np.add.reduceat(ordered, self._starts, axis=0)
        return np.asarray(
            ((sums**2).sum(axis=0, dtype=np.float64) - (ordered**2).sum(axis=0, dtype=np.float64)) / len(ordered)
        )


def _take_out(having: Singles, design: Design) -> None:
    """Takes the mean of its stratum, and a line over time, out of what each row counts for, shape (j, m), in place."""
    starts = np.flatnonzero(np.diff(design.stratum, prepend=-1))
    sizes = np.diff(np.append(starts, len(design.stratum)))
    place = design.place.astype(np.float32)
    square = np.maximum(np.add.reduceat(place**2, starts), 1)
    for own in having:
        own -= np.repeat(np.add.reduceat(own, starts) / sizes, sizes).astype(np.float32)
        own -= np.repeat(np.add.reduceat(own * place, starts) / square, sizes) * place


def _shuffled(design: Design, count: int, rng: np.random.Generator) -> Singles:
    """Scores that changed places within their strata, shape (m, count), float32."""
    keys = rng.random((count, len(design.stratum))) + design.stratum
    return np.asarray(design.score.astype(np.float32)[np.argsort(keys, axis=1)].T)


def _unit(outcome: Floats, score: Floats, stratum: Ints) -> float:
    """The slope of outcomes against their normal scores, which of normal outcomes is the standard deviation."""
    largest = float(np.abs(outcome).max())
    if largest == 0:
        return 0.0
    scaled = outcome / largest
    counts = np.bincount(stratum)
    centred = scaled - (np.bincount(stratum, weights=scaled) / counts)[stratum]
    return float(np.clip(largest * (float(centred @ score) / float(score @ score)), 0, np.finfo(np.float64).max))
