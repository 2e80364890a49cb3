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


def test_percentiles_follow_what_is_recorded_after_a_read() -> None:
    load = RouteLoad()
    load.record("OK", 0.001)
    assert load.latency_ms(0.9) == 1.0
    load.record("OK", 0.002)
    assert load.latency_ms(0.9) == 2.0
