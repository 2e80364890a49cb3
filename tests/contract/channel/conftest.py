"""Fixtures of the channel's contract: servers that say who answered, on chosen loopback addresses."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from meshcast.rpc import LoadMeter, LoadReport, NotReady, Overloaded, RpcSettings, Server, ServingStatus
from meshcast.rpc.orca import NATIVE_TRAILER, encode

METHOD = "/meshcast.test.WhoService/Ask"
Context = grpc.aio.ServicerContext[Any, Any]


class FixedLoad(LoadMeter):
    """Tells one utilisation, at 100 calls a second."""

    def __init__(self, utilization: float) -> None:
        super().__init__()
        self._fixed = ((NATIVE_TRAILER, encode(LoadReport(utilization, rps=100.0))),)

    def trailers(self) -> tuple[tuple[str, bytes], ...]:
        return self._fixed


class Who(grpc.GenericRpcHandler):
    """A server that answers its name; `fails` has it refuse instead.

    Attributes:
        name: its answer.
        fails: UNAVAILABLE for every call while it is set; an Overloaded is raised as it is.
        calls: that have begun.
        previous: values of `grpc-previous-rpc-attempts` that came, in order.
        server: once it runs.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.fails: bool | Overloaded = False
        self.calls = 0
        self.previous: list[str] = []
        self.server: Server

    @property
    def address(self) -> str:
        """`host:port`."""
        return self.server.address

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """grpc's handler of the one method."""
        return grpc.unary_unary_rpc_method_handler(self._ask) if handler_call_details.method == METHOD else None

    async def _ask(self, request: bytes, context: Context) -> bytes:
        self.calls += 1
        metadata = dict(context.invocation_metadata() or ())
        self.previous.append(str(metadata.get("grpc-previous-rpc-attempts", "0")))
        if isinstance(self.fails, Overloaded):
            raise self.fails
        if self.fails:
            raise NotReady("out of order")
        return self.name.encode()


StartWho = Callable[..., Awaitable[Who]]
Ask = Callable[..., Awaitable[str]]


@pytest.fixture
async def start() -> AsyncIterator[StartWho]:
    """Starts servers: `await start("a", host="127.0.0.2", port=0, utilization=0.5, connection_age_max_s=1)`."""
    async with AsyncExitStack() as stack:

        async def started(name: str, *, utilization: float | None = None, **settings: Any) -> Who:
            who = Who(name)
            rpc = RpcSettings(**{"metrics": False, "drain_delay_s": 0.0, "drain_s": 1.0, **settings})
            meter = None if utilization is None else FixedLoad(utilization)
            server = Server(rpc, generic_handlers=[who], access="none", meter=meter)
            who.server = await stack.enter_async_context(server)
            server.health.set("", ServingStatus.SERVING)
            return who

        yield started


@pytest.fixture
def ask() -> Ask:
    """One call: `await ask(channel, timeout=1)` gives the name of the server that answered."""

    async def asked(channel: grpc.aio.Channel, *, timeout: float = 5.0, **options: Any) -> str:
        call: Any = channel.unary_unary(METHOD)
        answer: bytes = await call(b"", timeout=timeout, **options)
        return answer.decode()

    return asked


async def answers(ask: Ask, channel: grpc.aio.Channel, count: int, **options: Any) -> Counter[str]:
    """Who answered so many calls in a row."""
    return Counter([await ask(channel, **options) for _ in range(count)])


async def until(condition: Callable[[], Awaitable[bool]], *, timeout: float = 10.0) -> None:
    """Asks again and again until it holds; a bound, not a measurement."""
    async with asyncio.timeout(timeout):
        while not await condition():  # noqa: ASYNC110  # grpc's own clock
            await asyncio.sleep(0.01)


@pytest.fixture
def several() -> Callable[..., Awaitable[Counter[str]]]:
    """Who answered so many calls in a row: `await several(ask, channel, 100)`."""
    return answers


@pytest.fixture
def wait_until() -> Callable[..., Awaitable[None]]:
    """Waits until an async condition holds."""
    return until
