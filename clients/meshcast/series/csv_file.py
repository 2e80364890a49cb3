"""Series files of the kind CSV, read block by block, so that memory holds only the columns."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meshcast.columns import csv_blocks, csv_place, numbers_of, short_text
from meshcast.series.file_rows import (
    BAD_DAY,
    DayTexts,
    FileRows,
    check_names,
    check_size,
    long_name,
    no_date,
    refusal,
)
from meshcast.series.rules import NAME_CHARACTERS_MAX

_BLOCK_ROWS = 5_000  # small enough that the rows in hand stay in the cache

Days = NDArray[np.int64]
Floats = NDArray[np.float64]


def read_csv(path: Path, packing: str) -> FileRows:
    """The rows of a CSV file.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it is no CSV, too large, or holds what cannot be read; the row is named.
    """
    source, place = path.name, csv_place(path, packing)
    days, names = DayTexts(), _Names()
    parts: list[tuple[Days, Floats, NDArray[np.int32]]] = []
    header: list[str] = []

    def check(found: Sequence[str], source: str) -> None:
        check_names(found, source)
        header.extend(found)

    for rows, columns in csv_blocks(path, packing, _BLOCK_ROWS, check):
        by_name = dict(zip(header, columns, strict=True))
        dates, values = by_name["date"], by_name["value"]
        day = np.fromiter(map(days.__getitem__, dates), dtype=np.int64, count=len(dates))
        value, no_numbers = numbers_of(values)
        faults = [(rows + at, "date", no_date(dates[at])) for at in np.flatnonzero(day == BAD_DAY).tolist()]
        faults += [(rows + at, "value", _no_number(values[at])) for at in no_numbers]
        if faults:
            raise refusal(source, place, faults)
        codes = np.zeros(len(dates), dtype=np.int32)
        if "series" in by_name:
            texts = by_name["series"]
            if max(map(len, texts)) > NAME_CHARACTERS_MAX:
                at = next(i for i, text in enumerate(texts) if len(text) > NAME_CHARACTERS_MAX)
                raise refusal(source, place, [(rows + at, "series", long_name(texts[at]))])
            codes = np.fromiter(map(names.__getitem__, texts), dtype=np.int32, count=len(texts))
        parts.append((day, value, codes))
        check_size(source, rows + len(dates), len(names))
    day, value, codes = (np.concatenate([part[i] for part in parts]) for i in range(3))
    del parts
    return FileRows(source, place, day, value, codes, list(names), days.has_times)


class _Names(dict[str, int]):
    """Codes by name, in the order of their first row."""

    def __missing__(self, name: str) -> int:
        code = self[name] = len(self)
        return code


def _no_number(text: str) -> str:
    hint = (
        "write the decimal point as '.', and no thousands' separators"
        if "," in text
        else "leave it empty where it is unknown"
    )
    return f"must be a number, is {short_text(text)}; {hint}"
