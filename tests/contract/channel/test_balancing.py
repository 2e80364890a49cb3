"""What grpc's balancers do with our channel: weights, health, outliers. To be judged anew at each grpcio bump."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import grpc
import pytest

from meshcast.rpc import ChannelSettings, ServingStatus, channel

SETTINGS = ChannelSettings(attempts_max=1)


def target(*whos: Any) -> str:
    return "ipv4:" + ",".join(who.address for who in whos)


async def test_the_busier_server_gets_fewer_calls(start: Any, ask: Any) -> None:
    idle, busy, busiest = [
        await start(name, utilization=utilization)
        for name, utilization in (("idle", 0.1), ("busy", 0.5), ("busiest", 0.9))
    ]
    async with channel(target(idle, busy, busiest), settings=SETTINGS) as to_servers, asyncio.timeout(20):
        recent: Counter[str] = Counter()
        while not recent["idle"] > 2 * recent["busy"] > 2 * recent["busiest"]:  # weights count after about a second
            recent = Counter([await ask(to_servers) for _ in range(60)])
            await asyncio.sleep(0.05)
    assert recent["busiest"] > 0


async def test_servers_that_tell_nothing_get_the_same(start: Any, ask: Any, several: Any) -> None:
    whos = [await start(name) for name in "abc"]
    async with channel(target(*whos), settings=SETTINGS) as to_servers:
        while set(await several(ask, to_servers, 9)) != {*"abc"}:
            pass  # not all are connected yet
        assert await several(ask, to_servers, 90) == {"a": 30, "b": 30, "c": 30}


async def test_a_server_that_does_not_serve_is_left_and_taken_back(
    start: Any, ask: Any, several: Any, wait_until: Any
) -> None:
    whos = [await start(name) for name in "ab"]
    async with channel(target(*whos), settings=SETTINGS) as to_servers:

        async def both() -> bool:
            return set(await several(ask, to_servers, 8)) == {"a", "b"}

        async def only_b() -> bool:
            return set(await several(ask, to_servers, 8)) == {"b"}

        await wait_until(both)
        whos[0].server.health.set("", ServingStatus.NOT_SERVING)
        await wait_until(only_b)
        whos[0].server.health.set("", ServingStatus.SERVING)
        await wait_until(both)


async def test_where_none_serves_calls_fail_at_once_or_wait(start: Any, ask: Any) -> None:
    who = await start("a")
    who.server.health.set("", ServingStatus.NOT_SERVING)
    async with channel(who.address, settings=SETTINGS) as to_server:
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            await ask(to_server, timeout=10)
    waiting = ChannelSettings(wait_for_ready=True)
    async with channel(who.address, settings=waiting) as to_server, asyncio.TaskGroup() as group:
        asked = group.create_task(ask(to_server, timeout=20))
        done, _ = await asyncio.wait({asked}, timeout=0.2)
        assert not done
        who.server.health.set("", ServingStatus.SERVING)
        assert await asked == "a"


async def test_a_server_that_fails_is_ejected_and_taken_back_soon(start: Any, ask: Any) -> None:
    good, bad = await start("good"), await start("bad")
    bad.fails = True
    async with channel(target(good, bad), settings=SETTINGS) as to_servers, asyncio.timeout(30):
        in_a_row = 0
        while in_a_row < 20:
            try:
                await ask(to_servers)
                in_a_row += 1
            except grpc.aio.AioRpcError:
                in_a_row = 0
            await asyncio.sleep(0.005)
        bad.fails = False
        well_since = time.monotonic()
        while await ask(to_servers) != "bad":  # noqa: ASYNC110  # grpc's own clock
            await asyncio.sleep(0.005)
        assert time.monotonic() - well_since < 6  # it is ejected for 1 s, and looked at once a second


async def test_one_that_fails_and_one_that_does_not_serve_cost_no_call(start: Any, ask: Any) -> None:
    """All policies at once, as they are by default."""
    whos = [await start(name, utilization=0.5) for name in "abcd"]
    whos[0].fails = True
    whos[1].server.health.set("", ServingStatus.NOT_SERVING)
    async with channel(target(*whos)) as to_servers:
        until_s = time.monotonic() + 2.5  # it is ejected, taken back and ejected again
        answered: Counter[str] = Counter()
        while time.monotonic() < until_s:
            answered[await ask(to_servers)] += 1
    assert set(answered) == {"c", "d"}
