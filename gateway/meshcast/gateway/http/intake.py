"""Intake: a request's body as it arrives, within bounds of size, time and of what all bodies together may hold."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from meshcast.rpc import Cancelled, DeadlineExceeded, InvalidInput, Overloaded
from meshcast.rpc.status import message_too_large

from .errors import CallFailed
from .settings import HttpSettings

Receive = Callable[[], Awaitable[Any]]

_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # of zlib: with which header


class Bodies:
    """Bytes of all request bodies that are held now.

    Attributes:
        held_bytes: their sum.
    """

    __slots__ = ("held_bytes",)

    def __init__(self) -> None:
        self.held_bytes = 0


class Intake:
    """Stands in for ASGI's `receive`; also watches what it brings.

    Args:
        receive: ASGI's own.
        headers: of the request, names in lower case.
        settings: of the door.
        bodies: what is held of all bodies.

    Attributes:
        is_whole: True once the body is there, or its sender has left.
        retry_after_s: after which a body that was refused may be sent again; None where it was not, or may not.
    """

    def __init__(self, receive: Receive, headers: Mapping[str, str], settings: HttpSettings, bodies: Bodies) -> None:
        self._receive = receive
        self._headers = headers
        self._settings = settings
        self._bodies = bodies
        self._size = 0
        self._held_bytes = 0
        self._has_body = "transfer-encoding" in headers
        length = headers.get("content-length", "")
        self._announced = int(length) if length.isascii() and length.isdigit() else 0
        self.is_whole = False
        self.retry_after_s: int | None = None

    async def __call__(self) -> Any:
        """The next message of ASGI.

        Raises:
            CallFailed: RESOURCE_EXHAUSTED for a body that is too large, or where all bodies together are;
                DEADLINE_EXCEEDED where nothing has arrived in time.
        """
        if self.is_whole:
            return await self._receive()
        self._check(self._announced)
        try:
            async with asyncio.timeout(self._settings.receive_s):
                message = await self._receive()
        except TimeoutError:
            waited = f"nothing has arrived of the request's body for {self._settings.receive_s:g} s"
            raise CallFailed.of(DeadlineExceeded(waited, where="gateway")) from None
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self._size += size
            self.is_whole = not message.get("more_body", False)
            self.hold(size)
            self._check(self._size)
        else:
            self.is_whole = True
        return message

    @property
    def is_over(self) -> bool:
        """True when nothing of the body is still to come, so that a further request can follow."""
        return self.is_whole or not (self._announced or self._has_body)

    async def body(self) -> bytes:
        """The whole body, decompressed.

        Raises:
            CallFailed: as `__call__`; INVALID_ARGUMENT for a body that cannot be decompressed, CANCELLED where the
                caller has left.
        """
        pieces = []
        while not self.is_whole:
            message = await self()
            if message["type"] != "http.request":
                raise CallFailed.of(Cancelled("the caller has left before its request was there"))
            pieces.append(message.get("body", b""))
        return self._decompressed(b"".join(pieces))

    async def until_left(self) -> None:
        """Waits until the caller has left. Only once the body is there, as both come the same way."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def hold(self, size: int) -> None:
        """Says that so many bytes are held for the request: of its body, and of what was compressed in it.

        Raises:
            CallFailed: RESOURCE_EXHAUSTED where all bodies together are too large.
        """
        self._held_bytes += size
        self._bodies.held_bytes += size
        self._check_all()

    def release(self) -> None:
        """Says that the body is no longer held."""
        self._bodies.held_bytes -= self._held_bytes
        self._held_bytes = 0

    def _check(self, size: int) -> None:
        limit = self._settings.body_bytes_max
        if size > limit:
            raise CallFailed.of(message_too_large(size, limit, "gateway.http.body_bytes_max"))
        self._check_all()

    def _check_all(self) -> None:
        if self._bodies.held_bytes > self._settings.bodies_bytes_max:
            self.retry_after_s = 1
            raise CallFailed.of(
                Overloaded(
                    "the gateway holds as many request bodies as it may (gateway.http.bodies_bytes_max); ask again",
                    retry_after_s=self.retry_after_s,
                )
            )

    def _decompressed(self, body: bytes) -> bytes:
        encoding = self._headers.get("content-encoding", "identity").strip().lower()
        if encoding in ("", "identity"):
            return body
        window = _WINDOWS.get(encoding)
        limit = self._settings.body_bytes_max
        try:
            if window is None:
                raise ValueError("known are gzip and deflate")
            unpacking = zlib.decompressobj(wbits=window)
            plain = unpacking.decompress(body, limit + 1)
            if len(plain) <= limit and not unpacking.eof:
                raise ValueError("it ends too early")
        except (zlib.error, ValueError) as error:
            raise CallFailed.of(
                InvalidInput(f"the body cannot be read as content-encoding {encoding[:32]!r}: {error}", field="body")
            ) from error
        if len(plain) > limit:
            raise CallFailed.of(message_too_large(len(plain), limit, "gateway.http.body_bytes_max"))
        self.hold(len(plain))
        return plain
