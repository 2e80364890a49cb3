"""The pick among replicas, and the states that follow from their health names."""

from __future__ import annotations

import random
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcast.gateway import Backend, Replica, RouteSettings, State
from meshcast.gateway.backends import state_of
from meshcast.gateway.breaker import Outcome
from meshcast.gateway.picker import LATENCY_FRESH_S, REPORT_FRESH_S, Picker, lighter
from meshcast.rpc.orca import LoadReport

SERVICE = "acme.EchoService"
ROUTE = RouteSettings(services=(SERVICE,), endpoints=("a:1",))


class NoChannel:
    """Stands where a channel would; the pick never touches it."""


def replica(endpoint: str, state: State | None = State.SERVING, *, problem: str = "", in_flight: int = 0) -> Replica:
    channel: Any = NoChannel()
    made = Replica(endpoint, channel)
    made.problem = problem
    made.in_flight = in_flight
    made.services = {"": State.NOT_SERVING, SERVICE: state}
    return made


def backend(*replicas: Replica) -> Backend:
    made = Backend("echo", ROUTE, random.Random(7))
    made.replicas = {each.endpoint: each for each in replicas}
    made.refresh()
    return made


def test_no_replica_is_no_pick() -> None:
    assert backend().pick(SERVICE) is None
    assert backend(replica("a:1", problem="refused")).pick(SERVICE) is None


def test_a_serving_replica_wins_over_one_that_asks_for_no_traffic() -> None:
    serving = replica("b:1", in_flight=50)
    picker = backend(replica("a:1", State.NOT_SERVING), serving, replica("c:1", problem="refused"))
    assert picker.pick(SERVICE) is serving


def test_one_that_asks_for_no_traffic_is_asked_when_there_is_no_other() -> None:
    loading = replica("a:1", State.NOT_SERVING)
    assert backend(loading, replica("b:1", problem="refused")).pick(SERVICE) is loading


def test_the_less_busy_of_two_replicas_is_picked() -> None:
    idle = replica("b:1", in_flight=1)
    picker = backend(replica("a:1", in_flight=3), idle)
    assert all(picker.pick(SERVICE) is idle for _ in range(5))


def test_the_busiest_of_three_is_never_picked() -> None:
    busiest = replica("a:1", in_flight=3)
    picker = backend(busiest, replica("b:1", in_flight=1), replica("c:1", in_flight=2))
    picks = [picker.pick(SERVICE) for _ in range(60)]
    assert busiest not in picks
    assert picks.count(picker.replicas["b:1"]) > picks.count(picker.replicas["c:1"]) > 0


@given(count=st.integers(2, 6), seed=st.integers(0, 100))
def test_calls_under_way_stay_level_among_equal_replicas(count: int, seed: int) -> None:
    picker = Picker(random.Random(seed))
    replicas = [replica(f"r{index}:1") for index in range(count)]
    for _ in range(20 * count):
        picked = picker.any(replicas)
        assert picked is not None
        picked.in_flight += 1
    assert all(17 <= each.in_flight <= 23 for each in replicas)


def test_the_same_draws_give_the_same_picks() -> None:
    def picks() -> list[str]:
        picker, replicas = Picker(random.Random(3)), [replica(f"r{index}:1") for index in range(4)]
        return [picked.endpoint for _ in range(20) if (picked := picker.any(replicas, now=0.0))]

    assert picks() == picks()


def test_a_replica_that_has_just_refused_is_avoided() -> None:
    first, second = replica("a:1"), replica("b:1")
    picker = backend(first, second)
    assert picker.pick(SERVICE, avoid=[first]) is second
    assert picker.pick(SERVICE, avoid=[first, second]) is None


def test_a_name_that_a_replica_does_not_know_is_as_its_process() -> None:
    foreign = replica("a:1", None)
    foreign.services[""] = State.SERVING
    assert state_of(foreign, ROUTE, SERVICE) is State.SERVING


def test_the_state_of_a_route_is_its_best_replicas() -> None:
    assert backend().state() is State.UNREACHABLE
    assert backend(replica("a:1", State.NOT_SERVING), replica("b:1", problem="x")).state() is State.NOT_SERVING
    assert backend(replica("a:1", State.NOT_SERVING), replica("b:1")).state() is State.SERVING


def test_a_model_is_found_by_name_in_whatever_state() -> None:
    holder = replica("a:1")
    holder.models = {"model/fox": State.NOT_SERVING}
    assert backend(holder).has_model("fox")
    assert not backend(holder).has_model("dog")


def said(endpoint: str, utilization: float, queue_rows: float = 0.0, *, at: float = 0.0) -> Replica:
    made = replica(endpoint)
    made.report = LoadReport(utilization, named_metrics={"queue_rows": queue_rows})
    made.reported_at = at
    return made


def broken(endpoint: str) -> Replica:
    made = replica(endpoint)
    now = time.perf_counter()
    for _ in range(made.breaker.settings.tries_min):
        made.breaker.end(made.breaker.begin(now), Outcome.FAILED, now)
    return made


def test_a_replica_that_says_it_is_busy_or_has_a_queue_is_passed_over() -> None:
    idle = said("a:1", 0.1)
    for busy in (said("b:1", 0.9), said("b:1", 0.1, 64.0)):
        assert lighter(busy, idle, 1.0) is idle
        assert lighter(idle, busy, 1.0) is idle


def test_what_was_said_long_ago_or_by_one_only_does_not_count() -> None:
    idle, busy, silent = said("a:1", 0.1), said("b:1", 0.9), replica("c:1")
    assert lighter(busy, idle, REPORT_FRESH_S + 0.1) is busy
    assert lighter(idle, busy, REPORT_FRESH_S + 0.1) is idle
    assert lighter(busy, silent, 1.0) is busy


def test_a_slow_replica_is_passed_over_while_its_latency_is_fresh() -> None:
    slow, quick = replica("a:1"), replica("b:1")
    slow.answered(0.5, 10.0)
    quick.answered(0.01, 10.0)
    assert lighter(slow, quick, 10.1) is quick
    assert lighter(slow, quick, 10.1 + LATENCY_FRESH_S) is slow  # else it could never show that it is well again


@pytest.mark.parametrize(("slower_s", "quicker_s"), [(0.120, 0.100), (0.003, 0.001)])
def test_small_differences_of_latency_are_chance(slower_s: float, quicker_s: float) -> None:
    one, other = replica("a:1"), replica("b:1")
    one.answered(slower_s, 10.0)
    other.answered(quicker_s, 10.0)
    assert lighter(one, other, 10.0) is one


def test_two_idle_replicas_take_turns() -> None:
    picker = backend(replica("a:1"), replica("b:1"))
    picks = [picker.pick(SERVICE) for _ in range(10)]
    assert all(one is not other for one, other in pairwise(picks))


def test_a_replica_whose_breaker_is_open_is_not_picked_while_there_is_another() -> None:
    bad, good = broken("a:1"), replica("b:1", in_flight=9)
    picker = backend(bad, good)
    assert all(picker.pick(SERVICE) is good for _ in range(10))
    assert picker.pick(SERVICE, avoid=[good]) is bad
    assert picker.pick_admitted(SERVICE, avoid=[good]) is None


def test_where_every_breaker_is_open_a_replica_is_picked_all_the_same_or_none_is_admitted() -> None:
    picker = backend(broken("a:1"), broken("b:1"))
    assert picker.pick(SERVICE) in picker.replicas.values()
    assert picker.pick_admitted(SERVICE) is None


def test_two_open_breakers_among_many_replicas_are_found_whatever_is_drawn() -> None:
    good = replica("z:1")
    picker = backend(broken("a:1"), broken("b:1"), broken("c:1"), good)
    assert {picker.pick_admitted(SERVICE) for _ in range(50)} == {good}
