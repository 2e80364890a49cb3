from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from meshcast.observations import CategoryColumn, Observations
from meshcast.rpc.errors import CorruptData, InvalidInput
from meshcast.services.drift.category_slots import CATEGORIES_MAX, KNOWN_MAX
from meshcast.services.drift.layout import BINS_MAX, FEATURES_MAX, Layout


def table(categorical: Mapping[str, list[str | None]] | None = None, **numeric: NDArray[np.floating]) -> Observations:
    columns = {}
    for name, values in (categorical or {}).items():
        names = tuple(dict.fromkeys(value for value in values if value is not None))
        codes = [-1 if value is None else names.index(value) for value in values]
        columns[name] = CategoryColumn(np.array(codes, dtype=np.int32), names)
    rows = len(next(iter([*numeric.values(), *(column.codes for column in columns.values())])))
    return Observations(rows=rows, numeric=numeric, categorical=columns)


def test_bins_of_a_continuous_feature_hold_about_the_same_number_of_reference_rows() -> None:
    rows = table(x=np.random.default_rng(0).standard_normal(50_000))
    layout = Layout.of(rows)
    counts = layout.tally(rows).counts[0, : layout.bins[0]]
    assert BINS_MAX <= layout.bins[0] <= layout.slots - 2
    assert 25 <= counts.min() and counts.max() <= 225
    assert counts.sum() == 50_000


def test_ten_groups_hold_a_tenth_of_the_reference_each() -> None:
    rows = table(x=np.random.default_rng(0).standard_normal(10_000))
    layout = Layout.of(rows)
    shares = np.bincount(layout.groups[0, :-2], layout.tally(rows).counts[0, :-2])
    assert shares.tolist() == pytest.approx([1_000] * 10, abs=1)


def test_a_bin_holds_its_beginning_and_not_its_end() -> None:
    rows = table(x=np.arange(100.0))
    layout = Layout.of(rows)
    edges = layout.edges(0)
    for at, edge in enumerate(edges.tolist()):
        assert layout.tally(table(x=np.array([edge]))).counts[0, at + 1] == 1
        below = np.nextafter(np.float32(edge), np.float32(-np.inf))
        assert layout.tally(table(x=np.array([below]))).counts[0, at] == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_has_a_bin_of_its_own_and_one_on_each_side(dtype: type) -> None:
    layout = Layout.of(table(x=np.full(100, 0.1, dtype=dtype)))
    tally = layout.tally(table(x=np.array([0.1, 0.1, 0.0999, 0.1001, 5, -5], dtype=dtype)))
    assert layout.bins.tolist() == [3]
    assert tally.counts[0, :3].tolist() == [2, 2, 2]
    assert layout.tally(table(x=np.array([0.1], dtype=np.float32))).counts[0, :3].tolist() == [0, 1, 0]
    assert layout.tally(table(x=np.array([0.1], dtype=np.float64))).counts[0, :3].tolist() == [0, 1, 0]


def test_values_between_two_values_are_told_from_both() -> None:
    rows = table(x=np.where(np.arange(1000) % 3 == 0, 0.0, 1.0))
    layout = Layout.of(rows)
    tally = layout.tally(table(x=np.array([0.0, 0.5, 1.0, 2.0, -1.0])))
    assert tally.counts[0, : layout.bins[0]].tolist() == [1, 1, 1, 1, 1]


def test_a_bin_begins_at_each_of_a_few_values() -> None:
    x = np.random.default_rng(0).zipf(3, 100_000).astype(np.float64)
    assert set(range(1, int(np.quantile(x, 0.999)) + 1)) <= set(Layout.of(table(x=x)).edges(0).tolist())


def test_one_row_makes_a_layout() -> None:
    layout = Layout.of(table({"c": ["a"]}, x=np.array([2.0])))
    tally = layout.tally(table({"c": ["a", "b"]}, x=np.array([2.0, 3.0])))
    assert tally.counts[0, : layout.bins[0]].tolist() == [0, 1, 1]
    assert tally.counts[1].tolist() == [1] + [0] * (layout.slots - 2) + [1]


def test_columns_of_nulls_alone_make_a_layout() -> None:
    layout = Layout.of(table({"c": [None, None]}, x=np.full(2, np.nan)))
    assert layout.bins.tolist() == [1, 1]
    tally = layout.tally(table({"c": [None, "a"]}, x=np.array([np.nan, 1.0])))
    assert tally.nulls.tolist() == [1, 1] and tally.unseen_rows.tolist() == [0, 1]
    assert tally.counts.sum(axis=1).tolist() == [2, 2]


def test_infinities_of_a_reference_make_no_bins() -> None:
    x = np.where(np.arange(1000) % 2 == 0, np.inf, np.arange(1000.0))
    layout = Layout.of(table(x=x))
    assert np.isfinite(layout.edges(0)).all()
    tally = layout.tally(table(x=np.array([-np.inf, np.inf, np.inf])))
    assert tally.counts[0, 0] == 1 and tally.counts[0, layout.bins[0] - 1] == 2


@pytest.mark.parametrize(("origin", "unit"), [(1.7e9, 1.0), (0.0, 1e300), (0.0, 1e-40)])
def test_values_that_float32_cannot_tell_apart_are_told_apart(origin: float, unit: float) -> None:
    rng = np.random.default_rng(0)
    rows = table(x=origin + unit * rng.standard_normal(10_000))
    layout = Layout.of(rows)
    counts = layout.tally(rows).counts[0, : layout.bins[0]]
    assert layout.bins[0] > 200 and counts.max() < 100
    assert (np.abs(layout.edges(0) - origin) < 6 * unit).all()


def test_categories_are_ordered_by_frequency_and_the_rare_share_a_slot() -> None:
    names = [f"c{at:03d}" for at in range(CATEGORIES_MAX + 50)]
    layout = Layout.of(table({"c": [name for at, name in enumerate(names) for _ in range(len(names) - at)]}))
    assert layout.categories[0] == tuple(names[:CATEGORIES_MAX])
    assert layout.bins.tolist() == [CATEGORIES_MAX + 1]
    assert layout.singletons.tolist() == [1]
    tally = layout.tally(table({"c": ["c000", "c249", "c249", "new", None]}))
    assert tally.counts[0, 0] == 1 and tally.counts[0, CATEGORIES_MAX] == 2
    assert tally.counts[0, -2] == 1 and tally.counts[0, -1] == 1
    assert tally.unseen == {"c": {"new": 1}}


def test_a_column_of_identifiers_is_refused_by_its_name() -> None:
    rows = KNOWN_MAX + 1
    ids = CategoryColumn(np.arange(rows, dtype=np.int32), tuple(map(str, range(rows))))
    with pytest.raises(InvalidInput, match="'user_id' has 65537 categories"):
        Layout.of(Observations(rows=rows, numeric={}, categorical={"user_id": ids}))


def test_too_many_features_are_refused() -> None:
    column = np.zeros(2, dtype=np.float32)
    with pytest.raises(InvalidInput, match="at most 4096 columns, not 10000"):
        Layout.of(table({}, **{f"f{at}": column for at in range(10_000)}))


def test_many_features_have_fewer_bins_each_and_hold_state_of_the_same_order() -> None:
    rng = np.random.default_rng(0)
    rows = table({}, **{f"f{at}": rng.standard_normal(100).astype(np.float32) for at in range(FEATURES_MAX)})
    layout = Layout.of(rows)
    tally = layout.tally(rows)
    assert layout.slots * len(layout) < 100_000
    assert (tally.counts.sum(axis=1) == 100).all()
    assert tally.state_bytes < 10 << 20


def test_no_rows_and_no_columns_are_refused() -> None:
    for empty in (table(x=np.empty(0)), Observations(rows=0, numeric={}, categorical={})):
        with pytest.raises(InvalidInput, match="one row and one column or more"):
            Layout.of(empty)


def test_roles_and_importances_are_those_of_columns() -> None:
    rows = table({"c": ["a"]}, x=np.array([1.0]))
    layout = Layout.of(rows, roles={"c": "output"}, importances={"x": 0.5})
    assert layout.features == (("x", "numeric", "input", 0.5), ("c", "categorical", "output", 1.0))
    with pytest.raises(InvalidInput, match="not a column of the reference: y"):
        Layout.of(rows, roles={"y": "output"})


def test_each_column_that_differs_from_the_reference_is_named() -> None:
    layout = Layout.of(table({"c": ["a"], "d": ["a"]}, x=np.array([1.0]), y=np.array([1.0])))
    rows = table({"c": ["a"], "y": ["b"]}, x=np.array([1.0]), d=np.array([1.0]), z=np.array([1.0]))
    assert layout.violations(rows, "rows") == {
        "rows.y": "the reference has numbers in this column, the rows have categories",
        "rows.d": "the reference has categories in this column, the rows have numbers",
        "rows.z": "the reference does not have this column",
    }
    assert layout.violations(table({"c": ["a"], "d": ["a"]}, x=np.array([1.0]))) == {
        "observations.y": "the reference has this column, the rows do not"
    }
    with pytest.raises(InvalidInput) as caught:
        layout.tally(rows)
    assert {violation.field for violation in caught.value.violations} == {
        f"observations.{name}" for name in ("y", "d", "z")
    }


def test_a_column_of_nulls_is_of_either_kind() -> None:
    layout = Layout.of(table({"c": ["a"]}, x=np.array([1.0])))
    tally = layout.tally(table({"x": [None, None]}, c=np.full(2, np.nan)))
    assert tally.nulls.tolist() == [2, 2]
    assert tally.sketches is not None and np.isnan(tally.sketches.quantiles(np.array([0.5]))).all()


def test_blocks_of_rows_are_counted_as_one() -> None:
    rng = np.random.default_rng(0)
    rows = table({"c": [str(v) for v in rng.integers(0, 9, 40_000)]}, x=rng.standard_normal(40_000))
    layout = Layout.of(rows)
    whole, halves = layout.tally(rows), layout.tally(rows[:1]) + layout.tally(rows[1:])
    assert (whole.counts == halves.counts).all()
    assert whole.rows == 40_000
    assert whole.means[0] == pytest.approx(rows.numeric["x"].mean())


def test_a_layout_survives_packing_and_counts_the_same() -> None:
    rng = np.random.default_rng(0)
    rows = table({"c": [f"n{v}" for v in rng.zipf(1.3, 2_000)]}, x=rng.standard_normal(2_000), y=np.full(2_000, 1e9))
    layout = Layout.of(rows, roles={"y": "output"}, importances={"c": 3.0})
    again = Layout.from_bytes(layout.to_bytes())
    assert again.features == layout.features and again.fingerprint == layout.fingerprint
    assert (again.groups == layout.groups).all() and (again.singletons == layout.singletons).all()
    assert (again.tally(rows).counts == layout.tally(rows).counts).all()


def test_a_damaged_layout_is_refused() -> None:
    data = Layout.of(table(x=np.arange(10.0))).to_bytes()
    with pytest.raises(CorruptData):
        Layout.from_bytes(data[:-1])
    with pytest.raises(CorruptData):
        Layout.from_bytes(data[:50] + b"\x00" + data[51:])


def test_quantiles_are_in_the_features_own_unit() -> None:
    rng = np.random.default_rng(0)
    x = 1.7e9 + rng.standard_normal(5_000)
    layout = Layout.of(table({"c": ["a"] * 5_000}, x=x))
    found = layout.quantiles(layout.tally(table({"c": ["a"] * 5_000}, x=x)), np.array([0.25, 0.5]))
    assert found[0] == pytest.approx(np.quantile(x, [0.25, 0.5], method="inverted_cdf"), abs=1e-3)
    assert np.isnan(found[1]).all()
