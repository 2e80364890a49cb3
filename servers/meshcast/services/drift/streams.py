"""Streams: chunks that are prepared side by side are let through in their order, and hold bounded memory.

None is let through behind one that was refused for a while: it would be the last that is stored of its stream, and the
refused one, when it comes again, would be taken for one that was counted.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from google.protobuf.message import Message

from meshcast.rpc.errors import DeadlineExceeded, Internal, MeshError, NotReady

__all__ = ["Hold", "Line"]

Item = TypeVar("Item", bound=Message)

Stream = tuple[str, ...]
"""What tells the streams of one call apart, such as subject and stream id."""

RETRY_AFTER_S = 0.5


class Line:
    """A line in which the chunks of one call stand, in the order in which they came; from one event loop."""

    def __init__(self) -> None:
        self._last = asyncio.Event()
        self._last.set()
        self._count = 0
        self._refused: dict[Stream, tuple[int, int]] = {}  # sequence and number of the first one that was refused

    @asynccontextmanager
    async def place(self) -> AsyncIterator["Place"]:
        """A place in the line, behind those that were taken before. Enter it before anything is waited for.

        A block that ends without its turn, by a fault of the chunk, waits for those before it, so that nobody behind
        it overtakes them; one that is cancelled does not.
        """
        before, mine = self._last, asyncio.Event()
        self._last = mine
        self._count += 1
        try:
            try:
                yield Place(before, mine, self._count, self._refused)
            except Exception:
                await before.wait()
                raise
        finally:
            mine.set()


class Place:
    """Where a chunk stands."""

    def __init__(
        self, before: asyncio.Event, mine: asyncio.Event, number: int, refused: dict[Stream, tuple[int, int]]
    ) -> None:
        self._before, self._mine, self._number, self._refused = before, mine, number, refused

    async def turn(self) -> None:
        """Waits for its turn, and lets the next one follow: what the caller enters next, without waiting for anything
        else before, is entered in the order of the line."""
        await self._before.wait()
        self._mine.set()

    def refuse(self, stream: Stream, sequence: int, error: Exception) -> None:
        """Says that the chunk was not counted; those behind it of its stream are not either, where it may come again.

        Args:
            stream: of the chunk.
            sequence: of the chunk.
            error: why. What is the chunk's own fault holds nobody up.
        """
        passes = (
            not isinstance(error, MeshError) or error.is_retryable or isinstance(error, DeadlineExceeded | Internal)
        )
        if passes and (stream not in self._refused or sequence < self._refused[stream][0]):
            self._refused[stream] = sequence, self._number

    def require_none_refused(self, stream: Stream, sequence: int) -> None:
        """Checks, in the order in which chunks are counted, that none before it waits to come again.

        Raises:
            NotReady: one does.
        """
        refused, number = self._refused.get(stream, (sequence, self._number))
        if self._number <= number:
            return
        if sequence > refused:
            raise NotReady(
                f"Chunk {refused} before this one could not be counted; send it and those behind it again.",
                retry_after_s=RETRY_AFTER_S,
            )
        del self._refused[stream]


class Hold:
    """Bounds the bytes of messages that are under way: the next one is read once there is room.

    Args:
        bytes_max: under way at most, but for the last message that was read.
        within: bounds those of several streams together; None: nothing does. `close` gives back what a stream that was
            broken off still has there.
    """

    def __init__(self, bytes_max: int, within: "Hold | None" = None) -> None:
        self._bytes_max, self._within = bytes_max, within
        self._bytes = 0
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def items(self, messages: AsyncIterator[Item]) -> AsyncIterator[Item]:
        """The messages, each counted until `done` is told its size."""
        async for message in messages:
            self._add(message.ByteSize())
            yield message
            await self.room()

    async def room(self) -> None:
        """Waits until there is room."""
        await self._has_room.wait()
        if self._within is not None:
            await self._within.room()

    def done(self, size_bytes: int) -> None:
        """A message of this size is no longer under way."""
        self._add(-size_bytes)

    def close(self) -> None:
        """Nothing is under way any longer."""
        self.done(self._bytes)

    def _add(self, size_bytes: int) -> None:
        self._bytes += size_bytes
        if self._bytes < self._bytes_max:
            self._has_room.set()
        else:
            self._has_room.clear()
        if self._within is not None:
            self._within._add(size_bytes)
