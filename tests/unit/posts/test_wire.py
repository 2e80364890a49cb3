"""Tables survive the wire, broken messages are refused by field, and bad rows are found without touching good ones."""

from typing import Any

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.posts import (
    COUNTS,
    POST_COLUMNS,
    PackedPosts,
    Planned,
    PostTable,
    history_range,
    join_posts,
    pack_floats,
    pack_planned,
    pack_positions,
    pack_posts,
    planned_from_columns,
    planned_from_message,
    posts_from_columns,
    posts_from_messages,
    problems,
    row_violations,
    unpack_floats,
)
from meshcast.rpc import InvalidInput

DAY = 86_400


def posts(n: int = 60, /, **columns: Any) -> PostTable:
    hours = np.arange(n)
    given_columns: dict[str, Any] = {
        "published_unix_s": 1_460_000_000 + hours * 3600,
        "hour_of_day": hours % 24,
        "day_of_week": hours // 24 % 7,
        "content_length": hours,
        "has_media": hours % 2,
        "forwards": hours * 2,
        "reactions": np.where(hours % 3 == 0, np.nan, hours),
    }
    return PostTable.of(given_columns | columns)


def planned(n: int = 3, **columns: Any) -> Planned:
    plan = {
        "published_unix_s": np.full(n, 1_460_000_000 + 60 * 3600 + DAY),
        "hour_of_day": np.full(n, 3, dtype=np.float32),
        "day_of_week": np.full(n, 3, dtype=np.float32),
        "content_length": np.full(n, 3, dtype=np.float32),
        "has_media": np.full(n, 1, dtype=np.float32),
    }
    return Planned(**(plan | columns))


def ranges(*pairs: tuple[int, int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return np.array([a for a, _ in pairs], dtype=np.int64), np.array([b for _, b in pairs], dtype=np.int64)


def same(a: PostTable, b: PostTable) -> None:
    for name in POST_COLUMNS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=8))
def test_ranges_of_a_table_survive_the_wire(pairs: list[tuple[int, int]]) -> None:
    table = posts()
    packed = PackedPosts(table)
    cuts = [(packed, min(pair), max(pair)) for pair in pairs]
    again = posts_from_columns(pb.PostColumns.FromString(join_posts(cuts).SerializeToString()))
    rows = np.concatenate([np.arange(a, b) for _, a, b in cuts])
    same(again, table.take(rows))


def test_counts_that_nobody_knows_are_not_sent() -> None:
    message = pack_posts(posts())
    assert message.views == b""
    assert message.replies == b""
    assert len(message.reactions) == 4 * 60
    assert np.isnan(posts_from_columns(message).views).all()


def test_counts_that_one_of_two_tables_knows_are_sent_for_both() -> None:
    one, other = posts(3), posts(2, views=[1.0, 2.0])
    message = join_posts([(PackedPosts(one), 0, 3), (PackedPosts(other), 0, 2)])
    np.testing.assert_array_equal(posts_from_columns(message).views, [np.nan] * 3 + [1, 2])


def test_a_slice_with_gaps_in_memory_is_packed_as_it_reads() -> None:
    table = posts().take(np.arange(0, 60, 2))
    same(posts_from_columns(pack_posts(table[3:9])), table[3:9])


def test_plans_survive_the_wire() -> None:
    again = planned_from_columns(pack_planned(posts().planned()))
    for name in ("published_unix_s", "hour_of_day", "day_of_week", "content_length", "has_media"):
        np.testing.assert_array_equal(getattr(again, name), getattr(posts(), name))


@pytest.mark.parametrize("column", POST_COLUMNS)
def test_a_column_of_a_wrong_length_is_named(column: str) -> None:
    message = pack_posts(posts(views=np.zeros(60), replies=np.zeros(60)))
    setattr(message, column, getattr(message, column)[:-1])
    with pytest.raises(InvalidInput) as caught:
        posts_from_columns(message, "request.history")
    assert [violation.field for violation in caught.value.violations] == [f"request.history.{column}"]


def test_a_negative_number_of_posts_is_refused() -> None:
    with pytest.raises(InvalidInput, match="0 or more"):
        posts_from_columns(pb.PostColumns(posts=-1))


def test_required_columns_that_are_left_out_are_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        posts_from_columns(pb.PostColumns(posts=2))
    assert [violation.field.split(".")[1] for violation in caught.value.violations] == list(POST_COLUMNS[:5])


def test_ranges_and_floats_of_a_wrong_length_are_named() -> None:
    three = pack_positions(np.arange(3))
    np.testing.assert_array_equal(history_range(three, three, 3)[1], [0, 1, 2])
    with pytest.raises(InvalidInput, match="history_stop must be 12 bytes, is 11"):
        history_range(three, three[:-1], 3)
    assert unpack_floats(pack_floats(np.ones((2, 3))), (2, 3), "x").shape == (2, 3)
    with pytest.raises(InvalidInput, match="x must be 24 bytes"):
        unpack_floats(b"1234", (2, 3), "x")


def test_messages_become_columns_and_unset_counts_unknown() -> None:
    messages = [
        pb.Post(published_time=Timestamp(seconds=5), hour_of_day=0, day_of_week=6, has_media=True, reactions=0),
        pb.Post(published_time=Timestamp(seconds=9), hour_of_day=23, day_of_week=0, content_length=4, views=7),
    ]
    table = posts_from_messages(messages)
    assert table.published_unix_s.tolist() == [5, 9]
    assert table.hour_of_day.tolist() == [0, 23]
    assert table.has_media.tolist() == [1, 0]
    np.testing.assert_array_equal(table.reactions, [0, np.nan])
    np.testing.assert_array_equal(table.views, [np.nan, 7])


def test_an_unset_time_or_hour_is_refused_as_missing() -> None:
    with pytest.raises(InvalidInput) as caught:
        posts_from_messages([pb.Post(published_time=Timestamp(seconds=5)), pb.Post()])
    assert caught.value.violations[0].field == "history[1].published_time"
    with pytest.raises(InvalidInput, match=r"planned\.published_time is required"):
        planned_from_message(pb.PlannedPost(hour_of_day=1))
    plan = planned_from_message(pb.PlannedPost(published_time=Timestamp(seconds=2_000_000_000), day_of_week=1))
    found = row_violations(posts(), plan, *ranges((0, 20)))
    assert found == {0: [("planned.hour_of_day[0]", "is required: a whole number from 0 to 23")]}


def test_good_rows_have_no_violations() -> None:
    assert row_violations(posts(), planned(), *ranges((0, 20), (10, 60), (40, 60))) == {}
    assert problems(posts()) == []


def test_ranges_of_the_wrong_size_or_outside_of_the_table_fail_their_own_rows() -> None:
    found = row_violations(posts(130), planned(6), *ranges((0, 19), (0, 101), (-1, 30), (111, 131), (50, 40), (0, 20)))
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert found[0] == [("history_start[0]", "the history must have 20 to 100 posts, has 19")]
    assert "has 101" in found[1][0][1]
    assert "outside of the 130 posts" in found[2][0][1]
    assert "outside" in found[3][0][1]
    assert "has 0" in found[4][0][1]


@pytest.mark.parametrize("column", [*POST_COLUMNS[1:]])
def test_a_bad_post_fails_the_rows_whose_history_holds_it_and_no_other(column: str) -> None:
    values = np.zeros(60)
    values[25] = -1
    broken = posts(60, **{column: values})
    found = row_violations(broken, planned(3), *ranges((0, 25), (5, 26), (26, 60)))
    assert list(found) == [1]
    assert found[1][0][0] == f"history.{column}[25]"
    assert [(problem.row, problem.column) for problem in problems(broken)] == [(25, column)]


def test_only_counts_may_be_unknown() -> None:
    nothing = np.full(60, np.nan, dtype=np.float32)
    for name in COUNTS:
        assert row_violations(posts(60, **{name: nothing}), planned(1), *ranges((0, 60))) == {}
    found = row_violations(posts(content_length=nothing), planned(1), *ranges((0, 60)))
    assert "is required" in found[0][0][1]


def test_a_history_out_of_order_fails_and_neighbours_of_other_channels_do_not() -> None:
    table = posts()
    times = table.published_unix_s.copy()
    times[30:] -= 30 * 3600  # a second channel begins at 30
    broken = PostTable(
        **{name: getattr(table, name) for name in ("channel", *POST_COLUMNS[1:])}, published_unix_s=times
    )
    found = row_violations(broken, planned(3), *ranges((0, 30), (30, 60), (20, 40)))
    assert list(found) == [2]
    assert found[2] == [("history.published_unix_s[30]", "is older than the post before it; newest comes last")]


@pytest.mark.parametrize(("gap_s", "is_bad"), [(DAY, False), (DAY - 1, True), (-DAY, True)])
def test_the_newest_post_must_be_a_day_older_than_the_plan(gap_s: int, is_bad: bool) -> None:
    table = posts()
    plan = planned(1, published_unix_s=table.published_unix_s[-1:] + gap_s)
    found = row_violations(
        table, plan, *ranges((30, 60)), history_field=lambda post, column: f"history[{post}].{column}"
    )
    assert bool(found) is is_bad
    if is_bad:
        assert found[0][0][0] == "history[59].published_unix_s"
        assert "24 h older" in found[0][0][1]


def test_an_empty_table_fails_every_row_and_does_not_break() -> None:
    found = row_violations(posts_from_columns(pb.PostColumns()), planned(2), *ranges((0, 20), (0, 0)))
    assert sorted(found) == [0, 1]
