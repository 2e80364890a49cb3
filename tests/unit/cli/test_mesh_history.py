"""Mesh history: paces out of totals, and graphs out of messages that come when they come."""

from typing import Any

import pytest

from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.cli.mesh_history import SAMPLES_MAX, MeshHistory, Pace, TryPace, brief, load_of


def message(at_s: float, *, started_s: int = 1, tries: dict[str, int] | None = None, **fields: Any) -> pb.MeshHealth:
    health = pb.MeshHealth()
    health.read_time.FromNanoseconds(round(at_s * 1e9))
    health.started_time.FromSeconds(started_s)
    service = health.services.add(name="predictor", **fields)
    service.replicas.add(endpoint="one:1", tries_by_code=tries or {})
    return health


def test_one_message_has_no_pace() -> None:
    history = MeshHistory()
    assert history.pace("predictor") == Pace()
    history.update(message(100.0, counts=pb.PipelineCounts(hedges=70)))
    assert history.pace("predictor") == Pace()
    assert history.tries("predictor", "one:1") == TryPace()


def test_paces_are_differences_a_second() -> None:
    history = MeshHistory()
    history.update(message(100.0, counts=pb.PipelineCounts(hedges=70, shed={"low": 1}, cache_hits=1)))
    history.update(
        message(
            104.0,
            counts=pb.PipelineCounts(
                hedges=78,
                retries=2,
                shed={"low": 3, "high": 2},
                cache_hits=3,
                shared=2,
                fallbacks={"baseline": 1, "cache": 3},
                broken=1,
                late=3,
                chunks_resent=6,
            ),
        )
    )
    assert history.pace("predictor") == Pace(
        hedges=2.0, retries=0.5, shed=1.0, cached=1.0, fallbacks=1.0, refused=1.0, resent=1.5
    )
    assert history.pace("fox") == Pace()


def test_paces_are_over_the_last_ten_seconds() -> None:
    history = MeshHistory()
    for second in range(60):
        history.update(message(second, counts=pb.PipelineCounts(retries=0 if second < 55 else 10)))
    assert history.pace("predictor").retries == pytest.approx(1.0)


def test_tries_are_told_with_the_share_that_the_mesh_failed() -> None:
    history = MeshHistory()
    history.update(message(10.0, tries={"OK": 100, "UNAVAILABLE": 50}))
    history.update(message(12.0, tries={"OK": 104, "UNAVAILABLE": 52, "INVALID_ARGUMENT": 2}))
    assert history.tries("predictor", "one:1") == TryPace(tries_per_s=4.0, failed_share=0.25)
    assert history.tries("predictor", "other:1") == TryPace()


def test_a_replica_that_came_back_starts_anew() -> None:
    history = MeshHistory()
    history.update(message(10.0, tries={"OK": 100}))
    history.update(message(12.0, tries={"OK": 3}))
    assert history.tries("predictor", "one:1") == TryPace()


def test_a_gateway_that_started_anew_is_noticed_and_its_totals_are_not_compared() -> None:
    history = MeshHistory()
    history.update(message(10.0, counts=pb.PipelineCounts(retries=100)))
    history.update(message(12.0, counts=pb.PipelineCounts(retries=5), started_s=11))
    assert (history.restarts, history.pace("predictor")) == (1, Pace())
    history.update(message(14.0, counts=pb.PipelineCounts(retries=7), started_s=11))
    assert (history.restarts, history.pace("predictor").retries) == (1, 1.0)


def test_graphs_have_a_point_an_interval_whenever_messages_come() -> None:
    history = MeshHistory(sample_s=1.0)
    for at_s, rate in ((0.0, 1.0), (0.3, 2.0), (0.95, 3.0), (1.1, 4.0), (3.0, 5.0)):
        history.update(message(at_s, calls_per_s=rate, latency_ms_p50=10 * rate))
    assert history.graph("predictor", "calls") == (2.0, 4.0, 5.0)
    assert history.graph("predictor", "p50") == (20.0, 40.0, 50.0)
    assert history.graph("fox", "calls") == ()


def test_graphs_are_bounded() -> None:
    history = MeshHistory()
    for second in range(3 * SAMPLES_MAX):
        history.update(message(second, calls_per_s=second))
    assert len(history.graph("predictor", "calls")) == SAMPLES_MAX


def test_a_load_that_was_told_long_ago_says_nothing() -> None:
    health = message(100.0)
    (replica,) = health.services[0].replicas
    assert load_of(health, replica) is None
    replica.load.utilization = 0.5
    replica.load.reported_time.FromSeconds(91)
    assert load_of(health, replica) == replica.load
    replica.load.reported_time.FromSeconds(89)
    assert load_of(health, replica) is None


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (
            "UNAVAILABLE: failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:8111: "
            "connect: Connection refused (111)",
            "connection refused",
        ),
        ("DEADLINE_EXCEEDED: Stream removed (Deadline Exceeded)", "silent: it answers no health check"),
        (
            "UNAVAILABLE: failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:8131: "
            "connection attempt timed out before receiving SETTINGS frame",
            "silent: it takes no connection",
        ),
        ("it ended its health watch", "it ended its health watch"),
    ],
)
def test_why_a_replica_cannot_be_reached_is_one_line(problem: str, told: str) -> None:
    assert brief(problem) == told


def test_calls_and_errors_are_of_the_same_time_as_all_other_paces() -> None:
    history = MeshHistory()
    history.update(message(10.0, calls_by_code={"OK": 100}))
    assert history.span_s == 0.0 and history.calls("predictor") == TryPace()
    history.update(message(12.0, calls_by_code={"OK": 102, "NOT_FOUND": 4, "UNAVAILABLE": 2}))
    assert history.span_s == 2.0
    assert history.calls("predictor") == TryPace(tries_per_s=4.0, failed_share=0.25)
    assert history.calls("fox") == TryPace()
