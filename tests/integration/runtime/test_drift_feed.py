"""The feed of the drift service against a service that keeps what it is told and can refuse, freeze and go away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.api.drift.v1 import drift_pb2_grpc as pb_grpc
from meshcast.observations import unpack_observations
from meshcast.rpc import InvalidInput, MeshError, NotFound, RpcSettings, Server, ServingStatus, to_item
from meshcast.runtime import Signature, Tap, TapColumns, TapRecord, TensorSpec
from meshcast.runtime.drift_feed import DriftFeed, FeedMetrics, drift_feed
from meshcast.runtime.settings import TapSettings

SIGNATURE = Signature(inputs=(TensorSpec(name="x", shape=(2,)),), outputs=(TensorSpec(name="y"),))
COLUMNS = TapColumns.of(SIGNATURE)


class Drift(pb_grpc.DriftServiceServicer):
    """Answers `meshcast.api.drift.v1.DriftService`, as far as a feed asks it."""

    def __init__(self) -> None:
        self.references: list[pb.SetReferenceRequest] = []
        self.rows: dict[str, list[float]] = {}
        self.names: tuple[str, ...] = ()
        self.has_reference = True
        self.refusal: MeshError | None = None
        self.is_frozen = False
        self.asked = asyncio.Event()

    async def ObserveStream(
        self, requests: AsyncIterator[pb.ObserveStreamRequest], context: Any
    ) -> AsyncIterator[pb.ObserveStreamResponse]:
        async for request in requests:
            self.asked.set()
            if self.is_frozen:
                await asyncio.Event().wait()
            error = self.refusal
            if request.purpose != pb.PURPOSE_REFERENCE and not self.has_reference:
                error = NotFound("no such subject")
            if error is not None:
                yield pb.ObserveStreamResponse(sequence=request.sequence, status=to_item(error))
                continue
            table = unpack_observations(request.observations, {}, "observations")
            self.names = table.names
            self.rows.setdefault(request.subject, []).extend(table.numeric["y"].tolist())
            yield pb.ObserveStreamResponse(sequence=request.sequence, rows=table.rows)

    async def DescribeModel(self, request: pb.DescribeModelRequest, context: Any) -> pb.DescribeModelResponse:
        if not self.has_reference:
            raise NotFound("no such subject")
        return pb.DescribeModelResponse(references=[pb.ReferenceDescription(subject=request.subject)])

    async def SetReference(self, request: pb.SetReferenceRequest, context: Any) -> pb.SetReferenceResponse:
        self.references.append(request)
        self.has_reference = True
        return pb.SetReferenceResponse()


class Bench:
    """A feed and the service that it feeds, which can be taken away and brought back at the same address."""

    def __init__(self, drift: Drift) -> None:
        self.drift = drift
        self.port = 0
        self.feed: DriftFeed
        self.rows = 0
        self._serving = AsyncExitStack()

    async def serve(self) -> None:
        settings = RpcSettings(port=self.port, metrics=False, drain_delay_s=0.0, drain_s=0.1)
        service: Callable[[Any], None] = lambda server: pb_grpc.add_DriftServiceServicer_to_server(self.drift, server)  # noqa: E731
        server = await self._serving.enter_async_context(Server(settings, services=[service]))
        server.health.set("", ServingStatus.SERVING)
        self.port = server.port

    async def stop(self) -> None:
        await self._serving.aclose()
        self._serving = AsyncExitStack()

    def run(self, rows: int) -> None:
        """The model answers so many rows; the output is the row's number."""
        y = np.arange(self.rows, self.rows + rows, dtype=np.float32)
        self.rows += rows
        self.feed.tap(TapRecord("m", 1, "test", rows, {"x": np.stack([y, -y], axis=1)}, {"y": y}))

    async def until(self, is_true: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not is_true():  # noqa: ASYNC110  # counts have no event to wait for
                await asyncio.sleep(0.005)


@pytest.fixture
async def bench() -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:

        async def start(*, rows_max: int = 1_000, **options: Any) -> Bench:
            made = Bench(Drift())  # type: ignore[abstract]  # what a feed does not ask is not here
            await made.serve()
            stack.push_async_callback(made.stop)
            tap = Tap(columns=COLUMNS, share=1.0, rows_max=rows_max, rng=random.Random(0))
            times = {"gather_s": 0.01, "pause_s": 0.02, "pause_s_max": 0.05}
            made.feed = DriftFeed(f"127.0.0.1:{made.port}", subject="m", tap=tap, **{**times, **options})
            await stack.enter_async_context(made.feed)
            return made

        yield start


async def test_rows_are_observed_in_order_under_their_names(bench: Any) -> None:
    mesh = await bench()
    for rows in (3, 1, 5):
        mesh.run(rows)
        await mesh.until(lambda: mesh.feed.observed == mesh.rows)
    assert mesh.drift.rows == {"m": list(range(9))}
    assert mesh.drift.names == ("x[0]", "x[1]", "y")
    registry = CollectorRegistry()
    registry.register(FeedMetrics(mesh.feed))
    assert registry.get_sample_value("meshcast_tap_rows_total", {"model": "m", "outcome": "observed"}) == 9
    assert registry.get_sample_value("meshcast_tap_rows_total", {"model": "m", "outcome": "lost"}) == 0
    assert registry.get_sample_value("meshcast_tap_connected", {"model": "m"}) == 1


async def test_rows_without_a_reference_are_kept_nowhere_until_there_is_one(bench: Any) -> None:
    mesh = await bench()
    mesh.drift.has_reference = False
    mesh.run(3)
    await mesh.until(lambda: not mesh.feed.tap.is_open)
    assert (mesh.feed.observed, mesh.feed.lost, mesh.feed.is_connected) == (0, 3, False)
    assert not mesh.drift.references
    mesh.drift.has_reference = True
    await mesh.until(lambda: mesh.feed.tap.is_open)
    mesh.run(2)
    await mesh.until(lambda: mesh.feed.observed == 2)
    assert mesh.drift.rows == {"m": [3.0, 4.0]}


async def test_the_first_rows_become_the_reference_where_that_is_asked_for(bench: Any) -> None:
    mesh = await bench(reference_rows=6)
    mesh.drift.has_reference = False
    mesh.run(2)  # finds out that there is none
    await mesh.until(lambda: mesh.feed.lost == 2)
    for rows in (4, 4):
        mesh.run(rows)
        await mesh.until(lambda: sum(map(len, mesh.drift.rows.values())) == mesh.rows - 2)
    await mesh.until(lambda: mesh.drift.references)
    (reference,) = mesh.drift.references
    assert reference.subject == "m" and reference.draft.startswith("m.tap-")
    assert [(one.name, one.role) for one in reference.features] == [("y", pb.FEATURE_ROLE_OUTPUT)]
    mesh.run(3)
    await mesh.until(lambda: mesh.feed.observed == 3)
    assert mesh.drift.rows == {reference.draft: list(range(2, 10)), "m": [10.0, 11.0, 12.0]}


async def test_a_reference_that_came_meanwhile_is_kept(bench: Any) -> None:
    mesh = await bench(reference_rows=6)
    mesh.drift.has_reference = False
    mesh.run(2)
    await mesh.until(lambda: mesh.feed.lost == 2)
    mesh.run(4)
    await mesh.until(lambda: mesh.drift.rows)
    mesh.drift.has_reference = True  # of another replica
    mesh.run(4)
    await mesh.until(lambda: sum(map(len, mesh.drift.rows.values())) == 8)
    mesh.run(3)
    await mesh.until(lambda: mesh.feed.observed == 3)
    assert not mesh.drift.references and mesh.drift.rows["m"] == [10.0, 11.0, 12.0]


async def test_a_refusal_is_counted_and_tried_again_later(bench: Any) -> None:
    mesh = await bench()
    mesh.drift.refusal = InvalidInput("other columns than the reference", field="observations")
    mesh.run(3)
    await mesh.until(lambda: mesh.feed.lost == 3 and not mesh.feed.tap.is_open)
    mesh.drift.refusal = None
    await mesh.until(lambda: mesh.feed.tap.is_open)
    mesh.run(1)
    await mesh.until(lambda: mesh.feed.observed == 1)


async def test_a_service_that_comes_back_is_fed_again(bench: Any) -> None:
    mesh = await bench()
    mesh.run(1)
    await mesh.until(lambda: mesh.feed.observed == 1)
    await mesh.stop()
    await mesh.until(lambda: mesh.run(1) or mesh.feed.tap.dropped)
    await mesh.serve()
    observed = mesh.feed.observed
    await mesh.until(lambda: mesh.run(1) or mesh.feed.observed > observed)
    fates = (mesh.feed.observed, mesh.feed.lost, mesh.feed.under_way, mesh.feed.tap.dropped, mesh.feed.tap.rows)
    assert sum(fates) == mesh.rows


async def test_a_frozen_service_costs_the_rows_beyond_the_bound_and_no_time(bench: Any) -> None:
    mesh = await bench(rows_max=10)
    mesh.drift.is_frozen = True
    mesh.run(4)
    await asyncio.wait_for(mesh.drift.asked.wait(), 20)
    for _ in range(5):
        mesh.run(4)
    assert (mesh.feed.tap.rows, mesh.feed.tap.dropped, mesh.feed.under_way, mesh.feed.lost) == (8, 12, 4, 0)
    await mesh.stop()
    await mesh.until(lambda: mesh.feed.lost == 4)
    assert (mesh.feed.under_way, mesh.feed.tap.dropped) == (0, 20)


@pytest.mark.parametrize(
    ("settings", "observed"),
    [
        (TapSettings(), None),
        (TapSettings(drift="127.0.0.1:1", share=0.0), None),
        (TapSettings(drift="127.0.0.1:1"), {}),
    ],
)
def test_without_a_place_a_share_or_columns_there_is_no_feed(settings: TapSettings, observed: Any) -> None:
    columns = TapColumns.of(SIGNATURE, observed)
    assert drift_feed(settings, subject="m", columns=columns, tls=None, registry=CollectorRegistry()) is None
