"""Unary answers tell the server's load; nothing else does, and a handler's own trailers stay."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshcast.rpc import ChannelSettings, InvalidInput, LoadMeter, NotReady, Work, channel
from meshcast.rpc.orca import TRAILER, parse

PLAIN = ChannelSettings(plain=True)


async def act(text: str, context: Any) -> str:
    if text == "refuse":
        raise InvalidInput("no")
    if text == "fail":
        raise NotReady("no")
    context.set_trailing_metadata((("x-own", "1"),))
    return text


async def counted(meter: LoadMeter) -> None:
    """A caller knows of the end of its call before the server has counted it."""
    async with asyncio.timeout(5):
        while not meter.calls:  # noqa: ASYNC110  # a counter
            await asyncio.sleep(0.01)


async def test_unary_answers_tell_the_load(serve: Any, kinds_service: Any) -> None:
    meter = LoadMeter(lambda: [Work(0.0, 1, queue_rows=3)])
    server = await serve(kinds_service(act), meter=meter)
    async with channel(server.address, settings=PLAIN) as to_server:
        ask: Any = to_server.unary_unary("/meshcast.test.KindsService/Unary")
        call = ask(StringValue(value="a").SerializeToString(), timeout=5)
        await call
        trailers = dict(await call.trailing_metadata())
        assert trailers["x-own"] == "1"
        assert parse(trailers[TRAILER]) == meter.report
        probe: Any = health_pb2_grpc.HealthStub(to_server).Check(health_pb2.HealthCheckRequest(), timeout=5)
        await probe
        assert TRAILER not in dict(await probe.trailing_metadata())
    await counted(meter)
    assert (meter.calls, meter.faults) == (1, 0)


@pytest.mark.parametrize(("text", "faults"), [("refuse", 0), ("fail", 1)])
async def test_only_the_servers_own_failures_are_faults(
    serve: Any, kinds_service: Any, ask: Any, text: str, faults: int
) -> None:
    meter = LoadMeter()
    server = await serve(kinds_service(act), meter=meter)
    async with channel(server.address, settings=PLAIN) as to_server:
        with pytest.raises((InvalidInput, NotReady)):
            await ask(to_server, "Unary", [text])
    await counted(meter)
    assert (meter.calls, meter.faults) == (1, faults)
