import numpy as np
import pytest

from meshcast.services.drift.joint import JointDrift
from meshcast.services.drift.verdicts import benjamini_hochberg, verdict_of_window


def joint(p_value: float) -> JointDrift:
    return JointDrift(p_value, (), 500, 500, 299)


def test_adjusted_p_values_are_those_of_the_textbook() -> None:
    found = benjamini_hochberg(np.array([0.04, 0.01, 0.03, 0.5]))
    assert found == pytest.approx([0.16 / 3, 0.04, 0.16 / 3, 0.5])


def test_a_feature_is_judged_by_all_its_tests_at_once() -> None:
    p_values = np.array([[0.004, 0.5], [np.nan, np.nan], [0.9, 0.9], [np.nan, np.nan]])
    found = verdict_of_window(p_values, None, 0.02, 100)
    assert found.p_value == pytest.approx(0.016)  # two tests of each of two features
    assert found.is_drift and found.drifted.tolist() == [True, False]
    assert found.certainty[0] == 1.0


def test_features_that_are_called_and_the_verdict_agree() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        p_values = rng.random((4, 6)) ** 3
        found = verdict_of_window(p_values, joint(float(rng.random())), 0.2, 100)
        assert found.is_drift or not found.drifted.any()


def test_the_joint_test_has_half_of_the_chance() -> None:
    p_values = np.full((4, 3), 0.9)
    assert verdict_of_window(p_values, joint(0.005), 0.01, 100).is_drift
    assert not verdict_of_window(p_values, joint(0.006), 0.01, 100).is_drift
    assert not verdict_of_window(p_values, joint(0.005), 0.01, 100).drifted.any()


def test_four_rows_are_not_judged() -> None:
    found = verdict_of_window(np.full((4, 3), 1e-9), joint(0.003), 0.01, 4)
    assert not found.is_drift and not found.drifted.any() and found.certainty.sum() == 0


def test_false_alarms_are_at_most_as_many_as_asked_for() -> None:
    rng = np.random.default_rng(1)
    called = [
        verdict_of_window(rng.random((4, 8)), joint(float(rng.random())), 0.1, 100).is_drift for _ in range(2_000)
    ]
    assert 0.06 < np.mean(called) < 0.12
