"""The pick among replicas, and the states that follow from their health names."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshcast.gateway import Backend, Replica, RouteSettings, State
from meshcast.gateway.backends import state_of

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
    made = Backend("echo", ROUTE)
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


def test_the_least_busy_replica_is_picked() -> None:
    idle = replica("b:1", in_flight=1)
    picker = backend(replica("a:1", in_flight=3), idle, replica("c:1", in_flight=2))
    assert all(picker.pick(SERVICE) is idle for _ in range(5))


@given(count=st.integers(2, 6), rounds=st.integers(1, 5))
def test_equally_busy_replicas_take_turns(count: int, rounds: int) -> None:
    picker = backend(*(replica(f"r{index}:1") for index in range(count)))
    picks = [picker.pick(SERVICE) for _ in range(count * rounds)]
    assert {picks.count(each) for each in picker.replicas.values()} == {rounds}


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
