"""Context of a call that came over HTTP: what gRPC's handlers ask of theirs, over any transport that has an outbox."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio

from meshcast.rpc.orca import NATIVE_TRAILER, TRAILER

from ..forwarding import Metadata

LOAD_TRAILERS = frozenset((NATIVE_TRAILER, TRAILER))
Read = Callable[[], Awaitable[Any]]

_TIMEOUT_S_MAX = 366 * 86_400.0  # HTTP's notations reach 11,000 years, which clocks do not take


class Outbox:
    """Holds one message between the handler that writes and the connection that sends, so that a caller who does not
    read holds the handler back."""

    __slots__ = ("_closed", "_messages", "_news", "_room")

    def __init__(self) -> None:
        self._messages: list[Any] = []
        self._room = asyncio.Event()
        self._news = asyncio.Event()
        self._room.set()
        self._closed = False

    async def put(self, message: Any) -> None:
        """Waits for room, then leaves a message. Of one task at a time, as with gRPC's own `write`."""
        await self._room.wait()
        self._room.clear()
        self._messages.append(message)
        self._news.set()

    async def get(self) -> Any:
        """The next message; None once the box is closed and empty."""
        while not self._messages:
            if self._closed:
                return None
            self._news.clear()
            await self._news.wait()
        message = self._messages.pop()
        self._room.set()
        return message

    def close(self) -> None:
        """Says that no further message comes."""
        self._closed = True
        self._news.set()


class DoorContext:
    """Stands in for `grpc.aio.ServicerContext` with calls that no gRPC transport carries.

    Args:
        metadata: of the caller.
        peer: the caller's address, as gRPC writes it: `ipv4:127.0.0.1:5000`.
        timeout_s: seconds until the caller's deadline; None when it set none.

    Attributes:
        head: initial metadata of the answer.
        trailers: trailing metadata of the answer.
        message: of the status that the call was aborted with.
    """

    def __init__(self, *, metadata: Metadata = (), peer: str = "", timeout_s: float | None = None) -> None:
        self.head: Metadata = ()
        self.trailers: Metadata = ()
        self.message = ""
        self._code: grpc.StatusCode | None = None
        self._metadata = metadata
        self._peer = peer
        self._ends_at = None if timeout_s is None else time.monotonic() + min(timeout_s, _TIMEOUT_S_MAX)
        self._outbox: Outbox | None = None
        self._read: Read | None = None
        self._serialize: Callable[[Any], bytes] | None = None

    def writes(self, outbox: Outbox, serialize: Callable[[Any], bytes] | None) -> None:
        """Makes it the context of a call with many answers.

        Args:
            outbox: takes them, encoded.
            serialize: encodes them; None when they are bytes.
        """
        self._outbox, self._serialize = outbox, serialize

    def reads(self, read: Read) -> None:
        """Makes it the context of a call with many requests; `read` gives the next, then EOF."""
        self._read = read

    def invocation_metadata(self) -> Metadata:
        """The caller's metadata."""
        return self._metadata

    def peer(self) -> str:
        """The caller's address."""
        return self._peer

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, not below 0; None when it set none."""
        return None if self._ends_at is None else max(self._ends_at - time.monotonic(), 0.0)

    async def read(self) -> Any:
        """The caller's next message, or EOF."""
        return grpc.aio.EOF if self._read is None else await self._read()

    async def write(self, message: Any) -> None:
        """Hands a message on; waits while the one before has not been taken."""
        if self._outbox is None:
            raise grpc.aio.UsageError("a call with one answer returns it")
        await self._outbox.put(message if self._serialize is None else self._serialize(message))

    async def send_initial_metadata(self, metadata: Metadata) -> None:
        """Takes the head of the answer; it leaves with the first message."""
        self.head = (*self.head, *metadata)

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Takes the end of the answer; what was set before is replaced. The load is for gRPC's balancers alone."""
        self.trailers = tuple((key, value) for key, value in metadata if key not in LOAD_TRAILERS)

    def trailing_metadata(self) -> Metadata:
        """What was set last."""
        return self.trailers

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> None:
        """Ends the call with a status.

        Raises:
            AbortError: always.
        """
        self._code, self.message = code, details
        if trailing_metadata:
            self.trailers = tuple(trailing_metadata)
        raise grpc.aio.AbortError

    def set_code(self, code: grpc.StatusCode) -> None:
        """Sets the status that the call ends with."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Sets the status's message."""
        self.message = details

    def code(self) -> grpc.StatusCode:
        """The status so far."""
        return self._code or grpc.StatusCode.OK

    def details(self) -> str:
        """The status's message so far."""
        return self.message

    def auth_context(self) -> dict[str, list[bytes]]:
        """Nothing: who the caller is, its certificate has told the transport."""
        return {}

    def peer_identities(self) -> None:
        """None, as with a caller without a certificate."""

    def peer_identity_key(self) -> None:
        """None, as with a caller without a certificate."""

    def set_compression(self, compression: grpc.Compression) -> None:
        """Passed over: HTTP's own headers decide."""

    def disable_next_message_compression(self) -> None:
        """Passed over: HTTP's own headers decide."""


class Requests:
    """The caller's messages as an iterator, for handlers that iterate.

    Args:
        read: gives the next message, then EOF.
    """

    def __init__(self, read: Read) -> None:
        self._read = read

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await self._read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message
