import numpy as np
import pytest

from meshcast.observations import CategoryColumn, Observations
from meshcast.rpc.errors import CorruptData
from meshcast.services.drift.energy import (
    SAMPLE_ROWS_MAX,
    EnergySample,
    Space,
    distances,
    energy_of_labels,
    sample_rows,
)


def table(rows: int = 400, seed: int = 0) -> Observations:
    rng = np.random.default_rng(seed)
    x = rng.normal(50, 10, rows).astype(np.float32)
    x[::10] = np.nan
    city = CategoryColumn(rng.integers(-1, 3, rows).astype(np.int32), ("Oslo", "Rom", "Łódź"))
    return Observations(
        rows, {"x": x, "tail": np.exp(rng.normal(0, 3, rows)), "constant": np.full(rows, 7.0)}, {"city": city}
    )


def test_columns_of_any_size_are_brought_to_one_scale() -> None:
    rows = table()
    matrix = Space.of(rows).matrix(rows)
    assert matrix.shape == (400, 6) and matrix.dtype == np.float32
    assert np.isfinite(matrix).all() and np.abs(matrix).max() <= 4
    assert matrix[:, 0].std() == pytest.approx(1, abs=0.15)
    assert (matrix[::10, 0] == 0).all()  # nulls
    assert (matrix[:, 2] == 0).all()  # the constant
    assert set(np.unique(matrix[:, 3:])) == {0.0, 1.0}


def test_a_value_other_than_the_constant_is_as_far_as_can_be() -> None:
    space = Space.of(Observations(3, {"c": np.full(3, 7.0)}, {}))
    assert space.matrix(Observations(3, {"c": np.array([7.0, 7.1, -np.inf])}, {})).ravel().tolist() == [0.0, 4.0, -4.0]


def test_columns_without_a_number_and_huge_numbers_do_no_harm() -> None:
    odd = Observations(
        3,
        {
            "null": np.full(3, np.nan),
            "infinite": np.array([np.inf, -np.inf, np.inf]),
            "huge": np.array([-1.7e308, 1.7e308, 0.0]),
        },
        {"none": CategoryColumn(np.full(3, -1, np.int32), ())},
    )
    assert np.isfinite(Space.of(odd).matrix(odd)).all()


def test_categories_that_the_scale_does_not_know_are_like_nulls() -> None:
    space = Space.of(Observations(2, {}, {"c": CategoryColumn(np.array([0, 1], np.int32), ("a", "b"))}))
    matrix = space.matrix(Observations(3, {}, {"c": CategoryColumn(np.array([0, 1, -1], np.int32), ("b", "new"))}))
    assert matrix.tolist() == [[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]


def test_distances_are_euclidean() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 5)).astype(np.float32), rng.normal(size=(9, 5)).astype(np.float32)
    assert distances(a, b) == pytest.approx(np.linalg.norm(a[:, None] - b[None], axis=2), abs=1e-5)


def test_energy_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(11, 3)).astype(np.float32), rng.normal(1, 1, (6, 3)).astype(np.float32)
    both = np.concatenate([x, y])
    labels = np.array([[0.0] * 11 + [1.0] * 6], np.float32)
    found = energy_of_labels(labels, distances(both, both), 6)
    wanted = 2 * distances(x, y).mean() - distances(x, x).mean() - distances(y, y).mean()
    assert found[0] == pytest.approx(wanted, abs=1e-4)


def test_rows_that_moved_are_farther_from_the_sample() -> None:
    reference, same = table(), table(seed=1)
    sample = EnergySample.of(reference)
    moved = Observations(400, {**same.numeric, "x": same.numeric["x"] + np.float32(40)}, same.categorical)
    assert sample.distances(same).dtype == np.float32
    assert sample.distances(moved).mean() > sample.distances(same).mean() * 1.2
    assert sample.distances(same[:0]).shape == (0,)


def test_a_kept_sample_survives_being_stored() -> None:
    sample = EnergySample.of(table(2_000))
    assert len(sample.rows) == SAMPLE_ROWS_MAX
    again = EnergySample.from_bytes(sample.to_bytes())
    assert (again.distances(table(50)) == sample.distances(table(50))).all()
    for damaged in (b"", b"none", sample.to_bytes()[:200]):
        with pytest.raises(CorruptData):
            EnergySample.from_bytes(damaged)


def test_rows_are_drawn_once_and_always_the_same() -> None:
    drawn = sample_rows(10_000, 500, 0)
    assert len(np.unique(drawn)) == 500 and (drawn == sample_rows(10_000, 500, 0)).all()
    assert (drawn != sample_rows(10_000, 500, 1)).any()
    assert sample_rows(3, 500, 0).tolist() == [0, 1, 2]
