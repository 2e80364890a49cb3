import numpy as np
import pytest

from meshcast.runtime.conformal import interval_coverage, interval_factors

LEVELS = (0.025, 0.10, 0.90, 0.975)


def test_stretched_intervals_hold_their_levels_on_rows_not_seen() -> None:
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.5, 2, 20_000)
    misses = scale * rng.standard_t(4, 20_000) + 0.1
    offsets = scale[:, None] * np.array([-1.0, -0.5, 0.5, 1.0])
    factors = interval_factors(misses[:10_000], offsets[:10_000], LEVELS)
    bounds = offsets[10_000:] * factors
    for low, high, level in ((0, 3, 0.95), (1, 2, 0.80)):
        covered = interval_coverage(misses[10_000:], bounds[:, low], bounds[:, high]).mean()
        assert covered == pytest.approx(level, abs=0.015)
