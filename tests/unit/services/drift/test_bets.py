"""Bets lose on average whatever a bounded distribution looks like, and gain where the bounded score has moved."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import beta, binom

from meshcast.observations import CategoryColumn, Observations
from meshcast.services.drift.bets import Bets
from meshcast.services.drift.bounds import share_above, share_below, unseen_above, upper_means
from meshcast.services.drift.layout import Layout

Ints = NDArray[np.int64]

SLOTS = 12
YES, NO = np.array([True]), np.array([False])


def counts_of(*values: int, nulls: int = 0, unseen: int = 0) -> Ints:
    """One feature's counts; shape (1, SLOTS)."""
    counts = np.zeros((1, SLOTS), dtype=np.int64)
    counts[0, : len(values)] = values
    counts[0, -2:] = nulls, unseen
    return counts


def ordered(*values: int, nulls: int = 0) -> Bets:
    return Bets.of(counts_of(*values, nulls=nulls), np.array([len(values)]), YES)


def categories(*values: int, nulls: int = 0, singletons: int | None = None) -> Bets:
    once = None if singletons is None else np.array([singletons])
    return Bets.of(counts_of(*values, nulls=nulls), np.array([len(values)]), NO, singletons=once)


def expectations(bets: Bets, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """What one row makes of a unit of money on each bet on average."""
    each = [np.exp(bets.log_increments(row[None])) for row in np.eye(SLOTS, dtype=np.int64)]
    return np.asarray(shares @ np.array(each))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=2, max_size=10).filter(lambda v: sum(v) > 1), st.integers(0, 50))
def test_under_the_counted_shares_no_bet_gains(values: list[int], nulls: int) -> None:
    for bets in (ordered(*values, nulls=nulls), categories(*values, nulls=nulls)):
        shares = counts_of(*values, nulls=nulls)[0] / (sum(values) + nulls)
        assert (expectations(bets, shares) <= 1 + 1e-12).all()
        assert np.exp(bets.log_weight).sum() == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_a_bet_gains_on_average_only_past_its_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bets = ordered(*rng.multinomial(1_000, [0.1] * 10))
    for shares in rng.dirichlet(np.full(SLOTS - 1, 50.0), 20):
        shares = np.append(shares, 0.0)
        beyond = np.array([bets.excesses(row[None]) for row in np.eye(SLOTS, dtype=np.int64)])
        gains = expectations(bets, shares) - 1
        assert np.allclose(gains, bets.stake * (shares @ beyond), atol=1e-9)


def test_one_row_costs_no_more_than_four_fifths_of_the_money() -> None:
    for bets in (ordered(1, 1), ordered(9_999, 1), ordered(0, 500, 0), categories(3, 2, 1), categories(9_000, 1)):
        each = np.array([bets.log_increments(row[None]) for row in np.eye(SLOTS, dtype=np.int64)])
        assert each.min() >= np.log(0.2) - 1e-9


@pytest.mark.parametrize(
    ("bets", "window"),
    [
        (ordered(*[1_000] * 10), counts_of(*range(50, 150, 10))),
        (ordered(*[1_000] * 10), counts_of(*range(140, 40, -10))),
        (ordered(*[1_000] * 10), counts_of(150, 130, 80, 60, 60, 60, 80, 90, 130, 150)),
        (ordered(*[1_000] * 10), counts_of(100, 100, 100, 90, 300, 80, 100, 100, 100, 100)),
        (ordered(*[1_000] * 10), counts_of(*[95] * 10, nulls=50)),
        (ordered(*[600] * 10, nulls=4_000), counts_of(*[75] * 10, nulls=250)),
        (ordered(9_000, 1_000), counts_of(800, 200)),
        (ordered(0, 10_000, 0), counts_of(0, 980, 20)),
        (ordered(0, 0, nulls=10_000), counts_of(0, 30, nulls=970)),
        (categories(5_000, 3_000, 2_000), counts_of(400, 350, 250)),
        (categories(5_000, 3_000, 2_000), counts_of(500, 300, 180, unseen=20)),
        (categories(5_000, 3_000, 2_000), counts_of(500, 300, 180, nulls=20)),
    ],
    ids="up down spread stretch nulls fewer_nulls two_values constant all_null share unseen null_category".split(),
)
def test_what_has_moved_pays(bets: Bets, window: Ints) -> None:
    assert bets.means(bets.log_increments(window))[0] > np.log(100)


def test_a_window_like_the_reference_costs_money() -> None:
    assert ordered(*[1_000] * 10).means(ordered(*[1_000] * 10).log_increments(counts_of(*[100] * 10)))[0] < 0


def test_nulls_do_not_speak_for_or_against_a_place_of_the_values() -> None:
    bets = ordered(*[1_000] * 10)
    on_scores = bets.score >= 0
    assert (bets.log_increments(counts_of(nulls=500))[on_scores] < 0).all()
    assert not bets.scores[0, -2:].any()


def test_unseen_categories_are_no_news_where_most_were_seen_once() -> None:
    few, many = categories(4_000, 3_000, 2_000), categories(4_000, 3_000, 2_000, singletons=3_000)
    window = counts_of(450, 300, 200, unseen=50)
    assert few.log_increments(window).max() > 50 > many.log_increments(window).max()


def test_counts_of_a_million_rows_stay_finite() -> None:
    for bets in (ordered(1, 1), ordered(*[10**8] * 10), categories(10**8, 1)):
        for row in np.eye(SLOTS, dtype=np.int64)[:, None] * 10**6:
            assert np.isfinite(bets.log_increments(row)).all() and np.isfinite(bets.excesses(row)).all()


def test_a_reference_of_one_or_two_rows_never_calls_a_window() -> None:
    for bets in (ordered(1, 0), ordered(1, 1), categories(1), categories(1, 1)):
        for window in (counts_of(500, 500), counts_of(1_000), counts_of(0, 1_000), counts_of(nulls=10)):
            assert bets.means(bets.log_increments(window))[0] < np.log(20)


def test_features_that_were_counted_alike_share_tables_and_others_do_not_mix() -> None:
    reference = np.concatenate([counts_of(*[100] * 10), counts_of(*[100] * 10), counts_of(*range(55, 155, 10))])
    bets = Bets.of(reference, np.full(3, 10), np.ones(3, dtype=np.bool_))
    assert len(bets.tables) == 2 and bets.kind.tolist() == [0, 0, 1]
    windows = np.concatenate([counts_of(*[10] * 10), counts_of(*range(10)), counts_of(*range(10))])
    single = [Bets.of(one[None], np.array([10]), YES, failure=0.01 / 3) for one in reference]
    apart = np.concatenate([one.log_increments(row[None]) for one, row in zip(single, windows, strict=True)])
    assert np.allclose(bets.log_increments(windows), apart)


def test_the_digest_tells_references_apart() -> None:
    assert ordered(5, 6).digest != ordered(6, 5).digest != categories(6, 5).digest
    assert ordered(5, 6).digest == ordered(5, 6).digest
    assert categories(6, 5).digest != categories(6, 5, singletons=2).digest


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(1, 40), st.floats(1e-6, 0.2))
def test_bounds_of_shares_are_exact(hits: int, misses: int, failure: float) -> None:
    rows = hits + misses
    upper = share_above(np.array([hits * 1.0]), np.array([rows * 1.0]), np.array([failure]))[0]
    lower = share_below(np.array([hits * 1.0]), np.array([rows * 1.0]), np.array([failure]))[0]
    assert lower <= hits / rows <= upper
    assert binom.cdf(hits, rows, upper) == pytest.approx(failure, rel=1e-6)
    assert (lower == 0) == (hits == 0)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("power", [1, 2])
def test_bounds_of_means_fail_as_often_as_they_may(sign: int, power: int) -> None:
    rng = np.random.default_rng(0)
    scores, counts = sign * np.linspace(-2, 2, 20) ** power, np.full(20, 10.0)
    bound = upper_means(scores[None], counts[None], np.array([0.02]))[0]
    assert np.mean(rng.dirichlet(counts, 20_000) @ scores > bound) < 0.02 + 0.003


def test_bounds_of_indicators_agree_with_those_of_shares() -> None:
    scores, counts = np.array([[0.0, 1.0]]), np.array([[970.0, 30.0]])
    assert upper_means(scores, counts, np.array([1e-4]))[0] == pytest.approx(beta.isf(1e-4, 31, 970), rel=0.01)


@pytest.mark.parametrize("weights", [np.ones(300), 1 / np.arange(1.0, 3_001)], ids=["even", "zipf"])
@pytest.mark.parametrize("rows", [4, 1_000])
def test_categories_that_the_reference_happened_to_have_are_nothing_to_win_from(
    weights: NDArray[np.float64], rows: int
) -> None:
    rng = np.random.default_rng(3)
    names, shares = tuple(map(str, range(len(weights)))), weights / weights.sum()
    for _ in range(10):
        codes = rng.choice(len(weights), rows, p=shares).astype(np.int32)
        reference = Observations(rows, {}, {"c": CategoryColumn(codes, names)})
        layout = Layout.of(reference)
        bets = Bets.of(
            layout.tally(reference).counts, layout.bins, NO, singletons=layout.singletons, others=layout.others
        )
        own, seen = [int(name) for name in layout.categories[0]], np.unique(codes)
        truth = np.zeros(layout.slots)
        truth[: len(own)] = shares[own]
        truth[layout.bins[0] - 1] += shares[np.setdiff1d(seen, own)].sum()
        truth[-1] = 1 - shares[seen].sum()
        assert max(truth @ np.exp([bets.log_increments(row[None]) for row in np.eye(layout.slots, dtype=int)])) <= 1


@pytest.mark.parametrize("weights", [np.ones(20), np.ones(200), 1 / np.arange(1.0, 201)], ids=["20", "200", "zipf"])
def test_the_share_of_what_was_not_met_is_seldom_above_its_bound(weights: NDArray[np.float64]) -> None:
    shares, failure = weights / weights.sum(), 0.002
    for rows in (30, 300):
        met = np.random.default_rng(4).multinomial(rows, shares, 4_000)
        each = np.full(len(met), float(rows)), np.full(len(met), failure)
        bound = unseen_above(np.maximum(met, 1.0), (met > 0).astype(np.float64), *each)
        assert (((met == 0) @ shares) > bound).mean() <= failure
        assert (bound >= 0).all() and (bound <= 1).all()
    few = unseen_above(np.full((1, 4), 2_500.0), np.ones((1, 4)), np.array([1e4]), np.array([1e-5]))
    assert 1.1e-3 < few[0] < 1.6e-3
