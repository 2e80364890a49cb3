"""Load: what is counted, and percentiles over the last 1,024 calls."""

from __future__ import annotations

from meshcast.gateway.load import LATENCIES_MAX, RouteLoad


def test_without_calls_there_is_no_percentile() -> None:
    assert RouteLoad().latency_ms(0.5) is None


def test_percentiles_are_nearest_ranks_in_milliseconds() -> None:
    load = RouteLoad()
    for ms in range(100, 0, -1):
        load.record("OK", ms / 1e3)
    assert (load.latency_ms(0.5), load.latency_ms(0.99), load.latency_ms(1.0)) == (50.0, 99.0, 100.0)


def test_one_call_is_every_percentile() -> None:
    load = RouteLoad()
    load.record("OK", 0.002)
    assert load.latency_ms(0.5) == load.latency_ms(0.99) == 2.0


def test_only_the_last_calls_count_for_percentiles_but_all_for_codes() -> None:
    load = RouteLoad()
    for _ in range(10):
        load.record("UNAVAILABLE", 9.0)
    for _ in range(LATENCIES_MAX):
        load.record("OK", 0.001)
    assert load.latency_ms(1.0) == 1.0
    assert load.calls_by_code == {"UNAVAILABLE": 10, "OK": LATENCIES_MAX}


def test_streams_are_counted_without_a_latency() -> None:
    load = RouteLoad()
    load.record("OK")
    assert load.calls_by_code == {"OK": 1}
    assert load.latency_ms(0.5) is None
