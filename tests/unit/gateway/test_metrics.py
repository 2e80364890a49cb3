"""Metrics of the gateway: the families say what the routes' loads hold."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from meshcast.gateway import Backend, RouteSettings
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
