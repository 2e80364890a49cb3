"""The rules of series, held against a slow reading of the contract."""

import math
from datetime import date, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from meshcast.series import DAYS_MAX, EARLIEST, KNOWN_MIN, RECENT_DAYS, day_of, series_violations

TODAY = day_of(date(2026, 11, 21))


def violations(
    day: list[int] | NDArray[np.int64],
    value: list[float] | NDArray[np.float64] | None = None,
    *,
    nonnegative: bool = False,
) -> list[tuple[str, str]]:
    """Of one row that holds all days."""
    days = np.array(day, dtype=np.int64)
    values = np.ones(len(days)) if value is None else np.array(value, dtype=np.float64)
    start, stop = np.zeros(1, dtype=np.int64), np.full(1, len(days))
    return series_violations(days, values, start, stop, np.array([nonnegative]), today=TODAY).get(0, [])


def sound(days: int = 40, last: int = TODAY) -> NDArray[np.int64]:
    return np.arange(last - days + 1, last + 1)


def slow(day: list[int], value: list[float], *, nonnegative: bool) -> bool:
    """Whether the contract takes one history; frequencies are not looked at."""
    if not 1 <= len(day) <= DAYS_MAX:
        return False
    if any(not EARLIEST <= one <= TODAY + 1 for one in day) or any(b <= a for a, b in pairwise(day)):
        return False
    for one in value:
        if not math.isnan(one) and (abs(one) > 1e30 or (nonnegative and one < 0)):
            return False
    recent = [d for d, v in zip(day, value, strict=True) if not math.isnan(v) and d > day[-1] - RECENT_DAYS]
    return len(recent) >= KNOWN_MIN


VALUES = st.sampled_from([0.0, 1.0, 7.5, -3.0, math.nan, math.nan, math.inf, 1e31])


@given(
    st.lists(st.lists(st.tuples(st.sampled_from([1, 1, 1, 2, 0, -4]), VALUES), max_size=40), max_size=5), st.booleans()
)
def test_rows_are_refused_exactly_where_the_contract_refuses_them(
    rows: list[list[tuple[int, float]]], nonnegative: bool
) -> None:
    day: list[int] = []
    value: list[float] = []
    bounds = [0]
    for row in rows:
        steps = [step for step, _ in row]
        day += (TODAY + 2 - sum(steps) + np.cumsum(steps)).tolist() if steps else []
        value += [one for _, one in row]
        bounds.append(len(day))
    found = series_violations(
        np.array(day, dtype=np.int64),
        np.array(value, dtype=np.float64),
        np.array(bounds[:-1], dtype=np.int64),
        np.array(bounds[1:], dtype=np.int64),
        np.full(len(rows), nonnegative),
        today=TODAY,
    )
    for at, (start, stop) in enumerate(pairwise(bounds)):
        takes = slow(day[start:stop], value[start:stop], nonnegative=nonnegative)
        assert (at not in found) == takes, found.get(at)
        for field, why in found.get(at, []):
            assert why
            if field.startswith(("history.day[", "history.value[")):
                assert start <= int(field.partition("[")[2].rstrip("]")) < stop


def test_a_sound_series_has_nothing_to_say() -> None:
    assert violations(sound()) == []
    assert violations(sound(KNOWN_MIN)) == []
    assert violations(sound(last=TODAY + 1)) == []
    weekdays = [day for day in sound(200).tolist() if (day + 3) % 7 < 5]
    assert violations(weekdays) == []


@pytest.mark.parametrize(
    ("day", "field", "why"),
    [
        (sound(last=TODAY + 2), "history.day[39]", "is 2026-11-23, which lies in the future; the latest is 2026-11-22"),
        ([EARLIEST - 1, *sound()], "history.day[0]", "is 1899-12-31; the earliest is 1900-01-01"),
        ([-300_000, *sound()], "history.day[0]", "the earliest is 1900-01-01"),
        ([*sound(), TODAY], "history.day[40]", "2026-11-21 is there twice"),
        ([*sound(), TODAY - 3], "history.day[40]", "2026-11-18 comes after 2026-11-21; sort the days"),
        (sound(KNOWN_MIN - 1), "history_start[0]", "needs a value on 14 of its last 112 days, has 13"),
        ([*sound(40, TODAY - 110), TODAY], "history_start[0]", "has 3"),
        ([], "history_start[0]", "is empty"),
        (np.arange(TODAY - DAYS_MAX, TODAY + 1), "history_start[0]", "has 10001 days, at most 10000"),
    ],
)
def test_a_day_at_fault_is_named(day: list[int], field: str, why: str) -> None:
    (found,) = violations(day)
    assert found[0] == field
    assert why in found[1]


@pytest.mark.parametrize(
    ("value", "why"), [(math.inf, "infinite"), (-math.inf, "infinite"), (1e31, "1e+31"), (-2.0, "not to be negative")]
)
def test_a_value_at_fault_is_named(value: float, why: str) -> None:
    values = np.ones(40)
    values[7] = value
    (found,) = violations(sound(), values, nonnegative=value == -2.0)
    assert found[0] == "history.value[7]"
    assert why in found[1]


def test_unknown_values_count_as_missing_days() -> None:
    values = np.full(40, np.nan)
    assert "has 0" in violations(sound(), values)[0][1]
    values[-KNOWN_MIN:] = 0.0
    assert violations(sound(), values) == []
    assert "has 13" in violations(np.arange(TODAY - 60, TODAY + 1), np.where(np.arange(61) % 5, np.nan, 1.0))[0][1]


@pytest.mark.parametrize(
    ("dates", "why"),
    [
        ([date(2025, 1, 1) + timedelta(7 * week) for week in range(30)], "a value every 7 days from 2025-01-01"),
        ([date(2024 + m // 12, m % 12 + 1, 1) for m in range(20)], "a value every month from 2024-01-01"),
        ([date(2010 + q // 4, q % 4 * 3 + 1, 15) for q in range(20)], "a value every quarter from 2010-01-15"),
        ([date(year, 12, 31) for year in range(1990, 2010)], "a value every year from 1990-12-31"),
    ],
)
def test_a_stretch_that_is_not_daily_is_refused_wherever_it_stands(dates: list[date], why: str) -> None:
    sparse = np.array([day_of(one) for one in dates])
    before = [*sparse, *sound()]
    (found,) = violations(before)
    assert found[0] == "history.day[1]"
    assert why in found[1]
    assert "a daily series is needed" in found[1]
    (found,) = violations([*np.arange(sparse[0] - 90, sparse[0]), *before])
    assert found[0] == "history.day[91]"
    gaps = np.insert(np.array(before, dtype=np.int64), 1, sparse[0] + 1)
    values = np.ones(len(gaps))
    values[1] = np.nan  # a day without a value does not hide it
    assert violations(gaps, values)[0][0] == "history.day[2]"


def weekly(first: date, moved: dict[int, int], weeks: int = 29) -> list[int]:
    """A day a week, of which some are moved by so many days."""
    return [day_of(first + timedelta(7 * week + moved.get(week, 0))) for week in range(weeks)]


@pytest.mark.parametrize(
    "sparse",
    [
        weekly(date(2025, 1, 3), {4: -1, 13: -1, 20: -1}),
        weekly(date(2025, 1, 3), {week: week % 3 - 1 for week in range(29)}),
        np.delete(np.arange(18_000, 18_250), [12, 40, 41, 77, 120, 163, 200])[::7].tolist(),
    ],
    ids=["holidays", "any day of the week", "every 7th row"],
)
def test_weeks_that_are_not_quite_regular_are_refused_too(sparse: list[int]) -> None:
    (found,) = violations([*sparse, *sound()])
    assert found[0].startswith("history.day[")
    assert "a value about every 7 days from " in found[1] or "a value every 7 days from " in found[1]
    assert "a daily series is needed" in found[1]


@given(st.lists(st.booleans(), min_size=400, max_size=400), st.integers(0, 6))
def test_days_that_are_missing_by_chance_are_no_frequency(there: list[bool], closed: int) -> None:
    day = np.arange(TODAY - 399, TODAY + 1)
    kept = day[np.array(there) & (day % 7 != closed)]
    assert not [why for _, why in violations(np.append(kept[kept < TODAY], TODAY)) if "a value" in why[:7]]


def test_working_days_with_holidays_between_are_daily() -> None:
    weekdays = [day for day in sound(400).tolist() if (day + 3) % 7 < 5 and day % 37 and day % 90 > 3]
    assert violations(weekdays) == []


def test_a_few_long_gaps_are_missing_days() -> None:
    loose = TODAY - 400 + np.cumsum([0, *[6, 7, 8, 7, 5, 9, 7, 6, 8, 7, 7]])  # eleven
    assert violations(np.concatenate([loose, sound()])) == []
    assert violations(np.concatenate([np.arange(TODAY - 400, TODAY - 50, 5), sound()])) == [], "no week"
    day = np.concatenate([TODAY - 400 + np.array([0, 7, 14, 21, 28, 35, 42]), sound()])
    assert violations(day) == []
    assert violations(np.concatenate([TODAY - 400 + np.array([0, 30, 61, 91]), sound()])) == []


def test_ranges_may_overlap_and_each_is_judged_alone() -> None:
    day = sound(100)
    value = np.ones(100)
    value[50] = np.inf
    start = np.array([0, 0, 51, 60, 0, -1, 40])
    stop = np.array([50, 51, 100, 100, 101, 20, 40])
    found = series_violations(day, value, start, stop, np.zeros(7, dtype=np.bool_), today=TODAY)
    assert sorted(found) == [1, 4, 5, 6]
    assert found[1][0][0] == "history.value[50]"
    assert "outside of the 100 days" in found[4][0][1]
    assert found[6] == [("history_start[6]", "is empty; give at least 14 days")]


def test_only_the_rows_that_declare_it_refuse_negative_values() -> None:
    day, value = np.tile(sound(), 2), np.full(80, -1.0)
    start, stop = np.array([0, 40]), np.array([40, 80])
    found = series_violations(day, value, start, stop, np.array([False, True]), today=TODAY)
    assert list(found) == [1]
    assert found[1][0][0] == "history.value[40]"
