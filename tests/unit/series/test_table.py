"""Tables of series: sorted, checked, cut without copies."""

from datetime import date, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcast.rpc import InvalidInput
from meshcast.series import SeriesRange, SeriesTable, day_of, day_texts, days_of, days_of_texts


def table() -> SeriesTable:
    return SeriesTable.of([3, 1, 9, 2, 8, 5], [30, 10, 90, 20, 80, 50], series=["b", "a", "c", "a", "c", "b"])


def test_days_of_any_order_are_sorted_by_series_and_day() -> None:
    made = table()
    assert list(made.ranges()) == [SeriesRange("a", 0, 2), SeriesRange("b", 2, 4), SeriesRange("c", 4, 6)]
    assert made.day.tolist() == [1, 2, 3, 5, 8, 9]
    assert made.value.tolist() == [10, 20, 30, 50, 80, 90]
    assert made.row_names().tolist() == ["a", "a", "b", "b", "c", "c"]
    assert [made.name_at(at) for at in range(6)] == made.row_names().tolist()
    assert (made.whole().start.tolist(), made.whole().stop.tolist()) == ([0, 2, 4], [2, 4, 6])


def test_a_slice_is_a_view_that_knows_where_it_was_cut() -> None:
    made = table()
    part = made[1:5][1:]
    assert part.origin is made
    assert part.offset == 2
    assert np.shares_memory(part.value, made.value)
    assert list(part.ranges()) == [SeriesRange("b", 0, 2), SeriesRange("c", 2, 3)]
    assert list(made["b"].ranges()) == [SeriesRange("b", 0, 2)]
    assert len(made[3:3]) == 0
    assert list(made[3:3].ranges()) == []
    with pytest.raises(KeyError):
        made["d"]
    with pytest.raises(IndexError):
        made[::2]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12)), max_size=30, unique=True), st.data())
def test_slices_hold_what_their_rows_say(rows: list[tuple[str, int]], data: st.DataObject) -> None:
    made = SeriesTable.of([day for _, day in rows], [float(day) for _, day in rows], [name for name, _ in rows])
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(0, len(rows)))
    part = made[start:stop]
    wanted = sorted(rows)[start:stop]
    assert list(zip(part.row_names().tolist(), part.day.tolist(), strict=True)) == wanted
    assert [name for name, _, _ in part.ranges()] == sorted({name for name, _ in wanted})


@pytest.mark.parametrize(
    "days",
    [
        ["2016-05-30", "2016-05-31"],
        [date(2016, 5, 30), date(2016, 5, 31)],
        [datetime(2016, 5, 30, 8), datetime(2016, 5, 31)],
        np.array(["2016-05-30", "2016-05-31"], dtype="datetime64[ns]"),
        np.array([16951, 16952], dtype=np.int32),
    ],
)
def test_days_are_taken_in_any_form(days: object) -> None:
    assert SeriesTable.of(days, [1, 2]).day.tolist() == [16951, 16952]


@pytest.mark.parametrize(
    ("day", "value", "series", "said"),
    [
        (["2016-05-31", "2016-05-31"], [1, 2], None, r"day\[1\]: 2016-05-31 is there twice"),
        ([1, 2, 1], [1, 2, 3], ["a", "b", "a"], r"day\[2\]: 1970-01-02 is there twice in the series 'a'"),
        (["2016-05-31", "May"], [1, 2], None, r"day\[1\] must be a date as in 2016-05-31, is 'May'"),
        ([1, 2], [1, np.inf], None, r"value\[1\] is infinite"),
        ([1, 2], [1, "x"], None, "value holds what is no number"),
        ([1, 2], [1], None, "value has shape"),
        ([1, 2], [1, 2], ["a"], "series has shape"),
        (np.array(["NaT"], dtype="datetime64[D]"), [1], None, r"day\[0\] is not a date"),
    ],
)
def test_what_is_wrong_is_named(day: object, value: object, series: object, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        SeriesTable.of(day, value, series)


def test_unknown_values_stay_unknown() -> None:
    assert np.isnan(SeriesTable.of([1, 2], [None, 2]).value).tolist() == [True, False]


@given(st.integers(-700_000, 2_900_000))
def test_texts_and_days_are_each_others_inverse(day: int) -> None:
    texts = day_texts(np.array([day]))
    assert days_of_texts(texts)[0].tolist() == [day]
    assert day_of(date.fromisoformat(texts[0])) == day


@given(st.text("0123456789-TNa:/ é\x00", max_size=12) | st.dates().map(str))
def test_a_text_is_a_date_exactly_where_python_says_so(text: str) -> None:
    days, is_date = days_of_texts([text, "2016-05-31"])
    try:
        wanted = date.fromisoformat(text) if len(text) == 10 and text[4:5] == text[7:8] == "-" else None
    except ValueError:
        wanted = None
    assert is_date.tolist() == [wanted is not None, True]
    assert days.tolist() == [0 if wanted is None else day_of(wanted), 16952]


def test_columns_of_other_shapes_are_no_days() -> None:
    with pytest.raises(InvalidInput, match="one column"):
        days_of([[1, 2]])


def test_a_name_that_no_series_has_is_answered_with_those_there_are() -> None:
    table = SeriesTable.of([0, 0], [1, 2], series=["a", "b"])
    with pytest.raises(KeyError, match="no series is named 'nope'; there are 'a', 'b'"):
        table["nope"]
    many = SeriesTable.of([0] * 20, [1] * 20, series=[f"s{at:02}" for at in range(20)])
    with pytest.raises(KeyError, match="'s11' and 8 more"):
        many["nope"]
    with pytest.raises(KeyError, match="the only one has no name"):
        SeriesTable.of([0], [1])["nope"]
    with pytest.raises(KeyError, match="there is none"):
        many[:0]["nope"]
