"""The smallest shift that is told is about the smallest that is found, and shrinks as the reference grows."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from meshcast.services.drift.bets import Bets
from meshcast.services.drift.detectable import WINDOWS, WINDOWS_TO_FALSE_ALARM, smallest_shift_sd
from meshcast.services.drift.evidence import Evidence

Ints = NDArray[np.int64]

BINS, ROWS = 100, 1_000


def even(rows: int, features: int = 4) -> Bets:
    """Bets on continuous features, whose slots cut them into equal shares."""
    counts = np.zeros((features, BINS + 2), dtype=np.int64)
    counts[:, :BINS] = rows // BINS
    return Bets.of(counts, np.full(features, BINS), np.ones(features, dtype=np.bool_))


def test_a_larger_reference_or_window_lets_smaller_shifts_be_found() -> None:
    by_rows = [smallest_shift_sd(even(rows), window_rows=ROWS)[0] for rows in (200, 1_000, 10_000, 100_000)]
    by_window = [smallest_shift_sd(even(10_000), window_rows=rows)[0] for rows in (100, 1_000, 10_000)]
    for told in (by_rows, by_window):
        assert all(more > less > 0 for more, less in pairwise(told))


def test_the_shift_that_is_told_is_found_in_about_nine_of_ten_runs() -> None:
    rng = np.random.default_rng(0)
    rows, log_threshold = 4_000, float(np.log(2))
    bets = even(rows)
    shift = smallest_shift_sd(bets, window_rows=ROWS)[0]
    elapsed = 1 / (2 * WINDOWS_TO_FALSE_ALARM)
    found = 0
    for _ in range(150):
        evidence = Evidence(bets, log_threshold)
        shares = rng.dirichlet(np.full(BINS, rows / BINS), 4)  # what the slots truly hold, given the reference
        edges = ndtri(np.cumsum(shares[0])[:-1])
        shares[0] = np.diff(np.concatenate([[0.0], ndtr(edges - shift), [1.0]]))
        for window in range(1, WINDOWS + 1):
            counts = np.zeros((4, BINS + 2), dtype=np.int64)
            counts[:, :BINS] = [rng.multinomial(ROWS, one) for one in shares]
            if evidence.step(counts, elapsed, window).log_value >= log_threshold:
                found += 1
                break
    assert 0.85 <= found / 150 <= 0.99


def test_categories_constants_and_tiny_references_have_none() -> None:
    counts = np.zeros((3, 12), dtype=np.int64)
    counts[0, :10] = 100
    counts[1, 1] = counts[2, -2] = 1_000
    told = smallest_shift_sd(Bets.of(counts, np.array([10, 3, 2]), np.array([False, True, True])), window_rows=ROWS)
    assert np.isnan(told).all()
    pair = np.zeros((1, 12), dtype=np.int64)
    pair[0, :2] = 1
    assert np.isinf(smallest_shift_sd(Bets.of(pair, np.array([2]), np.array([True])), window_rows=ROWS)).all()
