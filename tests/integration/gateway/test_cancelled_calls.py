"""Callers that leave at any moment: the pipeline before real servers keeps no place, no count and no task of theirs."""

from __future__ import annotations

import asyncio
import random

import grpc.aio
import pytest

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.gateway import Backends, GatewaySettings, RouteSettings
from meshcast.gateway.asking import Mesh
from meshcast.gateway.concurrency import LimitSettings
from meshcast.gateway.exchange import PRIORITY_KEY, TryFailed
from meshcast.rpc import ChannelSettings, Health, MeshError, channel
from scripted_backend import Script, ScriptedBackend

PREDICTOR = "meshcast.api.predictor.v1.PredictorService"
METHOD = "PredictEngagement"
PATH = f"/{PREDICTOR}/{METHOD}"
NARROW = LimitSettings(calls_initial=4, calls_min=4, calls_max=6, waiting_max=20)  # most calls wait, and some are shed
CALLS, AT_A_TIME = 400, 24


def connect(endpoint: str, server_name: str) -> grpc.aio.Channel:
    return channel(endpoint, settings=ChannelSettings(plain=True))


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"retried": (METHOD,)},
        {"once": (METHOD,)},
        {"cached_s": {METHOD: 0.01}, "fallbacks": {METHOD: ("version", "cache")}},
    ],
    ids=["hedged", "retried", "once", "cached"],
)
async def test_whenever_callers_leave_nothing_of_their_calls_is_left(policy: dict[str, object]) -> None:
    draw = random.Random(7)
    async with (
        ScriptedBackend(Script(latency_ms=2.0, failure_share=0.2)) as one,
        ScriptedBackend(Script(latency_ms=5.0)) as other,
    ):
        route = RouteSettings(services=(PREDICTOR,), endpoints=(one.address, other.address), **policy)  # type: ignore[arg-type]
        settings = GatewaySettings(routes={"predictor": route}, limit=NARROW)
        async with Backends(settings, connect=connect, health=Health()) as backends:
            await backends.wait_first_contact(5.0)
            mesh = Mesh(backends)
            slots = asyncio.Semaphore(AT_A_TIME)

            async def call(number: int) -> None:
                async with slots:
                    request = pb.PredictEngagementRequest(request_id=str(number), channel=str(draw.randrange(3)))
                    metadata = ((PRIORITY_KEY, draw.choice(["high", "normal", "low"])),)
                    asking = asyncio.create_task(
                        mesh.ask(PATH, request.SerializeToString(), metadata=metadata, remaining_s=2.0)
                    )
                    await asyncio.wait([asking], timeout=draw.choice([0.0, 0.001, 0.003, 0.006, 0.02, None]))
                    asking.cancel()
                    (end,) = await asyncio.gather(asking, return_exceptions=True)
                    assert isinstance(end, (tuple, asyncio.CancelledError, TryFailed, MeshError)), end

            await asyncio.gather(*(call(number) for number in range(CALLS)))
            backend = backends.by_name["predictor"]
            limit = mesh.stages(backend).limit
            assert limit is not None
            async with asyncio.timeout(5):
                while any(replica.inquiry.is_under_way for replica in backend.replicas.values()):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert (limit.concurrency.in_flight, limit.waiting) == (0, 0)
            assert (backend.load.in_flight, backend.bulkhead.in_use) == (0, 0)
            places = [(replica.in_flight, replica.breaker.probes) for replica in backend.replicas.values()]
            assert places == [(0, 0), (0, 0)]
            assert sum(backend.load.calls_by_code.values()) == CALLS
