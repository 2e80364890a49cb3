"""grpc.health.v1 on a real server, as plain clients, probes and grpc's own client health checks see it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshcast.rpc import (
    ChannelSettings,
    Health,
    MeshError,
    NotFound,
    NotReady,
    Server,
    ServingStatus,
    channel,
    mesh_errors,
    probe,
)

Serve = Callable[..., Awaitable[Server]]
PLAIN = ChannelSettings(plain=True)
SERVING, NOT_SERVING = ServingStatus.SERVING, ServingStatus.NOT_SERVING


async def test_check_and_list_tell_every_name(serve: Serve) -> None:
    server = await serve(service_names=["a.B"], health=Health({"model/fox/3": SERVING}))
    async with channel(server.address, settings=PLAIN) as to_server:
        stub = health_pb2_grpc.HealthStub(to_server)
        listed = await stub.List(health_pb2.HealthListRequest(), timeout=5)
        states = {name: answer.status for name, answer in listed.statuses.items()}
        assert states == {"": SERVING, "a.B": NOT_SERVING, "model/fox/3": SERVING, "grpc.health.v1.Health": SERVING}
        for name, status in states.items():
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
            assert answer.status == status
        with pytest.raises(NotFound, match="'nobody'"), mesh_errors():
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=5)


async def test_a_watch_follows_a_model_through_load_swap_and_drain(serve: Serve) -> None:
    server = await serve()
    seen = []
    async with channel(server.address, settings=PLAIN) as to_server:
        call = health_pb2_grpc.HealthStub(to_server).Watch(health_pb2.HealthCheckRequest(service="model/fox"))
        seen.append((await call.read()).status)
        for status in (NOT_SERVING, SERVING):
            server.health.set("model/fox", status)
            seen.append((await call.read()).status)
        server.health.set("model/fox", SERVING)  # a swap changes nothing that a watcher needs to know
        draining = asyncio.create_task(server.drain())
        while (answer := await call.read()) is not grpc.aio.EOF:
            seen.append(answer.status)
        await draining
    assert seen == [ServingStatus.SERVICE_UNKNOWN, NOT_SERVING, SERVING, NOT_SERVING]


async def test_probes_are_answered_by_name_and_their_failures_are_told_apart(serve: Serve) -> None:
    server = await serve(service_names=["a.B"])
    assert await probe(server.address, timeout_s=5) is SERVING
    assert await probe(server.address, "a.B", timeout_s=5) is NOT_SERVING
    assert await probe(server.address, "nobody", timeout_s=5) is ServingStatus.SERVICE_UNKNOWN
    await server.drain()
    with pytest.raises(MeshError) as caught:
        await probe(server.address, timeout_s=2)
    assert isinstance(caught.value, NotReady)


async def test_clients_leave_a_replica_that_is_not_serving_and_come_back(
    serve: Serve, kinds_service: Any, ask: Any
) -> None:
    counts: dict[str, int] = {"first": 0, "second": 0}

    def named(name: str) -> Any:
        async def count(text: str, context: object) -> str:
            counts[name] += 1
            return name

        return kinds_service(count)

    first, second = await serve(named("first")), await serve(named("second"))

    async def until_only(to_servers: Any, name: str) -> None:
        async with asyncio.timeout(20):
            in_a_row = 0
            while in_a_row < 20:
                answers = await ask(to_servers, "Unary")
                in_a_row = in_a_row + 1 if answers == [name] else 0

    async with channel(f"ipv4:{first.address},{second.address}") as to_servers:
        first.health.set("", NOT_SERVING)
        await until_only(to_servers, "second")
        second.health.set("", NOT_SERVING)
        first.health.set("", SERVING)
        await until_only(to_servers, "first")
        second.health.set("", SERVING)
        counts["second"] = 0
        async with asyncio.timeout(20):
            while not counts["second"]:
                await ask(to_servers, "Unary")


async def test_a_stalled_watcher_does_not_hold_up_the_writer_or_the_others(serve: Serve) -> None:
    server = await serve()
    async with channel(server.address, settings=PLAIN) as to_server:
        stub = health_pb2_grpc.HealthStub(to_server)
        stalled = stub.Watch(health_pb2.HealthCheckRequest(service="x"))
        await stalled.read()
        live = stub.Watch(health_pb2.HealthCheckRequest(service="x"))
        await live.read()
        for _ in range(5_000):
            server.health.set("x", SERVING)
            server.health.set("x", NOT_SERVING)
        assert (await asyncio.wait_for(live.read(), 5)).status == NOT_SERVING
        stalled.cancel()
        live.cancel()
