import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from meshcast.observations import CategoryColumn, Observations
from meshcast.services.drift.shares import shares_of


def labels(reference: int, window: int) -> NDArray[np.float32]:
    return (np.arange(reference + window) >= reference).astype(np.float32)[None]


def test_distances_of_numbers_come_near_kolmogorov_and_smirnov() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=300).astype(np.float32), rng.normal(0.5, 1, 200).astype(np.float32)
    shares = shares_of(Observations(500, {"x": np.concatenate([x, y])}, {}), ["x"])
    found = shares.distances(shares.differences(labels(300, 200), 200))
    exact = ks_2samp(x, y).statistic
    assert exact - 0.04 < found[0, 0] <= exact + 1e-6


def test_few_values_and_heavy_ones_are_told_exactly() -> None:
    x = np.r_[np.zeros(90), np.full(10, 5.0), np.zeros(50), np.full(40, 5.0), np.full(10, -1.0)]
    shares = shares_of(Observations(200, {"x": x}, {}), ["x"])
    assert shares.matrix.shape[1] == 2
    assert shares.distances(shares.differences(labels(100, 100), 100))[0, 0] == pytest.approx(0.3)


def test_categories_are_compared_by_total_variation_nulls_among_them() -> None:
    codes = np.r_[np.zeros(50), np.ones(50), np.zeros(50), np.full(30, 2), np.full(20, -1)].astype(np.int32)
    pooled = Observations(200, {"x": np.arange(200.0)}, {"c": CategoryColumn(codes, ("a", "b", "new"))})
    shares = shares_of(pooled, ["x", "c"])
    assert shares.is_ordered.tolist() == [True, False]
    assert shares.distances(shares.differences(labels(100, 100), 100))[0] == pytest.approx([0.94, 0.5], abs=1e-6)


def test_nulls_are_a_share_of_their_own() -> None:
    x = np.r_[np.ones(100), np.full(25, np.nan), np.ones(75)]
    shares = shares_of(Observations(200, {"x": x}, {}), ["x"])
    assert shares.differences(labels(100, 100), 100)[0] == pytest.approx([0.25])


def test_columns_that_never_change_have_no_shares() -> None:
    pooled = Observations(
        4,
        {"constant": np.ones(4), "null": np.full(4, np.nan, np.float32)},
        {"one": CategoryColumn(np.zeros(4, np.int32), ("a",)), "none": CategoryColumn(np.full(4, -1, np.int32), ())},
    )
    assert shares_of(pooled, ["constant", "null", "one", "none"]).matrix.shape == (4, 0)


def test_many_categories_share_one_place() -> None:
    names = tuple(f"c{i}" for i in range(1_000))
    column = CategoryColumn(np.arange(1_000, dtype=np.int32), names)
    assert shares_of(Observations(1_000, {}, {"c": column}), ["c"]).matrix.shape == (1_000, 32)


def test_thousands_of_columns_have_fewer_cuts_each() -> None:
    rng = np.random.default_rng(0)
    pooled = Observations(50, {f"x{i}": rng.normal(size=50) for i in range(3)}, {})
    assert shares_of(pooled, list(pooled.numeric)).matrix.shape[1] == 48
    assert shares_of(pooled, list(pooled.numeric), features=10_000).matrix.shape[1] == 12
