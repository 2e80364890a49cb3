"""Dates: days since 1970-01-01, the ISO 8601 texts that stand for them, and columns of either in any form."""

from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.rpc.errors import InvalidInput

__all__ = ["EARLIEST", "day_of", "day_texts", "days_of", "days_of_texts", "values_of"]

Days = NDArray[np.int64]

EARLIEST = (date(1900, 1, 1) - date(1970, 1, 1)).days
"""1900-01-01, the earliest day of the contract, in days since 1970-01-01."""

_PLACES = (0, 1, 2, 3, 5, 6, 8, 9)
_DASHES = (4, 7)


def day_of(day: date) -> int:
    """Days from 1970-01-01 to a day.

    >>> from datetime import date
    >>> day_of(date(2016, 5, 31))
    16952
    """
    return (day - date(1970, 1, 1)).days


def day_texts(day: Days) -> list[str]:
    """Days since 1970-01-01 as ISO 8601 texts.

    >>> day_texts(np.array([16952]))
    ['2016-05-31']
    """
    texts: list[str] = np.datetime_as_string(day.astype("datetime64[D]")).tolist()
    return texts


def days_of_texts(texts: Sequence[str]) -> tuple[Days, NDArray[np.bool_]]:
    """ISO 8601 dates as days since 1970-01-01.

    Only the form `2016-05-31` is taken: numpy's own reading would take `2016`, `now` and times as well.

    >>> days_of_texts(["2016-05-31", "31.05.2016"])
    (array([16952,     0]), array([ True, False]))

    Returns:
        The days, int64, 0 where a text is no date; and which are dates; both of shape (n,).
    """
    n = len(texts)
    if n == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.bool_)
    is_date = np.fromiter(map(len, texts), dtype=np.int64, count=n) == 10
    characters = np.array(texts, dtype="<U10").view("<u4").reshape(n, 10)
    digits = characters[:, _PLACES].astype(np.int64) - ord("0")
    is_date &= ((digits >= 0) & (digits <= 9)).all(axis=1) & (characters[:, _DASHES] == ord("-")).all(axis=1)
    digits[~is_date] = 0
    year = digits[:, 0] * 1000 + digits[:, 1] * 100 + digits[:, 2] * 10 + digits[:, 3]
    month = digits[:, 4] * 10 + digits[:, 5] - 1
    day = digits[:, 6] * 10 + digits[:, 7] - 1
    months = (year - 1970) * 12 + month
    first = _first_day(months)
    is_date &= (month >= 0) & (month < 12) & (day >= 0) & (day < _first_day(months + 1) - first) & (year > 0)
    return np.where(is_date, first + day, 0), is_date


def days_of(day: Any) -> Days:
    """A column of days in any form as days since 1970-01-01, in its order; a time of day is let be.

    Args:
        day: shape (n,): ISO 8601 dates, `date`, `datetime64`, or integers, which are days since 1970-01-01.

    Raises:
        InvalidInput: a day is none of them; it is named.
    """
    given = np.asarray(day)
    if given.ndim != 1:
        raise InvalidInput(f"day has shape {given.shape}; give one column", field="day")
    if given.dtype.kind == "M":
        if np.isnat(given).any():
            row = int(np.flatnonzero(np.isnat(given))[0])
            raise InvalidInput(f"day[{row}] is not a date", field=f"day[{row}]")
        return given.astype("datetime64[D]").astype(np.int64)
    if given.dtype.kind in "iu" or not len(given):
        return given.astype(np.int64)
    texts = [one.strftime("%Y-%m-%d") if isinstance(one, date) else str(one) for one in given.tolist()]
    days, is_date = days_of_texts(texts)
    if not is_date.all():
        row = int(np.flatnonzero(~is_date)[0])
        raise InvalidInput(f"day[{row}] must be a date as in 2016-05-31, is {texts[row]!r}", field=f"day[{row}]")
    return days


def values_of(value: Any) -> NDArray[np.float64]:
    """A column of values as float64; None is unknown (NaN).

    Raises:
        InvalidInput: one is no number.
    """
    try:
        return np.asarray(value, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"value holds what is no number ({error})", field="value") from error


def _first_day(months: Days) -> Days:
    """First day of a month, in days since 1970-01-01; months are counted from 1970-01."""
    return months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
