"""Rows become one matrix: numbers as they are, categories as shares of the reference, nulls as NaN."""

import numpy as np
import pytest

from meshcast.observations import CategoryColumn, Observations
from meshcast.rpc import InvalidInput
from meshcast.services.drift.features import LEARN_ROWS_MAX, Encoding, learn_and_held_out, matrix
from meshcast.services.drift.signature import COLUMNS_MAX


def rows(codes: list[int], names: tuple[str, ...]) -> Observations:
    return Observations(
        rows=len(codes),
        numeric={"a": np.arange(len(codes), dtype=np.float64)},
        categorical={"kind": CategoryColumn(np.array(codes, dtype=np.int32), names)},
        unix_us=None,
    )


def test_a_category_is_its_share_of_the_reference_however_it_is_coded() -> None:
    encoding = Encoding.of(rows([0, 0, 0, 1, -1], ("cat", "dog", "never")))
    found = matrix(rows([0, 1, 2, -1], ("dog", "new", "cat")), encoding)
    assert found.dtype == np.float32 and encoding.columns == ("a", "kind")
    np.testing.assert_array_equal(found, np.array([[0, 0.25], [1, 0], [2, 0.75], [3, np.nan]]))


def test_the_encoding_survives_json() -> None:
    encoding = Encoding.of(rows([0, 1, 1], ("Straße", "")))
    assert Encoding.from_json(encoding.to_json()) == encoding


def test_a_column_that_is_missing_or_of_another_kind_is_named() -> None:
    encoding = Encoding.of(rows([0], ("cat",)))
    without = Observations(rows=1, numeric={"kind": np.zeros(1), "a": np.zeros(1)}, categorical={}, unix_us=None)
    with pytest.raises(InvalidInput, match="the categorical column 'kind' of the reference is missing"):
        matrix(without, encoding)


def test_numbers_beyond_float32_become_infinities_and_further_columns_are_not_looked_at() -> None:
    wide = {f"c{at}": np.array([1e300]) for at in range(COLUMNS_MAX + 5)}
    reference = Observations(rows=1, numeric=wide, categorical={}, unix_us=None)
    encoding = Encoding.of(reference)
    assert len(encoding.columns) == COLUMNS_MAX
    assert np.isposinf(matrix(reference, encoding)).all()


@pytest.mark.parametrize("count", [1, 2, 10, 10_000, 100_000])
def test_held_out_rows_are_never_trained_on_and_hang_on_the_seed_alone(count: int) -> None:
    learn, held_out = learn_and_held_out(count, 3)
    assert not np.intersect1d(learn, held_out).size and len(learn) <= LEARN_ROWS_MAX
    assert len(held_out) == -(-count * 3 // 10)
    assert len(learn) + len(held_out) == count or len(learn) == LEARN_ROWS_MAX
    np.testing.assert_array_equal(held_out, learn_and_held_out(count, 3)[1])
