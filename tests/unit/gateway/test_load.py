"""Load: what is counted of a route, its rates over ten seconds and its latencies."""

from __future__ import annotations

from meshcast.gateway.load import RouteLoad
from meshcast.gateway.percentiles import VALUES_MAX


def test_streams_are_counted_without_a_latency() -> None:
    load = RouteLoad()
    load.record("OK")
    assert load.calls_by_code == {"OK": 1}
    assert load.latencies_ms.at(0.5) is None


def test_rates_are_of_the_last_ten_seconds() -> None:
    load = RouteLoad()
    for second in range(100, 120):
        for _ in range(second - 99):
            load.record("OK", now=float(second))
    assert load.recent.calls_per_s(120.0) == sum(range(11, 21)) / 10
    assert load.recent.calls_per_s(124.0) == sum(range(15, 21)) / 10
    assert load.recent.calls_per_s(129.0) == 20 / 10
    assert load.recent.calls_per_s(130.0) == 0.0


def test_the_oldest_second_leaves_bit_by_bit() -> None:
    load = RouteLoad()
    for _ in range(100):
        load.record("OK", now=50.0)
    assert load.recent.calls_per_s(59.9) == 10.0
    assert load.recent.calls_per_s(60.25) == 7.5
    assert load.recent.calls_per_s(61.0) == 0.0


def test_a_long_silence_leaves_nothing_behind() -> None:
    load = RouteLoad()
    load.record("UNAVAILABLE", now=7.0)
    load.record("OK", now=1e6)
    assert load.recent.calls_per_s(1e6) == 0.1
    assert load.recent.error_share(1e6) == 0.0


def test_only_failures_of_the_mesh_are_errors() -> None:
    load = RouteLoad()
    assert load.recent.error_share(5.0) is None
    for code in ("OK", "INVALID_ARGUMENT", "CANCELLED", "UNAVAILABLE", "RESOURCE_EXHAUSTED"):
        load.record(code, now=5.0)
    assert load.recent.error_share(5.0) == 0.4
    assert load.recent.error_share(30.0) is None


def test_latencies_fall_into_the_buckets_of_the_metrics() -> None:
    load = RouteLoad()
    for latency_s in (0.0004, 0.0005, 0.02, 99.0):
        load.record("OK", latency_s)
    load.record("OK")
    assert load.buckets == [2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert load.seconds == 0.0004 + 0.0005 + 0.02 + 99.0


def test_only_the_last_calls_count_for_percentiles_but_all_for_codes() -> None:
    load = RouteLoad()
    for _ in range(10):
        load.record("UNAVAILABLE", 9.0)
    for _ in range(VALUES_MAX):
        load.record("OK", 0.001)
    assert load.latencies_ms.at(1.0) == 1.0
    assert load.calls_by_code == {"UNAVAILABLE": 10, "OK": VALUES_MAX}


def test_chunks_are_those_of_all_streams() -> None:
    class Stream:
        def __init__(self, chunks: int) -> None:
            self.open = chunks

    load = RouteLoad()
    assert load.chunks_in_flight == 0
    load.streams |= {Stream(3), Stream(4)}
    assert load.chunks_in_flight == 7
