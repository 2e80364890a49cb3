import numpy as np
import pytest

from meshcast.observations import CategoryColumn, Observations
from meshcast.services.drift.effects import effects_of
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.severity import (
    ANCHORS,
    Level,
    certainty_of_logs,
    certainty_of_p_values,
    effect_sizes,
    level_of,
    overall,
    relative_importance,
)


def sizes(reference: Observations, window: Observations) -> list[float]:
    layout = Layout.of(reference)
    tally = layout.tally(reference)
    effects = effects_of(layout, tally, layout.tally(window))
    found = effect_sizes(effects, layout.groups.max(axis=1) + 1, layout.singletons, reference.rows, window.rows)
    return [float(size) for size in found]


def normal(rows: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Observations:
    return Observations(rows, {"x": np.random.default_rng(seed).normal(shift, scale, rows)}, {})


def test_a_tenth_of_infinite_values_is_as_bad_as_a_tenth_of_nulls() -> None:
    before, after = normal(10_000, 0), normal(10_000, 1)
    for value in (np.nan, np.inf):
        after.numeric["x"][:1_000] = value
        assert sizes(before, after) == [pytest.approx(0.5, abs=0.01)]


@pytest.mark.parametrize("rows", [300, 3_000, 100_000])
def test_the_same_shift_has_the_same_size_at_any_number_of_rows(rows: int) -> None:
    found = sizes(normal(20_000, 0), normal(rows, 1, shift=0.5))
    assert found == [pytest.approx(0.5, abs=0.02 + 1 / rows**0.5)]
    assert sizes(normal(20_000, 0), normal(rows, 1)) < [0.08]


def test_an_anchor_counts_as_a_half() -> None:
    reference = Observations(
        40_000,
        {"nulls": np.arange(40_000.0) % 100},
        {"c": CategoryColumn((np.arange(40_000) % 2).astype(np.int32), ("a", "b"))},
    )
    nulls = reference.numeric["nulls"].copy()
    nulls[:: round(1 / ANCHORS.null_share)] = np.nan
    moved = reference.categorical["c"].codes.copy()
    moved[: round(2 * ANCHORS.total_variation * 40_000)] = 0
    window = Observations(40_000, {"nulls": nulls}, {"c": CategoryColumn(moved, ("a", "b"))})
    assert sizes(reference, window) == [pytest.approx(0.5, abs=0.03), pytest.approx(0.5, abs=0.03)]


def test_a_spread_counts_by_its_ratio_and_a_wild_value_does_not() -> None:
    assert sizes(normal(20_000, 0), normal(20_000, 1, scale=1.65)) == [pytest.approx(0.5, abs=0.1)]
    wild = normal(20_000, 1)
    wild.numeric["x"][0] = 1e6
    assert sizes(normal(20_000, 0), wild) < [0.14]


def test_rare_categories_that_come_and_go_are_no_size() -> None:
    rows, names, weights = 5_000, tuple(map(str, range(1_000))), 1 / np.arange(1.0, 1_001)
    codes = np.random.default_rng(2).choice(1_000, 2 * rows, p=weights / weights.sum()).astype(np.int32)
    parts = [Observations(rows, {}, {"c": CategoryColumn(part, names)}) for part in (codes[:rows], codes[rows:])]
    assert sizes(*parts) < [0.1]
    codes[rows : rows + rows // 2] = 0
    assert sizes(*parts) > [0.3]


def test_unseen_categories_nulls_alone_and_constants_count() -> None:
    reference = Observations(
        1_000, {"constant": np.ones(1_000), "x": np.arange(1_000.0)},
        {"c": CategoryColumn(np.zeros(1_000, np.int32), ("a",))},
    )  # fmt: skip
    window = Observations(
        1_000, {"constant": np.full(1_000, 2.0), "x": np.full(1_000, np.nan)},
        {"c": CategoryColumn(np.zeros(1_000, np.int32), ("new",))},
    )  # fmt: skip
    assert min(sizes(reference, window)) > 0.8
    assert sizes(reference, window[:0]) == [0.0, 0.0, 0.0]


def test_evidence_is_full_where_drift_is_called_and_fades_below() -> None:
    found = certainty_of_p_values(np.array([1e-9, 0.01, 0.1, 1.0, np.nan]), 0.01)
    assert found.tolist() == [1.0, 1.0, pytest.approx(0.25), 0.0, 0.0]
    over_windows = certainty_of_logs(np.array([9.0, 3.0, -np.inf, -5.0]), 6.0, np.array([True, False, False, False]))
    assert over_windows[0] == 1.0 and 0 < over_windows[1] < 0.3 and over_windows[2:].tolist() == [0.0, 0.0]


def test_levels_are_cut_where_they_say() -> None:
    assert [level_of(score).name for score in (0, 0.0999, 0.1, 0.3, 0.5, 0.7, 1.0)] == [
        "NONE", "NONE", "LOW", "MODERATE", "HIGH", "CRITICAL", "CRITICAL",
    ]  # fmt: skip
    assert [int(level) for level in Level] == [1, 2, 3, 4, 5]  # the contract's numbers


def test_overall_is_the_worst_feature_that_drift_is_called_for() -> None:
    scores, first = np.array([0.6, 0.2, 0.9]), np.array([True, True, False])
    assert overall(scores, first) == 0.6
    assert overall(scores, np.zeros(3, np.bool_)) == 0.0


def test_importance_is_relative() -> None:
    assert relative_importance(np.array([2.0, 1.0, 0.0])).tolist() == [1.0, 0.5, 0.0]
    assert relative_importance(np.zeros(2)).tolist() == [0.0, 0.0]
