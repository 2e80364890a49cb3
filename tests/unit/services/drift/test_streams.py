"""Chunks of a stream take their turn in the order in which they came, whatever happens to them on the way."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from meshcast.rpc.errors import InvalidInput, MeshError, NotReady, Overloaded
from meshcast.services.drift.streams import Hold, Line


async def pass_through(line: Line, ready: asyncio.Event, passed: list[str], name: str) -> None:
    async with line.place() as place:
        await ready.wait()
        if name.startswith("bad"):
            raise ValueError(name)
        await place.turn()
        passed.append(name)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_those_that_are_ready_first_wait_for_those_that_came_first() -> None:
    line, passed = Line(), list[str]()
    ready = {name: asyncio.Event() for name in "abc"}
    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(pass_through(line, ready[name], passed, name))
        for name, expected in (("c", []), ("b", []), ("a", ["a", "b", "c"])):
            ready[name].set()
            await settle()
            assert passed == expected


async def test_a_fault_lets_nobody_overtake_and_holds_nobody_up() -> None:
    line, passed = Line(), list[str]()
    ready = {name: asyncio.Event() for name in ("a", "bad", "c")}
    tasks = [asyncio.create_task(pass_through(line, one, passed, name)) for name, one in ready.items()]
    for name in ("bad", "c"):
        ready[name].set()
    await settle()
    assert passed == [] and not any(task.done() for task in tasks)
    ready["a"].set()
    await settle()
    assert passed == ["a", "c"]
    with pytest.raises(ValueError, match="bad"):
        await tasks[1]
    await asyncio.gather(tasks[0], tasks[2])


async def test_a_cancelled_chunk_lets_the_next_one_go() -> None:
    line, passed = Line(), list[str]()
    never, now = asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(pass_through(line, never, passed, "a"))
    second = asyncio.create_task(pass_through(line, now, passed, "b"))
    now.set()
    await settle()
    first.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled() and passed == ["b"]


async def test_none_is_counted_behind_one_that_was_refused_until_that_comes_again() -> None:
    line, counted = Line(), list[int]()

    async def chunk(sequence: int, error: MeshError | None = None, stream: str = "s") -> None:
        async with line.place() as place:
            try:
                await place.turn()
                place.require_none_refused((stream,), sequence)
                if error is not None:
                    raise error
            except MeshError as wrong:
                place.refuse((stream,), sequence, wrong)
                raise
        counted.append(sequence)

    await chunk(1)
    with pytest.raises(Overloaded):
        await chunk(2, Overloaded("full"))
    for sequence in (3, 4):
        with pytest.raises(NotReady, match="Chunk 2 before this one"):
            await chunk(sequence)
    await chunk(9, stream="another")
    with pytest.raises(Overloaded):
        await chunk(2, Overloaded("still full"))
    with pytest.raises(NotReady):
        await chunk(3)
    for sequence in (2, 3, 4):
        await chunk(sequence)
    with pytest.raises(InvalidInput):
        await chunk(5, InvalidInput("its own fault"))
    await chunk(6)
    assert counted == [1, 9, 2, 3, 4, 6]


async def test_what_came_before_the_refused_one_is_counted_however_late() -> None:
    line = Line()
    async with line.place() as first, line.place() as second:
        second.refuse(("s",), 2, Overloaded("full"))
        first.require_none_refused(("s",), 1)
        async with line.place() as third:
            with pytest.raises(NotReady):
                third.require_none_refused(("s",), 3)


async def test_messages_are_read_while_those_under_way_leave_room() -> None:
    messages = [StringValue(value="x" * 10) for _ in range(5)]
    size = messages[0].ByteSize()
    hold, read = Hold(2 * size), list[str]()

    async def source() -> AsyncIterator[StringValue]:
        for message in messages:
            yield message

    async def reader() -> None:
        async for message in hold.items(source()):
            read.append(message.value)

    task = asyncio.create_task(reader())
    await settle()
    assert len(read) == 2
    for expected in (3, 4, 5):
        hold.done(size)
        await settle()
        assert len(read) == expected
    hold.done(size)
    hold.done(size)
    await task


async def test_streams_share_the_room_of_all_and_give_it_back_when_they_break_off() -> None:
    message = StringValue(value="x" * 10)
    size = message.ByteSize()
    whole = Hold(3 * size)
    first, second = Hold(10 * size, whole), Hold(10 * size, whole)
    read: dict[str, int] = {"first": 0, "second": 0}

    async def reader(hold: Hold, name: str, count: int) -> None:
        async def source() -> AsyncIterator[StringValue]:
            for _ in range(count):
                yield message

        async for _ in hold.items(source()):
            read[name] += 1

    reading = asyncio.create_task(reader(first, "first", 4))
    await settle()
    other = asyncio.create_task(reader(second, "second", 2))
    await settle()
    assert read == {"first": 3, "second": 1}
    second.done(size)
    await settle()
    assert read["second"] == 1
    reading.cancel()
    await asyncio.wait([reading])
    first.close()
    await other
    assert read == {"first": 3, "second": 2}
