"""Relay: passes the messages of one stream between caller and backend, both ways at once, holding one message each way.

Nothing is buffered here: a message is read only when the one before has been taken, so HTTP/2's windows push back from
one end to the other.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import grpc.aio

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import Cancelled, FirstStatus, NotReady, end_call, finished, send

from .forwarding import Context, pass_head
from .wire import ReceiptFragment

_PENDING_MAX = 1024  # requests without answer; a stream beyond it is not one answer a request


class Pace:
    """Times from requests to their answers in a stream, where the n-th answer belongs to the n-th request.

    Streams of another shape, as one request with many answers, are timed from their start.
    """

    __slots__ = ("_arrivals", "_started")

    def __init__(self, started: float) -> None:
        self._started = started
        self._arrivals: deque[float] | None = deque()

    def request(self) -> None:
        """Notes that a request has arrived."""
        if self._arrivals is not None:
            self._arrivals.append(time.perf_counter())
            if len(self._arrivals) > _PENDING_MAX:
                self._arrivals = None

    def answer_us(self) -> int:
        """Microseconds from the request to its answer, which leaves now."""
        since = self._arrivals.popleft() if self._arrivals else self._started
        return int((time.perf_counter() - since) * 1e6)


async def relay_both(
    call: Any,
    context: Context,
    read: Callable[[], Awaitable[Any]],
    write: Callable[[bytes], Awaitable[None]],
    *,
    status: FirstStatus,
    fragment: ReceiptFragment | None,
    pace: Pace,
    first: Any = None,
) -> grpc.aio.AioRpcError | None:
    """Passes messages both ways until the backend has ended the call; returns its failure, None when it ended well.

    Args:
        call: to the backend.
        context: of the caller's call.
        read: gives the caller's messages, then EOF.
        write: takes the backend's messages.
        status: of the call to the backend; knows how it ended even where grpc forgets it.
        fragment: encodes what is appended to each message; None appends nothing.
        pace: times the answers.
        first: what was read from the caller already; None when nothing was.

    Raises:
        Cancelled: the caller is gone.
    """
    up = asyncio.create_task(_relay_up(call, read, pace, first), name="relay-up")
    down = asyncio.create_task(
        _relay_down(call, context, write, status=status, fragment=fragment, pace=pace), name="relay-down"
    )
    try:
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        if not down.done() and up.exception() is None:
            await asyncio.wait({down})
        up.cancel()  # what the caller still sends has nobody to read it
    finally:
        end_call(call)
        await finished(up, down)  # those of a caller that has gone end by themselves, and leave nothing behind
    try:
        if not up.cancelled():
            up.result()
        return down.result()
    except grpc.aio.BaseError as lost:
        # Either way ends so when the caller has gone; the server's own cancellation is then on its way to this task.
        raise Cancelled("the caller has left the stream") from lost


async def relay_down(
    call: Any,
    context: Context,
    write: Callable[[bytes], Awaitable[None]],
    *,
    status: FirstStatus,
    fragment: ReceiptFragment | None,
    pace: Pace,
) -> grpc.aio.AioRpcError | None:
    """Passes the backend's messages on until the call has ended; returns its failure, None when it ended well.

    Arguments as in `relay_both`.
    """
    down = asyncio.create_task(
        _relay_down(call, context, write, status=status, fragment=fragment, pace=pace), name="relay-down"
    )
    try:
        await asyncio.wait({down})
    finally:
        end_call(call)
        await finished(down)
    return down.result()


async def _relay_down(
    call: Any,
    context: Context,
    write: Callable[[bytes], Awaitable[None]],
    *,
    status: FirstStatus,
    fragment: ReceiptFragment | None,
    pace: Pace,
) -> grpc.aio.AioRpcError | None:
    receive, end = call.read, grpc.aio.EOF
    try:
        message = await receive()
        if message is not end:
            await pass_head(call, context)
        while message is not end:
            if fragment is not None:
                message += fragment.encode(pace.answer_us())
            await write(message)
            message = await receive()
    except grpc.aio.AioRpcError as error:
        return status.restored(error) or error
    return None


async def until(ending: asyncio.Event, relay: Coroutine[Any, Any, None]) -> None:
    """Runs the relay of a stream that would never end by itself, until `ending` is set.

    Raises:
        NotReady: DRAINING, when it is.
    """
    running = asyncio.create_task(relay, name="relay-watch")
    ended = asyncio.create_task(ending.wait(), name="relay-end")
    try:
        await asyncio.wait({running, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise watch_again()
        await running
    finally:
        running.cancel()
        ended.cancel()
        await asyncio.gather(running, ended, return_exceptions=True)


def watch_again() -> NotReady:
    """How an endless stream ends when the gateway drains."""
    return NotReady("the gateway is draining; watch again", reason=ErrorReason.ERROR_REASON_DRAINING, retry_after_s=1.0)


async def _relay_up(call: Any, read: Callable[[], Awaitable[Any]], pace: Pace, first: Any) -> None:
    end = grpc.aio.EOF
    message = await read() if first is None else first
    try:
        while message is not end:
            pace.request()
            if not await send(call, message, message):
                return  # the backend has ended the call; the way down tells how
            message = await read()
        await call.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass  # the backend has ended the call; the way down tells how
