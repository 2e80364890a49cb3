"""Series files of the kind CSV, read block by block, so that memory holds only the columns."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meshcast.columns import not_csv, open_text, row_place
from meshcast.rpc.errors import InvalidInput
from meshcast.series.file_rows import (
    BAD_DAY,
    DayTexts,
    FileRows,
    check_names,
    check_size,
    long_name,
    no_date,
    refusal,
    short_text,
)
from meshcast.series.rules import NAME_CHARACTERS_MAX

_BLOCK_ROWS = 5_000  # small enough that the rows in hand stay in the cache
_LINE_MAX = 1024 * 1024  # characters; a longer line comes in pieces, which then have too few or too long fields

Days = NDArray[np.int64]
Floats = NDArray[np.float64]


def read_csv(path: Path, packing: str) -> FileRows:
    """The rows of a CSV file.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it is no CSV, too large, or holds what cannot be read; the row is named.
    """
    source = path.name
    days, names = DayTexts(), _Names()
    parts: list[tuple[Days, Floats, NDArray[np.int32]]] = []
    rows = 0

    def place(row: int) -> str:
        return _csv_place(path, packing, row)

    with open_text(path, packing) as file:
        reader = csv.reader(_lines(file), strict=True)
        try:
            header = [column.strip() for column in next(reader, [])]
            if not any(header):
                raise InvalidInput(f"{source}: the file is empty; give a header and at least one row", file=source)
            check_names(header, source)
            at_date, at_value = header.index("date"), header.index("value")
            at_series = header.index("series") if "series" in header else None
            lines = (fields for fields in reader if fields)
            while block := list(islice(lines, _BLOCK_ROWS)):
                if set(map(len, block)) != {len(header)}:
                    raise _bad_width(source, place, block, rows, len(header))
                columns = list(zip(*block, strict=True))
                day = np.fromiter(map(days.__getitem__, columns[at_date]), dtype=np.int64, count=len(block))
                value, no_numbers = _numbers(columns[at_value])
                faults = [
                    (rows + at, "date", no_date(columns[at_date][at])) for at in np.flatnonzero(day == BAD_DAY).tolist()
                ]
                faults += [(rows + at, "value", _no_number(columns[at_value][at])) for at in no_numbers]
                if faults:
                    raise refusal(source, place, faults)
                codes = np.zeros(len(block), dtype=np.int32)
                if at_series is not None:
                    texts = columns[at_series]
                    if max(map(len, texts)) > NAME_CHARACTERS_MAX:
                        at = next(i for i, text in enumerate(texts) if len(text) > NAME_CHARACTERS_MAX)
                        raise refusal(source, place, [(rows + at, "series", long_name(texts[at]))])
                    codes = np.fromiter(map(names.__getitem__, texts), dtype=np.int32, count=len(block))
                parts.append((day, value, codes))
                rows += len(block)
                check_size(source, rows, len(names))
        except csv.Error as error:
            raise not_csv(source, reader.line_num, error) from error
    if not rows:
        raise InvalidInput(f"{source}: has a header and no rows; give at least one", file=source)
    day, value, codes = (np.concatenate([part[i] for part in parts]) for i in range(3))
    del parts
    return FileRows(source, place, day, value, codes, list(names), days.has_times)


class _Names(dict[str, int]):
    """Codes by name, in the order of their first row."""

    def __missing__(self, name: str) -> int:
        code = self[name] = len(self)
        return code


def _lines(file: io.TextIOBase) -> Iterator[str]:
    """The lines of a file, none longer than `_LINE_MAX`, so that one endless line does not fill the memory."""
    while line := file.readline(_LINE_MAX):
        yield line


def _numbers(texts: Sequence[str]) -> tuple[Floats, list[int]]:
    """Numbers of texts, NaN where empty, and the positions of those that are none."""
    n = len(texts)
    try:
        return np.fromiter(map(float, texts), dtype=np.float64, count=n), []
    except ValueError:
        filled = ["nan" if not text or text.isspace() else text for text in texts]
    try:
        return np.fromiter(map(float, filled), dtype=np.float64, count=n), []
    except ValueError:
        wrong = [at for at, text in enumerate(filled) if not _is_number(text)]
        return np.full(n, np.nan), wrong


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _no_number(text: str) -> str:
    hint = (
        "write the decimal point as '.', and no thousands' separators"
        if "," in text
        else "leave it empty where it is unknown"
    )
    return f"must be a number, is {short_text(text)}; {hint}"


def _bad_width(
    source: str, place: Callable[[int], str], block: list[list[str]], before: int, width: int
) -> InvalidInput:
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


def _csv_place(path: Path, packing: str, row: int) -> str:
    """Names a 0-based row with its line; reads the file again, so for errors."""
    with open_text(path, packing) as file:
        return row_place(csv.reader(_lines(file), strict=True), row)
