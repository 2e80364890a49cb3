"""Callers of a server process that is told to stop: each gets an answer, or hears that the server drains."""

from __future__ import annotations

import asyncio
import collections
import signal
import sys

import grpc
import pytest

CALLERS = 8
DRAINS = 6
SERVER = """
import asyncio
import grpc
from meshcast.rpc import LogSettings, RpcSettings, Server, setup_logs

async def echo(request, context):
    await asyncio.sleep(0.001)
    return request

async def main():
    setup_logs(LogSettings(level="error"))
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    settings = RpcSettings(host="127.0.0.1", port=0, metrics=False, drain_delay_s=0.0)
    async with Server(settings, generic_handlers=[grpc.method_handlers_generic_handler("x.Y", handlers)]) as server:
        print(server.address, flush=True)
        await server.wait()

asyncio.run(main())
"""


async def _drain_under_load() -> collections.Counter[str]:
    """Codes that callers saw who ask again at once, until the process was gone."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    seen: collections.Counter[str] = collections.Counter()
    is_answered = asyncio.Event()
    try:
        address = (await process.stdout.readline()).decode().strip()
        async with grpc.aio.insecure_channel(address) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/x.Y/Echo")

            async def caller() -> None:
                while process.returncode is None:
                    try:
                        await call(b"again", timeout=5.0)
                        seen["OK"] += 1
                        is_answered.set()
                    except grpc.aio.AioRpcError as error:
                        seen[error.code().name] += 1
                        await asyncio.sleep(0.01)

            async with asyncio.TaskGroup() as group:
                for _ in range(CALLERS):
                    group.create_task(caller())
                await is_answered.wait()
                process.send_signal(signal.SIGTERM)
                await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    return seen


@pytest.mark.timeout(120)  # six processes, one after the other
async def test_callers_that_ask_again_at_once_never_end_cancelled_while_a_server_stops() -> None:
    for _ in range(DRAINS):
        seen = await _drain_under_load()
        assert seen["OK"] > 0
        assert set(seen) <= {"OK", "UNAVAILABLE"}, seen
