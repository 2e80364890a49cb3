"""Quantiles of a next value: order statistics at rank p (n + 1)."""

import numpy as np
import pytest

from meshcast.baselines.quantiles import future_quantiles


def test_the_median_is_the_median() -> None:
    assert future_quantiles(np.array([3.0, 1.0, 2.0]), [0.5]).tolist() == [2.0]
    assert future_quantiles(np.array([4.0, 1.0, 2.0, 3.0]), [0.5]).tolist() == [2.5]


def test_beyond_what_was_seen_stand_the_ends() -> None:
    assert future_quantiles(np.arange(20.0), [0.0, 0.025, 0.975, 1.0]).tolist() == [0.0, 0.0, 19.0, 19.0]


def test_a_least_value_stands_at_level_0() -> None:
    assert future_quantiles(np.array([2.0, 4.0, 6.0]), [0.0, 0.125, 0.25, 0.5], least=0.0).tolist() == [0, 1, 2, 4]


@pytest.mark.parametrize("level", [0.1, 0.5, 0.8, 0.95])
def test_the_next_value_ends_below_as_often_as_the_level_says(level: float) -> None:
    draws = np.random.default_rng(0).exponential(size=(4_000, 41))
    below = [draw[40] <= future_quantiles(draw[:40], [level])[0] for draw in draws]
    assert abs(np.mean(below) - level) < 4 * np.sqrt(level * (1 - level) / 4_000)
