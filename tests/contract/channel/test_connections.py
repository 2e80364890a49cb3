"""How our channel loses connections and finds servers again. To be judged anew at each grpcio bump."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest

from dns_server import DnsServer
from fault_proxy import FaultProxy
from meshcast.rpc import ChannelSettings, InvalidInput, channel
from meshcast.rpc.channel import service_config

SETTINGS = ChannelSettings(attempts_max=1)


@pytest.mark.parametrize(
    "config",
    [
        {"loadBalancingConfig": [{"least_request": {}}]},
        {"loadBalancingConfig": [{"weighted_round_robin": {"blackoutPeriod": 1}}]},
        {"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 1}}]},
        {"retryThrottling": {"maxTokens": 0, "tokenRatio": 0.1}},
    ],
)
async def test_a_config_that_grpc_does_not_take_is_an_error_at_once(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="does not take"):
        channel("127.0.0.1:1", config=config)


@pytest.mark.parametrize(
    "settings",
    [
        ChannelSettings(),
        ChannelSettings(attempts_max=1, health_service=None),
        ChannelSettings(wait_for_ready=True, attempts_max=5),
        ChannelSettings(plain=True, wait_for_ready=True),
    ],
)
async def test_our_own_configs_are_taken(settings: ChannelSettings) -> None:
    async with channel("127.0.0.1:1", settings=settings) as made:
        assert made.get_state() is grpc.ChannelConnectivity.IDLE


async def test_after_an_outage_calls_pass_again_within_a_second_or_two(start: Any, ask: Any) -> None:
    who = await start("a")
    async with FaultProxy(who.address) as proxy, channel(proxy.address, settings=SETTINGS) as to_server:
        assert await ask(to_server) == "a"
        proxy.refuse()
        proxy.reset()
        outage_ends = time.monotonic() + 2.5  # the pauses between attempts have reached their longest
        while time.monotonic() < outage_ends:
            with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                await ask(to_server)
            await asyncio.sleep(0.02)
        proxy.heal()
        began = time.monotonic()
        assert await ask(to_server, timeout=20, wait_for_ready=True) == "a"
        assert time.monotonic() - began < 4  # a pause is 1 s and a fifth at most


async def test_a_frozen_peer_is_noticed_by_its_unanswered_ping(start: Any, ask: Any) -> None:
    who = await start("a", ping_interval_min_s=0.5)
    settings = ChannelSettings(attempts_max=1, keepalive_s=1.0, keepalive_timeout_s=0.5)
    async with FaultProxy(who.address) as proxy, channel(proxy.address, settings=settings) as to_server:
        assert await ask(to_server) == "a"
        proxy.blackhole()
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            await ask(to_server, timeout=30)
        assert time.monotonic() - began < 10


async def test_a_connection_that_is_old_ends_without_an_error(start: Any, ask: Any) -> None:
    who = await start("a", connection_age_max_s=0.3)
    async with FaultProxy(who.address) as proxy, channel(proxy.address, settings=SETTINGS) as to_server:

        async def asks() -> None:
            while proxy.accepted < 4:
                assert await ask(to_server) == "a"

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(asks())


async def test_a_change_in_dns_is_followed_as_connections_end(start: Any, ask: Any) -> None:
    one = await start("one", host="127.0.0.1", connection_age_max_s=0.5)
    two = await start("two", host="127.0.0.2", port=one.server.port, connection_age_max_s=0.5)
    async with DnsServer({"predictor.test": ["127.0.0.1"]}) as dns:
        target = f"dns://{dns.address}/predictor.test:{two.server.port}"
        async with channel(target, settings=ChannelSettings()) as to_servers, asyncio.timeout(30):
            assert await ask(to_servers, timeout=10) == "one"
            dns.records["predictor.test"] = ["127.0.0.1", "127.0.0.2"]
            while await ask(to_servers) != "two":  # noqa: ASYNC110  # grpc's own clock
                await asyncio.sleep(0.01)
            dns.records["predictor.test"] = ["127.0.0.2"]
            in_a_row = 0
            while in_a_row < 20:
                in_a_row = in_a_row + 1 if await ask(to_servers) == "two" else 0
                await asyncio.sleep(0.01)


def test_the_recommended_times_are_a_second_at_most() -> None:
    (policy,) = service_config(ChannelSettings())["loadBalancingConfig"]
    outliers = policy["outlier_detection_experimental"]
    assert {outliers[name] for name in ("interval", "baseEjectionTime", "maxEjectionTime")} == {"1s"}
    assert ChannelSettings().connect_backoff_max_s <= 1
