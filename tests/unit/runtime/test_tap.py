"""The tap: each row has the same chance, its columns have names, and what does not fit is dropped and counted."""

import random
from typing import Any

import numpy as np
import pytest

from meshcast.rpc import InvalidInput
from meshcast.runtime import Signature, Tap, TapColumns, TapRecord, TensorSpec

SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="history", shape=(24, 3)),
        TensorSpec(name="plan", shape=(2,)),
        TensorSpec(name="words", shape=(-1,), multiple_of=8, length_max=64),
    ),
    outputs=(TensorSpec(name="level"), TensorSpec(name="vector", shape=(80,))),
)
COLUMNS = TapColumns.of(SIGNATURE)


def record(first: int, rows: int) -> TapRecord:
    """Rows whose level is their number."""
    level = np.arange(first, first + rows, dtype=np.float32)
    inputs = {"history": np.zeros((rows, 24, 3), np.float32), "plan": np.stack([level + 0.25, level + 0.5], axis=1)}
    return TapRecord("m", 1, "test", rows, inputs, {"level": level, "vector": np.zeros((rows, 80), np.float32)})


def tap(**options: Any) -> Tap:
    return Tap(**{"columns": COLUMNS, "share": 1.0, "rows_max": 1_000, "rng": random.Random(3), **options})


def test_columns_are_single_numbers_and_rows_of_numbers_that_fit() -> None:
    assert COLUMNS.names == ("plan[0]", "plan[1]", "level")
    assert COLUMNS.output_names == ("level",)


def test_a_service_names_its_own_columns() -> None:
    columns = TapColumns.of(SIGNATURE, {"plan": ("hour", "length"), "level": ("log_level",)})
    assert (columns.names, columns.output_names) == (("hour", "length", "log_level"), ("log_level",))
    assert not TapColumns.of(SIGNATURE, {}).names
    for wrong in ({"plan": ("hour",)}, {"history": ("a",)}, {"nothing": ("a",)}):
        with pytest.raises(InvalidInput):
            TapColumns.of(SIGNATURE, wrong)


def test_rows_are_kept_in_order_with_their_columns() -> None:
    kept = tap()
    for first in (0, 3):
        kept(record(first, 3))
    assert kept.arrived.is_set() and kept.rows == 6
    parts = kept.take(5)
    assert [part.tolist() for part in parts] == [[[0.25, 0.5, 0.0], [1.25, 1.5, 1.0], [2.25, 2.5, 2.0]]]
    assert parts[0].dtype == np.float32
    assert [part[:, 2].tolist() for part in kept.take(5)] == [[3.0, 4.0, 5.0]]
    assert not kept.take(5) and not kept.arrived.is_set() and kept.rows == 0


def test_a_run_larger_than_what_is_asked_for_is_taken_whole() -> None:
    kept = tap()
    kept(record(0, 8))
    assert [len(part) for part in kept.take(5)] == [8]


@pytest.mark.parametrize("run_rows", [1, 7, 256])
def test_each_row_has_the_same_chance_however_large_its_run(run_rows: int) -> None:
    kept = tap(share=0.1, rows_max=100_000)
    for first in range(0, 40_000, run_rows):
        kept(record(first, run_rows))
    found = np.concatenate(kept.take(100_000))[:, 2]
    assert abs(len(found) - 4_000) < 5 * 60  # its standard deviation is 60
    assert (np.diff(found) > 0).all()
    by_tenth = np.histogram(found, bins=10)[0]
    assert by_tenth.min() > 300


def test_what_does_not_fit_is_dropped_and_counted() -> None:
    kept = tap(rows_max=5)
    for first in range(0, 9, 3):
        kept(record(first, 3))
    assert (kept.rows, kept.dropped) == (3, 6)
    kept.take(100)
    kept(record(9, 3))
    assert [part[:, 2].tolist() for part in kept.take(100)] == [[9.0, 10.0, 11.0]]


def test_while_nobody_wants_rows_none_are_held() -> None:
    kept = tap()
    kept(record(0, 3))
    kept.is_open = False
    kept.drop()
    kept(record(3, 3))
    assert (kept.rows, kept.dropped, kept.arrived.is_set()) == (0, 6, False)


def test_what_is_held_is_a_copy() -> None:
    kept, run = tap(), record(0, 2)
    kept(run)
    run.outputs["level"][:] = -1.0
    assert kept.take(2)[0][:, 2].tolist() == [0.0, 1.0]
