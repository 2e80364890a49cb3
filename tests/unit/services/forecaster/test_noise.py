"""Noise that remembers: fits, outliers, and intervals of slopes that hold for it."""

import numpy as np
import pytest
from numpy.typing import NDArray

from meshcast.services.forecaster import noise

Floats = NDArray[np.float64]


def remembering(rng: np.random.Generator, n: int, memory: float) -> Floats:
    values = np.zeros(n + 100)
    for at, shock in enumerate(rng.standard_normal(n + 99)):
        values[at + 1] = memory * values[at] + shock
    return np.asarray(values[100:] - values[100])


@pytest.mark.parametrize("memory", [0.0, 0.6, 0.9])
def test_the_interval_of_a_slope_holds_it_in_about_95_of_100_series(memory: float) -> None:
    rng = np.random.default_rng(1)
    day = np.arange(100.0)
    slopes = [noise.slope(day, (0.05 * day + remembering(rng, 100, memory)) / 50) for _ in range(100)]
    held = np.mean([found.lower <= 0.001 <= found.upper for found in slopes])
    assert held >= 0.91


def test_the_drift_of_a_random_walk_is_missed_by_few_intervals() -> None:
    rng = np.random.default_rng(2)
    slopes = [noise.slope(np.arange(100.0), np.cumsum(rng.standard_normal(100)) / 100) for _ in range(100)]
    assert np.mean([found.lower <= 0 <= found.upper for found in slopes]) >= 0.85


def test_a_clear_slope_is_exact_and_certain() -> None:
    rng = np.random.default_rng(3)
    day = np.arange(200.0)
    found = noise.slope(day, (2 * day + rng.standard_normal(200)) / 400)
    assert found.slope == pytest.approx(2 / 400, rel=0.01)
    assert found.lower < found.slope < found.upper
    assert found.probability_up > 0.999


def test_the_memory_of_noise_is_found() -> None:
    rng = np.random.default_rng(4)
    for memory in (0.0, 0.5, 1.0):
        values = noise.standardize(remembering(rng, 2_000, memory))
        assert values is not None
        assert noise.fit(values, np.ones((2_000, 1))).memory == pytest.approx(memory, abs=0.11)


def test_rich_noise_explains_a_walk_under_noise_better_than_ar1() -> None:
    rng = np.random.default_rng(5)
    values = noise.standardize(np.cumsum(0.2 * rng.standard_normal(600)) + rng.standard_normal(600))
    assert values is not None
    level = np.ones((600, 1))
    plain, rich = noise.fit(values, level), noise.fit(values, level, rich=True)
    assert rich.rss / rich.rows < 0.95 * plain.rss / plain.rows


def test_the_innovation_of_a_freed_day_counts_for_nothing() -> None:
    rng = np.random.default_rng(6)
    walk = np.cumsum(rng.standard_normal(300))
    jumped = walk + 100 * (np.arange(300) >= 150)
    level = np.ones((300, 1))
    freed = noise.fit(jumped, level, freed=[150])
    assert freed.rows == 298
    assert freed.rss == pytest.approx(noise.fit(walk, level, freed=[150]).rss, rel=0.02)


def test_lone_outliers_are_pulled_in_and_steps_stay() -> None:
    rng = np.random.default_rng(7)
    values = rng.standard_normal(100) + 20 * (np.arange(100) >= 50)
    values[20] = 500
    clipped = noise.clip_outliers(values)
    assert abs(clipped[20]) < 10
    assert clipped[55:].mean() == pytest.approx(20, abs=1)


def test_values_that_differ_by_rounding_only_are_constant() -> None:
    assert noise.standardize(np.zeros(20)) is None
    assert noise.standardize(np.full(20, 1e9) + np.arange(20) * 1e-7) is None
