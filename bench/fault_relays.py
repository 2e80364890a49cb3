"""Fault relays: what stands between a replica and its callers in the programs that break things, as processes.

    python bench/fault_relays.py bytes 127.0.0.1:8101    # takes `blackhole`, `reset` and `heal` on its standard input
    python bench/fault_relays.py calls 127.0.0.1:8101    # takes `fail 0.5` and `heal`

Each prints `port <number>` and serves until its input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc

from meshcast.rpc import ChannelSettings, run
from meshcast.rpc.channel import channel_options

sys.path.append(str(Path(__file__).parents[1] / "tests" / "faults"))

from fault_proxy import FaultProxy

_HEALTH = "/grpc.health.v1."
_START_S = 30.0
Context = grpc.aio.ServicerContext[Any, Any]


class FailingRelay(grpc.GenericRpcHandler):
    """Passes calls on; fails a share of them with UNAVAILABLE in place of that, health left out.

    Attributes:
        share: that fails, 0 to 1.
    """

    def __init__(self, to: grpc.aio.Channel) -> None:
        self.share = 0.0
        self._to = to
        self._random = random.Random(5)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A handler of any method: on the wire each is a stream both ways."""
        method: str = handler_call_details.method

        async def relay(requests: Any, context: Context) -> AsyncIterator[bytes]:
            if not method.startswith(_HEALTH) and self._random.random() < self.share:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "as planned")
            call: Any = self._to.stream_stream(method)(requests, timeout=context.time_remaining())
            try:
                async for answer in call:
                    yield answer
                context.set_trailing_metadata(await call.trailing_metadata())
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
            finally:
                call.cancel()

        return grpc.stream_stream_rpc_method_handler(relay)


async def _relay_bytes(target: str) -> None:
    async with FaultProxy(target) as proxy:
        print(f"port {proxy.address.rpartition(':')[2]}", flush=True)
        await _obey({"blackhole": proxy.blackhole, "reset": proxy.reset, "heal": proxy.heal})


async def _relay_calls(target: str) -> None:
    options = channel_options(ChannelSettings(plain=True))
    async with grpc.aio.insecure_channel(target, options=options) as to:
        relay = FailingRelay(to)
        server = grpc.aio.server(options=[*options[:2], ("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((relay,))
        print(f"port {server.add_insecure_port('127.0.0.1:0')}", flush=True)
        await server.start()

        def fail(share: str = "0") -> None:
            relay.share = float(share)

        await _obey({"fail": fail, "heal": fail})
        await server.stop(None)


async def _obey(words: dict[str, Callable[..., None]]) -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        word, *arguments = line.split()
        words[word](*arguments)


class RelayProcess:
    """One of the relays as a process; use it as an async context manager.

    Attributes:
        target: `host:port` that it listens on, once it is entered.
    """

    def __init__(self, kind: str, to: str) -> None:
        """Prepares the process.

        Args:
            kind: `bytes` or `calls`.
            to: `host:port` that it passes on to.
        """
        self.target = ""
        self._command = [sys.executable, str(Path(__file__).resolve()), kind, to]

    async def __aenter__(self) -> RelayProcess:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(*self._command, stdin=pipe, stdout=pipe)
        assert self._process.stdout is not None
        async with asyncio.timeout(_START_S):
            line = await self._process.stdout.readline()
        self.target = f"127.0.0.1:{line.split()[1].decode()}"
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def say(self, words: str) -> None:
        """Tells it what to do."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{words}\n".encode())
        await self._process.stdin.drain()


if __name__ == "__main__":
    run({"bytes": _relay_bytes, "calls": _relay_calls}[sys.argv[1]](sys.argv[2]))
