import asyncio
from collections.abc import AsyncIterator

import pytest

from meshcast.rpc import NotReady
from meshcast.runtime import answer_in_order


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def test_answers_leave_in_the_order_of_the_items_though_later_ones_are_ready_first() -> None:
    gates = [asyncio.Event() for _ in range(4)]
    written: list[int] = []

    async def answer(item: int) -> int:
        if item == 3:
            for gate in gates[:3]:
                gate.set()  # the last one under way lets the others go
        else:
            await gates[item].wait()
        return item

    async def write(item: int) -> None:
        written.append(item)

    await answer_in_order(numbers(4), answer, write, window=4, draining=asyncio.Event())
    assert written == [0, 1, 2, 3]


async def test_no_more_items_than_the_window_are_under_way() -> None:
    under_way, most = 0, 0

    async def answer(item: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return item

    async def write(item: int) -> None:
        nonlocal under_way
        under_way -= 1
        await asyncio.sleep(0)

    await answer_in_order(numbers(50), answer, write, window=3, draining=asyncio.Event())
    assert 1 < most <= 4  # one answered item may be on its way out


async def test_the_first_fault_ends_the_stream_as_itself_and_cancels_the_rest() -> None:
    cancelled: list[int] = []

    async def answer(item: int) -> int:
        if item == 0:
            raise KeyError("the first")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(item)
            raise
        return item

    async def write(item: int) -> None:
        raise AssertionError("nothing is to be written")

    with pytest.raises(KeyError, match="the first"):
        await answer_in_order(numbers(3), answer, write, window=4, draining=asyncio.Event())
    assert set(cancelled) <= {1, 2}
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("stream-")]


async def test_a_draining_server_answers_what_it_has_taken_and_then_asks_to_come_again() -> None:
    draining = asyncio.Event()
    written: list[int] = []

    async def endless() -> AsyncIterator[int]:
        yield 0
        yield 1
        await asyncio.Event().wait()

    async def answer(item: int) -> int:
        return item

    async def write(item: int) -> None:
        written.append(item)
        if item == 1:
            draining.set()

    with pytest.raises(NotReady) as refused:
        await answer_in_order(endless(), answer, write, window=4, draining=draining)
    assert written == [0, 1]
    assert refused.value.reason_name == "ERROR_REASON_DRAINING"


async def test_a_stream_that_ends_by_itself_while_the_server_drains_is_no_fault() -> None:
    draining = asyncio.Event()
    draining.set()
    written: list[int] = []

    async def answer(item: int) -> int:
        return item

    async def write(item: int) -> None:
        written.append(item)

    try:
        await answer_in_order(numbers(0), answer, write, window=4, draining=draining)
    except NotReady:
        pass  # the cut came before the reader had seen the end: the caller has nothing to send again
    assert written == []


async def test_what_was_taken_while_the_window_was_full_is_answered_when_the_server_drains() -> None:
    draining, taken = asyncio.Event(), []
    written: list[int] = []

    async def endless() -> AsyncIterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    async def answer(item: int) -> int:
        return item

    async def write(item: int) -> None:
        if item == 0:
            for _ in range(10):  # the reader fills the window and waits
                await asyncio.sleep(0)
            draining.set()
        written.append(item)

    with pytest.raises(NotReady):
        await answer_in_order(endless(), answer, write, window=2, draining=draining)
    assert written == taken and len(taken) < 100
