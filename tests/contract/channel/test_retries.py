"""How grpc retries on our channel. To be judged anew at each grpcio bump."""

from __future__ import annotations

import time
from typing import Any

import grpc
import pytest

from meshcast.rpc import ChannelSettings, Overloaded, channel
from meshcast.rpc.channel import service_config


def with_overload() -> dict[str, Any]:
    """Our config for callers that also retry RESOURCE_EXHAUSTED, which then waits as the server says."""
    config = service_config(ChannelSettings())
    config["methodConfig"][0]["retryPolicy"]["retryableStatusCodes"] = ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
    return config


async def test_each_attempt_says_how_many_came_before(start: Any, ask: Any) -> None:
    who = await start("a")
    who.fails = True
    async with channel(who.address) as to_server:
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            await ask(to_server)
    assert who.previous == ["0", "1", "2"]


async def test_failures_in_a_row_end_the_retries_until_successes_pay_them_back(start: Any, ask: Any) -> None:
    who = await start("a")
    who.fails = True
    async with channel(who.address) as to_server:
        for _ in range(12):
            with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                await ask(to_server)
        assert who.calls < 24  # 36 without the throttle
        asked = who.calls
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            await ask(to_server)
        assert who.calls == asked + 1
        who.fails = False
        for _ in range(70):
            await ask(to_server)
        who.fails = True
        asked = who.calls
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            await ask(to_server)
        assert who.calls > asked + 1


async def test_the_servers_pushback_sets_the_pause(start: Any, ask: Any) -> None:
    who = await start("a")
    who.fails = Overloaded("full", retry_after_s=0.5)  # sent as grpc-retry-pushback-ms
    async with channel(who.address, config=with_overload()) as to_server:
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError, match="RESOURCE_EXHAUSTED"):
            await ask(to_server, timeout=10)
        assert time.monotonic() - began >= 1.0
    assert who.calls == 3


async def test_a_negative_pushback_ends_the_retries(start: Any, ask: Any) -> None:
    who = await start("a")
    who.fails = Overloaded("full", retry_after_s=-0.001)
    async with channel(who.address, config=with_overload()) as to_server:
        with pytest.raises(grpc.aio.AioRpcError, match="RESOURCE_EXHAUSTED"):
            await ask(to_server)
    assert who.calls == 1
