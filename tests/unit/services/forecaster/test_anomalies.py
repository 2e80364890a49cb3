"""Anomalies: planted ones are found, chance makes few."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from meshcast.services.forecaster import anomalies

Floats = NDArray[np.float64]


def odd_days(values: Floats) -> list[int]:
    _, scores = anomalies.scores(values, np.zeros_like(values), np.array([0]))
    lowest, highest = anomalies.thresholds(scores)
    return [int(at) for at in np.flatnonzero((scores <= lowest) | (scores >= highest))]


@pytest.mark.parametrize(
    ("draw", "most"),
    [
        (lambda rng, n: rng.standard_normal(n), 1.0),
        (lambda rng, n: np.cumsum(rng.standard_normal(n)), 2.5),
        (lambda rng, n: rng.standard_t(3, n), 8.0),
        (lambda rng, n: np.exp(0.5 * rng.standard_normal(n)), 4.0),
    ],
)
@pytest.mark.parametrize("n", [60, 300])
def test_chance_makes_few(draw: Callable[[np.random.Generator, int], Floats], most: float, n: int) -> None:
    rng = np.random.default_rng(1)
    total = sum(len(odd_days(draw(rng, n))) for _ in range(9_000 // n))
    assert total / 9 <= most


def test_planted_spikes_and_outages_are_found() -> None:
    rng = np.random.default_rng(2)
    values = rng.standard_normal(200) + 50
    values[60] += 12
    values[150] -= 12
    assert odd_days(values) == [60, 150]


def test_the_days_after_a_step_are_expected_at_the_new_level() -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal(100) + 30 * (np.arange(100) >= 50)
    course = np.where(np.arange(100) < 50, 0.0, 30.0)
    expected, scores = anomalies.scores(values, course, np.array([0, 50]))
    assert expected == pytest.approx(course, abs=1.5)
    assert np.abs(scores).max() < 5


def test_rounding_is_no_anomaly() -> None:
    values = np.full(40, 1e15)
    values[7] = np.nextafter(1e15, 2e15)
    _, scores = anomalies.scores(values, np.full(40, 1e15), np.array([0]))
    assert not scores.any()
