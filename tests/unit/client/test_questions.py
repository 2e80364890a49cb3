"""Questions become messages that a server reads back as they were meant, whatever travels together."""

import gc
import weakref
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.client import History, PlannedPost, Post
from meshcast.client.chunks import chunk_request, planned_columns, table_chunk_request
from meshcast.client.questions import Histories, RequestIds, checked_plan, engagement_request
from meshcast.posts import (
    PackedPosts,
    PostTable,
    history_range,
    pack_planned,
    planned_from_columns,
    planned_from_message,
    posts_from_columns,
)
from meshcast.rpc import InvalidInput

PLAN = PlannedPost(published_at=datetime(2026, 1, 5, 18, tzinfo=UTC), content_length=120, has_media=True)


def table(n: int, first: int = 0) -> PostTable:
    hours = np.arange(n)
    return PostTable.of(
        {
            "published_unix_s": 1_460_000_000 + hours * 3600,
            "hour_of_day": hours % 24,
            "day_of_week": hours % 7,
            "reactions": first + hours,
        }
    )


def histories_of(request: pb.PredictEngagementStreamRequest) -> list[list[float]]:
    """The reactions of each row's history, as a server reads them."""
    again = pb.PredictEngagementStreamRequest.FromString(request.SerializeToString())
    posts = posts_from_columns(again.history)
    start, stop = history_range(again.history_start, again.history_stop, again.planned.posts)
    return [posts.reactions[a:b].tolist() for a, b in zip(start.tolist(), stop.tolist(), strict=True)]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(1, 40)), min_size=1, max_size=20))
def test_rows_of_many_tables_keep_their_own_histories(cuts: list[tuple[int, int, int]]) -> None:
    whole = [History(table(100, 1_000 * k)) for k in range(4)]
    histories = [whole[k][start : start + posts] for k, start, posts in cuts]
    request = chunk_request(planned_columns([PLAN.values()] * len(cuts)), histories)
    wanted = [[float(1_000 * k + i) for i in range(start, start + posts)] for k, start, posts in cuts]
    assert histories_of(request) == wanted
    assert request.history.posts == len({value for row in wanted for value in row}), "shared posts are sent once"


def test_rows_of_one_table_are_packed_alike_with_and_without_work_a_row() -> None:
    posts = table(300)
    start = np.array([10, 0, 150, 40], dtype=np.int64)
    stop = start + 30
    fast = table_chunk_request(pack_planned(posts.planned(stop)), PackedPosts(posts), start, stop, sequence=3)
    history = History(posts)
    slow = chunk_request(
        pack_planned(posts.planned(stop)),
        [history[a:b] for a, b in zip(start.tolist(), stop.tolist(), strict=True)],
        sequence=3,
    )
    assert fast == slow


def test_slices_of_one_table_share_its_packing_and_let_it_go() -> None:
    posts = table(100)
    prepare = Histories()
    one, other = prepare.of(posts[:50]), prepare.of(posts[10:30][5:])
    assert one.span()[0] is other.span()[0]
    assert other.span()[1:] == (15, 30)
    gone = weakref.ref(posts)
    del posts, one, other
    gc.collect()
    assert gone() is None


def test_a_history_is_taken_in_any_shape() -> None:
    posts = table(25)
    rows = [
        Post(published_at=datetime.fromtimestamp(t, UTC), reactions=int(r))
        for t, r in zip(posts.published_unix_s.tolist(), posts.reactions.tolist(), strict=True)
    ]
    prepare = Histories()
    for history in (
        posts,
        rows,
        rows[::-1],
        History(posts),
        [{"published_at": p.published_at, "reactions": p.reactions} for p in rows],
    ):
        message = prepare.of(history).message()
        assert posts_from_columns(message).reactions.tolist() == posts.reactions.tolist()
    assert len(History(posts)[30:40]) == 0
    with pytest.raises(IndexError):
        History(posts)[::2]


@given(
    at=st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),
    offset=st.integers(-720, 720),
    length=st.integers(0, 2**24),
    media=st.booleans(),
)
def test_a_plan_is_the_same_as_columns_and_as_a_message(at: datetime, offset: int, length: int, media: bool) -> None:
    at = at.replace(tzinfo=timezone(timedelta(minutes=offset)))
    plan = PlannedPost(published_at=at, content_length=length, has_media=media)
    values = plan.values()
    assert values[1:3] == (at.hour, at.weekday())
    columns = planned_from_columns(planned_columns([values, values]))[1:]
    request = engagement_request(values, History(table(20)), request_id="", channel="", version=0, priority="high")
    message = planned_from_message(request.planned)
    for name in ("published_unix_s", "hour_of_day", "day_of_week", "content_length", "has_media"):
        np.testing.assert_array_equal(getattr(columns, name), getattr(message, name), err_msg=name)


def test_a_plan_can_be_taken_from_a_table() -> None:
    posts = table(30)
    plan = PlannedPost.of(posts, 7)
    assert plan.values() == (int(posts.published_unix_s[7]), 7, 0, 0, False)


@pytest.mark.parametrize(
    ("plan", "posts", "rest", "field"),
    [
        (PlannedPost(published_at=PLAN.published_at, content_length=10**400), 20, {}, "planned.content_length"),
        (PlannedPost(published_at=PLAN.published_at, hour_of_day=2.5), 20, {}, "planned.hour_of_day"),  # type: ignore[arg-type]
        (PlannedPost(published_at=PLAN.published_at, has_media="yes"), 20, {}, "planned.has_media"),  # type: ignore[arg-type]
        (PLAN, 19, {}, "history"),
        (PLAN, 101, {}, "history"),
        (PLAN, 20, {"request_id": "x" * 129}, "request_id"),
        (PLAN, 20, {"channel": "\udc80"}, "channel"),
    ],
)
def test_what_would_break_a_shared_message_is_refused_before(
    plan: PlannedPost, posts: int, rest: dict[str, str], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        checked_plan(plan, History(table(posts)), rest.get("request_id"), rest.get("channel", ""))
    assert [violation.field for violation in caught.value.violations] == [field]


def test_request_ids_never_repeat() -> None:
    ids, others = RequestIds(), RequestIds()
    assert len({ids.next() for _ in range(100)} | {others.next() for _ in range(100)}) == 200
