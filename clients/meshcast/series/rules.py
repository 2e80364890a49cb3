"""The rules of series: what a day and a value may be, and which rows of a chunk break them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.series.dates import EARLIEST, day_texts

__all__ = [
    "DAYS_MAX",
    "KNOWN_MIN",
    "NAME_CHARACTERS_MAX",
    "RECENT_DAYS",
    "VALUE_MAX",
    "VALUE_MIN",
    "Beat",
    "describe_value",
    "series_violations",
    "sparse_runs",
]

DAYS_MAX = 10_000
"""Most days of a history, of the contract."""
KNOWN_MIN = 14
"""Fewest days with a value among the last `RECENT_DAYS`, of the contract."""
RECENT_DAYS = 112
"""How many days the newest ones are."""
NAME_CHARACTERS_MAX = 256
"""Most characters of a series' name, of the contract."""
VALUE_MAX = 1e30
"""Largest size of a value, of the contract: its square still fits float64, and its sums float32 after scaling."""

VALUE_MIN = 1e-30
"""Smallest size of a value other than 0, of the contract: float32 still holds what is computed from it."""

Positions = NDArray[np.int64]
Floats = NDArray[np.float64]
Violations = dict[int, list[tuple[str, str]]]


class Beat(NamedTuple):
    """A frequency that is not daily: so many gaps of such a size in a row do not happen to daily data by chance."""

    text: str
    """What a person calls it."""
    shortest: int
    """Smallest gap between two values, in days."""
    longest: int
    """Largest one."""
    multiple: int
    """What the gap is a multiple of; 1 where any gap in between will do."""
    gaps_min: int
    """Gaps in a row from which it is one."""
    mean: int = 0
    """What the gaps of the run are on average, within less than a day; 0 where any average will do."""


# A sparse daily series has a gap that is a multiple of 7 with a probability of at most about 1/7: eight in a row happen
# once in millions; four months, each of 28 to 31 days with no value inside, are no accident at all. A gap of 5 to 9
# days (weeks whose day a holiday moves, every 7th row where days are missing) comes with at most 0.29: it takes twelve.
# The exact frequency stands before the loose one: of several, a row is told the first.
BEATS = (
    Beat("a value every 7 days", 7, 21, 7, 8),
    Beat("a value about every 7 days", 5, 9, 1, 12, 7),
    Beat("a value every month", 28, 31, 1, 4),
    Beat("a value every quarter", 89, 92, 1, 4),
    Beat("a value every year", 365, 366, 1, 3),
)
_SPARSE = min(beat.shortest for beat in BEATS)


def series_violations(
    day: Positions,
    value: Floats,
    start: Positions,
    stop: Positions,
    nonnegative: NDArray[np.bool_],
    *,
    today: int,
    day_field: Callable[[int, str], str] = lambda at, column: f"history.{column}[{at}]",
    history_field: Callable[[int], str] = lambda row: f"history_start[{row}]",
    is_history: bool = True,
) -> Violations:
    """Rows of a question that break the contract, with the fields at fault; good rows are not named.

    Checks that a row's range is inside of the table and of 1 to 10,000 days, that its days ascend, each once, from
    1900-01-01 to the day after today, that its values are finite or unknown, not too large, and not negative where that
    is declared, that values come daily and not every week or month, and that 14 of the last 112 days have one. All of
    it is vectorised; only bad rows cost Python work.

    Args:
        day: shape (n,), int64, days since 1970-01-01.
        value: shape (n,), float64, NaN where unknown.
        start: shape (m,), int64, first day of each row's history, a position in `day`.
        stop: shape (m,), int64, end of it (exclusive).
        nonnegative: shape (m,), True where the row's series cannot be negative.
        today: days since 1970-01-01, UTC.
        day_field: names the field of a day in the caller's message, from its position and the column, `day` or `value`.
        history_field: names a row's history as a whole in the caller's message.
        is_history: False where nothing is to be forecast from it, so that any days will do: the last two rules fall
            away.

    Returns:
        By 0-based row, the violations as (field, description); at most one a rule and row.
    """
    found: Violations = {}
    n, days = len(day), stop - start
    outside = (start < 0) | (stop > n) | (days < 1) | (days > DAYS_MAX)
    for row in np.flatnonzero(outside).tolist():
        if start[row] < 0 or stop[row] > n:
            text = f"the range {start[row]} to {stop[row]} is outside of the {n} days of the chunk"
        elif days[row] < 1:
            text = "is empty; give at least 14 days" if is_history else "is empty"
        else:
            text = f"has {days[row]} days, at most {DAYS_MAX}; give the newest of them"
        found.setdefault(row, []).append((history_field(row), text))
    inside = np.flatnonzero(~outside)
    if not len(inside):
        return found
    first, last = start[inside], stop[inside]

    def blame(at: Positions, column: str, describe: Callable[[int], str], *, within: int = 0) -> None:
        """Names, for each row, the first of the ascending positions `at` that lies `within` days or more into it."""
        if not len(at):
            return
        k = np.searchsorted(at, first + within)
        for i in np.flatnonzero((k < len(at)) & (at[np.minimum(k, len(at) - 1)] < last)).tolist():
            position = int(at[k[i]])
            found.setdefault(int(inside[i]), []).append((day_field(position, column), describe(position)))

    if day.min() < EARLIEST or day.max() > today + 1:
        wrong = np.flatnonzero((day < EARLIEST) | (day > today + 1))
        blame(wrong, "day", lambda at: describe_day(int(day[at]), today))
    gap = day[1:] - day[:-1]
    falls = np.flatnonzero(gap <= 0) + 1
    blame(falls, "day", lambda at: _describe_fall(day, at), within=1)
    # NaN compares as False: what is not below the limit is unknown, infinite or too large.
    size = np.abs(value)
    odd = np.flatnonzero(~(size <= VALUE_MAX) | ((size < VALUE_MIN) & (size > 0)))
    unknown = odd[np.isnan(value[odd])]
    if len(unknown) < len(odd):
        blame(np.setdiff1d(odd, unknown, assume_unique=True), "value", lambda at: describe_value(float(value[at])))
    if nonnegative.any():
        below = np.flatnonzero(value < 0)
        if len(below):
            k = np.minimum(np.searchsorted(below, first), len(below) - 1)
            hit = nonnegative[inside] & (below[k] >= first) & (below[k] < last)
            for i in np.flatnonzero(hit).tolist():
                at = int(below[k[i]])
                text = f"is {value[at]:g}, and the series was declared not to be negative"
                found.setdefault(int(inside[i]), []).append((day_field(at, "value"), text))
    if not is_history:
        return found
    # From here on only the days with a value count: their positions, and each row's range among them.
    if len(unknown):
        known = np.flatnonzero(value == value)
        known_first, known_last = np.searchsorted(known, first), np.searchsorted(known, last)
        known_day = day[known]
        gap = known_day[1:] - known_day[:-1]
    else:
        known, known_first, known_last, known_day = None, first, last, day
    if len(gap) and gap.max() >= _SPARSE:
        irregular: set[int] = set()
        for beat, ends in sparse_runs(gap):
            k = np.minimum(np.searchsorted(ends, known_first + beat.gaps_min - 1), len(ends) - 1)
            hit = (ends[k] >= known_first + beat.gaps_min - 1) & (ends[k] < known_last - 1)
            for i in np.flatnonzero(hit & _ascend(falls, first, last)).tolist():
                if i in irregular:
                    continue
                irregular.add(i)
                from_, to = int(ends[k[i]]) - beat.gaps_min + 1, int(ends[k[i]]) + 1
                at = from_ + 1 if known is None else int(known[from_ + 1])
                found.setdefault(int(inside[i]), []).append(
                    (day_field(at, "day"), _describe_beat(beat, known_day, from_, to))
                )
    since = day[last - 1] - RECENT_DAYS
    needed = known_last - KNOWN_MIN
    enough = needed >= known_first
    if len(known_day):
        enough &= known_day[np.maximum(needed, 0)] > since
    for i in np.flatnonzero(~enough & _ascend(falls, first, last)).tolist():
        recent = int((known_day[known_first[i] : known_last[i]] > since[i]).sum())
        row = int(inside[i])
        text = f"needs a value on {KNOWN_MIN} of its last {RECENT_DAYS} days, has {recent}"
        found.setdefault(row, []).append((history_field(row), text))
    return found


def sparse_runs(gap: Positions) -> list[tuple[Beat, Positions]]:
    """Where values come regularly but not daily.

    Args:
        gap: shape (n,), int64, days between one value and the next.

    Returns:
        For each frequency that is there, ascending positions of the gaps at which a run of it has reached the length
        from which it counts; at least one position each.
    """
    found = []
    for beat in BEATS:
        at = np.flatnonzero((gap >= beat.shortest) & (gap <= beat.longest))
        if beat.multiple > 1:
            at = at[gap[at] % beat.multiple == 0]
        back = beat.gaps_min - 1
        if len(at) > back:
            # at ascends, so that equal distance over `back` entries means that none is missing in between.
            ends = at[back:][at[back:] - at[: len(at) - back] == back]
            if beat.mean and len(ends):
                until = np.concatenate([[0], np.cumsum(gap)])
                total = until[ends + 1] - until[ends - back]
                ends = ends[np.abs(total - beat.mean * beat.gaps_min) < beat.gaps_min]
            if len(ends):
                found.append((beat, ends))
    return found


def describe_day(day: int, today: int) -> str:
    """Why a day is out of range."""
    shown = _date(day)
    if day > today + 1:
        return f"is {shown}, which lies in the future; the latest is {_date(today + 1)}"
    return f"is {shown}; the earliest is {_date(EARLIEST)}"


def describe_value(value: float) -> str:
    """Why a value that is not negative is refused."""
    if np.isinf(value):
        return "is infinite; leave the value out where it is unknown"
    if abs(value) < VALUE_MIN:
        return f"is {value:g}, at least {VALUE_MIN:g} in size is taken, or 0"
    return f"is {value:g}, at most {VALUE_MAX:g} in size is taken"


def _ascend(falls: Positions, first: Positions, last: Positions) -> NDArray[np.bool_]:
    """Which ranges have ascending days: of the others, gaps say nothing."""
    ascends: NDArray[np.bool_] = np.searchsorted(falls, first, side="right") == np.searchsorted(falls, last)
    return ascends


def _describe_fall(day: Positions, at: int) -> str:
    if day[at] == day[at - 1]:
        return f"{_date(int(day[at]))} is there twice; each day comes once"
    return f"{_date(int(day[at]))} comes after {_date(int(day[at - 1]))}; sort the days, oldest first"


def _describe_beat(beat: Beat, day: Positions, start: int, end: int) -> str:
    """What a run of sparse values is, between two of the days with a value."""
    return (
        f"{beat.text} from {_date(int(day[start]))} to {_date(int(day[end]))}; a daily series is needed: "
        "give daily values, or only the part that is daily"
    )


def _date(day: int) -> str:
    return day_texts(np.array([day]))[0]
