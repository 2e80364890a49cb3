"""Calls that are ended early: their waiters wake, their servers hear of it, and little memory is left behind."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from meshcast.rpc import end_call, finished, wait_ended

STALL, FAIL = b"stall", b"fail"


class Server(grpc.GenericRpcHandler):
    """Answers, fails or stalls, as the request says."""

    def __init__(self) -> None:
        self.cancelled = 0

    def service(self, handler_call_details: Any) -> Any:
        """One unary method, and one that streams."""
        if handler_call_details.method.endswith("Unary"):
            return grpc.unary_unary_rpc_method_handler(self.unary)
        return grpc.unary_stream_rpc_method_handler(self.stream)

    async def unary(self, request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        """One answer."""
        if request == FAIL:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no")
        if request == STALL:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return request

    async def stream(self, request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """One answer, then none."""
        await context.write(request)
        await self.unary(STALL, context)


@pytest.fixture
async def served() -> AsyncIterator[tuple[Server, grpc.aio.Channel]]:
    handler, server = Server(), grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield handler, channel
    await server.stop(None)


async def heard(server: Server, cancels: int) -> None:
    async with asyncio.timeout(5):
        while server.cancelled < cancels:  # noqa: ASYNC110  # a counter
            await asyncio.sleep(0.005)


async def test_an_answer_and_a_failure_are_there_once_the_wait_is_over(served: Any) -> None:
    _, channel = served
    unary = channel.unary_unary("/test/Unary")
    call = unary(b"answer", timeout=5)
    await wait_ended(call)
    assert await call == b"answer"
    failing = unary(FAIL, timeout=5)
    await wait_ended(failing)
    with pytest.raises(grpc.aio.AioRpcError):
        await failing


async def test_a_wait_that_is_cancelled_ends_the_call(served: Any) -> None:
    server, channel = served
    call = channel.unary_unary("/test/Unary")(STALL, timeout=30)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await wait_ended(call)
    await heard(server, 1)
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_call_that_had_not_begun_when_its_channel_was_closed_keeps_nobody_waiting(served: Any) -> None:
    _, channel = served
    call = channel.unary_unary("/test/Unary")(STALL, timeout=30)
    call.cancel()
    async with asyncio.timeout(5):
        await wait_ended(call)


async def test_who_reads_a_stream_that_is_ended_wakes(served: Any) -> None:
    server, channel = served
    call = channel.unary_stream("/test/Stream")(b"answer", timeout=30)
    assert await call.read() == b"answer"
    reading = asyncio.create_task(call.read())
    await asyncio.sleep(0.01)
    end_call(call)
    async with asyncio.timeout(5):
        await finished(reading)
    assert reading.cancelled()
    await heard(server, 1)


async def test_tasks_that_do_not_end_by_themselves_are_cancelled() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(forever())
    await asyncio.sleep(0)
    await finished(task)
    assert task.cancelled()


async def test_calls_that_are_ended_leave_next_to_nothing_behind(served: Any) -> None:
    """grpc's own `cancel` leaves a kilobyte of each of these calls."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        pytest.skip("this C library cannot tell what is in use")

    class Mallinfo(ctypes.Structure):
        _fields_ = tuple((name, ctypes.c_size_t) for name in "abcdefghij")

    library.mallinfo2.restype = Mallinfo
    server, channel = served
    unary = channel.unary_unary("/test/Unary")

    async def left(number: int) -> None:
        for _ in range(number // 20):
            calls = [asyncio.create_task(wait_ended(unary(STALL, timeout=30))) for _ in range(20)]
            await asyncio.sleep(0.01)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        async with asyncio.timeout(20):
            while len(asyncio.all_tasks()) > idle:  # noqa: ASYNC110  # the server's handlers
                await asyncio.sleep(0.01)
        gc.collect()

    await wait_ended(unary(b"", timeout=5))
    await asyncio.sleep(0.05)
    idle = len(asyncio.all_tasks())
    await left(600)
    grown = []
    for _ in range(4):
        before = library.mallinfo2().h  # bytes in use
        await left(400)
        grown.append((library.mallinfo2().h - before) / 400)
    assert min(grown) < 400  # what is kept for later is not kept each time
    await heard(server, 1)
