"""Series files: CSV and Parquet with the columns date, series and value, read into a checked table, or written."""

import csv
import os
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from meshcast.columns import kind_of, load_pyarrow, written_whole
from meshcast.rpc.errors import InvalidInput
from meshcast.series.csv_file import read_csv
from meshcast.series.dates import day_of, day_texts
from meshcast.series.file_rows import ROWS_MAX
from meshcast.series.parquet_file import read_parquet
from meshcast.series.table import SeriesTable

__all__ = ["ROWS_MAX", "read_series", "write_series"]

_FORMS = (".csv", ".parquet")
_WAYS = "give .csv (or .csv.gz, .csv.xz) or .parquet"


def read_series(path: str | os.PathLike[str], *, today: date, nonnegative: bool = False) -> SeriesTable:
    """Reads a series file into a checked table, sorted by series and day.

    Columns: `date` (ISO 8601; a time of day is let be), `value` (empty where unknown), and `series` where the file
    holds several. Rows may come in any order; those without a value are left out. CSV is read in blocks, packed (.gz,
    .bz2, .xz) or not, so that memory holds only the columns.

    >>> from datetime import UTC, datetime
    >>> table = read_series("visits.csv", today=datetime.now(UTC).date())  # doctest: +SKIP

    Args:
        path: the file.
        today: present day in UTC; values are taken up to the day after it.
        nonnegative: whether the series cannot be negative, so that a negative value is refused.

    Raises:
        NotFound: there is no such file.
        InvalidInput: the file is empty, cut off, not UTF-8, too large or of no known kind, a column is missing, or a
            row breaks a rule; file, row, column and the way out are named.
        Precondition: Parquet needs the extra `parquet`.
    """
    path = Path(path)
    form, packing = kind_of(path, _FORMS, _WAYS)
    rows = read_parquet(path) if form == ".parquet" else read_csv(path, packing)
    return rows.table(day_of(today), nonnegative)


def write_series(path: str | os.PathLike[str], table: SeriesTable) -> None:
    """Writes a table as a series file that `read_series` reads back; the kind follows from the name.

    The file appears under its name only when it is whole. Unknown values are written as gaps, and the column `series`
    is left out when the table holds one series without a name.

    Raises:
        InvalidInput: the name is of no known kind, or packed.
        Precondition: Parquet needs the extra `parquet`.
    """
    path = Path(path)
    form, packing = kind_of(path, _FORMS, _WAYS)
    if packing:
        raise InvalidInput(f"{path.name}: series are not written packed; {_WAYS}", file=path.name)
    is_named = table.names.tolist() not in ([], [""])
    with written_whole(path) as part:
        if form == ".parquet":
            arrow, parquet = load_pyarrow()
            columns: dict[str, Any] = {"date": arrow.array(table.day.astype(np.int32), arrow.int32()).cast("date32")}
            if is_named:
                counts = np.diff(table.bounds)
                codes = arrow.array(np.repeat(np.arange(len(counts), dtype=np.int32), counts))
                columns["series"] = arrow.DictionaryArray.from_arrays(codes, table.names.tolist())
            columns["value"] = arrow.array(table.value, from_pandas=True)
            parquet.write_table(arrow.table(columns), part)
            return
        with part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("date", "series", "value") if is_named else ("date", "value"))
            for name, start, stop in table.ranges():
                days = day_texts(table.day[start:stop])
                values = ["" if value != value else _plain(value) for value in table.value[start:stop].tolist()]
                names = [name] * len(days)
                writer.writerows(zip(days, names, values, strict=True) if is_named else zip(days, values, strict=True))


def _plain(value: float) -> str:
    return f"{int(value)}" if value.is_integer() and abs(value) < 1e15 else repr(value)
