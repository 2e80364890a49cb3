"""Kinds of columns: what a column of a file is taken for, and its values as that."""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.columns import is_number, numbers_of, short_text
from meshcast.observations.raw_file import RawColumn
from meshcast.observations.table import CategoryColumn, Floats
from meshcast.observations.wire import CATEGORY_CHARACTERS_MAX

__all__ = ["NULLS", "Fault", "Kind", "Verdict", "categories", "infer", "numbers", "times"]

Kind = Literal["number", "double", "boolean", "category"]
"""`double`: numbers so close to each other that single precision would make one of several."""

NULLS = frozenset(("", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "?"))
"""Texts, in lower case and without blanks around, that stand for no value."""

DISTINCT_MAX = 10_000
"""Most categories of a column; one with more is taken for names of things, not for a feature."""
_FEW_DISTINCT = 64  # texts of a column that may all differ and still be categories: there may be few rows
_NUMBERS_SHARE = 0.9  # of the values of a column that is meant to hold numbers
_COUNTER_ROWS = 64  # from so many rows on, whole numbers in equal steps are taken for row numbers
_REPEATED_MIN = 5.0  # pairs of equal numbers that chance would give: where none is there, they are names
_EXACT_MAX = 2.0**53  # whole numbers from here on are names: float64 does not hold them all
_TRUTHS: Mapping[str, int] = {"false": 0, "true": 1}


class Fault(NamedTuple):
    """A value that is not of its column's kind."""

    row: int
    """0-based, in what was read."""
    why: str


class Verdict(NamedTuple):
    """What a column is taken for: a kind; or why it is left out; or a value that must be settled first."""

    kind: Kind | None = None
    left_out: str = ""
    fault: Fault | None = None
    is_time: bool = False


def infer(column: RawColumn) -> Verdict:
    """What a column is, by its first rows."""
    if isinstance(column, np.ndarray):
        if column.dtype.kind == "M":
            return Verdict(left_out="holds times", is_time=True)
        return _of_numbers(column)
    known = [text.strip() for text in column if text.strip().lower() not in NULLS]
    if not known:
        return Verdict(left_out="holds no value")
    values, wrong = numbers_of(known)
    if not wrong:
        return _of_numbers(values)
    distinct = set(known)
    if {text.lower() for text in distinct} <= _TRUTHS.keys():
        return Verdict("boolean")
    if all(map(_is_time, known[:100])) and not times(known)[1]:
        return Verdict(left_out="holds times", is_time=True)
    if _are_dates(distinct):
        return Verdict(left_out=f"holds dates as in {short_text(known[0])}; as times they are written 2024-12-31")
    if len(distinct) > _FEW_DISTINCT and len(wrong) <= (1 - _NUMBERS_SHARE) * len(known):
        row = next(row for row, text in enumerate(column) if text.strip().lower() not in NULLS and not is_number(text))
        return Verdict(fault=Fault(row, f"is {short_text(column[row])} in a column of numbers"))
    if max(map(len, distinct)) > CATEGORY_CHARACTERS_MAX:
        return Verdict(left_out=f"holds texts of more than {CATEGORY_CHARACTERS_MAX} characters")
    if len(distinct) > DISTINCT_MAX or len(distinct) > max(_FEW_DISTINCT, len(known) // 2):
        return Verdict(left_out=f"has {len(distinct):,} different texts in {len(known):,} rows: names or free texts")
    return Verdict("category")


def numbers(column: RawColumn, kind: Kind) -> tuple[Floats, list[Fault]]:
    """A column as numbers, shape (rows,), float32 or for `double` float64, NaN where there is no value."""
    faults: list[Fault] = []
    if isinstance(column, np.ndarray):
        values = column.astype(np.float64)
    else:
        values, wrong = numbers_of(column, NULLS)
        faults = [Fault(row, _no_number(column[row])) for row in wrong]
    if kind == "double":
        return values, faults
    with np.errstate(over="ignore"):  # what single precision does not reach lies beyond all else, as infinities do
        return values.astype(np.float32), faults


def categories(column: RawColumn, kind: Kind) -> tuple[CategoryColumn, list[Fault]]:
    """A column as categories in the order of their first row; of `boolean` always `false` and `true`."""
    texts = _texts(column)
    codes: dict[str, int] = dict(_TRUTHS) if kind == "boolean" else {}
    found = np.empty(len(texts), dtype=np.int32)
    seen: dict[str, int] = {}
    faults: list[Fault] = []
    for row, text in enumerate(texts):
        code = seen.get(text)
        if code is None:
            name = text.strip()
            if name.lower() in NULLS:
                code = -1
            elif kind == "boolean":
                code = _TRUTHS.get(name.lower(), -1)
                if code < 0:
                    faults.append(Fault(row, f"must be true or false, is {short_text(name)}"))
            elif len(name) > CATEGORY_CHARACTERS_MAX:
                code = -1
                faults.append(Fault(row, f"has {len(name):,} characters, at most {CATEGORY_CHARACTERS_MAX} are taken"))
            else:
                code = codes.setdefault(name, len(codes))
            seen[text] = code
        found[row] = code
    return CategoryColumn(found, tuple(codes)), faults


def times(column: RawColumn) -> tuple[NDArray[np.int64], list[Fault]]:
    """A column as microseconds since 1970 UTC, shape (rows,); times without a zone are taken as UTC.

    Numbers are taken as seconds, milliseconds or microseconds, by their size.
    """
    if isinstance(column, np.ndarray) and column.dtype.kind == "M":
        return column.astype(np.int64), [Fault(row, _NO_TIME) for row in np.flatnonzero(np.isnat(column)).tolist()]
    values, wrong = (column, []) if isinstance(column, np.ndarray) else numbers_of(column, NULLS)
    if not wrong:
        gaps = ~np.isfinite(values)
        size = float(np.abs(values[~gaps]).max(initial=0.0))
        unit = 1e6 if size < 1e11 else 1e3 if size < 1e14 else 1.0
        whole = np.where(gaps, 0.0, values * unit).clip(-9e18, 9e18).astype(np.int64)
        return whole, [Fault(row, _NO_TIME) for row in np.flatnonzero(gaps).tolist()]
    found = np.zeros(len(column), dtype=np.int64)
    faults: list[Fault] = []
    for row, text in enumerate(column):
        try:
            moment = datetime.fromisoformat(text.strip())
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
            found[row] = round(moment.timestamp() * 1e6)
        except (ValueError, OverflowError):
            is_gap = text.strip().lower() in NULLS
            faults.append(Fault(row, _NO_TIME if is_gap else f"must be a time as in {_TIME}, is {short_text(text)}"))
    return found, faults


_DATE = re.compile(r"\d{1,4}[./-]\d{1,2}[./-]\d{2,4}(\s+\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?(\s*[AaPp][Mm])?)?")
_DATE_FORMS = ("%d-%m-%Y", "%m-%d-%Y", "%Y-%m-%d", "%d-%m-%y", "%m-%d-%y")
_TIME = "2016-05-10T12:30:00Z"
_NO_TIME = f"is empty; every row needs a time, as in {_TIME}"


def _of_numbers(values: NDArray[np.float64]) -> Verdict:
    known = values[np.isfinite(values)]
    if not len(known):
        return Verdict("number") if np.isinf(values).any() else Verdict(left_out="holds no value")
    distinct = np.unique(known)
    if len(known) >= _COUNTER_ROWS and len(distinct) == len(known) and (known == np.floor(known)).all():
        steps = np.unique(np.diff(known))
        if len(steps) == 1:
            return Verdict(left_out="counts the rows")
        if np.abs(known).max() >= _EXACT_MAX:
            return Verdict(left_out="holds a different whole number in every row: names of things")
        if (steps > 0).all() or (steps < 0).all():
            return Verdict(left_out="holds a whole number in every row that only rises or falls: names of rows")
        if len(known) ** 2 / 2 / (distinct[-1] - distinct[0] + 1) >= _REPEATED_MIN:
            return Verdict(left_out="holds a different whole number in every row, and few are skipped: names of things")
    is_close = len(np.unique(known.astype(np.float32))) < 0.9 * len(distinct) if np.abs(known).max() < 3e38 else True
    return Verdict("double" if is_close else "number")


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _are_dates(texts: Collection[str]) -> bool:
    """Whether one of the usual forms that are not ISO 8601 fits all."""
    if not all(map(_DATE.fullmatch, texts)):
        return False
    return any(all(_is_date(text, form) for text in texts) for form in _DATE_FORMS)


def _is_date(text: str, form: str) -> bool:
    try:
        datetime.strptime(re.sub(r"[./-]", "-", text.split()[0]), form)
    except ValueError:
        return False
    return True


def _no_number(text: str) -> str:
    hint = "; write the decimal point as '.', and no thousands' separators" if "," in text else ""
    return f"must be a number, is {short_text(text.strip())}{hint}"


def _texts(column: RawColumn) -> Sequence[str]:
    """A column as texts; numbers are written without a needless point, so that 1 and 1.0 are one category."""
    if not isinstance(column, np.ndarray):
        return column
    if column.dtype.kind == "M":
        return ["" if text == "NaT" else text for text in np.datetime_as_string(column).tolist()]
    return [_plain(value) for value in column.tolist()]


def _plain(value: float) -> str:
    if value != value:
        return ""
    return f"{int(value)}" if value.is_integer() and abs(value) < _EXACT_MAX else repr(value)
