"""The adaptive limit, window by window: what raises it, what lowers it, and what it must not listen to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcast.gateway.concurrency import Concurrency, Latency, LimitSettings
from meshcast.gateway.exchange import Priority


class Calls:
    """Feeds windows of calls to a limit."""

    def __init__(self, **settings: float) -> None:
        self.now = 0.0
        self.limit = Concurrency(LimitSettings(**settings), self.now)  # type: ignore[arg-type]
        self.latency = self.limit.latency()

    def quiet(self, latency_s: float, calls: int = 100) -> None:
        """Calls one by one, so that the base is known."""
        for _ in range(calls):
            self.now += latency_s
            is_quiet = self.limit.begin()
            self.limit.end()
            self.limit.answered(self.latency, latency_s, self.now, is_quiet=is_quiet)

    def window(self, latency_s: float, *, under_way: float = 1.0) -> None:
        """A window in which so great a share of what may be under way was."""
        calls = max(1, round(self.limit.bounds[Priority.NORMAL] * under_way))
        began = [self.limit.begin() for _ in range(calls)]
        for _ in range(20):
            self.now += 0.01 + latency_s / 10
            is_new = self.limit.answered(self.latency, latency_s, self.now, is_quiet=began[-1])
            if is_new:
                break
        for _ in range(calls):
            self.limit.end()


def test_it_grows_while_more_calls_take_no_longer() -> None:
    calls = Calls()
    calls.quiet(0.02)
    for _ in range(20):
        calls.window(0.02)
    assert calls.limit.limit == 1_000


def test_it_does_not_grow_while_it_is_not_in_use() -> None:
    calls = Calls()
    calls.quiet(0.02)
    for _ in range(20):
        calls.window(0.02, under_way=0.4)
    assert calls.limit.limit == 32


def test_it_falls_while_calls_take_longer_than_is_let_be() -> None:
    calls = Calls()
    calls.quiet(0.02)
    for _ in range(3):
        calls.window(0.02)
    high = calls.limit.limit
    calls.window(0.2)
    assert calls.limit.limit < high
    for _ in range(15):
        calls.window(0.2)
    assert calls.limit.limit < 0.6 * high


def test_a_latency_that_does_not_follow_the_number_of_calls_is_taken_for_what_it_is() -> None:
    calls = Calls()
    calls.quiet(0.02)
    for _ in range(3):
        calls.window(0.02)
    high = calls.limit.limit
    for _ in range(200):  # the service has become ten times as slow, however little it has to do
        calls.window(0.2)
    assert calls.limit.limit > high


def test_slow_calls_while_it_is_not_in_use_say_nothing_of_it() -> None:
    calls = Calls()
    calls.quiet(0.02)
    for _ in range(20):
        calls.window(2.0, under_way=0.3)
    assert calls.limit.limit == 32


def test_refusals_lower_it_once_a_window_and_never_below_its_least() -> None:
    calls = Calls(calls_initial=40)
    for _ in range(5):
        calls.limit.refused(0.01)
    assert calls.limit.limit == 40  # the window is not over
    assert calls.limit.refused(0.06)
    assert calls.limit.limit == 36
    for window in range(1, 100):
        calls.limit.refused(window * 0.2)
    assert calls.limit.limit == 4


def test_methods_are_compared_with_themselves() -> None:
    limit = Concurrency(LimitSettings(), 0.0)
    cheap, dear = limit.latency(), limit.latency()
    now = 0.0
    for _ in range(50):
        for latency, took_s in ((cheap, 0.001), (dear, 1.0)):
            now += took_s
            is_quiet = limit.begin()
            limit.end()
            limit.answered(latency, took_s, now, is_quiet=is_quiet)
    before = limit.limit
    for _ in range(40):
        began = [limit.begin() for _ in range(limit.bounds[Priority.NORMAL])]
        now += 0.1
        limit.answered(dear, 1.0, now, is_quiet=began[-1])  # the mix has changed, the load has not
        for _ in began:
            limit.end()
    assert limit.limit > before


def test_one_stall_is_no_trend() -> None:
    calls = Calls()
    calls.quiet(0.02)
    for _ in range(5):
        calls.window(0.02)
    before = calls.limit.limit
    is_quiet = calls.limit.begin()
    calls.limit.end()
    calls.limit.answered(calls.latency, 60.0, calls.now, is_quiet=is_quiet)
    calls.window(0.02)
    assert calls.limit.limit > 0.7 * before


def test_priorities_have_room_in_their_order() -> None:
    limit = Concurrency(LimitSettings(calls_initial=10, headroom=0.2), 0.0)
    assert [limit.bounds[priority] for priority in Priority] == [12, 10, 8]


@pytest.mark.parametrize("calls", [1, 2, 3, 4, 5, 7])
def test_a_small_limit_has_room_for_each_priority(calls: int) -> None:
    limit = Concurrency(LimitSettings(calls_initial=calls, calls_min=1), 0.0)
    high, normal, low = (limit.bounds[priority] for priority in Priority)
    assert high > normal >= low >= 1


def test_under_lasting_load_the_base_is_measured_anew() -> None:
    calls = Calls()
    calls.quiet(0.02)
    bounds = set()
    for _ in range(200):
        calls.window(0.06)
        bounds.add(calls.limit.bounds[Priority.NORMAL] == calls.limit.quiet_max)
    assert bounds == {False, True}


def test_what_a_call_should_be_given_follows_the_latencies() -> None:
    latency = Latency()
    assert latency.expected_s == 0.0
    for _ in range(200):
        latency.add(0.1, is_quiet=False)
    assert latency.expected_s == pytest.approx(0.1)
    latency.add(0.5, is_quiet=False)
    assert latency.expected_s > 0.3


@given(st.lists(st.tuples(st.booleans(), st.floats(1e-5, 100.0), st.integers(0, 60)), max_size=200))
def test_it_stays_within_its_bounds_whatever_it_is_told(steps: list[tuple[bool, float, int]]) -> None:
    limit = Concurrency(LimitSettings(calls_max=200), 0.0)
    latency = limit.latency()
    now = 0.0
    for is_refused, seconds, under_way in steps:
        now += seconds / 10
        began = [limit.begin() for _ in range(under_way)]
        if is_refused:
            limit.refused(now)
        else:
            limit.answered(latency, seconds, now, is_quiet=bool(began) and began[0])
        for _ in began:
            limit.end()
        assert 4 <= limit.limit <= 200
        high, normal, low = (limit.bounds[priority] for priority in Priority)
        assert high >= normal >= low >= 1
        assert limit.in_flight == 0


@pytest.mark.parametrize(
    "change",
    [
        {"calls_min": 0},
        {"calls_initial": 3},
        {"calls_max": 5},
        {"tolerance": 1.0},
        {"headroom": 1.0},
        {"waiting_max": -1},
        {"wait_share": 1.5},
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"limit\."):
        LimitSettings(**change)  # type: ignore[arg-type]


def test_the_limit_may_be_turned_off() -> None:
    assert LimitSettings(calls_max=0).calls_max == 0
