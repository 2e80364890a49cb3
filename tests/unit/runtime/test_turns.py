"""Turns: one piece of work at a time, a bounded queue, and work that learns that nobody waits."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import NotReady, Overloaded
from meshcast.runtime.turns import Turns

WAIT_S = 10.0


@pytest.fixture
async def turns() -> AsyncIterator[Turns]:
    made = Turns("model", "analysis", waiting_max=2, retry_after_s=0.5)
    yield made
    made.close()


async def test_pieces_run_one_after_the_other_and_give_their_results(turns: Turns) -> None:
    under_way: list[int] = []

    def work(number: int) -> int:
        under_way.append(number)
        assert len(under_way) == 1
        under_way.remove(number)
        return number * number

    calls = [turns.take(lambda _: work(4)), turns.take(lambda _: work(5))]
    assert await asyncio.gather(*calls) == [16, 25]


async def test_an_error_reaches_its_caller_and_the_next_piece_runs(turns: Turns) -> None:
    def fail(_: Callable[[], bool]) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await turns.take(fail)
    assert await turns.take(lambda _: 1) == 1


async def test_a_full_queue_refuses_with_a_time_to_retry(turns: Turns) -> None:
    go, started = threading.Event(), threading.Event()

    def hold(_: Callable[[], bool]) -> None:
        started.set()
        assert go.wait(WAIT_S)

    calls = [asyncio.create_task(turns.take(hold)) for _ in range(3)]  # one runs, two wait
    await asyncio.to_thread(started.wait, WAIT_S)
    with pytest.raises(Overloaded) as caught:
        await turns.take(hold)
    assert caught.value.reason == ErrorReason.ERROR_REASON_QUEUE_FULL
    assert caught.value.retry_after_s == 0.5
    go.set()
    await asyncio.gather(*calls)


async def test_work_whose_caller_has_gone_is_told_and_holds_its_turn_until_it_ends(turns: Turns) -> None:
    started, ended = threading.Event(), threading.Event()

    def look(is_over: Callable[[], bool]) -> None:
        started.set()
        while not is_over():
            pass
        ended.set()

    call = asyncio.create_task(turns.take(look))
    await asyncio.to_thread(started.wait, WAIT_S)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await turns.take(lambda _: ended.is_set())


async def test_closing_tells_what_runs_to_stop() -> None:
    turns = Turns("model", "analysis")
    started = threading.Event()

    def look(is_over: Callable[[], bool]) -> str:
        started.set()
        while not is_over():
            pass
        return "stopped"

    call = asyncio.create_task(turns.take(look))
    await asyncio.to_thread(started.wait, WAIT_S)
    turns.close()
    assert await call == "stopped"


async def test_those_who_wait_when_the_turns_close_are_refused_one_after_the_other() -> None:
    turns = Turns("model", "analysis")
    started = threading.Event()

    def look(is_over: Callable[[], bool]) -> str:
        started.set()
        while not is_over():
            pass
        return "stopped"

    calls = [asyncio.create_task(turns.take(look)) for _ in range(3)]
    await asyncio.to_thread(started.wait, WAIT_S)
    turns.close()
    first, *others = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), WAIT_S)
    assert first == "stopped"
    for error in others:
        assert isinstance(error, NotReady)
        assert error.reason == ErrorReason.ERROR_REASON_DRAINING


async def test_a_turn_is_held_between_its_pieces_of_work_and_given_on_after_an_error(turns: Turns) -> None:
    under_way: list[str] = []

    async def call(name: str) -> None:
        async with turns.turn() as turn:
            under_way.append(name)
            await turn.run(lambda _: None)
            await asyncio.sleep(0)
            assert await turn.run(lambda _: under_way.copy()) == [name]
            under_way.remove(name)
            raise ValueError(name)

    found = await asyncio.gather(*map(call, "ab"), return_exceptions=True)
    assert [str(error) for error in found] == ["a", "b"]
