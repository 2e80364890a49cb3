"""Series files: CSV and Parquet with the columns date, series and value, read into a checked table, or written."""

import csv
import difflib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.columns import kind_of, load_pyarrow, open_text, written_whole
from meshcast.rpc.errors import InvalidInput, NotFound
from meshcast.series.dates import EARLIEST, day_of, day_texts
from meshcast.series.rules import DAYS_MAX, NAME_CHARACTERS_MAX, VALUE_MAX, describe_day, describe_value, sparse_runs
from meshcast.series.table import SeriesTable

__all__ = ["ROWS_MAX", "read_series", "write_series"]

ROWS_MAX = 20_000_000
"""Most rows of a file: 20 bytes each are kept, and about as much again while they are sorted."""

_SERIES_MAX = 1_000_000  # names are text in memory, about 100 bytes each
_BLOCK_ROWS = 5_000  # small enough that the rows in hand stay in the cache
_LINE_MAX = 1024 * 1024  # characters; a longer line comes in pieces, which then have too few or too long fields
_TEXTS_KEPT = 200_000  # date texts remembered: every day since 1900 in four spellings
_TEXT_KEPT_MAX = 40  # characters: a time with its zone and blanks around it
_COLUMNS = ("date", "series", "value")
_FORMS = (".csv", ".parquet")
_WAYS = "give .csv (or .csv.gz, .csv.xz) or .parquet"
_VIOLATIONS_MAX = 50

# What other exports call our columns; measured by nobody, so only used to suggest a name.
_OTHER_NAMES = {
    "date": ("ds", "day", "time", "timestamp", "datetime", "published_at", "index", "unnamed: 0"),
    "series": ("unique_id", "id", "item", "item_id", "name", "channel", "page", "sku", "store", "series_id"),
    "value": ("y", "count", "counts", "views", "sales", "target", "values", "amount", "engagement", "births"),
}
_SUGGESTION = {other: name for name, others in _OTHER_NAMES.items() for other in others}

_BAD_DAY = np.iinfo(np.int64).min

Days = NDArray[np.int64]
Floats = NDArray[np.float64]


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
    rows = _read_parquet(path) if form == ".parquet" else _read_csv(path, packing)
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
            writer.writerow(_COLUMNS if is_named else ("date", "value"))
            for name, start, stop in table.ranges():
                days = day_texts(table.day[start:stop])
                values = ["" if value != value else _plain(value) for value in table.value[start:stop].tolist()]
                names = [name] * len(days)
                writer.writerows(zip(days, names, values, strict=True) if is_named else zip(days, values, strict=True))


def _plain(value: float) -> str:
    return f"{int(value)}" if value.is_integer() and abs(value) < 1e15 else repr(value)


class _Rows:
    """Rows of a file as columns, in the file's order.

    Args:
        source: the file's name, for errors.
        place: names a 0-based row.
        day: days since 1970-01-01.
        value: NaN where the file has none.
        codes: each row's series.
        names: names of the series, by code.
        has_times: whether any date had a time of day other than midnight.
    """

    def __init__(
        self,
        source: str,
        place: Callable[[int], str],
        day: Days,
        value: Floats,
        codes: NDArray[np.int32],
        names: Sequence[str],
        has_times: bool,
    ) -> None:
        self._source = source
        self._place = place
        self._day = day
        self._value = value
        self._codes = codes
        self._names = names
        self._has_times = has_times

    def table(self, today: int, nonnegative: bool) -> SeriesTable:
        """The rows as a table, once every rule was seen to hold."""
        self._check_values(today, nonnegative)
        known = np.flatnonzero(~np.isnan(self._value))
        if not len(known):
            raise InvalidInput(f"{self._source}: no row has a value; give at least one", file=self._source)
        is_whole = len(known) == len(self._value)
        kept = slice(None) if is_whole else known
        codes = self._codes[kept].astype(np.int64)
        table, order = SeriesTable.from_codes(np.array(self._names), codes, self._day[kept], self._value[kept])
        if len(table.names) < len(self._names):
            lost = sorted(set(self._names) - set(table.names.tolist()))[0]
            text = f"the series {lost!r} has no value on any day; leave it out"
            raise InvalidInput(f"{self._source}: {text}", violations=[("series", text)], file=self._source)

        def row_of(position: int) -> int:
            row = int(order[position])
            return row if is_whole else int(known[row])

        self._check_order(table, row_of)
        return table

    def _check_values(self, today: int, nonnegative: bool) -> None:
        day, value = self._day, self._value
        faults: list[tuple[int, str, str]] = []
        if day.min() < EARLIEST or day.max() > today + 1:
            for row in np.flatnonzero((day < EARLIEST) | (day > today + 1))[:_VIOLATIONS_MAX].tolist():
                faults.append((row, "date", describe_day(int(day[row]), today)))
        for row in np.flatnonzero(np.abs(value) > VALUE_MAX)[:_VIOLATIONS_MAX].tolist():
            faults.append((row, "value", describe_value(float(value[row]))))
        if nonnegative:
            for row in np.flatnonzero(value < 0)[:_VIOLATIONS_MAX].tolist():
                faults.append((row, "value", f"is {value[row]:g}, and the series was declared not to be negative"))
        if faults:
            raise _refusal(self._source, self._place, faults)

    def _check_order(self, table: SeriesTable, row_of: Callable[[int], int]) -> None:
        twice = table.first_repeat()
        if twice is not None:
            one, other = sorted((row_of(twice - 1), row_of(twice)))
            shown = f"{day_texts(table.day[twice : twice + 1])[0]}{_of(table.name_at(twice))}"
            if self._has_times:
                text = f"{shown} has several rows (another is {self._place(one)}); sum the values by day first"
            else:
                text = f"{shown} is there twice (first in {self._place(one)}); keep one row a day, or sum them"
            raise _refusal(self._source, self._place, [(other, "date", text)])
        days = np.diff(table.bounds)
        if days.max() > DAYS_MAX:
            at = int(np.argmax(days))
            name = _of(str(table.names[at]))
            text = f"there are {days[at]} days{name}, at most {DAYS_MAX} are taken; give the newest of them"
            raise InvalidInput(f"{self._source}: {text}", violations=[("series", text)], file=self._source)
        gap = np.diff(table.day)
        gap[table.bounds[1:-1] - 1] = 0  # between two series
        for beat, ends in sparse_runs(gap):
            position = int(ends[0])
            start = position - beat.gaps_min + 1
            shown = _of(table.name_at(position))
            text = f"{beat.text} from {day_texts(table.day[start : start + 1])[0]} on{shown}; a daily series is needed"
            raise _refusal(self._source, self._place, [(row_of(start + 1), "date", text)])


def _of(name: str) -> str:
    return f" in the series {name!r}" if name else ""


def _refusal(source: str, place: Callable[[int], str], faults: list[tuple[int, str, str]]) -> InvalidInput:
    faults.sort(key=lambda fault: fault[0])
    row, column, text = faults[0]
    more = "" if len(faults) == 1 else f" ({len(faults) - 1} more faults{' and others' * (len(faults) >= 50)})"
    return InvalidInput(
        f"{source}, {place(row)}, column {column!r}: {text}{more}",
        violations=[(f"rows[{r + 1}].{c}", t) for r, c, t in faults[:_VIOLATIONS_MAX]],
        file=source,
        row=row + 1,
        column=column,
    )


def _check_names(names: Sequence[str], source: str) -> None:
    """Refuses missing, unknown and doubled columns; says what was found."""
    wrong: list[tuple[str, str]] = []
    found = ", ".join(repr(name) for name in names) or "none"
    meant = {name: _near(name) for name in names if name not in _COLUMNS}
    for name in ("date", "value"):
        if name not in names:
            other = next((given for given, near in meant.items() if near == name), None)
            hint = f"; rename {other!r} to {name!r}" if other is not None else "; the header is date,series,value"
            if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
                hint = "; separate the columns with commas"
            wrong.append((name, f"the column is missing (found are {found}){hint}"))
    for name, near in meant.items():
        hint = f"did you mean {near!r}? " if near and near not in names else ""
        text = f"unknown column; {hint}Known are {', '.join(_COLUMNS)}: rename it or leave it out"
        wrong.append((name, text))
    wrong += [
        (name, "the column is there twice: leave one out") for name in sorted(set(names)) if names.count(name) > 1
    ]
    if wrong:
        column, text = wrong[0]
        raise InvalidInput(f"{source}, column {column!r}: {text}", violations=wrong, file=source, column=column)


def _near(name: str) -> str | None:
    lower = name.strip().lower()
    return _SUGGESTION.get(lower) or next(iter(difflib.get_close_matches(lower, _COLUMNS, n=1)), None)


class _DayTexts(dict[str, int]):
    """Days by their text, each text read once; `has_times` tells whether one had a time of day."""

    has_times = False

    def __missing__(self, text: str) -> int:
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError:
            return _BAD_DAY
        day = day_of(moment.date())
        self.has_times |= bool(moment.hour or moment.minute or moment.second or moment.microsecond)
        if len(text) <= _TEXT_KEPT_MAX:
            if len(self) >= _TEXTS_KEPT:
                self.clear()
            self[text] = day
        return day


class _Names(dict[str, int]):
    """Codes by name, in the order of their first row."""

    def __missing__(self, name: str) -> int:
        code = self[name] = len(self)
        return code


def _read_csv(path: Path, packing: str) -> _Rows:
    source = path.name
    days, names = _DayTexts(), _Names()
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
            _check_names(header, source)
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
                    (rows + at, "date", _no_date(columns[at_date][at]))
                    for at in np.flatnonzero(day == _BAD_DAY).tolist()
                ]
                faults += [(rows + at, "value", _no_number(columns[at_value][at])) for at in no_numbers]
                if faults:
                    raise _refusal(source, place, faults)
                codes = np.zeros(len(block), dtype=np.int32)
                if at_series is not None:
                    texts = columns[at_series]
                    if max(map(len, texts)) > NAME_CHARACTERS_MAX:
                        at = next(i for i, text in enumerate(texts) if len(text) > NAME_CHARACTERS_MAX)
                        raise _refusal(source, place, [(rows + at, "series", _long_name(texts[at]))])
                    codes = np.fromiter(map(names.__getitem__, texts), dtype=np.int32, count=len(block))
                parts.append((day, value, codes))
                rows += len(block)
                _check_size(source, rows, len(names))
        except csv.Error as error:
            raise _not_csv(source, reader.line_num, error) from error
    if not rows:
        raise InvalidInput(f"{source}: has a header and no rows; give at least one", file=source)
    day, value, codes = (np.concatenate([part[i] for part in parts]) for i in range(3))
    del parts
    return _Rows(source, place, day, value, codes, list(names) or [""], days.has_times)


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


def _no_date(text: str) -> str:
    if not text.strip():
        return "is empty; give the day, or remove the row"
    return f"must be a date as in 2016-05-31, is {_short(text)}"


def _no_number(text: str) -> str:
    hint = (
        "write the decimal point as '.', and no thousands' separators"
        if "," in text
        else "leave it empty where it is unknown"
    )
    return f"must be a number, is {_short(text)}; {hint}"


def _long_name(name: str) -> str:
    return f"has {len(name)} characters, at most {NAME_CHARACTERS_MAX}"


def _short(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _check_size(source: str, rows: int, series: int) -> None:
    for what, size, most in (("rows", rows, ROWS_MAX), ("series", series, _SERIES_MAX)):
        if size > most:
            text = f"has more than {most:,} {what}; split the file"
            raise InvalidInput(f"{source}: {text}", violations=[("file", text)], file=source)


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


def _not_csv(source: str, line: int, error: csv.Error) -> InvalidInput:
    hint = "a quote is never closed: the file seems cut off" if "end of data" in str(error) else "correct the line"
    return InvalidInput(
        f"{source}, line {line}: is not CSV ({error}); {hint}",
        violations=[(f"line {line}", str(error))],
        file=source,
        line=line,
    )


def _csv_place(path: Path, packing: str, row: int) -> str:
    """Names a 0-based row with its line, since blank lines may stand between; reads the file again, so for errors."""
    with open_text(path, packing) as file:
        reader = csv.reader(_lines(file), strict=True)
        next(reader)
        before, seen = reader.line_num, -1
        for fields in reader:
            seen += bool(fields)
            if seen == row:
                return f"row {row + 1} (line {before + 1})"
            before = reader.line_num
    return f"row {row + 1}"


def _read_parquet(path: Path) -> _Rows:
    source = path.name
    if not path.exists():
        raise NotFound(f"{path}: there is no such file", file=source)
    arrow, parquet = load_pyarrow()
    import pyarrow.compute as compute

    def place(row: int) -> str:
        return f"row {row + 1}"

    try:
        with parquet.ParquetFile(path) as file:
            _check_names(file.schema_arrow.names, source)
            _check_size(source, file.metadata.num_rows, 0)
            table = file.read()
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError, OSError) as error:
        first = (str(error).splitlines() or ["unreadable"])[0]
        text = f"{source}: is cut off or not a Parquet file ({first}); fetch or export it again"
        raise InvalidInput(text, file=source) from error
    if not table.num_rows:
        raise InvalidInput(f"{source}: has no rows; give at least one", file=source)
    day, has_times = _arrow_days(table.column("date"), source, place, arrow, compute)
    value = table.column("value")
    kind = value.type
    is_number = arrow.types.is_integer(kind) or arrow.types.is_floating(kind) or arrow.types.is_decimal(kind)
    if not (is_number or arrow.types.is_null(kind)):
        text = f"must hold numbers, holds {kind}"
        raise InvalidInput(
            f"{source}, column 'value': {text}", violations=[("value", text)], file=source, column="value"
        )
    values = compute.fill_null(value.cast(arrow.float64(), safe=False), float("nan")).to_numpy()
    names: list[str] = [""]
    codes = np.zeros(table.num_rows, dtype=np.int32)
    if "series" in table.column_names:
        encoded = (
            compute.fill_null(table.column("series").cast(arrow.string()), "").combine_chunks().dictionary_encode()
        )
        names, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)
        _check_size(source, table.num_rows, len(names))
        for code, name in enumerate(names):
            if len(name) > NAME_CHARACTERS_MAX:
                raise _refusal(source, place, [(int(np.argmax(codes == code)), "series", _long_name(name))])
    return _Rows(source, place, day, np.asarray(values, dtype=np.float64), codes, names, has_times)


def _arrow_days(column: Any, source: str, place: Callable[[int], str], arrow: Any, compute: Any) -> tuple[Days, bool]:
    """Days of a Parquet column of dates, times (on their own clock) or texts, and whether it held times of day."""
    kind = column.type
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise _refusal(source, place, [(row, "date", _no_date(""))])
    if arrow.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if arrow.types.is_string(kind) or arrow.types.is_large_string(kind):
        encoded = column.combine_chunks().dictionary_encode()
        texts = _DayTexts()
        unique = encoded.dictionary.to_pylist()
        days = np.array([texts[text] for text in unique], dtype=np.int64)[
            encoded.indices.to_numpy(zero_copy_only=False)
        ]
        wrong = np.flatnonzero(days == _BAD_DAY)[:_VIOLATIONS_MAX].tolist()
        if wrong:
            raise _refusal(source, place, [(row, "date", _no_date(column[row].as_py())) for row in wrong])
        return days, texts.has_times
    if arrow.types.is_timestamp(kind):
        if kind.tz is not None:
            column = compute.local_timestamp(column)
        seconds = column.cast(arrow.timestamp("s"), safe=False).cast(arrow.int64()).to_numpy()
        days, rest = np.divmod(np.asarray(seconds, dtype=np.int64), 86_400)
        return days, bool(rest.any())
    if arrow.types.is_date(kind):
        return np.asarray(column.cast(arrow.date32()).cast(arrow.int32()).to_numpy(), dtype=np.int64), False
    text = f"must hold dates, holds {kind}"
    raise InvalidInput(f"{source}, column 'date': {text}", violations=[("date", text)], file=source, column="date")
