"""Window: it grows while that helps, shrinks to what is needed, and stays within its bounds."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcast.gateway.window import StreamSettings, Window


def settled(work_s: float, servers: int, *, wire_s: float = 0.0, **settings: Any) -> int:
    """Size after a thousand chunks at servers that take `work_s` each, a wire of `wire_s` before them; always full."""
    window, now = Window(StreamSettings(**settings)), 0.0
    free_at = [0.0] * servers
    under_way: deque[tuple[float, float, int]] = deque()  # answered at, sent at, answered before; in that order
    for _ in range(1_000):
        while window.has_room(len(under_way), 0):
            server = free_at.index(min(free_at))
            free_at[server] = max(free_at[server], now + wire_s) + work_s
            under_way.append((free_at[server] + wire_s, now, window.answered))
        now, sent_at, before = under_way.popleft()
        window.record(now - sent_at, before, servers)
    return window.size


def test_it_covers_what_replicas_work_on_and_no_queue_beyond_twice_that() -> None:
    assert settled(0.01, 1) <= 8
    assert 8 <= settled(0.01, 8) <= 40
    assert settled(0.01, 100, window_max=512) >= 100


def test_it_covers_a_long_wire() -> None:
    assert settled(0.01, 1, wire_s=0.05) >= 11  # a round trip of 110 ms, in which 11 chunks are answered


def test_it_never_leaves_its_bounds() -> None:
    assert settled(0.01, 100, window_max=16) == 16
    assert settled(1.0, 1, window_min=6, window_max=8) in range(6, 9)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 100), st.integers(0, 100)), max_size=50))
def test_no_measure_leads_out_of_its_bounds(measures: list[tuple[float, int, int]]) -> None:
    window = Window(StreamSettings(window_min=2, window_max=9))
    for latency_s, before, replicas in measures:
        window.record(latency_s, before, replicas)
        assert 2 <= window.size <= 9


def test_bytes_bound_it_too_but_one_chunk_may_be_always() -> None:
    window = Window(StreamSettings(window_bytes_max=100))
    assert window.has_room(0, 1_000)
    assert window.has_room(2, 99)
    assert not window.has_room(2, 100)


@pytest.mark.parametrize(
    "wrong",
    [{"window_min": 0}, {"window_max": 3}, {"stall_s": float("nan")}, {"sends_max": 0}, {"window_bytes_max": 0}],
)
def test_values_that_cannot_work_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StreamSettings(**wrong)
