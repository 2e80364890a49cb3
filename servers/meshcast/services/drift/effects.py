"""Effects: how far each feature of a window is from its reference, and single tests of whether it is, all at once."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from meshcast.services.drift.bounds import unseen_above
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.share_bets import times_met
from meshcast.services.drift.tally import Tally
from meshcast.services.drift.wasserstein import wasserstein

__all__ = ["Effects", "FeatureTest", "effects_of", "tests_of"]

Vector = NDArray[np.float64]

_CELL_MIN = 5.0  # expected rows under which chi-squared's approximation fails (Cochran 1954)
_SURE_OF_SLOT = 3.0  # standard deviations of a category's rows among the reference's
_BOUND_FAILS = 1e-6  # chance of a bound of the share of unseen categories, which is part of the p-value
_NORMAL_MIN = 25.0  # variance of a count from which on the normal distribution stands for it


class Effects(NamedTuple):
    """Effect sizes, each of shape (features,), float64; NaN where the contract leaves one unset.

    Attributes:
        kolmogorov_smirnov: largest distance of the distribution functions at the bins' edges; total variation distance
            for categories. 0 where either side has nothing but nulls.
        population_stability: index over ten groups of equal reference mass, in nats; each category is a group. An empty
            group counts as half a row.
        jensen_shannon: distance over the same groups, base 2.
        wasserstein: as `wasserstein.wasserstein`.
        wasserstein_sd: the same in standard deviations of the reference.
        mean_shift_sd: shift of the mean in those.
        spread_ratio: ratio of the standard deviations, window to reference; unset for windows of one value.
        null_share: share of nulls less that of the reference.
        unseen_share: share of rows whose category the reference does not have.
        infinite_share: share of infinite values less that of the reference.
    """

    kolmogorov_smirnov: Vector
    population_stability: Vector
    jensen_shannon: Vector
    wasserstein: Vector
    wasserstein_sd: Vector
    mean_shift_sd: Vector
    spread_ratio: Vector
    null_share: Vector
    unseen_share: Vector
    infinite_share: Vector


class FeatureTest(NamedTuple):
    """One test of all features, each of shape (features,), float64; NaN where it does not apply."""

    statistic: Vector
    p_value: Vector


def effects_of(layout: Layout, reference: Tally, window: Tally) -> Effects:
    """Effect sizes of a window.

    Args:
        layout: of both.
        reference: tally of the reference's rows, or of held-out ones.
        window: of any rows.
    """
    before, after = _shares(layout, reference), _shares(layout, window)
    distance = _ks(layout, reference, window)
    categorical = ~layout.ordered
    distance[categorical] = (np.abs(after - before).sum(axis=1) / 2)[categorical]
    distance[~_both(reference, window)] = 0.0
    spread = np.where(reference.deviations > 0, reference.deviations, np.nan)
    moved = wasserstein(layout, reference, window)
    with np.errstate(over="ignore", invalid="ignore"):  # no number where float64 cannot hold it
        in_sd = (moved / spread, (window.means - reference.means) / spread, window.deviations / spread)
    moved_sd, shift_sd, ratio = (np.where(np.isfinite(one), one, np.nan) for one in in_sd)
    return Effects(
        kolmogorov_smirnov=distance,
        population_stability=_stability(layout, reference, window, before, after),
        jensen_shannon=_jensen_shannon(before, after),
        wasserstein=moved,
        wasserstein_sd=moved_sd,
        mean_shift_sd=shift_sd,
        spread_ratio=np.where(window.moments[:, 0] > 1, ratio, np.nan),
        null_share=(_share(window.nulls, window.rows) - _share(reference.nulls, reference.rows)) * (window.rows > 0),
        unseen_share=_share(window.unseen_rows, window.rows),
        infinite_share=_share(window.infinities, window.rows) - _share(reference.infinities, reference.rows),
    )


def tests_of(layout: Layout, reference: Tally, window: Tally) -> Mapping[str, FeatureTest]:
    """Single tests of a window, by name: `kolmogorov_smirnov` and `chi_squared` (whichever fits the kind), `nulls`,
    `infinities` (numbers only), `unseen` (categories only).

    Their null is that window and reference are samples of one distribution, rows independent.
    """
    return {
        "kolmogorov_smirnov": _ks_test(layout, reference, window),
        "chi_squared": _chi_squared(layout, reference, window),
        "nulls": _share_test(reference.nulls, window.nulls, reference.rows, window.rows),
        "infinities": _share_test(reference.infinities, window.infinities, reference.rows, window.rows),
        "unseen": _unseen_test(layout, reference, window),
    }


def _valued(tally: Tally) -> NDArray[np.int64]:
    """Rows that are not null, shape (features,)."""
    return tally.rows - tally.nulls


def _both(reference: Tally, window: Tally) -> NDArray[np.bool_]:
    return (_valued(reference) > 0) & (_valued(window) > 0)


def _share(part: NDArray[np.int64], rows: int) -> Vector:
    return part / max(rows, 1)


def _grouped(layout: Layout, tally: Tally) -> Vector:
    """Rows by group, shape (features, groups), float64."""
    wide = int(layout.groups.max()) + 1
    flat = layout.groups + np.arange(len(layout))[:, None] * wide
    used = layout.groups >= 0
    rows = np.bincount(flat[used], tally.counts[used].astype(np.float64), minlength=len(layout) * wide)
    return rows.reshape(len(layout), wide).astype(np.float64, copy=False)


def _shares(layout: Layout, tally: Tally) -> Vector:
    """Shares of groups among the rows that are not null, shape (features, groups)."""
    return _grouped(layout, tally) / np.maximum(_valued(tally), 1)[:, None]


def _ks(layout: Layout, reference: Tally, window: Tally) -> Vector:
    """Largest distance of numeric features' distribution functions at the fine bins' edges, else at the bins'."""
    numeric = len(layout.cuts)
    if reference.fine is not None and window.fine is not None:
        counts = (reference.fine, window.fine)
    else:
        counts = (reference.counts[:numeric, :-2], window.counts[:numeric, :-2])
    before, after = (
        np.cumsum(one, axis=1) / np.maximum(_valued(tally)[:numeric], 1)[:, None]
        for one, tally in zip(counts, (reference, window), strict=True)
    )
    found = np.zeros(len(layout))
    found[:numeric] = np.abs(after - before).max(axis=1, initial=0.0)
    return found


def _stability(layout: Layout, reference: Tally, window: Tally, before: Vector, after: Vector) -> Vector:
    """Source: Siddiqi, Credit Risk Scorecards (Wiley, 2006)."""
    floors = (0.5 / np.maximum(_valued(reference), 1)[:, None], 0.5 / np.maximum(_valued(window), 1)[:, None])
    used = ((before > 0) | (after > 0)) & _both(reference, window)[:, None]
    p, q = np.maximum(before, floors[0]), np.maximum(after, floors[1])
    found: Vector = np.where(used, (q - p) * np.log(q / p), 0.0).sum(axis=1)
    return found


def _jensen_shannon(before: Vector, after: Vector) -> Vector:
    """Source: Lin, Divergence Measures Based on the Shannon Entropy (IEEE Trans. Inf. Theory 37, 1991); its root."""
    middle = (before + after) / 2
    both = (before.sum(axis=1) > 0) & (after.sum(axis=1) > 0)
    nats = (special.rel_entr(before, middle) + special.rel_entr(after, middle)).sum(axis=1) / 2
    return np.where(both, np.sqrt(np.clip(nats / np.log(2), 0.0, 1.0)), 0.0)


def _ks_test(layout: Layout, reference: Tally, window: Tally) -> FeatureTest:
    """P-values are too large rather than too small: the bins' edges see less than all values, and ties less still.

    Source: Stephens, Use of the Kolmogorov-Smirnov, Cramér-von Mises and Related Statistics Without Extensive Tables
    (J. R. Stat. Soc. B 32, 1970), with the two samples' effective size.
    """
    n, m = _valued(reference).astype(np.float64), _valued(window).astype(np.float64)
    applies = layout.ordered & _both(reference, window)
    distance = np.where(applies, _ks(layout, reference, window), np.nan)
    root = np.sqrt(n * m / np.maximum(n + m, 1))
    p_value = special.kolmogorov((root + 0.12 + 0.11 / np.maximum(root, 0.1)) * np.where(applies, distance, 0.0))
    one = np.take_along_axis(reference.counts, reference.counts.argmax(axis=1)[:, None], axis=1)[:, 0]
    for at in np.flatnonzero(applies & (one == _valued(reference))).tolist():
        # A constant: rows that left it are all on the window's side, of which dealing them out has this chance.
        left = m[at] - window.counts[at, reference.counts[at].argmax()]
        p_value[at] = min(1.0, 2 * min(p_value[at], (m[at] / (n[at] + m[at])) ** left))
    return FeatureTest(distance, np.where(applies, p_value, np.nan))


def _chi_squared(layout: Layout, reference: Tally, window: Tally) -> FeatureTest:
    """Homogeneity of two samples of categories; those expected less than five times are taken together.

    The reference has picked which categories have a slot: those that it happened to have often enough. So a category is
    taken alone only where its rows on both sides together would have got it a slot however they had been dealt out;
    all others, unseen ones among them, are one.
    """
    found = FeatureTest(np.full(len(layout), np.nan), np.full(len(layout), np.nan))
    asked = np.flatnonzero(~layout.ordered & _both(reference, window))
    if len(asked) == 0:
        return found
    r, w = _grouped(layout, reference)[asked], _grouped(layout, window)[asked]
    share = (w.sum(axis=1) / (r.sum(axis=1) + w.sum(axis=1)))[:, None]
    rare = (r + w) * np.minimum(share, 1 - share) < _CELL_MIN
    spread = np.sqrt((r + w) * share * (1 - share))
    rare |= (r + w) * (1 - share) - _SURE_OF_SLOT * spread < _picked_from(layout, reference)[asked, None]
    for row, at in enumerate(asked.tolist()):
        rare[row, len(layout.categories[at - len(layout.cuts)]) :] = True
    r, w = (np.column_stack([np.where(rare, 0, c), np.where(rare, c, 0).sum(axis=1)]) for c in (r, w))
    both = r + w
    odd = np.divide((w - both * share) ** 2, both * share * (1 - share), out=np.zeros_like(both), where=both > 0)
    statistic, freedom = odd.sum(axis=1), (both > 0).sum(axis=1) - 1
    found.statistic[asked] = np.where(freedom > 0, statistic, 0.0)
    found.p_value[asked] = np.where(freedom > 0, special.chdtrc(np.maximum(freedom, 1), statistic), 1.0)
    return found


def _picked_from(layout: Layout, reference: Tally) -> Vector:
    """Rows of the reference that a category needs for a slot of its own; shape (features,)."""
    found = np.ones(len(layout))
    for at, (names, rest) in enumerate(zip(layout.categories, layout.known, strict=True), len(layout.cuts)):
        if len(rest):
            found[at] = reference.counts[at, len(names) - 1]
    return found


def _share_test(
    reference: NDArray[np.int64], window: NDArray[np.int64], reference_rows: int, window_rows: int
) -> FeatureTest:
    """Equality of two shares, as of nulls, given how many there are in all; the statistic is a standard score.

    Few of them are taken to fall on window or reference independently (binomial), which is nearly exact, and a larger
    p-value than the hypergeometric distribution gives.
    """
    n, m = float(reference_rows), float(window_rows)
    a, b = reference.astype(np.float64), window.astype(np.float64)
    if n == 0 or m == 0:
        return FeatureTest(np.full(len(a), np.nan), np.full(len(a), np.nan))
    share = m / (n + m)
    turned = a + b > (n + m) / 2  # then the others are few
    t, k = np.where(turned, n + m - a - b, a + b), np.where(turned, m - b, b)
    spread = np.sqrt(t * share * (1 - share) * (n + m - t) / max(n + m - 1, 1))
    apart = k - t * share
    score = np.divide(apart, spread, out=np.zeros_like(apart), where=spread > 0)
    upper = np.where(k > 0, special.betainc(np.maximum(k, 1), t - k + 1, share), 1.0)
    lower = np.where(k < t, special.betainc(np.maximum(t - k, 1), k + 1, 1 - share), 1.0)
    exact = np.minimum(1.0, 2 * np.minimum(upper, lower))
    normal = special.erfc(np.maximum(np.abs(apart) - 0.5, 0) / np.where(spread > 0, spread, 1) / np.sqrt(2))
    return FeatureTest(np.where(turned, -score, score), np.where(spread**2 >= _NORMAL_MIN, normal, exact))


def _unseen_test(layout: Layout, reference: Tally, window: Tally) -> FeatureTest:
    """Whether unseen categories are more than what rare ones explain; the statistic is their rows.

    Where rows of both sides are dealt out at random, two things are unlikely, and the p-value is twice the smaller of
    their chances: that a category that several rows have is met in the window alone (for any of all categories), and
    that so many of the categories that one row has are the window's rather than the reference's. Where the names are
    not held, a row's chance of an unseen category is taken as its upper bound.

    Source: for the last, Good, The Population Frequencies of Species (Biometrika 40, 1953).
    """
    n, m, unseen = _valued(reference), _valued(window), window.unseen_rows.astype(np.float64)
    applies = ~layout.ordered & _both(reference, window)
    p_value = np.ones(len(layout))
    for at in np.flatnonzero(applies & (unseen > 0)).tolist():
        share, once = m[at] / (n[at] + m[at]), float(layout.singletons[at])
        names = window.unseen.get(layout.features[at].name)
        if not names:
            one = slice(at, at + 1)
            met = times_met(reference.counts[one], layout.bins[one], layout.singletons[one], layout.others[one])
            chance = unseen_above(*met, n[one].astype(np.float64), np.array([_BOUND_FAILS]))[0]
            p_value[at] = min(1.0, _BOUND_FAILS + special.betainc(unseen[at], m[at] - unseen[at] + 1, chance))
            continue
        kinds = float(layout.bins[at]) + len(layout.known[at - len(layout.cuts)]) + len(names)
        new_once = sum(rows == 1 for rows in names.values())
        alone = kinds * share ** max(names.values())
        rare = special.betainc(new_once, once + 1, share) if new_once else 1.0
        p_value[at] = min(1.0, 2 * min(alone, rare))
    return FeatureTest(np.where(applies, unseen, np.nan), np.where(applies, p_value, np.nan))
