import numpy as np
import pytest
from numpy.typing import NDArray

from meshcast.observations import CategoryColumn, Observations
from meshcast.rpc.errors import InvalidInput
from meshcast.services.drift.joint import Role, joint_drift


def numbers(values: NDArray[np.float32], prefix: str = "x") -> Observations:
    return Observations(len(values), {f"{prefix}{i}": column for i, column in enumerate(values.T)}, {})


def normal(rows: int, columns: int = 5, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def test_a_shift_of_one_column_is_found() -> None:
    window = normal(100, seed=1)
    window[:, 2] += 1
    found = joint_drift(numbers(normal(200)), numbers(window))
    assert found.p_value == pytest.approx(1 / 300)
    assert found.findings[0].p_value == pytest.approx(1 / 300)
    assert (found.reference_rows, found.window_rows, found.deals) == (200, 100, 299)


def test_correlations_alone_are_found() -> None:
    window = normal(200, seed=1)
    window[:, 1] = 0.8 * window[:, 0] + 0.6 * window[:, 1]
    found = joint_drift(numbers(normal(200)), numbers(window))
    assert found.p_value < 0.01
    assert found.findings[0].name == "second_moments"


def test_spreads_alone_are_found() -> None:
    assert joint_drift(numbers(normal(200)), numbers(1.4 * normal(200, seed=1))).p_value < 0.01


def test_false_alarms_are_as_many_as_said() -> None:
    p_values = [
        joint_drift(numbers(normal(40, seed=2 * run)), numbers(normal(30, seed=2 * run + 1)), deals=99).p_value
        for run in range(200)
    ]
    assert 0.01 < np.mean(np.array(p_values) <= 0.1) < 0.18  # four standard errors
    assert min(p_values) >= 0.01


def test_the_same_rows_give_the_same_answer() -> None:
    a, b = numbers(normal(2_000)), numbers(normal(900, seed=1))
    found = joint_drift(a, b)
    assert found == joint_drift(a, b)
    assert (found.reference_rows, found.window_rows) == (500, 500)


def test_outputs_and_the_autoencoder_have_tests_of_their_own() -> None:
    def rows(seed: int, shift: float) -> Observations:
        one = normal(150, 6, seed)
        names = ("x0", "x1", "score", "autoencoder.error", "autoencoder.code.0", "energy.distance")
        one[:, 2:5] += np.float32(shift)
        return Observations(150, dict(zip(names, one.T, strict=True)), {})

    roles: dict[str, Role] = {
        "score": "output",
        "autoencoder.error": "derived",
        "autoencoder.code.0": "derived",
        "energy.distance": "derived",
    }
    found = joint_drift(rows(0, 0.0), rows(1, 1.0), roles)
    by_name = {finding.name: finding for finding in found.findings}
    assert set(by_name) == {
        "kolmogorov_smirnov_max", "share_max", "energy", "nearness", "second_moments",
        "outputs", "autoencoder_error", "autoencoder_code",
    }  # fmt: skip
    for name in ("outputs", "autoencoder_error", "autoencoder_code"):
        assert by_name[name].p_value < 0.01
    assert by_name["energy"].p_value > 0.01  # the inputs stayed
    assert all(finding.what for finding in found.findings)


def test_a_subject_of_outputs_alone_is_tested_as_a_table() -> None:
    found = joint_drift(numbers(normal(50)), numbers(normal(50, seed=1)), {f"x{i}": "output" for i in range(5)})
    assert {finding.name for finding in found.findings} >= {"energy", "share_max"}


def test_new_categories_and_nulls_are_found() -> None:
    def rows(names: tuple[str, ...], nulls: int) -> Observations:
        codes = np.tile(np.arange(2, dtype=np.int32), 60)
        codes[:nulls] = -1
        return Observations(120, {}, {"c": CategoryColumn(codes, names)})

    assert joint_drift(rows(("a", "b"), 0), rows(("a", "new"), 0)).p_value < 0.01
    assert joint_drift(rows(("a", "b"), 0), rows(("b", "a"), 40)).p_value < 0.01
    assert joint_drift(rows(("a", "b"), 0), rows(("b", "a"), 0)).p_value > 0.5


def test_one_row_constants_nulls_and_infinities_have_an_answer() -> None:
    assert 0 < joint_drift(numbers(normal(30)), numbers(normal(1, seed=1))).p_value <= 1
    still = Observations(20, {"c": np.ones(20), "null": np.full(20, np.nan)}, {})
    assert joint_drift(still, still).p_value == 1
    wild = Observations(20, {"c": np.r_[np.inf, -np.inf, np.zeros(18)], "huge": 1.7e308 * np.linspace(-1, 1, 20)}, {})
    assert joint_drift(wild, wild).p_value > 0.5


def test_other_columns_are_refused() -> None:
    with pytest.raises(InvalidInput, match="columns"):
        joint_drift(numbers(normal(9)), numbers(normal(9), "y"))
