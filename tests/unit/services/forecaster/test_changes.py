"""Change points: planted ones are found, steady series have none."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from meshcast.services.forecaster import changes

Floats = NDArray[np.float64]
Make = Callable[[np.random.Generator, int], Floats]


def found(values: Floats) -> changes.Changes:
    return changes.find_changes(np.arange(len(values)), values)


def normal(rng: np.random.Generator, n: int) -> Floats:
    return rng.standard_normal(n)


def heavy(rng: np.random.Generator, n: int) -> Floats:
    return rng.standard_t(3, n)


@pytest.mark.parametrize("make", [normal, heavy])
@pytest.mark.parametrize(("n", "series"), [(20, 60), (120, 25)])
def test_white_noise_has_no_change_points(make: Make, n: int, series: int) -> None:
    rng = np.random.default_rng(1)
    assert np.mean([bool(found(make(rng, n)).points) for _ in range(series)]) <= 0.05


@pytest.mark.parametrize("make", [normal, heavy])
@pytest.mark.parametrize(("n", "series"), [(20, 60), (120, 25)])
def test_random_walks_have_few(make: Make, n: int, series: int) -> None:
    rng = np.random.default_rng(2)
    assert np.mean([bool(found(np.cumsum(make(rng, n))).points) for _ in range(series)]) <= 0.20


def test_a_straight_line_has_none() -> None:
    rng = np.random.default_rng(3)
    lines = [found(np.arange(150) * 0.1 + rng.standard_normal(150)).points for _ in range(15)]
    assert sum(map(bool, lines)) <= 1


def test_planted_steps_are_found_where_they_are_and_few_others() -> None:
    rng = np.random.default_rng(4)
    extra = 0
    for _ in range(10):
        points = found(3 * ((np.arange(240) // 80) % 2) + rng.standard_normal(240)).points
        places = np.array([point.index for point in points])
        for planted in (80, 160):
            point = points[int(np.argmin(np.abs(places - planted)))]
            assert point.index == pytest.approx(planted, abs=4)
            assert point.kind == "level"
            assert point.p_value < 0.01
        extra += len(points) - 2
    assert extra <= 2


def test_steps_on_the_way_up_are_told_from_the_trend() -> None:
    rng = np.random.default_rng(5)
    at = np.arange(200)
    points = found(0.1 * at - 8 * (at >= 120) + rng.standard_normal(200)).points
    assert [point.kind for point in points] == ["level"]
    assert points[0].index == pytest.approx(120, abs=3)


def test_a_bend_is_found_as_a_bend() -> None:
    rng = np.random.default_rng(6)
    at = np.arange(200)
    points = found(np.maximum(0, at - 120) * 0.2 + rng.standard_normal(200)).points
    assert [point.kind for point in points] == ["bend"]
    assert points[0].index == pytest.approx(120, abs=12)


def test_the_course_follows_the_levels() -> None:
    rng = np.random.default_rng(7)
    levels = 100 + 20.0 * (np.arange(150) >= 70)
    assert found(levels + rng.standard_normal(150)).course == pytest.approx(levels, abs=3)


def test_points_do_not_depend_on_the_unit_or_the_zero() -> None:
    rng = np.random.default_rng(8)
    values = rng.standard_normal(160) + 3 * (np.arange(160) >= 60)
    here, there = found(values), found(values * 1e6 - 5e7)
    assert [point.index for point in here.points] == [point.index for point in there.points]
    assert there.course == pytest.approx(here.course * 1e6 - 5e7, rel=1e-6)


def test_a_long_series_is_read_in_stretches_and_its_step_placed_to_the_day() -> None:
    rng = np.random.default_rng(9)
    points = found(rng.standard_normal(5_000) + 6 * (np.arange(5_000) >= 3_333)).points
    assert [point.index for point in points] == pytest.approx([3_333], abs=1)


@pytest.mark.parametrize("n", [750, 1_499])
def test_the_steps_of_a_series_that_is_parted_in_stretches_are_placed_to_the_day(n: int) -> None:
    rng = np.random.default_rng(13)
    planted = [101, 109, 400, n - 8]
    values = rng.standard_normal(n) / 2
    for nth, at in enumerate(planted):
        values[at:] += 8 * (-1) ** nth
    assert [point.index for point in found(values).points] == planted


def test_a_constant_series_has_none_and_its_course_is_itself() -> None:
    answer = found(np.full(30, 4.0))
    assert answer.points == ()
    assert (answer.course == 4).all()


def test_serving_does_not_pay_for_the_library_before_the_first_analysis() -> None:
    code = "import sys, meshcast.services.forecaster.patterns; sys.exit('ruptures' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
