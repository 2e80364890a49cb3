import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcast.observations import CategoryColumn, Observations
from meshcast.rpc.errors import CorruptData, InvalidInput
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.packing import pack, unpack
from meshcast.services.drift.tally import UNSEEN_MAX, Tally

VALUES = st.floats(width=32) | st.sampled_from([0.0, 1.0, np.nan, np.inf, -np.inf])


def table(x: np.ndarray, codes: np.ndarray | None = None, names: tuple[str, ...] = ("a", "b")) -> Observations:
    column = CategoryColumn(np.zeros(len(x), dtype=np.int32) if codes is None else codes.astype(np.int32), names)
    return Observations(rows=len(x), numeric={"x": x}, categorical={"c": column})


LAYOUT = Layout.of(table(np.random.default_rng(0).standard_normal(2_000), np.arange(2_000) % 2))


@given(values=st.lists(VALUES, max_size=30), cut=st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_parts_add_up_to_the_whole(values: list[float], cut: int) -> None:
    rows = table(np.array(values, dtype=np.float64), np.arange(len(values)) % 3 - 1)
    whole = LAYOUT.tally(rows)
    parts = LAYOUT.tally(rows[:cut]) + LAYOUT.tally(rows[cut:])
    assert parts.rows == whole.rows == len(values)
    assert (parts.counts == whole.counts).all() and (parts.infinite == whole.infinite).all()
    assert (whole.counts.sum(axis=1) == len(values)).all()
    assert parts.fine is not None and whole.fine is not None and (parts.fine == whole.fine).all()
    assert whole.fine.sum() + whole.nulls[0] == len(values)
    assert (parts.extremes == whole.extremes).all()
    finite = np.array([value for value in values if np.isfinite(value)])
    assert whole.moments[0, 0] == len(finite)
    if len(finite):
        scale = max(float(np.abs(finite).max()), 1e-30)
        assert whole.means[0] == pytest.approx(finite.mean(), abs=1e-9 * scale)
        assert parts.means[0] == pytest.approx(finite.mean(), abs=1e-9 * scale)
        assert whole.deviations[0] == pytest.approx(finite.std(), abs=1e-6 * scale)
        assert parts.deviations[0] == pytest.approx(finite.std(), abs=1e-6 * scale)
        assert whole.extremes[0].tolist() == [finite.min(), finite.max()]


def test_no_rows_make_an_empty_tally_that_changes_nothing() -> None:
    none = LAYOUT.tally(table(np.empty(0)))
    some = LAYOUT.tally(table(np.array([1.0, 2.0])))
    assert none.rows == 0 and not none.counts.any()
    assert np.isnan(none.means).all() and np.isnan(none.deviations).all()
    assert ((none + some).counts == some.counts).all() and (none + some).means[0] == 1.5


def test_infinities_and_nulls_are_counted_apart() -> None:
    tally = LAYOUT.tally(table(np.array([np.nan, np.inf, -np.inf, -np.inf, 5.0])))
    assert tally.infinite[0].tolist() == [2, 1] and tally.infinities.tolist() == [3, 0]
    assert tally.nulls[0] == 1
    assert tally.extremes[0].tolist() == [5.0, 5.0]


def test_a_float64_keeps_its_extremes_and_an_overflow_of_float32_is_no_infinity() -> None:
    tally = LAYOUT.tally(table(np.array([0.1, 1e300])))
    assert tally.extremes[0, 0] == 0.1
    assert tally.counts[0, LAYOUT.bins[0] - 1] == 1


def test_equal_values_have_no_deviation() -> None:
    whole = LAYOUT.tally(table(np.full(1_001, 0.1)))
    for _ in range(10):
        whole.add(LAYOUT.tally(table(np.full(997, 0.1))))
    assert whole.deviations[0] == 0


def test_unseen_categories_are_named_within_bounds_and_all_counted() -> None:
    names = tuple(f"new {at}" for at in range(1_000))
    codes = np.concatenate([np.arange(1_000), np.full(50, 7)])
    tally = LAYOUT.tally(table(np.zeros(1_050), codes, names))
    for _ in range(3):
        tally.add(LAYOUT.tally(table(np.zeros(1_050), codes, names)))
    assert tally.unseen_rows.tolist() == [0, 4_200]
    assert len(tally.unseen["c"]) == UNSEEN_MAX
    assert tally.unseen["c"].most_common(1) == [("new 7", 204)]
    long = LAYOUT.tally(table(np.zeros(1), np.zeros(1), ("x" * 10_000,)))
    assert [len(name) for name in long.unseen["c"]] == [200]


def test_adding_leaves_the_other_as_it_was() -> None:
    a, b = LAYOUT.tally(table(np.array([1.0]))), LAYOUT.tally(table(np.array([2.0, 3.0])))
    before = b.counts.copy()
    a.add(b)
    a.add(b)
    assert b.rows == 2 and (b.counts == before).all()
    assert b.sketches is not None and b.sketches.quantiles(np.array([0.5])).item() == 2.0
    assert a.rows == 5


def test_what_one_was_not_kept_of_the_sum_has_not() -> None:
    rows = table(np.array([1.0]))
    assert (LAYOUT.tally(rows) + LAYOUT.tally(rows, sketches=False)).sketches is None


def test_tallies_of_two_references_do_not_add_up() -> None:
    other = Layout.of(table(np.arange(10.0)))
    with pytest.raises(InvalidInput, match="two references"):
        LAYOUT.tally(table(np.zeros(1))).add(other.tally(table(np.zeros(1))))


def test_a_packed_tally_comes_back_and_goes_on() -> None:
    rng = np.random.default_rng(1)
    tally = LAYOUT.tally(table(rng.standard_normal(3_000), rng.integers(-1, 3, 3_000), ("a", "b", "odd")))
    again = Tally.from_bytes(tally.to_bytes())
    for name in ("counts", "moments", "extremes", "infinite", "fine"):
        assert (getattr(again, name) == getattr(tally, name)).all(), name
    assert again.unseen == tally.unseen and again.rows == 3_000
    again.add(tally)
    assert again.rows == 6_000 and again.sketches is not None
    bare = LAYOUT.tally(table(np.zeros(70_000)), sketches=False)
    assert Tally.from_bytes(bare.to_bytes()).counts.max() == 70_000


def test_a_damaged_tally_is_refused() -> None:
    data = LAYOUT.tally(table(np.zeros(10))).to_bytes()
    for broken in (b"", data[:-1], data[: len(data) // 2], data[:60] + b"\xff" + data[61:]):
        with pytest.raises(CorruptData):
            Tally.from_bytes(broken)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("counts", np.ones((2, 300), dtype=np.uint16)),
        ("counts", np.ones(4, dtype=np.uint16)),
        ("moments", np.zeros((2, 4))),
        ("infinite", np.zeros((1, 2), dtype=np.int64)),
        ("fine", np.zeros(3, dtype=np.int64)),
        ("sketches", np.zeros(9, dtype=np.uint8)),
    ],
)
def test_a_tally_that_does_not_hold_together_is_refused(name: str, value: np.ndarray) -> None:
    head, arrays = unpack(b"DTY1", LAYOUT.tally(table(np.zeros(10))).to_bytes())
    with pytest.raises(CorruptData):
        Tally.from_bytes(pack(b"DTY1", head, {**arrays, name: value}))
    with pytest.raises(CorruptData):
        Tally.from_bytes(pack(b"DTY1", {**head, "rows": "many"}, arrays))


def test_an_absurd_value_is_in_the_mean_and_in_the_outermost_bin() -> None:
    tally = LAYOUT.tally(table(np.array([1e300, 0.0])))
    assert tally.means[0] == 5e299 and tally.infinities[0] == 0
    assert tally.extremes[0].tolist() == [0.0, 1e300]
    assert np.isnan(tally.deviations[0])
