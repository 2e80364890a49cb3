"""The least that a Python gateway can be: a grpc.aio server that passes every call's bytes on to one target.

    python bench/bare_relay.py 127.0.0.1:8101

prints `port <number>` and serves until SIGTERM. The measure for what ours adds.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import grpc

from meshcast.rpc import ChannelSettings, run
from meshcast.rpc.channel import channel_options


class Relay(grpc.GenericRpcHandler):
    """Passes single calls and streams on, and nothing else: no receipt, no metadata, no limits."""

    def __init__(self, to: grpc.aio.Channel) -> None:
        self._to = to
        self._calls: dict[str, Any] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A handler of any method: both ways a stream where the name says so."""
        method: str = handler_call_details.method
        if method.endswith("Stream"):
            return grpc.stream_stream_rpc_method_handler(self._stream(method))
        ask: Any = self._calls.setdefault(method, self._to.unary_unary(method))

        async def unary(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            answer: bytes = await ask(request, timeout=context.time_remaining())
            return answer

        return grpc.unary_unary_rpc_method_handler(unary)

    def _stream(self, method: str) -> Any:
        async def stream(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            answers: Any = self._to.stream_stream(method)(requests, timeout=context.time_remaining())
            async for answer in answers:
                yield answer

        return stream


async def serve(target: str) -> None:
    """Serves until SIGTERM."""
    options = channel_options(ChannelSettings(plain=True))
    async with grpc.aio.insecure_channel(target, options=options) as to:
        server = grpc.aio.server(options=options[:2])
        server.add_generic_rpc_handlers((Relay(to),))
        print(f"port {server.add_insecure_port('127.0.0.1:0')}", flush=True)
        await server.start()
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        await stopped.wait()
        await server.stop(1.0)


if __name__ == "__main__":
    run(serve(sys.argv[1]))
