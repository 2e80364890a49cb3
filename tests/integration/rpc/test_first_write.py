"""A stream whose first write is under way when its handler fails: the caller hears why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from meshcast.rpc import ChannelSettings, InvalidInput, NotReady, Server, channel, mesh_errors

Serve = Callable[..., Awaitable[Server]]
PLAIN = ChannelSettings(plain=True)
LARGE = b"x" * 2_000_000  # more than the transport takes from a writer whose reader does not read


async def serve_stream(serve: Serve, handler: Any) -> Server:
    handlers: dict[str, Any] = {"Stream": grpc.stream_stream_rpc_method_handler(handler)}
    return await serve(generic_handlers=[grpc.method_handlers_generic_handler("a.B", handlers)])


def ask(to_server: Any) -> Any:
    return to_server.stream_stream("/a.B/Stream")(iter([b"go"]), timeout=30)


@pytest.mark.parametrize("head", ["message", "metadata"])
async def test_a_branch_that_fails_during_the_first_write_is_told(serve: Serve, head: str) -> None:
    failed = asyncio.Event()

    async def handler(requests: AsyncIterator[bytes], context: Any) -> None:
        async def answer() -> None:
            if head == "metadata":
                await context.send_initial_metadata((("x-served-by", "test"),))
            await context.write(LARGE)

        async def fail() -> None:
            await asyncio.sleep(0)  # the other branch is in its first send now
            failed.set()
            raise InvalidInput("the second message is garbage", field="rows")

        async with asyncio.TaskGroup() as group:
            group.create_task(answer())
            group.create_task(fail())

    server = await serve_stream(serve, handler)
    async with channel(server.address, settings=PLAIN) as to_server:
        call = ask(to_server)
        await asyncio.wait_for(failed.wait(), 20)
        received: list[int] = []
        with pytest.raises(InvalidInput, match="the second message is garbage"), mesh_errors(call):
            async for message in call:
                received.append(len(message))
        assert received == ([len(LARGE)] if head == "message" else [])


async def test_what_a_handler_writes_after_a_write_that_was_cancelled_follows_it(serve: Serve) -> None:
    async def handler(requests: AsyncIterator[bytes], context: Any) -> None:
        first = asyncio.create_task(context.write(LARGE))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait((first,))
        assert first.cancelled()
        await context.write(b"second")
        raise NotReady("the server drains")

    server = await serve_stream(serve, handler)
    async with channel(server.address, settings=PLAIN) as to_server:
        call = ask(to_server)
        received: list[int] = []
        with pytest.raises(NotReady), mesh_errors(call):
            async for message in call:
                received.append(len(message))
        assert received == [len(LARGE), len(b"second")]


async def test_a_caller_that_leaves_during_the_first_write_frees_the_handler(serve: Serve) -> None:
    begun, over = asyncio.Event(), asyncio.Event()

    async def handler(requests: AsyncIterator[bytes], context: Any) -> None:
        begun.set()
        try:
            await context.write(LARGE)
        finally:
            over.set()

    server = await serve_stream(serve, handler)
    async with channel(server.address, settings=PLAIN) as to_server:
        call = ask(to_server)
        await asyncio.wait_for(begun.wait(), 20)
        call.cancel()
        await asyncio.wait_for(over.wait(), 20)
        async with asyncio.timeout(20):
            while any(task.get_name() == "call-head" for task in asyncio.all_tasks()):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
