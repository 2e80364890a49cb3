"""Series on the wire: what is packed is read back, and what does not fit is named."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.rpc import InvalidInput
from meshcast.series import (
    PackedSeries,
    days_from_columns,
    days_from_messages,
    join_series,
    messages_from_days,
    pack_days,
)

DAYS = st.lists(st.tuples(st.integers(-25_567, 100_000), st.floats(allow_nan=True, allow_infinity=False)), max_size=40)


@given(DAYS)
def test_columns_are_read_back_bit_for_bit(rows: list[tuple[int, float]]) -> None:
    day, value = np.array([d for d, _ in rows], dtype=np.int64), np.array([v for _, v in rows], dtype=np.float64)
    message = pb.DayColumns.FromString(pack_days(day, value).SerializeToString())
    assert message.days == len(rows)
    again_day, again_value = days_from_columns(message)
    np.testing.assert_array_equal(again_day, day)
    np.testing.assert_array_equal(again_value, value)


@given(DAYS)
def test_messages_are_read_back(rows: list[tuple[int, float]]) -> None:
    day, value = np.array([d for d, _ in rows], dtype=np.int64), np.array([v for _, v in rows], dtype=np.float64)
    messages = messages_from_days(day, value)
    assert [one.HasField("value") for one in messages] == [not math.isnan(v) for _, v in rows]
    again_day, again_value = days_from_messages(messages)
    np.testing.assert_array_equal(again_day, day)
    np.testing.assert_array_equal(again_value, value)


@given(DAYS, st.data())
def test_ranges_are_joined_end_to_end(rows: list[tuple[int, float]], data: st.DataObject) -> None:
    day, value = np.array([d for d, _ in rows], dtype=np.int64), np.array([v for _, v in rows], dtype=np.float64)
    packed = PackedSeries(day, value)
    cuts = data.draw(st.lists(st.tuples(st.integers(0, len(rows)), st.integers(0, len(rows))).map(sorted), max_size=4))
    again_day, again_value = days_from_columns(join_series([(packed, a, b) for a, b in cuts]))
    np.testing.assert_array_equal(again_day, np.concatenate([day[:0], *(day[a:b] for a, b in cuts)]))
    np.testing.assert_array_equal(again_value, np.concatenate([value[:0], *(value[a:b] for a, b in cuts)]))


def test_an_unset_value_is_unknown_and_zero_is_zero() -> None:
    _, value = days_from_messages([pb.DayValue(date="2016-05-31"), pb.DayValue(date="2016-06-01", value=0)])
    assert np.isnan(value).tolist() == [True, False]


@pytest.mark.parametrize(
    "text", ["", "2016-5-31", "2016-02-30", "2016-05-31T00:00:00Z", "now", "20160531", "\u0662\u0660\u0661\u0666-05-31"]
)
def test_a_bad_date_names_its_row(text: str) -> None:
    days = [pb.DayValue(date="2016-05-31", value=1), pb.DayValue(date=text, value=2)]
    with pytest.raises(InvalidInput) as caught:
        days_from_messages(days, "actuals")
    assert caught.value.violations[0].field == "actuals[1].date"
    assert "2016-05-31" in caught.value.message


def test_many_bad_dates_are_told_in_few_words() -> None:
    with pytest.raises(InvalidInput) as caught:
        days_from_messages([pb.DayValue(date="x" * 10_000)] * 500)
    assert len(caught.value.violations) == 50
    assert len(caught.value.message) < 200


def test_columns_of_other_lengths_are_all_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        days_from_columns(pb.DayColumns(days=2, day=b"1234", value=b"1234"), "history_columns")
    assert [violation.field for violation in caught.value.violations] == [
        "history_columns.day",
        "history_columns.value",
    ]
    with pytest.raises(InvalidInput, match=r"history.days must be a number of days of 0 or more, is -1"):
        days_from_columns(pb.DayColumns(days=-1))


def test_a_day_beyond_32_bits_is_not_cut_short() -> None:
    with pytest.raises(InvalidInput, match="32 bits"):
        pack_days(np.array([2**31]), np.ones(1))
