"""Values of columns as people have them (text, numbers, dates, gaps), read column by column, every fault placed."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from meshcast.rpc.errors import InvalidInput

__all__ = ["ColumnReader", "Place", "Raw", "clock_of", "short_text", "show"]

Place = Callable[[int], str]
"""Names a 0-based row in errors."""
Raw = Sequence[Any] | NDArray[Any]
"""A column as somebody has it."""

_TRUTH = {
    "": 0.0,
    "0": 0.0,
    "1": 1.0,
    "false": 0.0,
    "true": 1.0,
    "no": 0.0,
    "yes": 1.0,
    "n": 0.0,
    "y": 1.0,
    "f": 0.0,
    "t": 1.0,
}

_NO_TEXTS = (bool, bytes, dict, list, tuple)  # whose str() nobody wrote

Floats = NDArray[np.float64]
IsBad = Callable[[str, Floats], NDArray[np.bool_]]
"""Where the values of a column break its rule."""


class ColumnReader:
    """One reading of columns: converts column by column, collects the faults, raises them together.

    Args:
        columns: by name.
        source: what errors call the columns, as in `posts.csv`.
        place: names a 0-based row in errors.
        nan_is_unknown: take NaN as a gap, as arrays in memory have it; in files it is a fault.
        is_bad: where values break their column's rule.
        rules: the rules, by column.

    Attributes:
        rows: number of rows.

    Raises:
        InvalidInput: the columns are of several lengths, or hold no row.
    """

    def __init__(
        self,
        columns: Mapping[str, Raw],
        source: str,
        place: Place | None,
        *,
        nan_is_unknown: bool,
        is_bad: IsBad,
        rules: Mapping[str, str],
    ) -> None:
        self._columns = columns
        self._source = source
        self._place = place or (lambda row: f"row {row + 1}")
        self._nan_is_unknown = nan_is_unknown
        self._is_bad = is_bad
        self._rules = rules
        self._faults: list[tuple[int, str, str]] = []
        self._faulty: set[tuple[int, str]] = set()
        lengths = {name: len(values) for name, values in columns.items()}
        self.rows = n = next(iter(lengths.values()))
        uneven = [(name, f"has {k} rows, {next(iter(lengths))} has {n}") for name, k in lengths.items() if k != n]
        if uneven:
            raise InvalidInput(f"{source}, column {uneven[0][0]!r}: {uneven[0][1]}", violations=uneven)
        if n == 0:
            raise InvalidInput(f"{source} has no posts: give at least one row", source=source)

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def fault(self, row: int, column: str, description: str) -> None:
        """Notes a fault."""
        self._faults.append((row, column, description))
        self._faulty.add((row, column))

    def has_fault(self, row: int, column: str) -> bool:
        """Whether a fault of a value was noted."""
        return (row, column) in self._faulty

    def check(self) -> None:
        """Ends the reading.

        Raises:
            InvalidInput: there were faults; rows, columns and the way out are named.
        """
        if self._faults:
            self._refuse()

    def texts(self, name: str) -> list[str]:
        """A column as texts; empty where there is none."""
        raw = self._columns.get(name)
        if raw is None:
            return [""] * self.rows
        found = [value if isinstance(value, str) else "" if is_gap(value) else str(value) for value in raw]
        for row, value in enumerate(raw):
            if isinstance(value, _NO_TEXTS):
                self.fault(row, name, f"must be a text, is {_quoted(found[row])}")
        return found

    def names(self, name: str) -> NDArray[np.str_]:
        """A column of names as an array; empty where there is none."""
        raw = self._columns.get(name)
        if raw is None:
            return np.zeros(self.rows, dtype="<U1")
        if isinstance(raw, np.ndarray) and raw.dtype.kind == "U":
            return raw
        return np.asarray(self.texts(name), dtype=np.str_)

    def moments(self, name: str) -> tuple[Floats, Floats]:
        """A column of times: seconds since 1970 UTC, and the same on the posts' own clock; NaN and 0 where none."""
        raw, n = self._columns[name], self.rows
        if isinstance(raw, np.ndarray) and raw.dtype.kind == "M":
            seconds = raw.astype("datetime64[s]").astype(np.int64).astype(np.float64)
            seconds[np.isnat(raw)] = np.nan
            return seconds, np.nan_to_num(seconds)
        unix, local = np.full(n, np.nan), np.zeros(n)
        parse = datetime.fromisoformat
        for row, value in enumerate(raw):
            if is_gap(value):
                continue
            try:
                moment = value if isinstance(value, datetime) else parse(value)
                if moment.tzinfo is None:
                    unix[row] = local[row] = moment.replace(tzinfo=UTC).timestamp()
                else:
                    unix[row] = moment.timestamp()
                    local[row] = moment.replace(tzinfo=UTC).timestamp()
            except (ValueError, TypeError, OverflowError):
                self.fault(row, name, f"must be a time as in 2016-05-10T12:30:00Z, is {_quoted(value)}")
        return unix, local

    def truths(self, name: str) -> Floats:
        """A column of yes and no as 1 and 0; 0 where there is none."""
        raw = self._columns.get(name)
        if raw is None:
            return np.zeros(self.rows)
        if isinstance(raw, np.ndarray) and raw.dtype.kind in "biuf":
            values = raw.astype(np.float64)
        else:
            # Text and bool are told apart by their words, numbers by their value; the rest falls to the rule below.
            values = np.full(self.rows, np.nan)
            for row, v in enumerate(raw):
                truth = _TRUTH.get(str(v).strip().lower()) if v is not None else 0.0
                values[row] = _number(v) if truth is None else truth
        for row in np.flatnonzero(self._is_bad(name, values)).tolist():
            self.fault(row, name, f"must be 0 or 1, is {_quoted(raw[row])}")
        return values

    def numbers(self, name: str) -> tuple[Floats, NDArray[np.bool_], NDArray[np.bool_]]:
        """A column of numbers, where it has gaps, and where it breaks its rule, which is noted.

        Returns:
            Values, gaps and faults, each of shape (n,); a column that is not there is all gaps.
        """
        raw, n = self._columns.get(name), self.rows
        nothing = np.zeros(n, dtype=np.bool_)
        if raw is None:
            return np.full(n, np.nan), ~nothing, nothing
        if isinstance(raw, np.ndarray) and raw.dtype.kind in "biuf":
            values = raw.astype(np.float64)
            missing = np.isnan(values) if self._nan_is_unknown else nothing
        else:
            # In memory NaN is a gap too; in a file "nan" is a fault.
            is_missing = is_gap if self._nan_is_unknown else _is_blank
            missing = np.fromiter(map(is_missing, raw), dtype=np.bool_, count=n)
            try:
                values = np.array(
                    ["nan" if m else v for v, m in zip(raw, missing.tolist(), strict=True)], dtype=np.float64
                )
            except (ValueError, TypeError, OverflowError):
                values = np.full(n, np.nan)
                for row in np.flatnonzero(~missing).tolist():
                    values[row] = _number(raw[row])
        bad = (self._is_bad(name, values) | np.isnan(values)) & ~missing
        for row in np.flatnonzero(bad).tolist():
            self.fault(row, name, f"{self._rules[name]}, is {_quoted(raw[row])}")
        return values, missing, bad

    def _refuse(self) -> NoReturn:
        faults = sorted(self._faults, key=lambda fault: fault[0])
        row, column, text = faults[0]
        rows = len({fault[0] for fault in faults})
        more = f" ({rows - 1} more rows have faults)" if rows > 1 else ""
        raise InvalidInput(
            f"{self._source}, {self._place(row)}, column {column!r}: {text}. Correct the value or remove the row{more}",
            violations=[(f"rows[{r + 1}].{c}", t) for r, c, t in faults[:50]],
            source=self._source,
            row=row + 1,
            column=column,
        )


def clock_of(unix: Floats, local: Floats) -> tuple[Floats, Floats]:
    """Hour of the day, and day of the week from 0 = Monday, of `moments`; NaN where none.

    >>> clock_of(np.array([90_000.0]), np.array([93_600.0]))
    (array([2.]), array([4.]))
    """
    known = ~np.isnan(unix)
    days, second = np.divmod(local, 86_400)
    # 1970-01-01 was a Thursday.
    return np.where(known, second // 3600, np.nan), np.where(known, (days + 3) % 7, np.nan)


def show(value: float) -> str:
    """A number as a person would write it."""
    return f"{int(value)}" if value == value and abs(value) < 1e15 and int(value) == value else f"{value:g}"


def short_text(value: object) -> str:
    """What was given, in quotes and no longer than a line."""
    text = str(value)
    return repr(text if len(text) <= 60 else text[:57] + "...")


def is_gap(value: Any) -> bool:
    """Whether there is no value: None, empty text, NaN, NaT or pandas' NA; the last three do not equal themselves."""
    if value is None or isinstance(value, str):
        return not value
    differs = value != value
    return bool(differs) if isinstance(differs, bool | np.bool_) else True


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value)


def _number(value: object) -> float:
    """A number out of text or anything else; NaN when it is none."""
    try:
        return float(value)  # type: ignore[arg-type]  # whatever float() refuses is answered as NaN
    except (ValueError, TypeError, OverflowError):
        return float("nan")


def _quoted(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        text = str(value)
        return repr(text if len(text) <= 60 else text[:57] + "...")
    try:
        return show(float(value))
    except OverflowError:
        return "a number of hundreds of digits"
