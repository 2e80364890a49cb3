"""Metrics of the gateway: the families say what the routes' loads hold."""

from __future__ import annotations

from pathlib import Path

import grpc.aio
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from meshcast.gateway import Backend, Replica, RouteSettings
from meshcast.gateway.breaker import BreakerState
from meshcast.gateway.metrics import COUNTS, KINDS, GatewayMetrics


@pytest.fixture
def backend() -> Backend:
    return Backend("predictor", RouteSettings(services=("acme.EchoService",)))


@pytest.fixture
def registry(backend: Backend) -> CollectorRegistry:
    registry = CollectorRegistry()
    GatewayMetrics({"predictor": backend}, registry)
    return registry


def sample(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"meshcast_gateway_{name}", {"route": "predictor", **labels})


def test_calls_are_told_by_code_in_the_words_of_the_server_families(
    backend: Backend, registry: CollectorRegistry
) -> None:
    backend.load.record("OK", 0.004)
    backend.load.record("UNAVAILABLE", 0.004)
    backend.load.in_flight = 3
    assert sample(registry, "calls_total", grpc_code="OK") == 1
    assert sample(registry, "calls_total", grpc_code="Unavailable") == 1
    assert sample(registry, "in_flight") == 3


def test_latencies_are_a_histogram(backend: Backend, registry: CollectorRegistry) -> None:
    for latency_s in (0.0004, 0.004, 50.0):
        backend.load.record("OK", latency_s)
    assert sample(registry, "latency_seconds_count") == 3
    assert sample(registry, "latency_seconds_sum") == 0.0004 + 0.004 + 50.0
    assert sample(registry, "latency_seconds_bucket", le="0.005") == 2
    assert sample(registry, "latency_seconds_bucket", le="+Inf") == 3


def test_every_count_of_the_pipeline_is_a_family(backend: Backend, registry: CollectorRegistry) -> None:
    for number, field in enumerate(COUNTS, start=1):
        setattr(backend.load.counts, field, number)
    for field in KINDS:
        getattr(backend.load.counts, field)["some"] = 7
    for number, field in enumerate(COUNTS, start=1):
        assert sample(registry, f"{field}_total") == number
    for field, (label, _) in KINDS.items():
        assert sample(registry, f"{field}_total", **{label: "some"}) == 7
    assert {*COUNTS, *KINDS} == {*type(backend.load.counts).__slots__}


def test_a_gateway_without_calls_can_be_read(registry: CollectorRegistry) -> None:
    assert b"meshcast_gateway_hedges_total" in generate_latest(registry)


async def test_a_replicas_breaker_is_one_of_its_states(backend: Backend, registry: CollectorRegistry) -> None:
    channel = grpc.aio.insecure_channel("127.0.0.1:1")
    replica = backend.replicas["one:1"] = Replica("one:1", channel)
    replica.tries["UNAVAILABLE"] = 2
    states = {
        state.name.lower(): sample(registry, "breaker", replica="one:1", state=state.name.lower())
        for state in BreakerState
    }
    assert states == {"closed": 1, "open": 0, "half_open": 0}
    assert sample(registry, "replica_tries_total", replica="one:1", grpc_code="Unavailable") == 2
    assert sample(registry, "replica_serving", replica="one:1") == 0
    await channel.close()


def test_every_family_is_documented(registry: CollectorRegistry) -> None:
    page = (Path(__file__).parents[3] / "docs" / "gateway.md").read_text("utf-8")
    for family in registry.collect():
        name = family.name.removeprefix("meshcast_gateway_")
        assert f"`{name}" in page, name
