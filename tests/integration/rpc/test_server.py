"""Start, serve and drain of a real server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
import structlog

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import (
    ChannelSettings,
    MeshError,
    NotReady,
    PortInUse,
    RpcSettings,
    Server,
    ServingStatus,
    channel,
    mesh_errors,
    probe,
)

Serve = Callable[..., Awaitable[Server]]
PLAIN = ChannelSettings(plain=True)


async def echo(text: str, context: object) -> str:
    return text


async def test_a_port_in_use_is_named_with_a_way_out_and_the_first_server_serves_on(serve: Serve) -> None:
    first = await serve()
    with pytest.raises(PortInUse, match=rf"127\.0\.0\.1:{first.port}: another process has the port.*--port"):
        async with Server(RpcSettings(port=first.port, metrics=False)):
            pass
    assert await probe(first.address, timeout_s=5) is ServingStatus.SERVING


async def test_a_metrics_port_in_use_leaves_nothing_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        metrics_port = taken.getsockname()[1]
        server = Server(RpcSettings(metrics_port=metrics_port))
        with pytest.raises(NotReady, match=r"rpc\.metrics_port"):
            async with server:
                pass
    with pytest.raises(MeshError):
        await probe(server.address, timeout_s=0.5)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_a_host_that_is_not_ours_is_named(host: str) -> None:
    with pytest.raises(PortInUse, match=host):
        async with Server(RpcSettings(host=host, port=50051, metrics=False)):
            pass


@pytest.mark.parametrize(("host", "warnings"), [("0.0.0.0", 1), ("127.0.0.1", 0)])
async def test_listening_beyond_loopback_without_tls_is_warned_about(serve: Serve, host: str, warnings: int) -> None:
    with structlog.testing.capture_logs() as logged:
        await serve(settings=RpcSettings(host=host, metrics=False, drain_delay_s=0))
    assert len([line for line in logged if "without TLS" in line["event"]]) == warnings


async def test_metrics_are_served_over_http_and_end_with_the_server(kinds_service: Any, ask: Any) -> None:
    async with Server(RpcSettings(drain_delay_s=0), services=[kinds_service(echo)]) as server:
        async with channel(server.address, settings=PLAIN) as to_server:
            await ask(to_server, "Unary")
        url = f"http://127.0.0.1:{server.metrics_port}/metrics"
        text = (await asyncio.to_thread(_read, url)).decode()
    assert 'grpc_server_started_total{grpc_method="Unary"' in text
    with pytest.raises(urllib.error.URLError):
        await asyncio.to_thread(_read, url)


async def test_calls_in_flight_end_well_when_the_server_drains(kinds_service: Any, ask: Any) -> None:
    entered, finish = asyncio.Event(), asyncio.Event()

    async def slow(text: str, context: object) -> str:
        entered.set()
        await finish.wait()
        return text

    async with channel_to(Server(quick(drain_s=10), services=[kinds_service(slow)])) as (server, to_server):
        asking = asyncio.create_task(ask(to_server, "BidiStream", ["a", "b"]))
        await entered.wait()
        draining = asyncio.create_task(server.drain())
        await server.draining.wait()
        finish.set()
        assert await asking == ["a", "b"]
        await draining


async def test_calls_that_outlast_the_drain_are_cancelled_and_may_be_retried(kinds_service: Any, ask: Any) -> None:
    entered, released = asyncio.Event(), asyncio.Event()

    async def stall(text: str, context: object) -> str:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            released.set()
        return text

    async with channel_to(Server(quick(drain_s=0.1), services=[kinds_service(stall)])) as (server, to_server):
        asking = asyncio.create_task(ask(to_server, "Unary"))
        await entered.wait()
        await server.drain()
        with pytest.raises(NotReady), mesh_errors():
            await asking
        assert released.is_set()


async def test_a_new_call_on_a_draining_server_is_refused_as_draining(kinds_service: Any, ask: Any) -> None:
    async with channel_to(Server(quick(), services=[kinds_service(echo)])) as (server, to_server):
        server.interceptor.is_draining = True
        for kind in ("Unary", "ClientStream", "ServerStream", "BidiStream"):
            with pytest.raises(NotReady) as caught, mesh_errors():
                await ask(to_server, kind)
            assert caught.value.reason == ErrorReason.ERROR_REASON_DRAINING
            assert caught.value.retry_after_s == 1.0
        assert await probe(server.address, timeout_s=5) is ServingStatus.NOT_SERVING


async def test_an_endless_stream_ends_itself_when_the_server_drains(kinds_service: Any, ask: Any) -> None:
    entered = asyncio.Event()

    async def subscribe(text: str, context: object) -> str:
        entered.set()
        await server.draining.wait()
        return "resume at 17"

    async with channel_to(Server(quick(drain_s=60), services=[kinds_service(subscribe)])) as (server, to_server):
        asking = asyncio.create_task(ask(to_server, "Unary", timeout=60))
        await entered.wait()
        await asyncio.wait_for(server.drain(), 30)
        assert await asking == ["resume at 17"]


async def test_no_call_fails_when_one_of_two_replicas_drains_under_load(
    serve: Serve, kinds_service: Any, ask: Any
) -> None:
    async def work(text: str, context: object) -> str:
        await asyncio.sleep(0.002)
        return text

    settings = RpcSettings(metrics=False, drain_delay_s=0.3, drain_s=10)
    first = await serve(kinds_service(work), settings=settings)
    second = await serve(kinds_service(work), settings=settings)
    stop = asyncio.Event()
    answers = 0

    async def caller(to_servers: Any) -> None:
        nonlocal answers
        while not stop.is_set():
            with mesh_errors():
                assert await ask(to_servers, "Unary", [str(answers)])
            answers += 1

    async with channel(f"ipv4:{first.address},{second.address}") as to_servers:
        async with asyncio.TaskGroup() as callers:
            for _ in range(8):
                callers.create_task(caller(to_servers))
            await _while_growing(lambda: answers, 100)
            assert min(first.metrics.method(UNARY, "unary").started, second.metrics.method(UNARY, "unary").started) > 0
            await first.drain()
            await _while_growing(lambda: answers, 100)
            stop.set()
    assert first.interceptor.in_flight == 0


async def test_sigterm_drains_and_a_second_signal_cuts_the_drain_short(tmp_path: Any) -> None:
    main = tmp_path / "main.py"
    main.write_text(
        textwrap.dedent(
            """
            import asyncio
            from meshcast.rpc import Health, RpcSettings, Server, ServingStatus, run, setup_logs, LogSettings

            async def main():
                setup_logs(LogSettings(format="json"))
                settings = RpcSettings(metrics=False, drain_delay_s=30.0, drain_s=30.0)
                async with Server(settings) as server:
                    server.health.set("", ServingStatus.SERVING)
                    print(server.address, flush=True)
                    await server.wait()
                print("closed", flush=True)

            run(main())
            """
        )
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(main),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    address = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
    assert await probe(address, timeout_s=10) is ServingStatus.SERVING
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    while await probe(address, timeout_s=10) is ServingStatus.SERVING:  # noqa: ASYNC110  # it is another process
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = await asyncio.wait_for(process.communicate(), 25)
    assert time.monotonic() - began < 25  # not the 60 s that it was given
    assert out.decode().split() == ["closed"]
    assert process.returncode == 0, err.decode()
    assert "cut short" in err.decode()


UNARY = "/meshcast.test.KindsService/Unary"


@contextlib.asynccontextmanager
async def channel_to(server: Server) -> AsyncIterator[tuple[Server, grpc.aio.Channel]]:
    """The server, started, and a plain channel to it."""
    async with server, channel(server.address, settings=PLAIN) as to_server:
        yield server, to_server


def quick(drain_s: float = 1.0) -> RpcSettings:
    return RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=drain_s)


async def _while_growing(number: Callable[[], int], by: int) -> None:
    wanted = number() + by
    async with asyncio.timeout(30):
        while number() < wanted:  # noqa: ASYNC110  # a count has no event to wait for
            await asyncio.sleep(0.01)


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        content: bytes = answer.read()
    return content
