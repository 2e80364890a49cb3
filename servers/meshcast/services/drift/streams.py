"""Streams: chunks that are prepared side by side are let through in their order, and hold bounded memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from google.protobuf.message import Message

__all__ = ["Hold", "Line"]

Item = TypeVar("Item", bound=Message)


class Line:
    """A line in which the chunks of one stream stand, in the order in which they came; from one event loop."""

    def __init__(self) -> None:
        self._last = asyncio.Event()
        self._last.set()

    @asynccontextmanager
    async def place(self) -> AsyncIterator["Place"]:
        """A place in the line, behind those that were taken before. Enter it before anything is waited for.

        A block that ends without its turn, by a fault of the chunk, waits for those before it, so that nobody behind
        it overtakes them; one that is cancelled does not.
        """
        before, mine = self._last, asyncio.Event()
        self._last = mine
        try:
            try:
                yield Place(before, mine)
            except Exception:
                await before.wait()
                raise
        finally:
            mine.set()


class Place:
    """Where a chunk stands."""

    def __init__(self, before: asyncio.Event, mine: asyncio.Event) -> None:
        self._before, self._mine = before, mine

    async def turn(self) -> None:
        """Waits for its turn, and lets the next one follow: what the caller enters next, without waiting for anything
        else before, is entered in the order of the line."""
        await self._before.wait()
        self._mine.set()


class Hold:
    """Bounds the bytes of a stream's messages that are under way: the next one is read once there is room.

    Args:
        bytes_max: under way at most, but for the last message that was read.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def items(self, messages: AsyncIterator[Item]) -> AsyncIterator[Item]:
        """The messages, each counted until `done` is told its size."""
        async for message in messages:
            self._bytes += message.ByteSize()
            self._tell()
            yield message
            await self._has_room.wait()

    def done(self, size_bytes: int) -> None:
        """A message of this size is no longer under way."""
        self._bytes -= size_bytes
        self._tell()

    def _tell(self) -> None:
        if self._bytes < self._bytes_max:
            self._has_room.set()
        else:
            self._has_room.clear()
