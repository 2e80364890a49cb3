"""The fault proxy, as two sockets see it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import pytest

from fault_proxy import FaultProxy

Connect = Callable[[], AbstractAsyncContextManager[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@pytest.fixture
async def echo() -> AsyncIterator[str]:
    """Address of a server that sends back what it gets, and ends when its caller has ended."""

    answering: set[asyncio.Task[None] | None] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(asyncio.current_task())
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            await closed(writer)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.gather(*(task for task in answering if task is not None))


@pytest.fixture
async def proxy(echo: str) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(echo) as proxy:
        yield proxy
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("fault-proxy")]


@pytest.fixture
def connect(proxy: FaultProxy) -> Connect:
    @asynccontextmanager
    async def connected() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        host, _, port = proxy.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            yield reader, writer
        finally:
            await closed(writer)

    return connected


async def test_bytes_pass_both_ways_and_an_end_passes_too(proxy: FaultProxy, connect: Connect) -> None:
    async with connect() as (reader, writer), asyncio.timeout(5):
        data = bytes(range(256)) * 4_000
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        writer.write_eof()
        assert await reader.read() == b""
    assert proxy.bytes_up == proxy.bytes_down == len(data)
    assert proxy.accepted == 1


async def test_a_delay_holds_back_each_way_and_keeps_the_order(proxy: FaultProxy, connect: Connect) -> None:
    async with connect() as (reader, writer), asyncio.timeout(5):
        proxy.delay(0.1)
        began = time.monotonic()
        for part in (b"a", b"b", b"c"):
            writer.write(part)
            await asyncio.sleep(0)
        assert await reader.readexactly(3) == b"abc"
        assert 0.2 <= time.monotonic() - began < 2


async def test_a_black_hole_swallows_nothing_for_good(proxy: FaultProxy, connect: Connect) -> None:
    async with connect() as (reader, writer), asyncio.timeout(5):
        proxy.blackhole()
        writer.write(b"late")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.read(1)
        async with connect() as (other_reader, other_writer):  # taken, and as silent
            other_writer.write(b"x")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await other_reader.read(1)
            proxy.heal()
            assert await reader.readexactly(4) == b"late"
            assert await other_reader.readexactly(1) == b"x"


async def test_a_throttle_bounds_the_rate(proxy: FaultProxy, connect: Connect) -> None:
    async with connect() as (reader, writer), asyncio.timeout(5):
        proxy.throttle(20_000)
        began = time.monotonic()
        writer.write(bytes(4_000))
        await reader.readexactly(4_000)
        assert 0.15 <= time.monotonic() - began < 3


async def test_a_reset_breaks_open_connections_and_takes_new_ones(proxy: FaultProxy, connect: Connect) -> None:
    async with connect() as (reader, writer), asyncio.timeout(5):
        writer.write(b"a")
        await reader.readexactly(1)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
    async with connect() as (reader, writer), asyncio.timeout(5):
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"


async def test_a_half_close_ends_one_direction(proxy: FaultProxy, connect: Connect) -> None:
    async with connect() as (reader, writer), asyncio.timeout(5):
        writer.write(b"a")
        await reader.readexactly(1)
        proxy.half_close()
        assert await reader.read() == b""
        up = proxy.bytes_up
        writer.write(b"more")
        await writer.drain()
        while proxy.bytes_up < up + 4:  # noqa: ASYNC110  # a counter of the proxy
            await asyncio.sleep(0.01)


async def test_a_refusing_port_is_taken_again_by_heal(proxy: FaultProxy, connect: Connect) -> None:
    async with connect() as (reader, writer), asyncio.timeout(5):
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            async with connect():
                pass
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"  # what is open goes on
        proxy.heal()
        async with connect() as (other_reader, other_writer):
            other_writer.write(b"b")
            assert await other_reader.readexactly(1) == b"b"


async def test_a_target_that_refuses_ends_the_callers_connection(connect: Connect, proxy: FaultProxy) -> None:
    proxy.target = "127.0.0.1:1"
    async with connect() as (reader, _), asyncio.timeout(5):
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
