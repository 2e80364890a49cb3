"""CSV by blocks: memory holds one, numbers are told from names, and faults are placed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from meshcast.columns import csv_blocks, csv_place, is_number, numbers_of
from meshcast.rpc import InvalidInput


def anything(names: Sequence[str], source: str) -> None:
    """Takes every header."""


def write(folder: Path, text: str) -> Path:
    path = folder / "rows.csv"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize("rows_max", [1, 3, 100])
def test_blocks_are_the_rows_in_their_order(tmp_path: Path, rows_max: int) -> None:
    path = write(tmp_path, 'a, b\n1,"x, y"\n\n2,"two\nlines"\n3,\n4,z\n')
    blocks = list(csv_blocks(path, "", rows_max, anything))
    assert [block.first for block in blocks] == list(range(0, 4, rows_max))
    assert [text for block in blocks for text in block.columns[0]] == ["1", "2", "3", "4"]
    assert [text for block in blocks for text in block.columns[1]] == ["x, y", "two\nlines", "", "z"]
    assert csv_place(path, "")(2) == "row 3 (line 6)"


def test_the_header_may_be_refused(tmp_path: Path) -> None:
    def refuse(names: Sequence[str], source: str) -> None:
        raise InvalidInput(f"{source}: {list(names)}")

    with pytest.raises(InvalidInput, match=r"rows\.csv: \['a', 'b'\]"):
        next(csv_blocks(write(tmp_path, " a ,b\n1,2\n"), "", 5, refuse))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("a,b\n\n", "has a header and no rows"),
        ("a,b\n1,2\n3\n", r"row 2 \(line 3\): has 1 fields, the header 2; the file seems cut off"),
        ("a,b\n1,2,3\n4,5\n", r"row 1 \(line 2\): has 3 fields, the header 2; quote fields"),
        ('a,b\n1,"2\n', "a quote is never closed"),
    ],
)
def test_faults_are_placed(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        list(csv_blocks(write(tmp_path, text), "", 5, anything))


def test_numbers_are_told_from_names() -> None:
    values, wrong = numbers_of(["1", " 2.5e3 ", "", "-inf", "1_000", "x", "NA"], {"na"})
    np.testing.assert_array_equal(values, [1, 2500, np.nan, -np.inf, np.nan, np.nan, np.nan])
    assert wrong == [4, 5]
    assert [is_number(text) for text in ("1", "nan", "1_0", "0x1", "")] == [True, True, False, False, False]
    assert numbers_of([])[0].shape == (0,)
