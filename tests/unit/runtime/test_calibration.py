"""Calibration makes confidence hold, and the scores agree with their definitions."""

import numpy as np
import pytest

from meshcast.runtime import calibration


def test_the_confidence_line_undoes_a_distortion_of_the_log_odds() -> None:
    rng = np.random.default_rng(1)
    odds = rng.normal(0, 1.5, 50_000)
    happened = rng.random(50_000) < 1 / (1 + np.exp(-odds))
    slope, intercept = calibration.confidence_line(3 * odds - 1, happened)
    assert slope == pytest.approx(1 / 3, abs=0.02)
    assert intercept == pytest.approx(1 / 3, abs=0.04)


def test_the_confidence_line_never_turns_the_order_around() -> None:
    odds = np.linspace(-2, 2, 200)
    slope, _ = calibration.confidence_line(odds, odds < 0)
    assert slope > 0


def test_stacking_weighs_two_answers_as_they_deserve() -> None:
    rng = np.random.default_rng(4)
    main, more, noise = rng.normal(size=(3, 20_000))
    happened = rng.random(20_000) < 1 / (1 + np.exp(-(2 * main + 0.5 * more - 1)))
    assert calibration.stacking_line(main, more, happened) == pytest.approx((2, 0.5, -1), abs=0.1)
    assert calibration.stacking_line(main, -more, happened)[1] == 0  # it would do harm
    assert calibration.stacking_line(main, noise, happened)[1] == pytest.approx(0, abs=0.05)
    assert calibration.stacking_line(main, np.zeros(20_000), happened)[:2] == pytest.approx(
        (calibration.confidence_line(main, happened)[0], 0)
    )


def test_calibration_error_is_zero_when_bins_hold_and_the_gap_when_they_do_not() -> None:
    labels = np.tile([True, False], 300)
    assert calibration.expected_calibration_error(np.full(600, 0.5), labels) == pytest.approx(0, abs=0.02)
    assert calibration.expected_calibration_error(np.full(600, 0.9), labels) == pytest.approx(0.4, abs=0.02)


def test_area_under_the_curve_counts_pairs_and_ties_half() -> None:
    rng = np.random.default_rng(2)
    score, labels = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in score[labels] for b in score[~labels]]
    assert calibration.area_under_curve(score, labels) == pytest.approx(np.mean(pairs))
    assert np.isnan(calibration.area_under_curve(score, np.ones(60, dtype=bool)))


def test_rank_correlation_is_that_of_ranks_with_shared_ties() -> None:
    a = np.array([1.0, 2.0, 2.0, 10.0])
    assert calibration.rank_correlation(a, np.exp(a)) == pytest.approx(1)
    assert calibration.rank_correlation(a, -a) == pytest.approx(-1)
    assert calibration.rank_correlation(a, np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(np.sqrt(0.9))
    assert np.isnan(calibration.rank_correlation(a, np.ones(4)))


def test_correlation_within_groups_ignores_their_levels_and_small_groups() -> None:
    rng = np.random.default_rng(3)
    groups = np.repeat([0, 1, 2], [50, 50, 5])
    a = rng.normal(size=105) + 100 * groups
    b = np.where(groups == 1, -a, a)
    assert calibration.rank_correlation_within(a, b, groups) == pytest.approx(0)
    assert np.isnan(calibration.rank_correlation_within(a, b, groups, rows_min=1_000))
