"""Messages of a call as its handler sees them: counted and checked; the head of the answer goes out once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import grpc

from .call import Context
from .errors import MeshError
from .metrics import MethodCounts

__all__ = ["CountingContext", "Received", "Unusable"]


class Unusable:
    """Stands for bytes that are no message of the method's type, or too many of them."""

    __slots__ = ("why",)

    def __init__(self, why: MeshError) -> None:
        self.why = why


class Received:
    """A caller's messages, counted and checked as they arrive."""

    __slots__ = ("_counts", "_messages", "_next")

    def __init__(self, messages: AsyncIterator[Any], counts: MethodCounts) -> None:
        self._messages = messages
        self._next: Callable[[], Awaitable[Any]] | None = None
        self._counts = counts

    def __aiter__(self) -> Received:
        return self

    async def __anext__(self) -> Any:
        if self._next is None:
            # Not before: grpc's iterator warns when it is made and never used, as by handlers that read().
            self._next = self._messages.__aiter__().__anext__
        message = await self._next()
        self._counts.received += 1
        if type(message) is Unusable:
            raise message.why
        return message


class CountingContext:
    """grpc's context for a handler that reads and writes by itself; counts the messages.

    The first write carries the initial metadata. When its task is cancelled half-way, as by a task group whose other
    branch failed, grpc core still sends it while grpc's context takes it as unsent: the status would carry it a second
    time, which core refuses, and the caller would hear nothing. Therefore it runs to its end in a task of its own, and
    nothing is sent before it has ended; no status could overtake it on the wire either.
    """

    __slots__ = ("_context", "_counts", "_head", "_write")

    def __init__(self, context: Context, counts: MethodCounts) -> None:
        self._context = context
        self._write = context.write
        self._counts = counts
        self._head: asyncio.Task[None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        """Sends a message."""
        if self._head is None:
            await self._open(self._write(message))
        else:
            if not self._head.done():
                await asyncio.wait((self._head,))
            await self._write(message)
        self._counts.sent += 1

    async def send_initial_metadata(self, metadata: Any) -> None:
        """Sends the head of the answer before its first message."""
        if self._head is None:
            await self._open(self._context.send_initial_metadata(metadata))
        else:
            await self._context.send_initial_metadata(metadata)

    async def read(self) -> Any:
        """The caller's next message, or EOF."""
        message = await self._context.read()
        if message is not grpc.aio.EOF:
            self._counts.received += 1
            if type(message) is Unusable:
                raise message.why
        return message

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        """Ends the call with a status."""
        await self.settle()
        await self._context.abort(code, details, trailing_metadata)

    async def settle(self) -> None:
        """Waits until the head of the answer is out, if it is on its way, so that a status can be sent."""
        if self._head is not None and not self._head.done():
            try:
                await asyncio.wait((self._head,))
            finally:
                self.give_up()

    def give_up(self) -> None:
        """Ends what is on its way: the call is over."""
        if self._head is not None:
            self._head.cancel()

    async def _open(self, sending: Coroutine[Any, Any, None]) -> None:
        self._head = asyncio.get_running_loop().create_task(sending, name="call-head")
        await asyncio.shield(self._head)
