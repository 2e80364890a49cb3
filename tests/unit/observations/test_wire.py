"""Observations on the wire: what is packed comes back, and every broken rule is named by its path."""

from collections.abc import Callable

import numpy as np
import pytest

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.observations import CategoryColumn, Observations, pack_observations, unpack_observations
from meshcast.rpc import InvalidInput


def table(rows: int = 5) -> Observations:
    """A table of every kind of column, with nulls and infinities."""
    at = np.arange(rows)
    return Observations(
        rows,
        {
            "single": np.where(at == 1, np.nan, at).astype(np.float32),
            "double": np.where(at == 2, np.inf, at / 3),
        },
        {"town": CategoryColumn((at % 3 - 1).astype(np.int32), ("Oslo", "Bergen"))},
        at * 1_000_000,
    )


def same(one: Observations, other: Observations) -> None:
    assert (one.rows, one.names) == (other.rows, other.names)
    for name, values in one.numeric.items():
        assert values.dtype == other.numeric[name].dtype
        np.testing.assert_array_equal(values, other.numeric[name])
    for name, column in one.categorical.items():
        assert column.names == other.categorical[name].names
        np.testing.assert_array_equal(column.codes, other.categorical[name].codes)
    np.testing.assert_array_equal(one.unix_us, other.unix_us)


@pytest.mark.parametrize("rows", [2, 5])
def test_what_is_packed_comes_back(rows: int) -> None:
    violations: dict[str, str] = {}
    same(table(rows), unpack_observations(pack_observations(table(rows)), violations, "observations"))
    assert not violations


def test_values_may_be_numbers_of_the_message() -> None:
    message = pb.Observations(rows=2, numeric=[pb.NumericColumn(name="x", values=[1.5, float("nan")])])
    violations: dict[str, str] = {}
    found = unpack_observations(message, violations, "o")
    np.testing.assert_array_equal(found.numeric["x"], [1.5, np.nan])
    assert found.unix_us is None and not violations


def test_no_rows_are_a_table_of_none() -> None:
    violations: dict[str, str] = {}
    found = unpack_observations(pack_observations(table()[:0]), violations, "o")
    assert len(found) == 0 and found.names == ("single", "double", "town") and not violations


def test_of_more_categories_than_rows_only_those_of_a_row_are_sent() -> None:
    names = tuple(f"n{at}" for at in range(1_000))
    rows = Observations(3, {}, {"n": CategoryColumn(np.array([700, -1, 3], dtype=np.int32), names)})
    column = pack_observations(rows).categorical[0]
    assert list(column.categories) == ["n3", "n700"] and list(column.codes) == [1, -1, 0]


@pytest.mark.parametrize(
    ("breaks", "path", "rule"),
    [
        (lambda m: setattr(m, "rows", -1), "o.rows", "0 or more"),
        (lambda m: setattr(m.numeric[0], "f32", b"123"), "o.numeric[0].f32", "20 bytes for 5 rows, is 3 bytes"),
        (lambda m: setattr(m.numeric[1], "f64", b"1234"), "o.numeric[1].f64", "40 bytes for 5 rows"),
        (
            lambda m: m.numeric[0].values.append(1),
            "o.numeric[0]",
            "exactly one of values, f32 and f64, has values and f32",
        ),
        (lambda m: m.numeric[0].ClearField("f32"), "o.numeric[0]", "none of them"),
        (lambda m: m.numeric.add(name="v", values=[1.0]), "o.numeric[2].values", "5 values, one a row, is 1"),
        (lambda m: setattr(m.numeric[1], "name", "single"), "o.numeric[1].name", "name of o.numeric[0] too"),
        (lambda m: setattr(m.categorical[0], "name", "double"), "o.categorical[0].name", "name of o.numeric[1] too"),
        (lambda m: setattr(m.numeric[0], "name", ""), "o.numeric[0].name", "1 to 128 characters, has 0"),
        (lambda m: setattr(m.numeric[0], "name", "x" * 129), "o.numeric[0].name", "1 to 128 characters, has 129"),
        (lambda m: m.categorical[0].codes.append(0), "o.categorical[0].codes", "5 codes, one a row, is 6"),
        (lambda m: m.categorical[0].codes.__setitem__(2, 2), "o.categorical[0].codes[2]", "is 2"),
        (lambda m: m.categorical[0].codes.__setitem__(0, -2), "o.categorical[0].codes[0]", "is -2"),
        (
            lambda m: m.categorical[0].categories.append("Oslo"),
            "o.categorical[0].categories[2]",
            "'Oslo' is there twice",
        ),
        (lambda m: m.categorical[0].categories.append("x" * 257), "o.categorical[0].categories[2]", "256 characters"),
        (lambda m: m.unix_us.append(0), "o.unix_us", "5 times, one a row, or none, is 6"),
    ],
)
def test_a_broken_rule_is_named_and_the_other_columns_are_read(
    breaks: Callable[[pb.Observations], object], path: str, rule: str
) -> None:
    message = pack_observations(table())
    breaks(message)
    violations: dict[str, str] = {}
    unpack_observations(message, violations, "o")
    assert list(violations) == [path]
    assert rule in violations[path]


def test_too_many_categories_are_refused() -> None:
    message = pb.Observations(rows=0, categorical=[pb.CategoricalColumn(name="x", categories=map(str, range(65_537)))])
    violations: dict[str, str] = {}
    unpack_observations(message, violations, "o")
    assert violations == {"o.categorical[0].categories": "must be at most 65536 categories, is 65537"}


def test_slices_are_views_and_parts_join_to_the_whole() -> None:
    whole = table(7)
    assert np.shares_memory(whole[2:5].numeric["double"], whole.numeric["double"])
    same(whole, Observations.concat([whole[:2], whole[2:2], whole[2:]]))
    same(whole[1:6:2], whole.take(np.array([1, 3, 5])))


def test_categories_are_joined_by_name() -> None:
    one = Observations(2, {}, {"t": CategoryColumn(np.array([0, -1], dtype=np.int32), ("a", "b"))})
    other = Observations(3, {}, {"t": CategoryColumn(np.array([0, 1, -1], dtype=np.int32), ("c", "a"))})
    column = Observations.concat([one, other]).categorical["t"]
    assert [column.names[code] if code >= 0 else None for code in column.codes] == ["a", None, "c", "a", None]


def test_parts_of_other_columns_are_refused() -> None:
    with pytest.raises(InvalidInput, match="'x'"):
        Observations.concat([table(), Observations(1, {"x": np.zeros(1)}, {})])
    with pytest.raises(InvalidInput):
        Observations.concat([])
