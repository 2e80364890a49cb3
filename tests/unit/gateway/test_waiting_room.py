"""The waiting room: whose turn it is, who must leave, and how long a line is expected to take."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from meshcast.gateway.exchange import Priority
from meshcast.gateway.waiting_room import Waiter, WaitingRoom

HIGH, NORMAL, LOW = Priority
OPEN = (0, 100, 100, 100)


def waiter(priority: Priority) -> Waiter:
    return Waiter(priority, asyncio.Future())


async def test_those_that_matter_more_go_first_then_those_that_came_first() -> None:
    room = WaitingRoom(10)
    entered = [waiter(priority) for priority in (LOW, NORMAL, HIGH, LOW, HIGH, NORMAL)]
    for each in entered:
        assert room.enter(each, 0.0)
    order = [room.let_go(OPEN, 0, 1.0) for _ in range(6)]
    assert order == [entered[place] for place in (2, 4, 1, 5, 0, 3)]
    assert room.let_go(OPEN, 0, 1.0) is None
    assert room.waiting == 0


async def test_those_that_have_just_left_get_no_turn_and_are_not_turned_away() -> None:
    room = WaitingRoom(3)
    gone, first, last = waiter(LOW), waiter(LOW), waiter(LOW)
    for each in (gone, first, last):
        assert room.enter(each, 0.0)
    gone.turn.cancel()
    last.turn.cancel()
    assert room.enter(waiter(HIGH), 0.0)  # in the place of the last
    assert not first.turn.done()
    room.let_go(OPEN, 0, 1.0)
    assert room.let_go(OPEN, 0, 1.0) is first
    room.leave(gone, 1.0, in_vain=False)
    room.leave(last, 1.0, in_vain=False)
    assert room.waiting == 0


async def test_each_priority_has_its_bound() -> None:
    room = WaitingRoom(10)
    low, high = waiter(LOW), waiter(HIGH)
    bounds = (0, 6, 5, 4)
    assert room.enter(low, 0.0)
    assert room.let_go(bounds, 4, 0.0) is None
    assert room.enter(high, 0.0)
    assert room.let_go(bounds, 5, 0.0) is high
    assert room.let_go(bounds, 3, 0.0) is low


async def test_a_full_room_turns_the_last_of_the_least_away() -> None:
    room = WaitingRoom(3)
    first, last, normal = waiter(LOW), waiter(LOW), waiter(NORMAL)
    for each in (first, last, normal):
        assert room.enter(each, 0.0)
    assert not room.enter(waiter(LOW), 0.0)
    high = waiter(HIGH)
    assert room.enter(high, 0.0)
    assert last.turn.result() is False
    assert room.enter(waiter(NORMAL), 0.0)
    assert first.turn.result() is False
    assert not room.enter(waiter(NORMAL), 0.0)
    assert room.enter(waiter(HIGH), 0.0)
    assert normal.turn.done() is False
    assert room.waiting == 3


async def test_none_may_wait_where_there_is_no_room() -> None:
    assert not WaitingRoom(0).enter(waiter(HIGH), 0.0)


async def test_the_wait_follows_the_pace_of_the_line() -> None:
    room = WaitingRoom(100)
    assert room.wait_s(NORMAL, 0.0) == 0.0
    for _ in range(50):
        room.enter(waiter(NORMAL), 0.0)
    assert room.wait_s(NORMAL, 0.0) == 0.0  # nothing is known yet
    for turn in range(1, 41):
        room.let_go(OPEN, 0, turn * 0.1)
    assert abs(room.wait_s(NORMAL, 4.0) - 10 * 0.1) < 0.01
    assert abs(room.wait_s(NORMAL, 5.0) - (10 * 0.1 + 1.0)) < 0.01  # it has stood still since
    assert room.wait_s(HIGH, 5.0) == 0.0


async def test_a_line_in_which_all_wait_in_vain_is_slow() -> None:
    room = WaitingRoom(100)
    first, second = waiter(LOW), waiter(LOW)
    room.enter(first, 0.0)
    room.enter(second, 0.4)
    room.leave(first, 0.5, in_vain=True)
    assert room.wait_s(LOW, 0.5) == 0.5 + 0.5
    room.leave(second, 0.9, in_vain=False)
    room.enter(waiter(LOW), 1.0)
    assert room.wait_s(LOW, 1.0) == 0.5  # it was so a moment ago
    room.let_go(OPEN, 0, 1.0)
    room.enter(waiter(LOW), 10.0)
    assert room.wait_s(LOW, 10.0) == 0.0  # that was long ago


@given(st.lists(st.tuples(st.sampled_from(["enter", "go", "leave"]), st.sampled_from(list(Priority))), max_size=80))
def test_it_counts_who_waits_whatever_happens(steps: list[tuple[str, Priority]]) -> None:
    loop = asyncio.new_event_loop()
    room, inside = WaitingRoom(5), list[Waiter]()
    for now, (step, priority) in enumerate(steps):
        if step == "enter":
            entering = Waiter(priority, loop.create_future())
            if room.enter(entering, now):
                inside.append(entering)
            inside = [each for each in inside if not each.turn.done()]
        elif step == "go":
            going = room.let_go(OPEN, 0, now)
            assert (going is None) == (not inside)
            if going is not None:
                assert going.priority == min(each.priority for each in inside)
                inside.remove(going)
        elif inside:
            room.leave(inside.pop(0), now, in_vain=True)
        assert room.waiting == len(inside) <= 5
        assert all(room.wait_s(rank, now) >= 0 for rank in Priority)
    loop.close()
