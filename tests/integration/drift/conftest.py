"""A drift service on a real port, without trainings, and rows to send to it."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.api.drift.v1 import drift_pb2_grpc as pb_grpc
from meshcast.observations import CategoryColumn, Observations, pack_observations
from meshcast.rpc import RpcSettings, Server, channel, mesh_errors
from meshcast.runtime import RuntimeSettings, find_service
from meshcast.runtime.main import serving
from meshcast.services.drift.settings import DriftSettings
from meshcast.services.drift.shipped_subject import shipped_rows

CALL_S = 20.0


def rows(count: int = 500, seed: int = 0, *, shift: float = 0.0, unix_us: int | None = None) -> Observations:
    """Rows of three normal columns, the first one shifted, and of one column of categories.

    Args:
        count: of rows.
        seed: the same gives the same.
        shift: of the first column, in its standard deviations.
        unix_us: time of the first row, the others a second apart; None for none.
    """
    rng = np.random.default_rng(seed)
    numeric = {f"x{at}": rng.normal(size=count).astype(np.float32) for at in range(3)}
    numeric["x0"] += np.float32(shift)
    town = CategoryColumn(rng.integers(0, 3, count).astype(np.int32), ("Oslo", "Rome", "Bonn"))
    times = None if unix_us is None else unix_us + 1_000_000 * np.arange(count, dtype=np.int64)
    return Observations(count, numeric, {"town": town}, times)


@dataclass(frozen=True)
class Drift:
    """A running drift service and its stub; `stop` ends it before the test does."""

    server: Server
    stub: pb_grpc.DriftServiceStub
    stop: Callable[[], Awaitable[None]]

    async def set_reference(
        self, observations: Observations, subject: str = "a", *, window_rows: int = 0, **fields: Any
    ) -> pb.ReferenceDescription:
        """Sets a reference of rows."""
        options = pb.DriftOptions(trains_autoencoder=False, window_rows=window_rows)
        request = pb.SetReferenceRequest(
            subject=subject, observations=pack_observations(observations), options=options, **fields
        )
        with mesh_errors():
            return (await self.stub.SetReference(request, timeout=CALL_S)).reference

    async def observe(self, *chunks: pb.ObserveStreamRequest) -> list[pb.ObserveStreamResponse]:
        """The answers to chunks on one stream."""
        call = self.stub.ObserveStream(iter(chunks), timeout=CALL_S)
        with mesh_errors(call):
            return [answer async for answer in call]

    async def detect(self, **fields: Any) -> pb.DriftReport:
        """A report."""
        with mesh_errors():
            request = pb.DetectDataDriftRequest(**fields)
            return (await self.stub.DetectDataDrift(request, timeout=CALL_S)).report

    async def describe(self, subject: str = "a") -> pb.ReferenceDescription:
        """A subject as it stands."""
        with mesh_errors():
            answer = await self.stub.DescribeModel(pb.DescribeModelRequest(subject=subject), timeout=CALL_S)
        return answer.references[0]


def chunk(observations: Observations, sequence: int = 0, **fields: Any) -> pb.ObserveStreamRequest:
    """A chunk of rows of the subject `a`, unless it is told otherwise."""
    fields = {"subject": "a", **fields}
    return pb.ObserveStreamRequest(sequence=sequence, observations=pack_observations(observations), **fields)


Start = Callable[..., Awaitable[Drift]]


@pytest_asyncio.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a service over the test's own state: `await start(window_rows=100)`; settings are of the table [drift]."""
    async with AsyncExitStack() as stack:

        async def one(**settings: Any) -> Drift:
            runtime = RuntimeSettings(state_dir=tmp_path, backend="onnxruntime/cpu/f32", choose_s=0.05, runs_max=1)
            rpc = RpcSettings(port=0, metrics=False, drain_delay_s=0.0, drain_s=5.0)
            table = DriftSettings(**{"trains_autoencoder": False, **settings})
            own = await stack.enter_async_context(AsyncExitStack())
            server, _ = await own.enter_async_context(serving(find_service("drift"), runtime, rpc, table=table))
            opened = await own.enter_async_context(channel(server.address))
            return Drift(server, pb_grpc.DriftServiceStub(opened), own.aclose)

        yield one


@pytest_asyncio.fixture
async def drift(start: Start) -> Drift:
    """A service with windows of 100 rows."""
    return await start(window_rows=100)


@pytest.fixture(scope="session")
def drift_example() -> Callable[[int], Observations]:
    """Rows of the shipped subject, of its reference."""
    reference = shipped_rows().observations
    rng = np.random.default_rng(0)
    return lambda count: reference.take(rng.integers(0, reference.rows, count))


@pytest.fixture
def now_us() -> int:
    """The time, microseconds since 1970."""
    return time.time_ns() // 1000


@pytest.fixture
def kit() -> Any:
    """What tests need beside: the names of this module."""
    return sys.modules[__name__]
