"""Rows of a series file, whatever kind it is: names and dates read, rules checked, every fault placed."""

import difflib
from collections.abc import Callable, Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from meshcast.columns import short_text
from meshcast.rpc.errors import InvalidInput
from meshcast.series.dates import EARLIEST, day_of, day_texts
from meshcast.series.rules import (
    DAYS_MAX,
    NAME_CHARACTERS_MAX,
    VALUE_MAX,
    VALUE_MIN,
    describe_day,
    describe_value,
    sparse_runs,
)
from meshcast.series.table import SeriesTable

ROWS_MAX = 20_000_000
"""Most rows of a file: 20 bytes each are kept, and about as much again while they are sorted."""

BAD_DAY = np.iinfo(np.int64).min
"""Stands for a text that is no date."""
VIOLATIONS_MAX = 50
"""Faults that are told at once."""

_PLACED_MAX = 5  # as many as the command line shows
_SERIES_MAX = 1_000_000  # names are text in memory, about 100 bytes each
_TEXTS_KEPT = 200_000  # date texts remembered: every day since 1900 in four spellings
_TEXT_KEPT_MAX = 40  # characters: a time with its zone and blanks around it
_COLUMNS = ("date", "series", "value")

# What other exports call our columns; measured by nobody, so only used to suggest a name.
_OTHER_NAMES = {
    "date": ("ds", "day", "time", "timestamp", "datetime", "published_at", "index", "unnamed: 0"),
    "series": ("unique_id", "id", "item", "item_id", "name", "channel", "page", "sku", "store", "series_id"),
    "value": ("y", "count", "counts", "views", "sales", "target", "values", "amount", "engagement", "births"),
}
_SUGGESTION = {other: name for name, others in _OTHER_NAMES.items() for other in others}

Days = NDArray[np.int64]
Floats = NDArray[np.float64]


class FileRows:
    """Rows of a file as columns, in the file's order.

    Args:
        source: the file's name, for errors.
        place: names a 0-based row.
        day: days since 1970-01-01.
        value: NaN where the file has none.
        codes: each row's series.
        names: names of the series, by code; empty where the file has no such column.
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
        self._names = names or [""]
        self._has_names = bool(names)
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
            for row in np.flatnonzero((day < EARLIEST) | (day > today + 1))[:VIOLATIONS_MAX].tolist():
                faults.append((row, "date", describe_day(int(day[row]), today)))
        size = np.abs(value)
        for row in np.flatnonzero((size > VALUE_MAX) | ((size < VALUE_MIN) & (size > 0)))[:VIOLATIONS_MAX].tolist():
            faults.append((row, "value", describe_value(float(value[row]))))
        if nonnegative:
            for row in np.flatnonzero(value < 0)[:VIOLATIONS_MAX].tolist():
                faults.append((row, "value", f"is {value[row]:g}, and the series was declared not to be negative"))
        if faults:
            raise refusal(self._source, self._place, faults)

    def _check_order(self, table: SeriesTable, row_of: Callable[[int], int]) -> None:
        twice = table.first_repeat()
        if twice is not None:
            one, other = sorted((row_of(twice - 1), row_of(twice)))
            shown = f"{day_texts(table.day[twice : twice + 1])[0]}{_of(table.name_at(twice))}"
            if self._has_times:
                text = f"{shown} has several rows (another is {self._place(one)}); sum the values by day first"
            else:
                text = f"{shown} is there twice (first in {self._place(one)}); keep one row a day, or sum them"
            if not self._has_names:
                text += "; if the file holds several series, name them in a column 'series'"
            raise refusal(self._source, self._place, [(other, "date", text)])
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
            raise refusal(self._source, self._place, [(row_of(start + 1), "date", text)])


def refusal(source: str, place: Callable[[int], str], faults: list[tuple[int, str, str]]) -> InvalidInput:
    """What is wrong with rows, the first of them in the message; faults are (0-based row, column, why)."""
    faults.sort(key=lambda fault: fault[0])
    row, column, text = faults[0]
    more = "" if len(faults) == 1 else f" ({len(faults) - 1} more faults{' and others' * (len(faults) >= 50)})"
    return InvalidInput(
        f"{source}, {place(row)}, column {column!r}: {text}{more}",
        violations=[
            # Placing a row reads the file again, so only the first ones get their line.
            (f"{place(r) if at < _PLACED_MAX else f'row {r + 1}'}, column {c!r}", t)
            for at, (r, c, t) in enumerate(faults[:VIOLATIONS_MAX])
        ],
        file=source,
        row=row + 1,
        column=column,
        faults=len(faults),
    )


def check_names(names: Sequence[str], source: str) -> None:
    """Refuses missing, unknown and doubled columns; says what was found.

    Raises:
        InvalidInput: with the nearest known name of each unknown one.
    """
    wrong: list[tuple[str, str]] = []
    found = ", ".join(repr(name) for name in names) or "none"
    meant: dict[str, str | None] = {name: _near(name) for name in names if name not in _COLUMNS}
    missing = [name for name in ("date", "value") if name not in names]
    if len(missing) == len(meant) == 1:  # the one that is left over, whatever it is called
        (given, near), (name,) = next(iter(meant.items())), missing
        if near in (None, *names):
            meant[given] = name
    for name in missing:
        other = next((given for given, near in meant.items() if near == name), None)
        hint = f"; rename {other!r} to {name!r}" if other is not None else "; the header is date,series,value"
        if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
            hint = "; separate the columns with commas"
        elif other is not None:
            del meant[other]
        wrong.append((name, f"the column is missing (found are {found}){hint}"))
    for name, near in meant.items():
        hint = f"did you mean {near!r}? Known" if near and near not in names else "known"
        text = f"unknown column; {hint} are {', '.join(_COLUMNS)}: rename it or leave it out"
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


def check_size(source: str, rows: int, series: int) -> None:
    """Refuses a file that holds more than memory should.

    Raises:
        InvalidInput: it has too many rows or series.
    """
    for what, size, most in (("rows", rows, ROWS_MAX), ("series", series, _SERIES_MAX)):
        if size > most:
            text = f"has more than {most:,} {what}; split the file"
            raise InvalidInput(f"{source}: {text}", violations=[("file", text)], file=source)


class DayTexts(dict[str, int]):
    """Days by their text, each text read once; `has_times` tells whether one had a time of day."""

    has_times = False

    def __missing__(self, text: str) -> int:
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError:
            return BAD_DAY
        day = day_of(moment.date())
        self.has_times |= bool(moment.hour or moment.minute or moment.second or moment.microsecond)
        if len(text) <= _TEXT_KEPT_MAX:
            if len(self) >= _TEXTS_KEPT:
                self.clear()
            self[text] = day
        return day


def no_date(text: str) -> str:
    """Why a text is no date."""
    if not text.strip():
        return "is empty; give the day, or remove the row"
    return f"must be a date as in 2016-05-31, is {short_text(text)}"


def long_name(name: str) -> str:
    """Why a series' name is refused."""
    return f"has {len(name)} characters, at most {NAME_CHARACTERS_MAX}"


def _of(name: str) -> str:
    return f" in the series {name!r}" if name else ""
