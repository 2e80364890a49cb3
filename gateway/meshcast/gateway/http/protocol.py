"""HTTP/1.1 connections of the door: uvicorn's protocol with bounds on what a slow or greedy peer may hold."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .settings import HttpSettings

_READ_BYTES_MIN = 64 * 1024  # what a slow reader takes of an answer, within `stalled_s`, so as not to be cut off
_KEEPALIVE_IDLE_S, _KEEPALIVE_INTERVAL_S, _KEEPALIVE_COUNT = 60, 10, 6  # a peer that vanished is noticed in 2 minutes


class _TooLarge(Exception):
    """The head of a request has more bytes than it may."""


class _Pipelined(Exception):
    """A request came before the one before it was answered."""


class _TwoNames(Exception):
    """A request names two hosts: those before the door may have looked at the other one."""


class DoorConfig(uvicorn.Config):
    """Configuration of uvicorn, with the door's settings for its connections."""

    def __init__(self, app: Any, settings: HttpSettings) -> None:
        super().__init__(
            app,
            http=DoorProtocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="critical",  # the door itself says what a person must know
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=max(1, round(settings.idle_s)),
        )
        self.door = settings


class DoorProtocol(HttpToolsProtocol):
    """A connection that is closed when its peer takes too long, or asks for too much.

    One request at a time: a second one that comes before the answer to the first is not read, and the connection ends
    with that answer (no browser does so, nor curl).
    """

    config: DoorConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings = self.config.door
        self._head_bytes = 0
        self._pending_bytes = 0  # read since the parser last told of anything: what it holds of one endless header
        self._is_in_body = False
        self._is_deaf = False
        self._unread_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Takes a connection, or tells it that there are too many."""
        is_full = len(self.connections) >= self._settings.connections_max
        super().connection_made(transport)
        _keep_alive(transport.get_extra_info("socket"), self._settings.stalled_s)
        if is_full:
            self._refuse(503, "too many connections (gateway.http.connections_max)")
        else:  # browsers connect ahead of their first request
            self.timeout_keep_alive_task = self.loop.call_later(self._settings.idle_s, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._head_is_there()
        self._unset_keepalive_if_required()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads on, within bounds."""
        if self._is_deaf or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        if self.cycle is None or self.cycle.response_complete:
            self._expect_head()
        self._pending_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Answered as if it had not asked for another protocol; what it sends in that one is not read.
            self.cycle.keep_alive = False
            self._is_deaf = True
        except httptools.HttpParserCallbackError as error:
            self._refuse_head(error.__context__)
        except httptools.HttpParserError:
            self._refuse_head(None)
        else:
            if self._pending_bytes > self._settings.head_bytes_max:
                self._refuse_head(_TooLarge())

    def on_message_begin(self) -> None:
        """Begins a request."""
        if self.cycle is not None and not self.cycle.response_complete:
            raise _Pipelined
        self._head_bytes = self._pending_bytes = 0
        self._is_in_body = False
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Takes a piece of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header. What follows a body is passed over: nobody has checked it as a header."""
        self._count(len(name) + len(value) + 4)
        if not self._is_in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hands the request on."""
        if sum(name == b"host" for name, _ in self.headers) > 1:
            raise _TwoNames
        self._head_is_there()
        self._pending_bytes = 0
        self._is_in_body = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Takes a piece of the body."""
        self._pending_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Takes the end of the request."""
        self._pending_bytes = 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Begins to wait for a peer that does not read."""
        super().pause_writing()
        if self._stall_timer is None:
            self._watch_reader()

    def resume_writing(self) -> None:
        """Goes on: the peer has read."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        super().resume_writing()

    def _watch_reader(self) -> None:
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._stall_timer = self.loop.call_later(self._settings.stalled_s, self._look_at_reader)

    def _look_at_reader(self) -> None:
        if self._unread_bytes - self.transport.get_write_buffer_size() >= _READ_BYTES_MIN:
            self._watch_reader()  # slow, but reading
        else:
            self._stall_timer = None
            self.transport.abort()

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._settings.receive_s, self._late)

    def _head_is_there(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._refuse(408, "the request's head did not arrive in time")

    def _count(self, size: int) -> None:
        self._pending_bytes = 0
        self._head_bytes += size
        if self._head_bytes > self._settings.head_bytes_max:
            raise _TooLarge

    def _refuse_head(self, cause: BaseException | None) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # An answer is on its way on this connection; what follows it cannot be read any more.
            self.cycle.keep_alive = False
            self._is_deaf = True
            if not isinstance(cause, _Pipelined):
                self.transport.abort()
        elif isinstance(cause, _TooLarge):
            self._refuse(431, f"the request's head has more than {self._settings.head_bytes_max} bytes")
        else:
            self._refuse(400, "this is no request of HTTP/1.1")

    def _refuse(self, status: int, why: str) -> None:
        self._is_deaf = True
        self._head_is_there()
        body = f'{{"code":"{_WORDS[status]}","message":"{why}"}}'.encode()
        head = f"HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()


_WORDS = {
    400: "invalid_argument",
    408: "deadline_exceeded",
    431: "resource_exhausted",
    503: "unavailable",
}


def _keep_alive(connection: Any, stalled_s: float) -> None:
    """Has the kernel notice peers that vanish without a word."""
    if connection is None or connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", _KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", _KEEPALIVE_COUNT),
        ("TCP_USER_TIMEOUT", round(stalled_s * 1e3)),
    ):
        option = getattr(socket, name, None)  # not on every platform
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
