"""Ordered streams: several items of one stream are under way at once, their answers leave in the order of the items.

The window bounds what a stream may hold; a reader that stalls stops the items from being taken, by HTTP/2 flow control.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc import NotReady

__all__ = ["answer_in_order"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")


async def answer_in_order(
    items: AsyncIterator[Item],
    answer: Callable[[Item], Awaitable[Answer]],
    write: Callable[[Answer], Awaitable[None]],
    *,
    window: int,
    draining: asyncio.Event,
) -> None:
    """Answers a stream's items concurrently and writes the answers in order, from the calling task alone.

    Args:
        items: what the caller sends.
        answer: turns one item into its answer; it must not raise for a fault of the item.
        write: sends one answer.
        window: items under way at most, 2 or more.
        draining: once set, no further item is taken; those that were are answered.

    Raises:
        NotReady: DRAINING, after the last answer: what the caller sent since is not answered, and may be sent again.
        Exception: what `answer`, `items` or `write` raised first; everything under way is cancelled then.
    """
    under_way: asyncio.Queue[asyncio.Task[Answer] | None] = asyncio.Queue(maxsize=window - 1)
    is_cut = False  # draining ended the reading, not the stream

    async def one(item: Item) -> Answer:
        return await answer(item)

    async def read() -> None:
        task: asyncio.Task[Answer] | None = None
        try:
            async for item in items:
                task = group.create_task(one(item), name="stream-item")
                await under_way.put(task)
                task = None
        except asyncio.CancelledError:
            if not is_cut:
                raise
            if task is not None:  # taken while the window was full: it is answered too
                await under_way.put(task)
        await under_way.put(None)

    async def stop_reading() -> None:
        nonlocal is_cut
        await draining.wait()
        is_cut = not reader.done()
        reader.cancel()

    try:
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(read(), name="stream-reader")
            stopper = group.create_task(stop_reading(), name="stream-stopper")
            while (task := await under_way.get()) is not None:
                await write(await task)
            stopper.cancel()
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None  # the caller of the stream gets one status, that of the first fault
    if is_cut:
        raise NotReady(
            "The server drains: send what was not answered again.", reason=error_reason_pb2.ERROR_REASON_DRAINING
        )
