"""Planned replicas: real servers that do with each call what the call itself says, and a hedge stage over them."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from fault_proxy import FaultProxy
from meshcast.gateway import Backend, Replica, RouteSettings, State
from meshcast.gateway.allowance import Allowance
from meshcast.gateway.breaker import Breaker, BreakerSettings
from meshcast.gateway.contracts import Idempotency, MethodContract, MethodKind
from meshcast.gateway.exchange import Exchange
from meshcast.gateway.hedge import Hedge, HedgeSettings
from meshcast.gateway.policy import MethodPolicy, Tries
from meshcast.gateway.retry import RetrySettings

SERVICE = "acme.EchoService"
PATH = f"/{SERVICE}/Echo"
FOREVER_S = 60.0

Plan = list[tuple[float, str]]
"""For each replica: seconds until it answers, and the name of the code that it answers with."""


@dataclass(eq=False)
class PlannedServer:
    """A server that reads its part of the plan out of each request.

    Attributes:
        number: which part.
        live: calls that are under way in it.
        cancelled: calls that were cancelled in it.
    """

    number: int
    live: int = 0
    cancelled: int = 0

    async def echo(self, request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        """Answers its number."""
        wait_s, code = json.loads(request)[self.number]
        self.live += 1
        try:
            await asyncio.sleep(wait_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.live -= 1
        if code != "OK":
            await context.abort(grpc.StatusCode[code], "as planned")
        return str(self.number).encode()


@dataclass(eq=False)
class Planned:
    """Planned servers, a fault proxy before each, and a hedge stage over them."""

    backend: Backend
    stage: Hedge
    policy: MethodPolicy
    servers: list[PlannedServer] = field(default_factory=list)
    proxies: list[FaultProxy] = field(default_factory=list)

    @property
    def replicas(self) -> list[Replica]:
        """The gateway's view of the servers, in their order."""
        return list(self.backend.replicas.values())

    def exchange(self, plan: Plan, deadline_s: float = 5.0) -> Exchange:
        """A call with a plan."""
        now = time.perf_counter()
        return Exchange(self.policy, self.backend, json.dumps(plan).encode(), (), now, now + deadline_s, 0)

    def prefer(self, number: int) -> None:
        """Has the next pick fall on a replica, by giving the others imaginary calls for it."""
        for other, replica in enumerate(self.replicas):
            replica.in_flight += 100 * (other != number)

    def forget(self, number: int) -> None:
        """Takes the imaginary calls away."""
        for other, replica in enumerate(self.replicas):
            replica.in_flight -= 100 * (other != number)

    async def idle(self) -> None:
        """Waits until no server has a call under way."""
        async with asyncio.timeout(5):
            while any(server.live for server in self.servers):  # noqa: ASYNC110  # servers learn of cancels by themselves
                await asyncio.sleep(0.002)


@asynccontextmanager
async def planned(
    count: int,
    *,
    hedge: HedgeSettings | None = None,
    retry: RetrySettings | None = None,
    breaker: BreakerSettings | None = None,
    interceptors: Any = (),
) -> AsyncIterator[Planned]:
    """Runs `count` planned servers."""
    backend = Backend("echo", RouteSettings(services=(SERVICE,)), random.Random(7))
    policy = MethodPolicy(
        contract=MethodContract(PATH, MethodKind.UNARY, False, Idempotency.NO_SIDE_EFFECTS),
        tries=Tries.HEDGED,
        deadline_s=5.0,
    )
    retry = retry or RetrySettings()
    stage = Hedge(
        policy,
        hedge or HedgeSettings(first_delay_ms=20.0),
        retry,
        Allowance(retry.share_max, retry.burst),
        retry_after_s=0.25,
        rng=random.Random(1),
    )
    made = Planned(backend, stage, policy)
    async with AsyncExitStack() as stack:
        for number in range(count):
            planned_server = PlannedServer(number)
            made.servers.append(planned_server)
            server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
            handlers: dict[str, Any] = {"Echo": grpc.unary_unary_rpc_method_handler(planned_server.echo)}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
            address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            await server.start()
            stack.push_async_callback(server.stop, None)
            proxy = await stack.enter_async_context(FaultProxy(address))
            made.proxies.append(proxy)
            address = proxy.address
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(address, [("grpc.enable_retries", 0)], interceptors=interceptors)
            )
            await channel.channel_ready()
            replica = backend.replicas[address] = Replica(address, channel, Breaker(breaker, random.Random(number)))
            stack.push_async_callback(replica.inquiry.close)
            replica.problem = ""
            replica.services = {"": State.SERVING, SERVICE: State.SERVING}
        backend.refresh()
        yield made
