"""Features of a forecast: daily values and the first day to forecast go in, the tensors of the graph come out.

Training and serving call the one function here (`tensors`). It scales nothing and fills nothing: levels, seasons and
gaps are the graph's business. A row's tensors depend on its own series alone, bit for bit, whatever else is in the
chunk.
"""

import numpy as np
from numpy.typing import NDArray

from meshcast.rpc.errors import InvalidInput
from meshcast.series import KNOWN_MIN

__all__ = [
    "DAYS_BACK",
    "DAYS_MIN",
    "HISTORY",
    "HORIZON",
    "INPUTS",
    "LAST_YEAR",
    "REFERENCE",
    "tensors",
]

Floats = NDArray[np.float32]
Values = NDArray[np.float32] | NDArray[np.float64]
Days = NDArray[np.int64]

INPUTS = ("history", "mask", "last_year", "last_year_mask", "calendar", "nonnegative")
"""Names of the graph's inputs, in its order."""

HISTORY = 112
"""Days that the sequence part of the model reads: 16 weeks."""

HORIZON = 90
"""Days that are always decoded; a shorter horizon is the first part of them."""

REFERENCE = 28
"""Days of last year that stand opposite the newest days of the history, so that only changes since count."""

LAST_YEAR = REFERENCE + 1 + HORIZON
"""Days of `last_year`: it starts 365 days before the reference, and ends 364 days before the horizon's end."""

DAYS_BACK = 365 + REFERENCE
"""Days before the first forecast day that a forecast can use; older ones change nothing."""

DAYS_MIN = KNOWN_MIN
"""Fewest days with a value that a series may have."""

_LAST_YEAR_ENDS = DAYS_BACK - LAST_YEAR  # days before the first forecast day, exclusive


def tensors(
    day: Days, value: Values, start: Days, stop: Days, first_day: Days, nonnegative: NDArray[np.bool_]
) -> dict[str, Floats]:
    """The graph's inputs for a chunk of rows.

    Args:
        day: shape (n,), days since 1970-01-01, rising within each row's range.
        value: shape (n,), in the unit of the series; NaN where missing. A missing day may as well be absent.
        start: shape (m,), where each row's history begins in `day`.
        stop: shape (m,), where it ends (exclusive).
        first_day: shape (m,), the first day to forecast, later than every day of the history.
        nonnegative: shape (m,), True where the series is declared never to fall below 0.

    Returns:
        `history` and `mask` (m, 112), newest day last, 0 where there is no value; `last_year` and `last_year_mask`
        (m, 119), the days from 393 to 275 before `first_day`; `calendar` (m, 2), weekday (Monday 0) and day of the
        year (1 January 0) of `first_day`; `nonnegative` (m,), 1 or 0. All float32.

    Raises:
        InvalidInput: a row's history holds a day that is not before its first forecast day.
    """
    rows = len(first_day)
    used = np.minimum(stop - start, DAYS_BACK)  # no older day can lie within reach
    row = np.repeat(np.arange(rows), used)
    at = np.arange(len(row)) - np.repeat(np.cumsum(used) - used, used) + np.repeat(stop - used, used)
    ago = first_day[row] - day[at]
    if len(ago) and int(ago.min()) < 1:
        raise InvalidInput("a history reaches past its first forecast day", field="first_day")
    held = value[at].astype(np.float32)
    known = ~np.isnan(held)
    history, mask = _placed(rows, HISTORY, row, HISTORY - ago, held, known & (ago <= HISTORY))
    older = known & (ago > _LAST_YEAR_ENDS) & (ago <= DAYS_BACK)
    last_year, last_year_mask = _placed(rows, LAST_YEAR, row, DAYS_BACK - ago, held, older)
    dates = first_day.astype("datetime64[D]")
    day_of_year = first_day - dates.astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64)
    calendar = np.stack([(first_day + 3) % 7, day_of_year], axis=1)  # 1970-01-01 was a Thursday
    return {
        "history": history,
        "mask": mask,
        "last_year": last_year,
        "last_year_mask": last_year_mask,
        "calendar": calendar.astype(np.float32),
        "nonnegative": nonnegative.astype(np.float32),
    }


def _placed(
    rows: int, columns: int, row: Days, column: Days, held: Floats, inside: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    values, mask = np.zeros((rows, columns), np.float32), np.zeros((rows, columns), np.float32)
    values[row[inside], column[inside]] = held[inside]
    mask[row[inside], column[inside]] = 1.0
    return values, mask
