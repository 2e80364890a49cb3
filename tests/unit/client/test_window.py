"""The window that finds its size: it grows while that brings rows, and shrinks where answers only came later."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from meshcast.client.window import AdaptiveWindow, FixedWindow, Window


def sizes_over(
    window: Window, rate: Callable[[int], float], answers: int, *, noise: float = 0.0, now: float = 0.0
) -> list[int]:
    """Sizes while a mesh answers chunks of 256 rows at a rate that depends on the window."""
    rng = np.random.default_rng(5)
    sizes = []
    for _ in range(answers):
        now += 256 / (rate(window.size) * (1 + noise * rng.standard_normal()))
        window.answered(256, now)
        sizes.append(window.size)
    return sizes


def saturating(at: int) -> Callable[[int], float]:
    """A mesh that is busy with so many chunks under way, of which each brings 1,000 rows/s: more of them wait."""
    return lambda size: 1_000.0 * min(size, at)


@pytest.mark.parametrize("busy", [2, 3, 5, 12, 30])
def test_the_window_settles_about_where_the_mesh_is_busy(busy: int) -> None:
    window = AdaptiveWindow(low=2)
    sizes = sizes_over(window, saturating(busy), 20_000, noise=0.05)
    late = np.array(sizes[5_000:])
    rates = np.array([saturating(busy)(size) for size in late.tolist()])
    assert rates.mean() > 0.9 * 1_000 * busy, "hardly a row a second is left on the way"
    assert np.median(late) <= 2 * busy + 2, "nor do chunks wait without need"


def test_the_window_follows_a_mesh_that_gets_more_replicas_and_loses_them() -> None:
    window = AdaptiveWindow()
    sizes_over(window, saturating(3), 3_000)
    few = window.size
    more = sizes_over(window, saturating(24), 8_000, now=1e6)
    fewer = sizes_over(window, saturating(3), 12_000, now=2e6)
    assert few <= 8 and np.median(more[4_000:]) >= 16 and np.median(fewer[6_000:]) <= 8


def test_the_window_stays_within_its_bounds() -> None:
    window = AdaptiveWindow(low=3, high=9)
    sizes = sizes_over(window, lambda size: 1_000.0 * size, 2_000)
    sizes += sizes_over(window, lambda size: 1_000.0 / size, 4_000, now=1e6)
    assert min(sizes) == 3 and max(sizes) == 9
    only = AdaptiveWindow(low=4, high=4)
    assert set(sizes_over(only, lambda size: 1_000.0, 500)) == {4}


def test_the_time_of_a_break_counts_for_nothing() -> None:
    window = AdaptiveWindow()
    sizes_over(window, saturating(6), 4_000)
    before = window.size
    window.broken()
    now = 1e6  # far later
    for _ in range(window.size + 2):
        window.answered(256, now)
        now += 0.01
    assert window.size == before


def test_a_fixed_window_does_not_move() -> None:
    window = FixedWindow(7)
    window.broken()
    assert set(sizes_over(window, saturating(2), 500)) == {7}
