"""Counts appear under the conventional names, before the first call, and in bounded number."""

from __future__ import annotations

import grpc
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from meshcast.rpc.metrics import BUCKETS_S, METHODS_MAX, Metrics

LABELS = {"grpc_type": "unary", "grpc_service": "a.B", "grpc_method": "C"}


def test_a_known_method_has_series_before_its_first_call() -> None:
    registry = CollectorRegistry()
    Metrics(registry).method("/a.B/C", "unary")
    assert registry.get_sample_value("grpc_server_started_total", LABELS) == 0
    assert registry.get_sample_value("grpc_server_handled_total", {**LABELS, "grpc_code": "OK"}) == 0


def test_calls_are_counted_by_code_with_the_names_that_dashboards_expect() -> None:
    registry = CollectorRegistry()
    counts = Metrics(registry).method("/a.B/C", "unary")
    counts.started, counts.received, counts.sent = 3, 3, 2
    counts.finish(grpc.StatusCode.OK, 0.003)
    counts.finish(grpc.StatusCode.CANCELLED, 100.0)
    counts.finish(grpc.StatusCode.INVALID_ARGUMENT, 0.0)
    for code in ("OK", "Canceled", "InvalidArgument"):
        assert registry.get_sample_value("grpc_server_handled_total", {**LABELS, "grpc_code": code}) == 1
    assert registry.get_sample_value("grpc_server_msg_received_total", LABELS) == 3
    assert registry.get_sample_value("grpc_server_msg_sent_total", LABELS) == 2
    assert registry.get_sample_value("grpc_server_handling_seconds_count", LABELS) == 3
    assert registry.get_sample_value("grpc_server_handling_seconds_sum", LABELS) == pytest.approx(100.003)
    assert registry.get_sample_value("grpc_server_handling_seconds_bucket", {**LABELS, "le": "0.005"}) == 2
    assert registry.get_sample_value("grpc_server_handling_seconds_bucket", {**LABELS, "le": "+Inf"}) == 3


def test_a_time_on_a_bucket_bound_belongs_to_that_bucket() -> None:
    registry = CollectorRegistry()
    counts = Metrics(registry).method("/a.B/C", "unary")
    counts.finish(grpc.StatusCode.OK, BUCKETS_S[0])
    bucket = {**LABELS, "le": str(BUCKETS_S[0])}
    assert registry.get_sample_value("grpc_server_handling_seconds_bucket", bucket) == 1


def test_callers_cannot_blow_the_registry_up() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for number in range(METHODS_MAX * 3):
        metrics.method(f"/a.B/C{number}", "unary").started += 1
    lines = [line for line in generate_latest(registry).splitlines() if line.startswith(b"grpc_server_started_total")]
    assert len(lines) == METHODS_MAX + 1
    other = {"grpc_type": "bidi_stream", "grpc_service": "other", "grpc_method": "other"}
    assert registry.get_sample_value("grpc_server_started_total", other) == METHODS_MAX * 2
