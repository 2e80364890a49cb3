from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcast.observations import Observations
from meshcast.rpc.errors import CorruptData
from meshcast.services.drift.buckets import LEVELS, Buckets
from meshcast.services.drift.layout import Layout

MINUTE, HOUR, DAY = (level.length_us for level in LEVELS)
NOON = 20_000 * DAY + 12 * HOUR

LAYOUT = Layout.of(Observations(rows=100, numeric={"x": np.arange(100.0)}, categorical={}))


def rows(times: Sequence[int] | None, count: int = 1) -> Observations:
    unix_us = None if times is None else np.array(times, dtype=np.int64)
    count = count if times is None else len(times)
    return Observations(rows=count, numeric={"x": np.arange(count) % 100.0}, categorical={}, unix_us=unix_us)


def rows_between(buckets: Buckets, start_us: int | None, end_us: int | None) -> int:
    span = buckets.between(start_us, end_us)
    return 0 if span is None else span.tally.rows


def test_a_row_is_found_in_its_minute_and_not_beside_it() -> None:
    buckets = Buckets(LAYOUT)
    buckets.add(rows([NOON + 5 * MINUTE, NOON + 6 * MINUTE - 1, NOON + 6 * MINUTE]), NOON + 10 * MINUTE)
    span = buckets.between(NOON + 5 * MINUTE, NOON + 6 * MINUTE)
    assert span is not None
    assert (span.tally.rows, span.start_us, span.end_us) == (2, NOON + 5 * MINUTE, NOON + 6 * MINUTE)
    assert rows_between(buckets, None, None) == 3
    assert buckets.between(NOON + 7 * MINUTE, None) is None
    assert Buckets(LAYOUT).between(None, None) is None


def test_rows_without_times_happen_now_and_none_happens_later() -> None:
    buckets = Buckets(LAYOUT)
    buckets.add(rows(None, 3), NOON)
    buckets.add(rows([NOON + DAY, NOON + 9 * DAY]), NOON)
    assert rows_between(buckets, NOON, NOON + MINUTE) == 5
    assert len(buckets) == 3


def test_older_rows_are_found_by_the_hour_and_then_by_the_day() -> None:
    buckets = Buckets(LAYOUT)
    buckets.add(rows([NOON, NOON - 3 * HOUR - MINUTE, NOON - 5 * DAY - 2 * HOUR]), NOON)
    span = buckets.between(NOON - 3 * HOUR - MINUTE, NOON - 3 * HOUR - MINUTE + 1)
    assert span is not None
    assert (span.tally.rows, span.start_us, span.end_us) == (1, NOON - 4 * HOUR, NOON - 3 * HOUR)
    span = buckets.between(NOON - 5 * DAY, NOON - 5 * DAY + 1)
    assert span is not None
    assert (span.tally.rows, span.start_us) == (1, NOON - 5 * DAY - 12 * HOUR)


def test_rows_older_than_all_buckets_go_into_the_oldest_day_and_are_told() -> None:
    buckets = Buckets(LAYOUT)
    buckets.add(rows([NOON, NOON - 400 * DAY, -5]), NOON)
    assert buckets.late_rows == 2
    span = buckets.between(None, NOON - 20 * DAY)
    assert span is not None
    assert span.tally.rows == 2 and span.start_us == NOON - 12 * HOUR - 29 * DAY


@given(
    times=st.lists(st.integers(NOON - 28 * DAY, NOON + HOUR), min_size=1, max_size=30),
    cut=st.integers(0, 30),
    start=st.integers(NOON - 29 * DAY, NOON),
)
@settings(max_examples=40, deadline=None)
def test_every_row_is_in_the_whole_span_once(times: list[int], cut: int, start: int) -> None:
    buckets = Buckets(LAYOUT)
    for part in (times[:cut], times[cut:]):
        buckets.add(rows(part), NOON)
    found = buckets.between(None, None)
    assert found is not None and found.tally.rows == len(times)
    assert (found.tally.counts.sum(axis=1) == len(times)).all()
    assert len(buckets) <= sum(level.held for level in LEVELS)
    span = buckets.between(start, None)
    held = [min(time, NOON) for time in times]
    if span is None:
        assert all(time < start for time in held)
    else:
        assert span.tally.rows == sum(time >= span.start_us for time in held)
        assert span.tally.rows >= sum(time >= start for time in held)


@given(steps=st.lists(st.sampled_from([0, 1, MINUTE, -MINUTE, HOUR, -HOUR, 3 * DAY, -3 * DAY]), max_size=9))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("goes_on", [False, True])
def test_no_row_is_lost_while_the_clock_jumps_within_what_is_held(steps: list[int], goes_on: bool) -> None:
    buckets, now, filed = Buckets(LAYOUT), NOON, dict[tuple[int, int], bytes]()
    for count, step in enumerate(steps, start=1):
        now += step
        buckets.add(rows([now - MINUTE, now]), now)
        span = buckets.between(None, None)
        assert span is not None and span.tally.rows == 2 * count
        assert span.start_us <= now < span.end_us
        for key, data in buckets.changes().items():
            if data is None:
                filed.pop(key, None)
            else:
                assert key[1] <= now
                filed[key] = data
        again = Buckets.from_parts(LAYOUT, buckets.to_bytes(), filed)
        span = again.between(None, None)
        assert span is not None and span.tally.rows == 2 * count
        buckets = again if goes_on else buckets


def test_after_the_clock_went_back_what_was_ahead_is_now_and_nothing_is_counted_twice() -> None:
    buckets = Buckets(LAYOUT)
    buckets.add(rows([NOON - 5 * MINUTE] * 2), NOON)
    buckets.add(rows(None, 3), NOON + 2 * DAY)
    buckets.add(rows(None, 4), NOON + MINUTE)
    assert rows_between(buckets, None, None) == 9
    assert rows_between(buckets, NOON - DAY, None) == 9
    span = buckets.between(None, None)
    assert span is not None and span.end_us == NOON + 12 * HOUR
    buckets.add(rows(None, 1), NOON + HOUR)
    assert rows_between(buckets, None, None) == 10


def test_a_second_back_over_a_minutes_end_changes_nothing_of_note() -> None:
    buckets = Buckets(LAYOUT)
    buckets.add(rows([NOON - 30 * MINUTE]), NOON)
    buckets.add(rows(None), NOON + MINUTE)
    buckets.add(rows(None), NOON + MINUTE - 1_000_000)
    assert rows_between(buckets, NOON - 30 * MINUTE, NOON - 29 * MINUTE) == 1
    assert rows_between(buckets, NOON, NOON + MINUTE) == 2


def test_a_leap_ahead_leaves_the_days_that_are_still_held() -> None:
    buckets = Buckets(LAYOUT)
    buckets.add(rows([NOON - 20 * DAY, NOON]), NOON)
    buckets.add(rows(None), NOON + 15 * DAY)
    assert rows_between(buckets, None, None) == 2


def test_closed_buckets_are_told_once_and_again_only_after_late_rows() -> None:
    buckets = Buckets(LAYOUT)
    buckets.add(rows(None), NOON)
    assert buckets.changes() == {}
    buckets.add(rows(None), NOON + MINUTE)
    assert set(buckets.changes()) == {(0, NOON)}
    assert buckets.changes() == {}
    buckets.add(rows([NOON + 1]), NOON + MINUTE)
    assert set(buckets.changes()) == {(0, NOON)}
    buckets.add(rows(None), NOON + 2 * HOUR)
    changes = buckets.changes()
    assert changes[0, NOON] is None and changes[1, NOON] is not None


def test_parts_on_file_make_the_same_buckets() -> None:
    buckets, filed = Buckets(LAYOUT), dict[tuple[int, int], bytes]()
    for day in range(35):
        buckets.add(rows([NOON + day * DAY - at * 7 * MINUTE for at in range(20)]), NOON + day * DAY)
        for key, data in buckets.changes().items():
            if data is None:
                filed.pop(key, None)
            else:
                filed[key] = data
    again = Buckets.from_parts(LAYOUT, buckets.to_bytes(), filed)
    assert len(again) == len(buckets) and again.late_rows == buckets.late_rows
    for start in (None, NOON + 30 * DAY, NOON + 34 * DAY - HOUR):
        one, other = buckets.between(start, None), again.between(start, None)
        assert one is not None and other is not None
        assert (one.tally.counts == other.tally.counts).all() and one[1:] == other[1:]
    again.add(rows(None), NOON + 34 * DAY + 1)
    assert set(again.changes()) == set()


def test_damaged_parts_and_those_of_another_reference_are_refused() -> None:
    buckets = Buckets(LAYOUT)
    buckets.add(rows(None), NOON)
    data = buckets.to_bytes()
    with pytest.raises(CorruptData):
        Buckets.from_parts(LAYOUT, data[:-1], {})
    other = Layout.of(Observations(rows=3, numeric={"x": np.arange(3.0)}, categorical={}))
    with pytest.raises(CorruptData, match="not one of this reference"):
        Buckets.from_parts(other, data, {})
    with pytest.raises(CorruptData):
        Buckets.from_parts(LAYOUT, data, {(0, NOON - MINUTE): b"odd"})
    closed = LAYOUT.tally(rows(None), sketches=False).to_bytes()
    for key in ((5, NOON), (0, NOON + 1)):
        with pytest.raises(CorruptData):
            Buckets.from_parts(LAYOUT, data, {key: closed})


def test_no_rows_change_nothing() -> None:
    buckets = Buckets(LAYOUT)
    buckets.add(rows([]), NOON)
    assert len(buckets) == 0 and buckets.state_bytes == 0
    assert Buckets.from_parts(LAYOUT, buckets.to_bytes(), {}).between(None, None) is None


def test_a_tally_at_hand_is_used_and_stays_as_it_is() -> None:
    buckets, chunk = Buckets(LAYOUT), rows(None, 50)
    counted = LAYOUT.tally(chunk)
    buckets.add(chunk, NOON, counted)
    buckets.add(chunk, NOON, counted)
    assert counted.rows == 50 and counted.sketches is not None
    assert rows_between(buckets, None, None) == 100


def test_counts_past_16_bits_are_held() -> None:
    buckets, chunk = Buckets(LAYOUT), rows(None, 60_000)
    counted = LAYOUT.tally(chunk)
    for _ in range(150):
        buckets.add(chunk, NOON, counted)
    span = buckets.between(None, None)
    assert span is not None and (span.tally.counts == 150 * counted.counts).all()
