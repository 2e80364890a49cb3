"""Ordered streams: several items of one stream are under way at once, their answers leave in the order of the items.

The window bounds what a stream may hold; a reader that stalls stops the items from being taken, by HTTP/2 flow control.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


async def answer_in_order(
    items: AsyncIterator[Item],
    answer: Callable[[Item], Awaitable[Answer]],
    write: Callable[[Answer], Awaitable[None]],
    *,
    window: int,
) -> None:
    """Answers a stream's items concurrently and writes the answers in order, from the calling task alone.

    Args:
        items: what the caller sends.
        answer: turns one item into its answer; it must not raise for a fault of the item.
        write: sends one answer.
        window: items under way at most, 1 or more.

    Raises:
        Exception: what `answer`, `items` or `write` raised first; everything under way is cancelled then.
    """
    under_way: asyncio.Queue[asyncio.Task[Answer] | None] = asyncio.Queue(maxsize=max(1, window - 1))

    async def one(item: Item) -> Answer:
        return await answer(item)

    async def read() -> None:
        async for item in items:
            await under_way.put(group.create_task(one(item), name="stream-item"))
        await under_way.put(None)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(read(), name="stream-reader")
            while (task := await under_way.get()) is not None:
                await write(await task)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None  # the caller of the stream gets one status, that of the first fault
