"""Contents on the wire: what is packed comes back, and what breaks a rule is named in its place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.contents import (
    BYTES_MAX,
    Contents,
    blank_rows,
    content_message,
    contents_from_columns,
    contents_from_messages,
    pack_contents,
)
from meshcast.rpc import InvalidInput

texts = st.text(st.characters(codec="utf-8"), max_size=12)


@st.composite
def tables(draw: st.DrawFn) -> Contents:
    n = draw(st.integers(0, 8))
    rows = [
        (
            draw(texts),
            draw(texts),
            draw(st.one_of(st.none(), st.integers(0, 2**24))),
            draw(st.booleans()),
            draw(st.integers(-1, 23)),
        )
        for _ in range(n)
    ]
    return Contents.of(
        [row[0] for row in rows],
        title=[row[1] for row in rows],
        content_length=[len(row[0]) if row[2] is None else row[2] for row in rows],
        has_media=[row[3] for row in rows],
        hour_of_day=[row[4] for row in rows],
    )


def assert_same(one: Contents, other: Contents) -> None:
    assert (one.text, one.title) == (other.text, other.title)
    for name in ("content_length", "has_media", "hour_of_day"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@given(tables())
def test_both_forms_of_a_table_come_back_as_it_was(contents: Contents) -> None:
    by_columns, one = contents_from_columns(pack_contents(contents))
    messages = [content_message(contents, row) for row in range(len(contents))]
    by_messages, other = contents_from_messages(messages)
    assert_same(by_columns, contents)
    assert_same(by_messages, contents)
    blank = np.flatnonzero(blank_rows(contents)).tolist()
    assert sorted(one) == sorted(other) == blank


def test_columns_that_say_nothing_are_left_out() -> None:
    message = pack_contents(Contents.of(["a", "b"]))
    assert message == pb.ContentColumns(rows=2, text=["a", "b"])


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("content_length", -1.0, "must be a whole number of characters from 0 to 16,777,216, is -1"),
        ("content_length", 2.5, "must be a whole number"),
        ("content_length", 2.0**24 + 2, "must be a whole number"),
        ("content_length", np.inf, "is inf"),
        ("has_media", 0.5, "must be 0 or 1, is 0.5"),
        ("has_media", np.nan, "must be 0 or 1, is nan"),
        ("hour_of_day", 24.0, "must be a whole number from 0 to 23, is 24"),
        ("hour_of_day", 6.5, "is 6.5"),
    ],
)
def test_a_bad_value_is_named_and_taken_as_unknown(column: str, value: float, said: str) -> None:
    message = pb.ContentColumns(rows=2, text=["ab", "c"])
    setattr(message, column, np.array([0, value], dtype="<f4").tobytes())
    contents, violations = contents_from_columns(message)
    ((field, why),) = violations[1]
    assert list(violations) == [1]
    assert field == f"contents.{column}[1]"
    assert said in why
    assert (contents.content_length[1], contents.has_media[1], contents.hour_of_day[1]) == (1, False, -1)


@pytest.mark.parametrize(
    ("text", "title", "said"),
    [
        ("", "", "a text or a title is required"),
        (" \n\t", "\u2003", "a text or a title is required"),
        ("a" * BYTES_MAX, "b", f"has {BYTES_MAX + 1} bytes of UTF-8 with its title"),
        ("ж" * (BYTES_MAX // 2), "b", f"has {BYTES_MAX + 1} bytes"),
        ("a" * BYTES_MAX, "", None),
        ("\u200d", "", None),
        ("", "b", None),
    ],
)
def test_texts_keep_their_rules(text: str, title: str, said: str | None) -> None:
    _, violations = contents_from_messages([pb.Content(text=text, title=title)], lambda row, name: f"content.{name}")
    if said is None:
        assert not violations
    else:
        ((field, why),) = violations[0]
        assert field == "content.text"
        assert said in why


def test_columns_of_other_lengths_are_refused_together() -> None:
    message = pb.ContentColumns(rows=2, text=["a"], title=["a", "b", "c"], hour_of_day=b"1234")
    with pytest.raises(InvalidInput) as caught:
        contents_from_columns(message)
    assert [one.field for one in caught.value.violations] == [
        "contents.text",
        "contents.title",
        "contents.hour_of_day",
    ]
    with pytest.raises(InvalidInput, match="must be a number of rows of 0 or more, is -1"):
        contents_from_columns(pb.ContentColumns(rows=-1))


def test_a_lone_surrogate_is_named() -> None:
    contents = Contents.of(["a", "b"], title=["", "x\udc80"])
    for send in (pack_contents, lambda table: content_message(table, 1)):
        with pytest.raises(InvalidInput, match="character 1 is a lone surrogate"):
            send(contents)


def test_columns_of_other_lengths_make_no_table() -> None:
    with pytest.raises(InvalidInput, match="title has 1 rows, text 2"):
        Contents.of(["a", "b"], title=["x"])
    with pytest.raises(InvalidInput, match=r"hour_of_day has shape \(3,\), text \(2,\)"):
        Contents.of(["a", "b"], hour_of_day=[1, 2, 3])


def test_media_is_true_or_false() -> None:
    assert Contents.of(["a", "b"], has_media=[1, 0]).has_media.tolist() == [True, False]
    assert Contents.of(["a", "b"], has_media=np.array([True, False])).has_media.tolist() == [True, False]
    for wrong, row in ((["false", "no"], 0), ([False, "0"], 0), ([0, 2], 1), ([0, float("nan")], 1), ([True, None], 1)):
        with pytest.raises(InvalidInput, match=rf"has_media\[{row}\] must be true or false"):
            Contents.of(["a", "b"], has_media=wrong)  # type: ignore[arg-type]  # that is what is tested


def test_slices_and_picked_rows_are_tables() -> None:
    contents = Contents.of(["a", "b", "c"], hour_of_day=[1, 2, 3])
    assert_same(contents[1:], Contents.of(["b", "c"], hour_of_day=[2, 3]))
    assert_same(contents.take(np.array([2, 0])), Contents.of(["c", "a"], hour_of_day=[3, 1]))


def test_gaps_of_data_frames_are_unknown() -> None:
    given = {"content_length": [9.0, np.nan, 3.0], "hour_of_day": np.array([None, 7, -1], dtype=object)}
    contents = Contents.of(["a", "bc", "d"], **given)  # type: ignore[arg-type]  # two kinds of columns
    assert contents.content_length.tolist() == [9, 2, 3]
    assert contents.hour_of_day.tolist() == [-1, 7, -1]
    for wrong, said in (([1.5], r"hour_of_day\[0\] must be a whole number, is 1.5"), (["x"], "must be whole numbers")):
        with pytest.raises(InvalidInput, match=said):
            Contents.of(["a"], hour_of_day=wrong)
