"""CSV files of any size, read block by block as columns of texts, so that memory holds one block."""

import csv
import io
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.columns.csv_rows import not_csv, row_place
from meshcast.columns.files import open_text
from meshcast.columns.values import Place
from meshcast.rpc.errors import InvalidInput

__all__ = ["CsvBlock", "csv_blocks", "csv_place", "is_number", "numbers_of"]

_LINE_MAX = 1024 * 1024  # characters; a longer line comes in pieces, which then have too few or too long fields


class CsvBlock(NamedTuple):
    """Some rows of a file.

    Attributes:
        first: 0-based number of the first row.
        columns: the texts of each column, in the order of the header; never empty ones.
    """

    first: int
    columns: list[tuple[str, ...]]


def csv_blocks(
    path: Path, packing: str, rows_max: int, check_names: Callable[[Sequence[str], str], None]
) -> Iterator[CsvBlock]:
    """The rows of a file in blocks of at most so many; blank lines are passed over.

    Args:
        path: the file, in UTF-8.
        packing: how it is packed, as `kind_of` tells.
        rows_max: rows of a block at most.
        check_names: told the names of the header, stripped, and the file's; refuses them.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it is empty, cut off or no CSV, or a row has not as many fields as the header; the line is named.
    """
    source = path.name
    with open_text(path, packing) as file:
        reader = csv.reader(_lines(file), strict=True)
        try:
            header = [column.strip() for column in next(reader, [])]
            if not any(header):
                raise InvalidInput(f"{source}: the file is empty; give a header and at least one row", file=source)
            check_names(header, source)
            filled = (fields for fields in reader if fields)
            first = 0
            while block := list(islice(filled, rows_max)):
                if set(map(len, block)) != {len(header)}:
                    raise _bad_width(source, csv_place(path, packing), block, first, len(header))
                yield CsvBlock(first, list(zip(*block, strict=True)))
                first += len(block)
        except csv.Error as error:
            raise not_csv(source, reader.line_num, error) from error
    if not first:
        raise InvalidInput(f"{source}: has a header and no rows; give at least one", file=source)


def csv_place(path: Path, packing: str) -> Place:
    """Names a 0-based row of a file with its line; reads the file again, so for errors only."""

    def place(row: int) -> str:
        with open_text(path, packing) as file:
            return row_place(csv.reader(_lines(file), strict=True), row)

    return place


def numbers_of(texts: Sequence[str], nulls: Collection[str] = frozenset()) -> tuple[NDArray[np.float64], list[int]]:
    """Numbers of texts, and the positions of those that are none.

    Args:
        texts: n of them.
        nulls: texts in lower case that stand for no value, beside blank ones.

    Returns:
        Values, shape (n,), NaN where there is none or no number; and positions from 0.
    """
    n = len(texts)
    if "_" not in "".join(texts):  # Python takes 1_000 for a thousand; in a file it is a name
        try:
            return np.fromiter(map(float, texts), dtype=np.float64, count=n), []
        except ValueError:
            pass
    filled = ["nan" if not text or text.isspace() or text.strip().lower() in nulls else text for text in texts]
    wrong = [at for at, text in enumerate(filled) if not is_number(text)]
    for at in wrong:
        filled[at] = "nan"
    return np.fromiter(map(float, filled), dtype=np.float64, count=n), wrong


def is_number(text: str) -> bool:
    """Whether a text is a number as files have them: as Python writes them, without its underscores.

    >>> is_number("1e3"), is_number(" -inf "), is_number("1_000")
    (True, True, False)
    """
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _lines(file: io.TextIOBase) -> Iterator[str]:
    """The lines of a file, none longer than `_LINE_MAX`, so that one endless line does not fill the memory."""
    while line := file.readline(_LINE_MAX):
        yield line


def _bad_width(source: str, place: Place, block: list[list[str]], before: int, width: int) -> InvalidInput:
    at = next(i for i, fields in enumerate(block) if len(fields) != width)
    fields = len(block[at])
    is_cut = fields < width and at == len(block) - 1
    hint = "the file seems cut off: fetch or export it again" if is_cut else "quote fields that hold commas"
    text = f"has {fields} fields, the header {width}"
    return InvalidInput(
        f"{source}, {place(before + at)}: {text}; {hint}",
        violations=[(f"rows[{before + at + 1}]", text)],
        file=source,
        row=before + at + 1,
    )
