"""Rows are cut into windows as they come, and a subject's time never goes back."""

import numpy as np
import pytest

from meshcast.services.drift.evidence import YEAR_US
from meshcast.services.drift.windows import FUTURE_US, Cut, WindowClock, future_rule, given_span

NOW = 1_700_000_000_000_000
HOUR = 3_600_000_000
DAY = 24 * HOUR


def cut(
    chunks: list[list[int] | int], *, rows_max: int = 10, span_us: int = DAY, now_us: int = NOW
) -> tuple[list[list[Cut]], WindowClock]:
    """The cuts of chunks, given by their times or their number of rows, and where the windows stand behind them."""
    clock, found = WindowClock(), []
    for chunk in chunks:
        times = None if isinstance(chunk, int) else np.array(chunk, dtype=np.int64)
        rows = chunk if isinstance(chunk, int) else len(chunk)
        cuts = list(clock.cuts(rows, times, now_us, rows_max=rows_max, span_us=span_us))
        clock = cuts[-1].clock.closed() if cuts[-1].ends_after else cuts[-1].clock
        found.append(cuts)
    return found, clock


def test_a_chunk_is_split_where_windows_are_full() -> None:
    (first, second), clock = cut([7, 24])
    assert [(one.start, one.stop, one.ends_before, one.ends_after) for one in first] == [(0, 7, False, False)]
    assert [(one.start, one.stop, one.ends_after) for one in second] == [
        (0, 3, True),
        (3, 13, True),
        (13, 23, True),
        (23, 24, False),
    ]
    assert clock.rows == 1


@pytest.mark.parametrize("sizes", [[31], [1] * 31, [10, 10, 11], [9, 2, 20]])
def test_windows_do_not_depend_on_how_rows_are_cut_into_chunks(sizes: list[int]) -> None:
    times = (NOW - 20 * DAY + np.arange(31) * 7 * HOUR).tolist()
    at, ends, seen = 0, [], 0
    clock = WindowClock()
    for size in sizes:
        for one in clock.cuts(size, np.array(times[at : at + size]), NOW, rows_max=6, span_us=DAY):
            if one.ends_before:
                ends.append(at + one.start)
            clock = one.clock
            if one.ends_after:
                ends.append(at + one.stop)
                clock = clock.closed()
            seen += one.stop - one.start
        at += size
    assert ends == list(range(4, 31, 4)) and seen == 31  # four rows of seven hours span a day


def test_a_window_closes_before_the_first_row_that_is_a_day_later() -> None:
    (only,), clock = cut([[NOW - 3 * DAY, NOW - 2 * DAY - 1, NOW - 2 * DAY, NOW - 2 * DAY]])
    assert [(one.start, one.stop, one.ends_before) for one in only] == [(0, 2, False), (2, 4, True)]
    assert clock.closed_us == NOW - 2 * DAY - 1
    assert clock.elapsed_years() == pytest.approx(1 / YEAR_US)


def test_rows_that_come_late_stop_no_clock_and_close_no_window() -> None:
    (_, late), clock = cut([[NOW - HOUR] * 3, [NOW - 40 * DAY, NOW - HOUR + 5, NOW - 90 * DAY]])
    assert [(one.start, one.stop, one.ends_before) for one in late] == [(0, 3, False)]
    assert (clock.latest_us, clock.opened_us) == (NOW - HOUR + 5, NOW - HOUR)
    assert clock.elapsed_years() == pytest.approx(5 / YEAR_US)


def test_rows_a_little_ahead_count_as_now() -> None:
    _, clock = cut([[NOW - HOUR, NOW + FUTURE_US]])
    assert clock.latest_us == NOW


def test_a_clock_that_goes_back_does_not_take_time_back() -> None:
    clock = next(WindowClock().cuts(1, None, NOW, rows_max=10, span_us=DAY)).clock
    clock = next(clock.cuts(1, None, NOW - HOUR, rows_max=10, span_us=DAY)).clock
    assert (clock.latest_us, clock.rows) == (NOW, 2)
    assert clock.elapsed_years() == 0


def test_time_between_windows_counts_for_the_later_one() -> None:
    (first,), clock = cut([[NOW - 9 * HOUR, NOW - 6 * HOUR]], rows_max=2)
    assert first[0].ends_after
    later = next(clock.cuts(1, np.array([NOW - HOUR]), NOW, rows_max=2, span_us=DAY)).clock
    assert later.elapsed_years() == pytest.approx(5 * HOUR / YEAR_US)
    assert first[0].clock.elapsed_years() == pytest.approx(3 * HOUR / YEAR_US)


def test_times_of_the_far_future_break_a_rule_that_names_the_row() -> None:
    assert future_rule(None, NOW) is None
    assert future_rule(np.array([], dtype=np.int64), NOW) is None
    assert future_rule(np.array([0, NOW + FUTURE_US]), NOW) is None
    rule = future_rule(np.array([NOW, NOW + 3 * DAY, NOW + 9 * DAY]), NOW)
    assert rule is not None and "3 days" in rule and "row 1" in rule


def test_the_span_is_that_of_the_times_as_given() -> None:
    assert given_span(np.array([5, 3, 9])) == (3, 9)
    assert given_span(None) is None
