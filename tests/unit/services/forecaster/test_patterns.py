"""Growth patterns: planted truth comes back, units scale through, and no series is too odd."""

from dataclasses import fields, is_dataclass
from itertools import pairwise
from math import isfinite

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from meshcast.rpc.errors import InvalidInput
from meshcast.services.forecaster import patterns
from meshcast.services.forecaster.seasons import weekdays

Floats = NDArray[np.float64]

FIRST = 17_000  # 2016-07-18, a Monday
WEEK = np.array([1.0, 1.1, 1.2, 1.1, 1.0, 0.6, 0.5])


def days(n: int) -> NDArray[np.int64]:
    return np.arange(FIRST, FIRST + n)


def numbers(answer: object) -> list[float]:
    """All floats of an answer, in order."""
    if is_dataclass(answer):
        return [number for field in fields(answer) for number in numbers(getattr(answer, field.name))]
    if isinstance(answer, tuple):
        return [number for part in answer for number in numbers(part)]
    return [answer] if isinstance(answer, float) else []


def sales(rng: np.random.Generator, n: int, growth: float) -> Floats:
    """Daily counts with a week, growth a day, and noise of a tenth."""
    logs = 5 + growth * np.arange(n) + np.log(WEEK)[weekdays(days(n))] + 0.1 * rng.standard_normal(n)
    return np.asarray(np.exp(logs))


def test_a_growing_business_is_read_right() -> None:
    rng = np.random.default_rng(1)
    value = sales(rng, 180, 0.01)
    value[70] *= 5
    answer = patterns.analyze(days(180), value, nonnegative=True)
    assert answer.multiplicative
    assert answer.trend.direction == "growing"
    assert answer.trend.growth_weekly == pytest.approx(np.expm1(0.07), abs=0.01)
    assert answer.trend.slope_lower < answer.trend.slope < answer.trend.slope_upper
    assert answer.trend.strength > 0.9
    assert answer.weekly is not None and answer.weekly.present
    assert answer.weekly.effects == pytest.approx(tuple(WEEK / np.exp(np.log(WEEK).mean())), rel=0.1)
    assert answer.yearly is None
    assert any("two years" in note for note in answer.notes)
    assert FIRST + 70 in [odd.day for odd in answer.anomalies]
    odd = next(odd for odd in answer.anomalies if odd.day == FIRST + 70)
    assert odd.score > 5
    assert odd.expected == pytest.approx(odd.value / 5, rel=0.3)


def test_a_step_is_a_change_point_between_two_flat_phases() -> None:
    rng = np.random.default_rng(2)
    value = 100 + 50 * (np.arange(200) >= 120) + 5 * rng.standard_normal(200)
    answer = patterns.analyze(days(200), value, nonnegative=False)
    (point,) = answer.change_points
    assert point.day == pytest.approx(FIRST + 120, abs=2)
    assert point.kind == "level"
    assert (point.level_before, point.level_after) == pytest.approx((100, 150), abs=2)
    assert point.relative_change == pytest.approx(0.5, abs=0.03)
    assert point.strength == pytest.approx(10, rel=0.2)
    assert point.p_value < 0.001
    assert [phase.trend.direction for phase in answer.phases] == ["flat", "flat"]
    assert answer.recent_trend == answer.phases[-1].trend


def test_a_start_of_growth_is_a_bend_between_a_flat_and_a_growing_phase() -> None:
    rng = np.random.default_rng(3)
    value = 100 + np.maximum(0, np.arange(240) - 120) * 0.5 + 3 * rng.standard_normal(240)
    answer = patterns.analyze(days(240), value, nonnegative=False)
    assert [point.kind for point in answer.change_points] == ["bend"]
    assert [phase.trend.direction for phase in answer.phases] == ["flat", "growing"]
    assert answer.recent_trend.slope == pytest.approx(0.5, abs=0.06)
    assert answer.change_points[0].strength > 5


def test_phases_hold_every_known_day_once() -> None:
    rng = np.random.default_rng(4)
    day = np.sort(rng.choice(np.arange(FIRST, FIRST + 400), 300, replace=False))
    value = 40.0 * ((np.arange(300) // 100) % 2) + rng.standard_normal(300)
    answer = patterns.analyze(day, value, nonnegative=False)
    assert sum(phase.days for phase in answer.phases) == 300
    assert len(answer.phases) == len(answer.change_points) + 1
    for (before, after), point in zip(pairwise(answer.phases), answer.change_points, strict=True):
        assert before.trend.last_day < point.day == after.trend.first_day
        assert point.day in day


def test_counts_around_a_low_level_are_not_taken_in_logarithms() -> None:
    rng = np.random.default_rng(5)
    assert not patterns.analyze(days(100), rng.poisson(0.5, 100).astype(float), nonnegative=True).multiplicative
    assert not patterns.analyze(days(100), sales(rng, 100, 0.01), nonnegative=False).multiplicative


def test_four_years_show_the_season_of_the_year() -> None:
    rng = np.random.default_rng(6)
    day = days(4 * 365)
    value = 100 + 20 * np.sin(2 * np.pi * day / 365.25) + 3 * rng.standard_normal(len(day))
    answer = patterns.analyze(day, value, nonnegative=False)
    assert answer.yearly is not None and answer.yearly.present
    assert len(answer.yearly.effects) == 12
    assert max(answer.yearly.effects) == pytest.approx(20, abs=3)
    assert len(answer.change_points) <= 2


@pytest.mark.parametrize("nonnegative", [False, True])
def test_the_answer_scales_with_the_unit(nonnegative: bool) -> None:
    rng = np.random.default_rng(7)
    value = sales(rng, 150, 0.005) * (1 + (np.arange(150) >= 90))
    value[30] *= 6
    here = patterns.analyze(days(150), value, nonnegative=nonnegative)
    there = patterns.analyze(days(150), value * 2.0**40, nonnegative=nonnegative)
    assert there.trend.slope == here.trend.slope * 2.0**40
    assert there.trend.growth_weekly == here.trend.growth_weekly
    assert [point.day for point in there.change_points] == [point.day for point in here.change_points]
    assert [odd.score for odd in there.anomalies] == [odd.score for odd in here.anomalies]
    assert [odd.expected for odd in there.anomalies] == [odd.expected * 2.0**40 for odd in here.anomalies]
    thrice = patterns.analyze(days(150), value * 3e-9, nonnegative=nonnegative)
    assert thrice.trend.slope == pytest.approx(here.trend.slope * 3e-9, rel=1e-6)


@pytest.mark.parametrize(
    "value",
    [
        np.zeros(14),
        np.full(20, -3.3),
        np.eye(1, 30, 4)[0],
        np.arange(40.0) ** 2,
        np.arange(50) % 2 * 1e300,
        np.linspace(0, 1, 60) * 1.7e308,
        np.linspace(0, 1, 60) * -1.7e308,
        np.arange(30) * 5e-324,
        np.exp(np.arange(100) * 3.0),
        1e9 + np.arange(60) % 7 * 1e-3,
        np.where(np.arange(60) < 30, 1e-300, 1e300),
    ],
    ids=lambda value: f"{len(value)} to {value.max():.3g}",
)
def test_odd_series_get_finite_answers(value: Floats) -> None:
    for nonnegative in {False, bool((value >= 0).all())}:
        answer = patterns.analyze(days(len(value)), value, nonnegative=nonnegative)
        assert all(map(isfinite, numbers(answer)))


def test_numbers_without_full_digits_among_zeros_have_logarithms() -> None:
    value = np.ones(60)
    value[[10, 20]] = 0.0, 1e-323
    assert all(map(isfinite, numbers(patterns.analyze(days(60), value, nonnegative=True))))


def test_days_too_small_for_squares_beside_a_large_one_are_analysed() -> None:
    value = np.random.default_rng(8).lognormal(0, 0.3, 60) * 1e-200
    value[30] = 1.0
    assert all(map(isfinite, numbers(patterns.analyze(days(60), value, nonnegative=True))))


def test_a_constant_series_is_flat_and_without_anything() -> None:
    answer = patterns.analyze(days(60), np.full(60, 7.0), nonnegative=True)
    assert (answer.trend.direction, answer.trend.slope, answer.trend.probability) == ("flat", 0, 0.5)
    assert answer.trend.level == pytest.approx(7)
    assert not answer.change_points and not answer.anomalies
    assert answer.weekly is not None and not answer.weekly.present


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(st.integers(1, 9), min_size=14, max_size=40),
    data=st.data(),
)
def test_any_series_has_patterns(steps: list[int], data: st.DataObject) -> None:
    value = data.draw(
        st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=len(steps), max_size=len(steps))
    )
    day = np.cumsum(steps) + FIRST
    answer = patterns.analyze(day, np.array(value), nonnegative=min(value) >= 0)
    assert all(map(isfinite, numbers(answer)))
    assert 0.5 <= answer.trend.probability <= 1
    assert answer.trend.slope_lower <= answer.trend.slope_upper
    assert all(0 <= point.p_value <= 1 and point.strength >= 0 for point in answer.change_points)


def test_what_cannot_be_analysed_is_refused() -> None:
    with pytest.raises(InvalidInput, match="14 days"):
        patterns.analyze(days(13), np.ones(13), nonnegative=False)
    with pytest.raises(InvalidInput, match="ascend"):
        patterns.analyze(days(20)[::-1], np.ones(20), nonnegative=False)
    with pytest.raises(InvalidInput, match="finite"):
        patterns.analyze(days(20), np.full(20, np.nan), nonnegative=False)
    with pytest.raises(InvalidInput, match="negative"):
        patterns.analyze(days(20), -np.ones(20), nonnegative=True)
