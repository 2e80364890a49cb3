"""The channel's native policies, as grpc really carries them out: to be judged anew at each grpcio bump."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from meshcast.rpc import (
    ChannelSettings,
    InvalidInput,
    NotReady,
    Overloaded,
    RpcSettings,
    Server,
    ServingStatus,
    channel,
    mesh_errors,
)

Serve = Callable[..., Awaitable[Server]]


class Flaky:
    """Fails the first calls, then answers; counts all."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.calls = 0
        self._failures, self._error = failures, error

    async def __call__(self, text: str, context: Any) -> str:
        self.calls += 1
        if self.calls <= self._failures:
            raise self._error
        return text


@pytest.mark.parametrize("kind", ["Unary", "ClientStream", "ServerStream", "BidiStream"])
async def test_a_call_that_fails_unavailable_before_its_first_answer_is_tried_again(
    serve: Serve, kinds_service: Any, ask: Any, kind: str
) -> None:
    act = Flaky(2, NotReady("loading"))
    server = await serve(kinds_service(act))
    async with channel(server.address) as to_server:
        assert (await ask(to_server, kind))[0] == "a"
    assert act.calls == {"ServerStream": 4}.get(kind, 3)


@pytest.mark.parametrize(
    ("settings", "error", "calls"),
    [
        (ChannelSettings(), NotReady("loading"), 3),
        (ChannelSettings(attempts_max=1), NotReady("loading"), 1),
        (ChannelSettings(plain=True), NotReady("loading"), 1),
        (ChannelSettings(), Overloaded("full", retry_after_s=0.01), 1),
        (ChannelSettings(), InvalidInput("wrong"), 1),
    ],
)
async def test_only_unavailable_is_tried_again_and_only_so_often(
    serve: Serve, kinds_service: Any, ask: Any, settings: ChannelSettings, error: Any, calls: int
) -> None:
    act = Flaky(100, error)
    server = await serve(kinds_service(act))
    async with channel(server.address, settings=settings) as to_server:
        with pytest.raises(type(error)), mesh_errors():
            await ask(to_server, "Unary")
    assert act.calls == calls


async def test_a_broken_mesh_is_not_asked_three_times_as_much(serve: Serve, kinds_service: Any, ask: Any) -> None:
    act = Flaky(1_000, NotReady("down"))
    server = await serve(kinds_service(act))
    async with channel(server.address) as to_server:
        for _ in range(20):
            with pytest.raises(NotReady), mesh_errors():
                await ask(to_server, "Unary")
    assert act.calls <= 40  # 60 without the throttle


async def test_a_replica_that_always_fails_gets_no_more_calls(serve: Serve, kinds_service: Any, ask: Any) -> None:
    bad = Flaky(10**9, NotReady("out of order"))
    good = [Flaky(0, NotReady("never")) for _ in range(2)]
    servers = [await serve(kinds_service(act), access="none") for act in (bad, *good)]
    target = "ipv4:" + ",".join(server.address for server in servers)
    settings = ChannelSettings(attempts_max=1)
    async with channel(target, settings=settings) as to_servers, asyncio.timeout(30):
        in_a_row = 0
        while in_a_row < 60:  # an interval is 1 s; ten failures in one decide
            try:
                await ask(to_servers, "Unary")
                in_a_row += 1
            except NotReady:
                in_a_row = 0
            await asyncio.sleep(0.005)
    assert all(act.calls > 0 for act in good)


async def test_a_server_that_comes_back_is_found_again_soon(kinds_service: Any, ask: Any) -> None:
    act = Flaky(0, NotReady("never"))
    settings = RpcSettings(metrics=False, drain_delay_s=0, drain_s=0)
    async with Server(settings, services=[kinds_service(act)]) as first:
        first.health.set("", ServingStatus.SERVING)
        to_server = channel(first.address)
        await ask(to_server, "Unary")
    with pytest.raises(NotReady), mesh_errors():
        await ask(to_server, "Unary", timeout=1)
    began = time.monotonic()
    again = RpcSettings(port=first.port, metrics=False, drain_delay_s=0, drain_s=0)
    async with Server(again, services=[kinds_service(act)]) as second:
        second.health.set("", ServingStatus.SERVING)
        assert await ask(to_server, "Unary", wait_for_ready=True, timeout=30) == ["a"]
        assert time.monotonic() - began < 15  # the backoff is capped at 1 s; grpc's default is 120 s
        await to_server.close()


async def test_an_empty_target_is_refused_at_once() -> None:
    with pytest.raises(InvalidInput, match="host:port"):
        channel(" ")
