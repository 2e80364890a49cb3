"""Streams: chunks that are prepared side by side are let through in their order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Line"]


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
