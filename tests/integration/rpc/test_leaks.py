"""Nothing stays behind of calls that ended badly: bounded tasks and memory over thousands of them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import psutil
import pytest

from meshcast.rpc import ChannelSettings, Server, channel

Serve = Callable[..., Awaitable[Server]]


@pytest.mark.parametrize("writes", [False, True], ids=["generator", "coroutine"])
async def test_thousands_of_cancelled_streams_leave_no_task_and_little_memory(
    serve: Serve, kinds_service: Any, writes: bool
) -> None:
    from google.protobuf.wrappers_pb2 import StringValue

    async def stall(text: str, context: object) -> str:
        if text == "second":
            await asyncio.Event().wait()
        return text

    server = await serve(kinds_service(stall, writes=writes), access="none")

    async def cancelled_streams(number: int, to_server: Any) -> None:
        method = to_server.stream_stream(
            "/meshcast.test.KindsService/BidiStream",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        for _ in range(number):
            call = method(timeout=30)
            try:
                await call.write(StringValue(value="first"))
                await call.read()
                await call.write(StringValue(value="second"))
            finally:
                call.cancel()

    async with channel(server.address, settings=ChannelSettings(plain=True)) as to_server:
        await cancelled_streams(500, to_server)
        tasks, memory = await _settled(server), psutil.Process().memory_info().rss
        await cancelled_streams(2_000, to_server)
        assert await _settled(server) <= tasks + 2
        grown = psutil.Process().memory_info().rss - memory
    assert server.interceptor.in_flight == 0
    assert grown / 2_000 < 5_000  # bytes a call; a leaked handler costs far more


async def _settled(server: Server) -> int:
    async with asyncio.timeout(20):
        while server.interceptor.in_flight:  # noqa: ASYNC110  # a count has no event to wait for
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    gc.collect()
    return len(asyncio.all_tasks())
