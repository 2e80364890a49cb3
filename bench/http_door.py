"""What a call costs by each way in: gRPC and the HTTP door of one gateway, before a scripted backend.

Prints JSON: p50 and p99 of a unary call at one caller, in blocks that take turns, so that all ways see the same
machine; and calls a second of eight callers, the client's own work included. The HTTP client is a bare one on
connections that are kept: what a browser or a library adds is theirs.

    python bench/http_door.py
    python bench/http_door.py --short
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import json_format
from processes import free_port, gateway, machine

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.rpc import ChannelSettings, channel, run

PATH = "/meshcast.api.predictor.v1.PredictorService/PredictEngagement"
POSTS = 24
BLOCK = 20  # calls one way before the next way has its turn
Ask = Callable[[], Awaitable[None]]


def question() -> pb.PredictEngagementRequest:
    """A request of the usual size."""
    request = pb.PredictEngagementRequest(request_id="bench", channel="bench")
    request.planned.published_time.FromSeconds(1_700_000_000)
    columns = request.history_columns
    columns.posts = POSTS
    columns.published_unix_s = np.arange(POSTS, dtype="<i8").tobytes()
    for name in ("hour_of_day", "day_of_week", "content_length", "has_media", "forwards", "replies", "reactions"):
        setattr(columns, name, np.ones(POSTS, "<f4").tobytes())
    return request


class HttpCaller:
    """A connection that is kept, and one request that is sent on it again and again."""

    def __init__(self, port: int, body: bytes, kind: str) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n"
        self._request = head.encode() + b"connect-timeout-ms: 5000\r\n\r\n" + body

    async def ask(self) -> None:
        """One call; raises RuntimeError when it fails."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        assert self._reader is not None
        self._writer.write(self._request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        at = head.find(b"content-length: ")
        if at >= 0:
            await self._reader.readexactly(int(head[at + 16 : head.index(b"\r\n", at)]))
            return
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            await self._reader.readexactly(size + 2)
        await self._reader.readexactly(2)

    def close(self) -> None:
        """Leaves."""
        if self._writer is not None:
            self._writer.close()


async def backend(stack: AsyncExitStack) -> str:
    """Address of a scripted predictor."""
    script = Path(__file__).parents[1] / "tests" / "faults" / "scripted_backend.py"
    process = await asyncio.create_subprocess_exec(sys.executable, str(script), stdout=asyncio.subprocess.PIPE)

    async def end() -> None:
        process.terminate()
        await process.wait()

    stack.push_async_callback(end)
    assert process.stdout is not None
    return f"127.0.0.1:{json.loads(await process.stdout.readline())['port']}"


async def ways(stack: AsyncExitStack, direct: str, through: str, http_port: int) -> dict[str, list[Ask]]:
    """Eight callers of each way."""
    request = question()
    encoded = request.SerializeToString()
    text = json_format.MessageToJson(request, indent=None).encode()
    found: dict[str, list[Ask]] = {}
    for name, target in (("grpc direct", direct), ("grpc", through)):
        opened = await stack.enter_async_context(channel(target, settings=ChannelSettings(plain=True)))
        call: Any = opened.unary_unary(PATH)

        async def ask(call: Any = call) -> None:
            await call(encoded, timeout=5)

        found[name] = [ask] * 8
    envelope = struct.pack(">BI", 0, len(encoded)) + encoded
    for name, body, kind in (
        ("connect binary", encoded, "application/proto"),
        ("connect json", text, "application/json"),
        ("grpc-web", envelope, "application/grpc-web+proto"),
    ):
        found[name] = []
        for _ in range(8):
            caller = HttpCaller(http_port, body, kind)
            stack.callback(caller.close)
            found[name].append(caller.ask)
    return found


async def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """All ways, by turns."""
    async with AsyncExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        direct, http_port = await backend(stack), free_port()
        settings = {"MESHCAST_GATEWAY_HTTP_PORT": str(http_port)}
        running = await stack.enter_async_context(gateway(direct, state, settings))
        callers = await ways(stack, direct, running.target, http_port)
        taken: dict[str, list[float]] = {name: [] for name in callers}
        for turn in range(rounds + 2):
            for name, (ask, *_) in callers.items():
                for _ in range(BLOCK):
                    began = time.perf_counter()
                    await ask()
                    if turn > 1:
                        taken[name].append((time.perf_counter() - began) * 1e3)
        return {
            name: {
                "p50_ms": round(statistics.median(times), 3),
                "p99_ms": round(statistics.quantiles(times, n=100)[98], 3),
                "calls_per_s_of_8": round(await rate(callers[name], seconds)),
            }
            for name, times in taken.items()
        }


async def rate(callers: list[Ask], seconds: float) -> float:
    """Calls a second of all callers together."""
    count, until = 0, time.perf_counter() + seconds

    async def keep_asking(ask: Ask) -> None:
        nonlocal count
        while time.perf_counter() < until:
            await ask()
            count += 1

    async with asyncio.TaskGroup() as group:
        for ask in callers:
            group.create_task(keep_asking(ask), name="caller")
    return count / seconds


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=150, help="turns of each way")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long the eight callers ask")
    parser.add_argument("--short", action="store_true", help="a tenth, for a first look or a CI job")
    options = parser.parse_args()
    rounds, seconds = (15, 0.5) if options.short else (options.rounds, options.seconds)
    report = {"bench": "http_door", "machine": machine(), "grpcio": grpc.__version__}
    print(json.dumps(report | {"ways": run(measure(rounds, seconds))}, indent=2))


if __name__ == "__main__":
    main()
