"""A tracker's intervals hold their level through change; fans never cross, and an untouched one is the model's."""

import json
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from meshcast.services.forecaster.intervals import (
    CENTRAL,
    LEVEL_MAX,
    LEVEL_MIN,
    IntervalTracker,
    adapted,
    quantiles_at,
)
from meshcast.services.forecaster.signature import LEVELS

NORMAL = np.array([NormalDist().inv_cdf(level) for level in LEVELS], dtype=np.float32)
MEDIAN = LEVELS.index(0.5)

values = st.floats(-1e6, 1e6, width=32)
fans = st.lists(values, min_size=len(LEVELS), max_size=len(LEVELS)).map(lambda fan: np.array(sorted(fan), np.float32))


def tell(tracker: IntervalTracker, value: float, fan: NDArray[np.float32], *, day: int = 0, ahead: int = 1) -> None:
    tracker.update(np.array([day]), np.array([ahead]), np.array([value]), fan[None])


def moved(seed: int = 0, days: int = 200, scale: float = 3.0) -> IntervalTracker:
    """A tracker whose series became `scale` times as noisy as the model says."""
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), 2)
    ahead = np.tile([1, 9], days)
    tracker = IntervalTracker()
    tracker.update(day, ahead, rng.normal(0, scale, 2 * days), np.tile(NORMAL, (2 * days, 1)))
    return tracker


def test_a_new_tracker_leaves_the_models_intervals_exactly_as_they_are() -> None:
    tracker = IntervalTracker()
    assert tracker.is_neutral
    fan = np.sort(np.random.default_rng(0).normal(0, 100, (2, 30, 9)).astype(np.float32))
    assert adapted(fan, [tracker, None]) is fan
    assert (tracker.factors(30) == 1.0).all()
    assert [(one.level, one.compared, one.coverage, one.width_factor) for one in tracker.evidence()] == [
        (level, 0, None, 1.0) for level in CENTRAL
    ]


@pytest.mark.parametrize("seed", range(3))
def test_every_window_keeps_its_level_when_the_noise_triples(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tracker, inside, widths = IntervalTracker(), [], []
    for day in range(3000):
        value = rng.normal(0, 1.0 if day < 1500 else 3.0)
        answer = adapted(NORMAL[None, None], [tracker])[0, 0]
        inside.append([answer[MEDIAN - 1 - k] <= value <= answer[MEDIAN + 1 + k] for k in range(len(CENTRAL))])
        widths.append(answer[MEDIAN + 1 :] / NORMAL[MEDIAN + 1 :])
        tracker.update(np.array([day]), np.array([1]), np.array([value]), NORMAL[None], answer[None])
    sums = np.cumsum(np.vstack([np.zeros(len(CENTRAL)), inside]), axis=0)
    windows = (sums[500:] - sums[:-500]) / 500
    worst = np.abs(windows - np.array(CENTRAL)).max(axis=0)
    assert worst.max() <= 0.03, worst
    for k, evidence in enumerate(tracker.evidence()):
        assert evidence.compared == 3000
        assert evidence.coverage == pytest.approx(np.mean([one[k] for one in inside[-500:]]))
    assert np.mean(widths[500:1500], axis=0) == pytest.approx(1.0, rel=0.1)
    assert np.mean(widths[2000:], axis=0) == pytest.approx(3.0, rel=0.1)


def test_intervals_narrow_where_the_model_says_too_much() -> None:
    assert all(one.width_factor == pytest.approx(0.3, rel=0.3) for one in moved(scale=0.3, days=400).evidence())


def test_one_bad_forecast_of_many_days_counts_less_than_as_many_bad_forecasts_of_one_day() -> None:
    correlated, independent = IntervalTracker(), IntervalTracker()
    for day in range(14):
        tell(correlated, 5.0, NORMAL, day=day, ahead=day + 1)
        tell(independent, 5.0, NORMAL, day=day, ahead=1)
    factor = correlated.factors(14).mean()
    assert 1.0 < factor < independent.factors(1).mean() ** 0.5


def test_comparisons_of_one_day_move_the_state_together_whatever_their_number() -> None:
    one, many = IntervalTracker(), IntervalTracker()
    tell(one, 5.0, NORMAL, ahead=20)
    many.update(np.zeros(10, np.int64), np.arange(16, 26), np.full(10, 5.0), np.tile(NORMAL, (10, 1)))
    assert many.factors(30) == pytest.approx(one.factors(30))
    assert (many.compared, one.compared) == (10, 1)


def test_what_is_common_reaches_horizons_that_were_never_compared() -> None:
    tracker = IntervalTracker()
    for day in range(60):
        tell(tracker, 6.0 * (-1) ** day, NORMAL, day=day)
    assert tracker.factors(90)[89, 0] > 1.5


def test_updates_in_parts_are_updates_in_one() -> None:
    rng = np.random.default_rng(0)
    day, ahead = np.repeat(np.arange(100), 3), np.tile([1, 2, 40], 100)
    value, fan = rng.normal(0, 2, 300), np.tile(NORMAL, (300, 1))
    whole, parts = IntervalTracker(), IntervalTracker()
    whole.update(day, ahead, value, fan)
    for part in (slice(0, 150), slice(150, 153), slice(153, 300)):
        parts.update(day[part], ahead[part], value[part], fan[part])
    assert whole.snapshot() == parts.snapshot()


@given(st.lists(st.tuples(values, st.integers(1, 120), fans), max_size=20), st.integers(0, 700))
def test_a_snapshot_goes_through_json_and_comes_back_the_same(
    rows: list[tuple[float, int, NDArray[np.float32]]], before: int
) -> None:
    tracker = IntervalTracker()
    if before:
        tracker.update(np.arange(before), np.ones(before, np.int64), np.zeros(before), np.tile(NORMAL, (before, 1)))
    for value, ahead, fan in rows:
        tell(tracker, value, fan, ahead=ahead)
    restored = IntervalTracker.restore(json.loads(json.dumps(tracker.snapshot(), allow_nan=False)))
    assert restored.snapshot() == tracker.snapshot()
    assert restored.evidence() == tracker.evidence()
    for one in (tracker, restored):
        tell(one, 1.0, NORMAL)
    assert restored.snapshot() == tracker.snapshot()
    assert np.isfinite(tracker.factors(120)).all() and (tracker.factors(120) > 0).all()


def test_a_snapshot_of_something_else_is_refused() -> None:
    for other in ({}, {**IntervalTracker().snapshot(), "horizons": [1, 2]}, {**moved().snapshot(), "compared": 3}):
        with pytest.raises(ValueError, match="snapshot"):
            IntervalTracker.restore(other)


@given(st.lists(fans, min_size=1, max_size=6), st.integers(0, 50), st.floats(0.1, 20), st.booleans())
def test_an_adapted_fan_is_finite_ordered_and_has_the_same_median(
    rows: list[NDArray[np.float32]], seed: int, scale: float, nonnegative: bool
) -> None:
    own = np.stack(rows)[None]
    if nonnegative:
        own = np.maximum(own, 0)
    answer = adapted(own, [moved(seed, 20, scale)], np.array([nonnegative]))
    assert np.isfinite(answer).all()
    assert (np.diff(answer, axis=2) >= 0).all()
    assert (answer[:, :, MEDIAN] == own[:, :, MEDIAN]).all()
    assert not nonnegative or (answer >= 0).all()


def test_only_rows_with_a_tracker_move() -> None:
    fan = np.tile(NORMAL, (3, 5, 1))
    answer = adapted(fan, [None, moved(), IntervalTracker()])
    assert (answer[[0, 2]] == fan[[0, 2]]).all()
    assert (answer[1, :, 0] < fan[1, :, 0]).all() and (answer[1, :, -1] > fan[1, :, -1]).all()
    assert (fan == NORMAL).all()


def test_a_fan_without_width_teaches_nothing_and_breaks_nothing() -> None:
    tracker = IntervalTracker()
    for day in range(50):
        tell(tracker, float(day % 3), np.zeros(9, np.float32), day=day)
    assert tracker.is_neutral
    assert tracker.evidence()[0].compared == 50 and tracker.evidence()[0].coverage == pytest.approx(17 / 50)


def test_a_freak_value_moves_the_intervals_no_more_than_a_large_one() -> None:
    freak, large = IntervalTracker(), IntervalTracker()
    tell(freak, 1e30, NORMAL)
    tell(large, 6.0, NORMAL)
    assert freak.factors(90) == pytest.approx(large.factors(90))
    for day in range(1000):
        tell(freak, 1e30, NORMAL, day=day)
    assert freak.factors(90).max() <= 100.001


@given(fans, st.lists(st.floats(LEVEL_MIN, LEVEL_MAX), min_size=1, max_size=30))
def test_quantiles_never_cross_at_any_levels(fan: NDArray[np.float32], levels: list[float]) -> None:
    read = quantiles_at(fan, sorted([*levels, *LEVELS]))
    assert read.dtype == np.float32
    assert np.isfinite(read).all()
    assert (np.diff(read) >= 0).all()


def test_levels_of_the_grid_come_out_as_they_are() -> None:
    fan = np.sort(np.random.default_rng(0).normal(0, 1, (4, 30, 9)).astype(np.float32))
    ends = [end for level in (0.5, 0.8, 0.9, 0.95) for end in ((1 - level) / 2, (1 + level) / 2)]
    assert (quantiles_at(fan, ends) == fan[:, :, [3, 5, 2, 6, 1, 7, 0, 8]]).all()


def test_a_normal_distribution_is_met_between_the_grid_and_beyond_it() -> None:
    levels = [0.005, 0.01, 0.3, 0.42, 0.6, 0.93, 0.99, 0.995]
    expected = [NormalDist().inv_cdf(level) for level in levels]
    assert quantiles_at(NORMAL[None], levels)[0] == pytest.approx(expected, abs=1e-5)


def test_a_tail_below_zero_is_cut_where_the_series_cannot_be_negative() -> None:
    fan = np.tile(NORMAL + 2.0, (2, 3, 1))
    read = quantiles_at(fan, [0.005], np.array([True, False]))
    assert (read[0] == 0).all() and (read[1] < 0).all()
    assert (quantiles_at(fan[0], [0.005], True) == 0).all()


def test_quantiles_are_laid_out_level_after_level() -> None:
    fan = np.tile(NORMAL, (4, 30, 1))
    read = quantiles_at(fan, [0.1, 0.33, 0.9])
    assert read.shape == (4, 30, 3)
    assert np.moveaxis(read, -1, 0).flags.c_contiguous
