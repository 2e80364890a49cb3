"""The newest rows are held, in bounded memory, and come back from the disk block by block."""

import numpy as np
import pytest

from meshcast.observations import CategoryColumn, Observations
from meshcast.rpc.errors import CorruptData
from meshcast.services.drift.packed_rows import rows_from_bytes, rows_to_bytes
from meshcast.services.drift.recent import RECENT_ROWS_MAX, RecentRows

NAMES = ("a", "b", "c", "d")


def rows(first: int, count: int) -> Observations:
    """Rows that tell their number."""
    numbers = np.arange(first, first + count)
    town = CategoryColumn((numbers % 5 - 1).astype(np.int32), NAMES)
    return Observations(count, {"n": numbers.astype(np.float64)}, {"town": town}, numbers.astype(np.int64))


def told(found: Observations | None) -> list[tuple[float, str | None, int]]:
    assert found is not None and found.unix_us is not None
    town = found.categorical["town"]
    names = [None if code < 0 else town.names[code] for code in town.codes]
    return list(zip(found.numeric["n"].tolist(), names, found.unix_us.tolist(), strict=True))


def wanted(first: int, stop: int) -> list[tuple[float, str | None, int]]:
    return [(float(at), None if at % 5 == 0 else NAMES[at % 5 - 1], at) for at in range(first, stop)]


@pytest.mark.parametrize("sizes", [[1] * 300, [700] * 20, [9_000, 5], [256] * 17, [4_353, 1], [100, 20_000, 3]])
def test_the_newest_rows_are_held_whatever_the_chunks(sizes: list[int]) -> None:
    recent, slots, at = RecentRows(), dict[int, bytes](), 0
    for turn, size in enumerate(sizes):
        recent.add(rows(at, size))
        at += size
        if turn % 3 == 0:
            slots |= dict(recent.changes())
    slots |= dict(recent.changes())
    held = min(at, RECENT_ROWS_MAX)
    for one in (recent, RecentRows.restored(recent.count, slots)):
        assert one.rows == held and one.count == at
        assert told(one.newest(10_000)) == wanted(at - held, at)
        assert told(one.newest(3)) == wanted(at - 3, at)
        assert told(one.between(at - 5, at - 2)) == wanted(at - 5, at - 2)
        assert one.between(at, at + 5) is None
        one.add(rows(at, 10))
        assert told(one.newest(12)) == wanted(at - 2, at + 10)
    assert len(slots) <= RECENT_ROWS_MAX // 256 + 1


def test_only_blocks_that_changed_are_written() -> None:
    recent = RecentRows()
    recent.add(rows(0, 1_000))
    assert [slot for slot, _ in recent.changes()] == [0, 1, 2, 3]
    assert list(recent.changes()) == []
    recent.add(rows(1_000, 30))
    assert [slot for slot, _ in recent.changes()] == [3, 4]


def test_single_rows_take_little_more_than_blocks() -> None:
    many, one = RecentRows(), RecentRows()
    for at in range(2_000):
        many.add(rows(at, 1))
    one.add(rows(0, 2_000))
    assert many.state_bytes == one.state_bytes == 2_000 * (4 + 4 + 8)


def test_packed_rows_keep_their_types_and_only_their_categories() -> None:
    town = CategoryColumn(np.array([2, -1, 2], np.int32), ("x", "y", "z"))
    empty = CategoryColumn(np.array([-1, -1, -1], np.int32), ())
    numbers = {"f4": np.array([1, np.nan, np.inf], np.float32), "f8": np.array([1e300, -0.0, 3])}
    back = rows_from_bytes(rows_to_bytes(Observations(3, numbers, {"town": town, "none": empty})))
    assert back.unix_us is None and back.rows == 3
    for name, values in numbers.items():
        assert back.numeric[name].dtype == values.dtype
        assert np.array_equal(back.numeric[name], values, equal_nan=True)
    assert back.categorical["town"].names == ("z",) and back.categorical["town"].codes.tolist() == [0, -1, 0]
    assert back.categorical["none"].names == () and back.categorical["none"].codes.tolist() == [-1, -1, -1]


def test_damaged_rows_are_told() -> None:
    data = bytearray(rows_to_bytes(rows(0, 5)))
    data[-9] ^= 1
    with pytest.raises(CorruptData):
        rows_from_bytes(bytes(data))
