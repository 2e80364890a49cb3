"""Health names of the gateway: they follow the replicas through load, unload, drain and death."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshcast.gateway import RouteSettings
from meshcast.rpc import ServingStatus, probe

PREDICTOR = "meshcast.api.predictor.v1.PredictorService"
GATEWAY = "meshcast.api.gateway.v1.GatewayService"
SERVING, NOT_SERVING, UNKNOWN = ServingStatus.SERVING, ServingStatus.NOT_SERVING, ServingStatus.SERVICE_UNKNOWN


async def becomes(gateway: Any, name: str, status: ServingStatus, timeout_s: float = 5.0) -> None:
    """Waits until the gateway's Watch of a name says the status."""
    stub = health_pb2_grpc.HealthStub(gateway.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=timeout_s)
    try:
        async for update in watch:
            if update.status == status.value:
                return
    finally:
        watch.cancel()
    raise AssertionError(f"{name} did not become {status.name}")


async def test_every_name_of_the_replica_is_the_gateways(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        await becomes(gateway, "model/predictor/1", SERVING)
        for name in ("", GATEWAY, PREDICTOR, "model/predictor", "model/predictor/1"):
            assert await probe(gateway.server.address, name) is SERVING
        assert await probe(gateway.server.address, "model/fox") is UNKNOWN
        stub = health_pb2_grpc.HealthStub(gateway.channel)
        listed = await stub.List(health_pb2.HealthListRequest(), timeout=5)
    assert {"", GATEWAY, PREDICTOR, "model/predictor", "model/predictor/1"} <= {*listed.statuses}


async def test_a_swap_and_an_unload_show_in_the_models_names(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        await becomes(gateway, "model/predictor/1", SERVING)
        replica.health.set("model/predictor/2", SERVING)
        await becomes(gateway, "model/predictor/2", SERVING)
        replica.health.remove("model/predictor/1")
        await becomes(gateway, "model/predictor/1", UNKNOWN)
        for name in ("model/predictor", PREDICTOR):
            replica.health.set(name, NOT_SERVING)
        await becomes(gateway, PREDICTOR, NOT_SERVING)
        await becomes(gateway, "model/predictor", NOT_SERVING)
        assert await probe(gateway.server.address, "") is NOT_SERVING
        assert await probe(gateway.server.address, GATEWAY) is SERVING
        replica.health.set(PREDICTOR, SERVING)
        await becomes(gateway, "", SERVING)


async def test_one_serving_replica_keeps_the_names_serving(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as one, run_predictor() as two, run_gateway([one.address, two.address]) as gateway:
        one.health.set(PREDICTOR, NOT_SERVING)
        await gateway.until(lambda mesh: [r.state for r in mesh.services[0].replicas].count(1) == 1)
        assert await probe(gateway.server.address, PREDICTOR) is SERVING
        two.health.set(PREDICTOR, NOT_SERVING)
        await becomes(gateway, PREDICTOR, NOT_SERVING)


async def test_a_replicas_drain_and_death_and_return_show_at_the_gateway(run_predictor: Any, run_gateway: Any) -> None:
    async with AsyncExitStack() as stack:
        replica = await stack.enter_async_context(run_predictor())
        async with run_gateway([replica.address]) as gateway:
            await becomes(gateway, "model/predictor", SERVING)
            watching = asyncio.create_task(becomes(gateway, PREDICTOR, NOT_SERVING), name="test-watch")
            await stack.aclose()
            await watching
            await becomes(gateway, "model/predictor", NOT_SERVING)
            await becomes(gateway, "", NOT_SERVING)
            await gateway.until(lambda mesh: mesh.services[0].replicas[0].problem and not mesh.serving)
            async with run_predictor(port=replica.server.port):
                await becomes(gateway, PREDICTOR, SERVING)
                await becomes(gateway, "", SERVING)


async def test_a_gateway_without_backends_lives_but_serves_nothing(run_gateway: Any) -> None:
    async with run_gateway(["127.0.0.1:1"]) as gateway:
        assert await probe(gateway.server.address, GATEWAY) is SERVING
        assert await probe(gateway.server.address, "") is NOT_SERVING
        assert await probe(gateway.server.address, PREDICTOR) is NOT_SERVING


async def test_a_backend_without_health_service_serves_while_it_is_connected(run_gateway: Any) -> None:
    async def echo(request: bytes, context: Any) -> bytes:
        return request

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers: dict[str, Any] = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("acme.EchoService", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    route = RouteSettings(services=("acme.EchoService",), endpoints=(f"127.0.0.1:{port}",))
    async with run_gateway(routes={"echo": route}) as gateway:
        await becomes(gateway, "acme.EchoService", SERVING)
        method: Callable[..., Awaitable[bytes]] = gateway.channel.unary_unary("/acme.EchoService/Echo")
        assert await method(b"hi", timeout=5) == b"hi"
        await server.stop(None)
        await becomes(gateway, "acme.EchoService", NOT_SERVING)


async def test_a_backend_that_talks_nonsense_is_unreachable_and_harms_no_other(
    run_predictor: Any, run_gateway: Any
) -> None:
    async def garbage(request: Any, context: Any) -> bytes:
        return b"\xff"

    async def garbage_stream(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"\xff"

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    health: dict[str, Any] = {
        "Watch": grpc.unary_stream_rpc_method_handler(garbage_stream),
        "List": grpc.unary_unary_rpc_method_handler(garbage),
    }
    info: dict[str, Any] = {"ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(garbage_stream)}
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
            grpc.method_handlers_generic_handler("grpc.reflection.v1.ServerReflection", info),
        ]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    odd = RouteSettings(services=("acme.EchoService",), endpoints=(f"127.0.0.1:{port}",))
    async with run_predictor() as replica:
        sound = RouteSettings(services=(PREDICTOR,), endpoints=(replica.address,))
        async with run_gateway(routes={"echo": odd, "predictor": sound}) as gateway:
            await gateway.until(lambda mesh: "cannot be read" in mesh.services[0].replicas[0].problem)
            await becomes(gateway, PREDICTOR, SERVING)
            replica.health.set(PREDICTOR, NOT_SERVING)
            await becomes(gateway, PREDICTOR, NOT_SERVING)
            assert await probe(gateway.server.address, "acme.EchoService") is NOT_SERVING
    await server.stop(None)


async def test_the_gateways_own_drain_ends_every_name(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        stub = health_pb2_grpc.HealthStub(gateway.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=PREDICTOR), timeout=10)
        assert (await watch.read()).status == SERVING.value
        await gateway.server.drain()
        assert (await watch.read()).status == NOT_SERVING.value
        assert await watch.read() is grpc.aio.EOF
