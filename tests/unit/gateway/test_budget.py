"""The deadline budget: what a call may take, and which calls cannot make it any more."""

from __future__ import annotations

import pytest

from meshcast.gateway import Backend, RouteSettings
from meshcast.gateway.budget import Fastest, budget
from meshcast.rpc import DeadlineExceeded


def backend() -> Backend:
    return Backend("echo", RouteSettings(services=("acme.EchoService",)))


def test_what_remains_is_passed_on_less_the_margin() -> None:
    allowed = budget(backend(), 0.2, default_s=5.0, margin_s=0.005)
    assert allowed.timeout_s == pytest.approx(0.195)
    assert allowed.default_ms == 0


def test_without_a_deadline_the_routes_default_counts_and_is_told() -> None:
    allowed = budget(backend(), None, default_s=1.5, margin_s=0.005, fastest_s=9.0)
    assert (allowed.timeout_s, allowed.default_ms) == (1.5, 1500)


@pytest.mark.parametrize(("remaining_s", "fastest_s"), [(0.004, 0.0), (-1.0, 0.0), (0.05, 0.046), (0.05, 1.0)])
def test_a_call_that_cannot_make_it_is_refused_and_counted(remaining_s: float, fastest_s: float) -> None:
    to = backend()
    with pytest.raises(DeadlineExceeded, match="too little to ask echo") as caught:
        budget(to, remaining_s, default_s=5.0, margin_s=0.005, fastest_s=fastest_s)
    assert caught.value.facts == {"where": "gateway"}
    assert to.load.counts.late == 1


def recorded(fastest: Fastest, seconds: float, *, since: float, until: float, count: int = 40) -> None:
    for number in range(count):
        fastest.record(seconds + number * 1e-6, since + (until - since) * number / count)


def test_nothing_is_known_before_enough_has_been_answered() -> None:
    fastest = Fastest()
    recorded(fastest, 0.1, since=10.0, until=11.0, count=5)
    assert fastest.seconds(10.9) == fastest.seconds(11.1) == 0.0


def test_the_fastest_of_the_last_seconds_is_what_no_call_can_beat() -> None:
    fastest = Fastest()
    recorded(fastest, 0.1, since=10.0, until=11.0)
    assert fastest.seconds(11.1) == 0.1
    fastest.record(0.02, 11.2)
    assert fastest.seconds(11.3) == 0.02


def test_one_call_a_second_may_try_to_be_faster() -> None:
    fastest = Fastest()
    recorded(fastest, 0.1, since=10.0, until=11.0)
    assert fastest.bound_s(0.2, 11.1) == fastest.bound_s(-0.1, 11.1) == 0.1
    assert [fastest.bound_s(0.05, 11.2) for _ in range(3)] == [0.0, 0.1, 0.1]
    recorded(fastest, 0.1, since=11.3, until=12.1)
    assert [fastest.bound_s(0.05, 12.2) for _ in range(3)] == [0.0, 0.1, 0.1]
    fastest.record(0.02, 12.3)
    assert fastest.bound_s(0.05, 12.3) == 0.02


def test_a_method_that_was_slow_is_asked_again_soon() -> None:
    fastest = Fastest()
    recorded(fastest, 0.5, since=10.0, until=11.0)
    assert fastest.seconds(11.5) == 0.5
    assert fastest.seconds(13.1) == 0.0
