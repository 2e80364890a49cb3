import numpy as np
import pytest
from scipy import stats

from meshcast.observations import CategoryColumn, Observations
from meshcast.services.drift.effects import effects_of, tests_of
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.tally import Tally

tests_of.__test__ = False  # type: ignore[attr-defined]  # not a test of pytest's


def numbers(*columns: np.ndarray) -> Observations:
    return Observations(
        rows=len(columns[0]), numeric={f"x{at}": column for at, column in enumerate(columns)}, categorical={}
    )


def categories(codes: np.ndarray, names: tuple[str, ...]) -> Observations:
    column = CategoryColumn(codes.astype(np.int32), names)
    return Observations(rows=len(codes), numeric={}, categorical={"c": column})


def tallied(before: Observations, after: Observations) -> tuple[Layout, Tally, Tally]:
    layout = Layout.of(before)
    return layout, layout.tally(before), layout.tally(after)


def test_distances_of_numbers_are_those_of_their_definitions() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.standard_normal(10_000), 0.3 + 1.2 * rng.standard_normal(5_000)
    found = effects_of(*tallied(numbers(before), numbers(after)))
    assert found.kolmogorov_smirnov[0] == pytest.approx(stats.ks_2samp(before, after).statistic, abs=0.004)
    edges = np.sort(before)[np.arange(1, 10) * 1_000 - 1]
    p, q = (np.bincount(np.searchsorted(edges, x, "right")) / len(x) for x in (before, after))
    assert found.population_stability[0] == pytest.approx(float(((q - p) * np.log(q / p)).sum()), abs=1e-3)
    middle = (p + q) / 2
    nats = (p * np.log(p / middle) + q * np.log(q / middle)).sum() / 2
    assert found.jensen_shannon[0] == pytest.approx(np.sqrt(nats / np.log(2)), abs=1e-3)
    assert found.wasserstein[0] == pytest.approx(stats.wasserstein_distance(before, after), abs=0.02)
    assert found.wasserstein_sd[0] == pytest.approx(found.wasserstein[0] / before.std())
    assert found.mean_shift_sd[0] == pytest.approx((after.mean() - before.mean()) / before.std(), abs=1e-6)
    assert found.spread_ratio[0] == pytest.approx(after.std() / before.std(), abs=1e-6)
    assert found.null_share[0] == 0 and found.unseen_share[0] == 0


def test_distances_of_categories_are_those_of_their_shares() -> None:
    before = categories(np.repeat([0, 1, 2], [50, 30, 20]), ("a", "b", "c"))
    after = categories(np.repeat([0, 1, 3, -1], [20, 10, 10, 10]), ("a", "b", "c", "new"))
    found = effects_of(*tallied(before, after))
    assert found.kolmogorov_smirnov[0] == pytest.approx(0.25)  # shares .5 .3 .2 0 against .5 .25 0 .25
    p, q = np.array([0.5, 0.3, 0.2, 0.5 / 100]), np.array([0.5, 0.25, 0.5 / 40, 0.25])
    assert found.population_stability[0] == pytest.approx(float(((q - p) * np.log(q / p)).sum()))
    assert found.jensen_shannon[0] == pytest.approx(
        np.sqrt((0.3 * np.log2(0.3 / 0.275) + 0.25 * np.log2(0.25 / 0.275) + 0.2 + 0.25) / 2)
    )
    assert found.null_share[0] == pytest.approx(0.2)
    assert found.unseen_share[0] == pytest.approx(0.2)
    for unset in (found.wasserstein, found.wasserstein_sd, found.mean_shift_sd, found.spread_ratio):
        assert np.isnan(unset[0])


def test_a_window_like_its_reference_has_no_effect() -> None:
    rows = numbers(np.random.default_rng(0).standard_normal(1_000), np.zeros(1_000), np.full(1_000, np.nan))
    found = effects_of(*tallied(rows, rows))
    assert not found.kolmogorov_smirnov.any() and not found.population_stability.any()
    assert found.jensen_shannon == pytest.approx(0, abs=1e-7)
    assert found.wasserstein[1] == 0 and found.spread_ratio[0] == 1


def test_constants_leave_unset_what_is_counted_in_deviations() -> None:
    found = effects_of(*tallied(numbers(np.full(500, 0.1)), numbers(np.full(700, 0.3))))
    assert found.kolmogorov_smirnov[0] == 1 and found.jensen_shannon[0] == 1
    assert found.wasserstein[0] == pytest.approx(0.998 * 0.2, rel=1e-5)
    for unset in (found.wasserstein_sd, found.mean_shift_sd, found.spread_ratio):
        assert np.isnan(unset[0])


def test_a_move_out_of_a_constant_shows_in_either_direction() -> None:
    for value in (0.0, 0.2):
        found = effects_of(*tallied(numbers(np.full(500, 0.1)), numbers(np.full(500, value))))
        assert found.kolmogorov_smirnov[0] == 1 and found.population_stability[0] > 5


def test_nulls_alone_on_either_side_give_no_distance_but_a_share_of_nulls() -> None:
    x, void = np.arange(100.0), np.full(100, np.nan)
    for before, after, share in ((x, void, 1.0), (void, x, -1.0), (void, void, 0.0)):
        found = effects_of(*tallied(numbers(before), numbers(after)))
        assert found.kolmogorov_smirnov[0] == found.population_stability[0] == found.jensen_shannon[0] == 0
        assert np.isnan(found.wasserstein[0]) and np.isnan(found.mean_shift_sd[0])
        assert found.null_share[0] == share


def test_values_that_become_infinite_are_a_share_and_a_test_of_their_own() -> None:
    values = np.random.default_rng(0).normal(size=(2, 500))
    found = tallied(numbers(values[0]), numbers(np.r_[np.full(40, np.inf), values[1][40:]]))
    assert effects_of(*found).infinite_share[0] == pytest.approx(0.08)
    assert tests_of(*found)["infinities"].p_value[0] < 1e-9


def test_a_window_without_rows_has_no_effect_and_no_test() -> None:
    layout, reference, window = tallied(numbers(np.r_[np.nan, np.arange(50.0)]), numbers(np.empty(0)))
    found = effects_of(layout, reference, window)
    assert found.kolmogorov_smirnov[0] == found.population_stability[0] == found.null_share[0] == 0
    assert all(np.isnan(test.p_value[0]) for test in tests_of(layout, reference, window).values())


def test_a_window_of_one_row_is_measured() -> None:
    layout, reference, window = tallied(numbers(np.arange(1000.0)), numbers(np.array([2_000.0])))
    found = effects_of(layout, reference, window)
    assert found.kolmogorov_smirnov[0] == 1 and np.isnan(found.spread_ratio[0])
    assert found.wasserstein[0] == pytest.approx(1_500, rel=0.01)
    assert 0.05 < tests_of(layout, reference, window)["kolmogorov_smirnov"].p_value[0] < 0.5


def test_infinities_count_in_distances_of_ranks_and_not_in_those_of_values() -> None:
    x = np.random.default_rng(0).standard_normal(1_000)
    found = effects_of(*tallied(numbers(x), numbers(np.r_[x, np.full(1_000, np.inf)])))
    assert found.kolmogorov_smirnov[0] == pytest.approx(0.5, abs=0.01)
    assert found.wasserstein[0] == pytest.approx(0, abs=0.01)
    assert found.spread_ratio[0] == pytest.approx(1)


def test_the_test_of_numbers_is_that_of_kolmogorov_and_smirnov() -> None:
    rng = np.random.default_rng(0)
    columns = [(rng.standard_normal(5_000), rng.standard_normal(1_000) + shift) for shift in (0.0, 0.05, 0.2)]
    layout, reference, window = tallied(numbers(*(c[0] for c in columns)), numbers(*(c[1] for c in columns)))
    found = tests_of(layout, reference, window)["kolmogorov_smirnov"]
    for at, (before, after) in enumerate(columns):
        exact = stats.ks_2samp(before, after)
        assert found.statistic[at] == pytest.approx(exact.statistic, abs=0.004)
        assert np.log(found.p_value[at]) == pytest.approx(np.log(exact.pvalue), rel=0.2, abs=0.3)
    assert np.isnan(tests_of(layout, reference, window)["chi_squared"].p_value).all()
    assert np.isnan(tests_of(layout, reference, window)["unseen"].p_value).all()


def test_the_test_of_categories_is_chi_squared_with_rare_ones_together() -> None:
    before = categories(np.repeat([0, 1, 2, 3], [500, 300, 10, 5]), ("a", "b", "c", "d"))
    after = categories(np.repeat([0, 1, 2, 3], [40, 50, 2, 2]), ("a", "b", "c", "d"))
    layout, reference, window = tallied(before, after)
    found = tests_of(layout, reference, window)
    exact = stats.chi2_contingency([[500, 300, 15], [40, 50, 4]], correction=False)
    assert found["chi_squared"].statistic[0] == pytest.approx(exact.statistic)
    assert found["chi_squared"].p_value[0] == pytest.approx(exact.pvalue)
    assert np.isnan(found["kolmogorov_smirnov"].p_value[0])


def test_one_category_alone_is_no_evidence() -> None:
    rows = categories(np.zeros(100), ("a",))
    layout, reference, window = tallied(rows, rows)
    assert tests_of(layout, reference, window)["chi_squared"].p_value[0] == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [((0, 10_000), (1, 1_000)), ((0, 1_000), (5, 1_000)), ((20, 1_000), (3, 100)), ((3, 50), (0, 50))],
)
def test_few_nulls_are_tested_exactly_but_a_little_cautiously(before: tuple[int, int], after: tuple[int, int]) -> None:
    columns = [np.r_[np.full(nulls, np.nan), np.zeros(rows - nulls)] for nulls, rows in (before, after)]
    found = tests_of(*tallied(numbers(columns[0]), numbers(columns[1])))["nulls"].p_value[0]
    table = [[before[0], before[1] - before[0]], [after[0], after[1] - after[0]]]
    assert stats.fisher_exact(table).pvalue * 0.9 <= found <= 1


@pytest.mark.parametrize("turned", [False, True])
def test_many_nulls_are_tested_by_a_standard_score(turned: bool) -> None:
    before, after = np.zeros(20_000), np.zeros(10_000)
    before[:6_000], after[:3_200] = np.nan, np.nan
    if turned:
        before, after = (np.where(np.isnan(x), 0, np.nan) for x in (before, after))
    found = tests_of(*tallied(numbers(before), numbers(after)))["nulls"]
    exact = stats.chi2_contingency([[6_000, 14_000], [3_200, 6_800]], correction=False)
    assert found.statistic[0] == pytest.approx((-1) ** turned * np.sqrt(exact.statistic), rel=1e-3)
    assert found.p_value[0] == pytest.approx(exact.pvalue, rel=0.1)


def test_unseen_categories_are_odd_where_the_reference_has_none_that_are_rare() -> None:
    steady = categories(np.arange(10_000) % 3, ("a", "b", "c"))
    new = categories(np.r_[np.zeros(990), np.full(10, 3)], ("a", "b", "c", "new"))
    assert tests_of(*tallied(steady, new))["unseen"].p_value[0] < 1e-9
    names = tuple(map(str, range(6_000)))
    rare = categories(np.r_[np.zeros(5_000), np.arange(1, 5_001)], names)
    usual = categories(np.r_[np.zeros(500), np.arange(5_500, 6_000)], names)
    assert tests_of(*tallied(rare, usual))["unseen"].p_value[0] > 0.4
    assert tests_of(*tallied(steady, steady))["unseen"].p_value[0] == 1


def test_p_values_under_the_null_are_seldom_small() -> None:
    rng = np.random.default_rng(0)
    before = [np.where(rng.random(2_000) < 0.05, np.nan, rng.standard_normal(2_000)) for _ in range(400)]
    after = [np.where(rng.random(500) < 0.05, np.nan, rng.standard_normal(500)) for _ in range(400)]
    found = tests_of(*tallied(numbers(*before), numbers(*after)))
    for name in ("kolmogorov_smirnov", "nulls"):
        assert (found[name].p_value < 0.05).mean() < 0.09
        assert (found[name].p_value < 0.5).mean() > 0.25


ODD = {
    "huge": np.r_[-1.7e308, 1.7e308, 0.0],
    "tiny": np.r_[1e-310, -1e-320, 5e-324],
    "constant": np.full(3, 0.1),
    "nulls": np.full(3, np.nan),
    "infinite": np.r_[np.inf, -np.inf, np.nan],
    "far": 1e12 + np.arange(3.0),
    "usual": np.arange(3.0),
}


@pytest.mark.parametrize("first", ODD)
@pytest.mark.parametrize("second", ODD)
def test_no_values_are_too_odd_to_be_compared(first: str, second: str) -> None:
    layout, reference, window = tallied(numbers(np.tile(ODD[first], 50)), numbers(np.tile(ODD[second], 40)))
    for sketches in (window.sketches, None):
        window.sketches = sketches
        found = effects_of(layout, reference, window)
        assert not np.isinf(np.stack(found)).any()
        assert 0 <= found.kolmogorov_smirnov[0] <= 1 and 0 <= found.jensen_shannon[0] <= 1
        for test in tests_of(layout, reference, window).values():
            assert np.isnan(test.p_value[0]) or 0 <= test.p_value[0] <= 1


def test_unseen_categories_of_a_clean_window_are_called_as_seldom_as_said() -> None:
    rng = np.random.default_rng(5)
    names = tuple(map(str, range(60)))
    p_values = []
    for _ in range(300):
        codes = np.minimum(rng.geometric(0.25, 900), 60).astype(np.int32) - 1  # a long tail of rare ones
        sides = [Observations(len(part), {}, {"c": CategoryColumn(part, names)}) for part in (codes[:500], codes[500:])]
        p_values.append(tests_of(*tallied(*sides))["unseen"].p_value[0])
    assert np.mean(np.array(p_values) <= 0.05) < 0.08
    assert np.mean(np.array(p_values) <= 0.01) < 0.03


def test_unseen_categories_whose_names_are_not_held_are_called_as_seldom() -> None:
    rng = np.random.default_rng(6)
    names = tuple(map(str, range(200)))
    codes = [np.minimum(rng.geometric(0.05, 2_500), 200).astype(np.int32) - 1 for _ in range(60)]
    for part in codes:
        sides = [Observations(len(some), {}, {"c": CategoryColumn(some, names)}) for some in (part[:500], part[500:])]
        layout, reference, window = tallied(*sides)
        window.unseen = {}
        assert tests_of(layout, reference, window)["unseen"].p_value[0] > 0.005
        window.counts[0, -1] += 800
        window.rows += 800
        assert tests_of(layout, reference, window)["unseen"].p_value[0] < 1e-3


def test_a_new_category_of_a_few_rows_is_odd() -> None:
    steady = Observations(900, {}, {"c": CategoryColumn(np.arange(900, dtype=np.int32) % 4, tuple("abcd"))})
    codes = np.arange(100, dtype=np.int32) % 4
    codes[:4] = 4
    window = Observations(100, {}, {"c": CategoryColumn(codes, (*"abcd", "new"))})
    assert tests_of(*tallied(steady, window))["unseen"].p_value[0] < 0.01


def test_a_few_rows_that_left_a_constant_are_odd() -> None:
    steady, left = np.full(10_000, 3.0), np.full(1_000, 3.0)
    assert tests_of(*tallied(numbers(steady), numbers(left)))["kolmogorov_smirnov"].p_value[0] == 1
    left[:5] = 4.0
    assert tests_of(*tallied(numbers(steady), numbers(left)))["kolmogorov_smirnov"].p_value[0] < 1e-4


def test_slots_that_the_reference_picked_are_no_drift() -> None:
    rng = np.random.default_rng(7)
    names = tuple(map(str, range(1_000)))
    shares = {"zipf": 1 / np.arange(1.0, 1_001), "even": np.ones(1_000)}
    for kind, weights in shares.items():
        p_values = []
        for _ in range(40):
            codes = rng.choice(1_000, 3_000, p=weights / weights.sum()).astype(np.int32)
            parts = [
                Observations(len(one), {}, {"c": CategoryColumn(one, names)}) for one in (codes[:2_000], codes[2_000:])
            ]
            p_values.append(tests_of(*tallied(*parts))["chi_squared"].p_value[0])
        assert np.mean(np.array(p_values) <= 0.05) <= 0.15, kind
        assert min(p_values) > 1e-4, kind
