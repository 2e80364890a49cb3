"""Tables are sorted, slices share memory, and histories are settled posts of the same channel, newest last."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcast.posts import PostTable, settled_history, share_ranges
from meshcast.rpc import InvalidInput


def table(times: list[int], channels: list[str] | None = None) -> PostTable:
    n = len(times)
    columns: dict[str, object] = {"published_unix_s": times, "hour_of_day": [0] * n, "day_of_week": [0] * n}
    if channels is not None:
        columns["channel"] = channels
    return PostTable.of(columns)


def test_posts_are_sorted_by_channel_and_time() -> None:
    posts = table([30, 10, 20, 5], ["b", "b", "a", "a"])
    assert posts.channel.tolist() == ["a", "a", "b", "b"]
    assert posts.published_unix_s.tolist() == [5, 20, 10, 30]
    assert posts.channel_starts().tolist() == [0, 2]


def test_a_slice_shares_memory_and_knows_where_it_was_cut() -> None:
    posts = table(list(range(10)))
    cut = posts[2:8][1:4]
    assert cut.published_unix_s.tolist() == [3, 4, 5]
    assert np.shares_memory(cut.reactions, posts.reactions)
    assert cut.origin is posts
    assert cut.offset == 3


def test_a_table_refuses_other_steps_columns_and_lengths() -> None:
    posts = table([1, 2, 3])
    with pytest.raises(IndexError, match="step 1"):
        posts[::2]
    with pytest.raises(InvalidInput, match="likes is not a column of posts"):
        PostTable.of({"published_unix_s": [1], "hour_of_day": [1], "day_of_week": [1], "likes": [1]})
    with pytest.raises(InvalidInput, match="day_of_week is required"):
        PostTable.of({"published_unix_s": [1], "hour_of_day": [1]})
    with pytest.raises(InvalidInput, match="hour_of_day has shape"):
        PostTable.of({"published_unix_s": [1, 2], "hour_of_day": [1], "day_of_week": [1, 1]})


@given(
    posts=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40)), max_size=60),
    settle_s=st.integers(0, 12),
    posts_min=st.integers(1, 4),
    more=st.integers(0, 6),
)
def test_histories_are_the_newest_settled_posts_of_the_same_channel(
    posts: list[tuple[str, int]], settle_s: int, posts_min: int, more: int
) -> None:
    posts = posts or [("a", 0)]
    whole = table([time for _, time in posts], [channel for channel, _ in posts])
    index = settled_history(whole, settle_s=settle_s, posts_min=posts_min, posts_max=posts_min + more)
    found = {
        row: list(range(a, b))
        for row, a, b in zip(index.row.tolist(), index.start.tolist(), index.stop.tolist(), strict=True)
    }
    channel, time = whole.channel.tolist(), whole.published_unix_s.tolist()
    for row in range(len(whole)):
        settled = [i for i in range(len(whole)) if channel[i] == channel[row] and time[i] <= time[row] - settle_s][
            -posts_min - more :
        ]
        assert found.get(row, None) == (settled if len(settled) >= posts_min else None)


@given(ranges=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=30))
def test_shared_ranges_hold_every_post_of_every_range_once(ranges: list[tuple[int, int]]) -> None:
    start = np.array([a for a, _ in ranges], dtype=np.int64)
    stop = start + np.array([n for _, n in ranges], dtype=np.int64)
    cover_start, cover_stop, shift = share_ranges(start, stop)
    laid = [i for a, b in zip(cover_start.tolist(), cover_stop.tolist(), strict=True) for i in range(a, b)]
    assert len(set(laid)) == len(laid)
    assert laid == sorted(laid)
    for a, b, s in zip(start.tolist(), stop.tolist(), shift.tolist(), strict=True):
        assert laid[a + s : b + s] == list(range(a, b))
    assert set(laid) == {i for a, b in zip(start.tolist(), stop.tolist(), strict=True) for i in range(a, b)}
