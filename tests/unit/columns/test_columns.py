"""Columns: bytes that are views where they can be, and files that appear only when whole."""

from pathlib import Path

import numpy as np
import pytest

from meshcast.columns import column_bytes, decoded, kind_of, open_text, read_bytes, unpack_column, written_whole
from meshcast.rpc import InvalidInput, NotFound


def test_a_column_that_has_the_wires_type_is_not_copied() -> None:
    values = np.arange(4, dtype="<f8")
    view = column_bytes(values, np.dtype("<f8"))
    values[0] = 7.0
    assert bytes(view) == values.tobytes()
    assert bytes(column_bytes(values, np.dtype("<f4"))) == values.astype("<f4").tobytes()
    assert bytes(column_bytes(values[:0], np.dtype("<f4"))) == b""


def test_bytes_of_another_length_are_refused() -> None:
    assert unpack_column(b"\x01\0\0\0", np.dtype("<i4"), (1,), "day").tolist() == [1]
    with pytest.raises(InvalidInput, match="day must be 8 bytes, is 4"):
        unpack_column(b"\x01\0\0\0", np.dtype("<i4"), (2,), "day")


def test_kinds_are_told_by_names() -> None:
    forms = (".csv", ".parquet")
    assert kind_of(Path("a.b.CSV.gz"), forms, "") == (".csv", ".gz")
    assert kind_of(Path("a.parquet"), forms, "") == (".parquet", "")
    for name in ("a.parquet.gz", "csv", "a.gz", "a.csv.zip"):
        with pytest.raises(InvalidInput, match="give csv"):
            kind_of(Path(name), forms, "give csv")


def test_a_file_is_left_alone_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), written_whole(path) as part:
        part.write_text("half")
        _ = 1 / 0
    assert [one.name for one in tmp_path.iterdir()] == ["a.csv"]
    assert path.read_text() == "old"
    with written_whole(path) as part:
        part.write_text("new")
    assert path.read_text() == "new"


def test_an_error_of_the_reader_is_not_taken_for_one_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(ValueError, match="mine"), open_text(tmp_path / "a.csv"):
        raise ValueError("mine")
    with pytest.raises(NotFound), open_text(tmp_path / "b.csv"):
        pass


def test_bytes_are_read_up_to_a_bound_and_placed_where_they_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfab\ncd\xff")
    data = read_bytes(tmp_path / "a.txt")
    assert read_bytes(tmp_path / "a.txt", most=4) == data[:4]
    with pytest.raises(InvalidInput, match=r"a\.txt, line 2, byte 3: is not UTF-8") as caught:
        decoded(data, "a.txt")
    assert caught.value.violations[0].description == "byte 0xff is not UTF-8"
    assert decoded(data, "a.txt", replace_invalid=True) == "ab\ncd\ufffd"
    assert decoded(data[3:], "a.txt", encoding="latin-1") == "ab\ncdÿ"
    with pytest.raises(InvalidInput, match="is not ascii"):
        decoded(data, "a.txt", encoding="ascii")
