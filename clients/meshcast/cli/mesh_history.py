"""Mesh history: what happened a second, from the totals of successive messages about the mesh's health."""

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.gateway.load import MESH_FAILURES

__all__ = ["Figure", "MeshHistory", "Pace", "TryPace", "brief", "load_of"]

Figure = Literal["calls", "p50", "p99"]
"""What a graph shows of a service: calls a second, or a latency in milliseconds."""

WINDOW_S = 10.0
"""Seconds that paces are averaged over, as the gateway averages its rates."""

SAMPLES_MAX = 60
"""Points of a graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What the gateway's pipeline did for a service, a second.

    Attributes:
        hedges: second tries beside a first one that had not answered.
        retries: tries after one that had failed.
        shed: calls refused by the limit, of all priorities.
        cached: answers from the cache, shared ones included.
        fallbacks: degraded answers of all kinds.
        refused: calls refused for an open breaker, or a deadline that could not be kept.
        resent: chunks sent to another replica.
    """

    hedges: float = 0.0
    retries: float = 0.0
    shed: float = 0.0
    cached: float = 0.0
    fallbacks: float = 0.0
    refused: float = 0.0
    resent: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TryPace:
    """Tries on a replica, or calls of a service.

    Attributes:
        tries_per_s: that ended, a second.
        failed_share: of those, 0 to 1, that failed for a reason of the mesh's; None where none ended.
    """

    tries_per_s: float = 0.0
    failed_share: float | None = None


@dataclass(frozen=True, slots=True)
class _Look:
    """Totals at a time."""

    at_s: float
    counts: dict[str, tuple[int, ...]]
    calls: dict[str, tuple[int, int]]
    tries: dict[tuple[str, str], tuple[int, int]]


class MeshHistory:
    """The last messages about a mesh's health; forgets all when the gateway has started anew, as its totals have.

    Args:
        sample_s: seconds between two points of the graphs.

    Attributes:
        restarts: starts of the gateway that were seen.
    """

    def __init__(self, *, sample_s: float = 1.0) -> None:
        self.restarts = 0
        self._sample_s = sample_s
        self._looks: deque[_Look] = deque()
        self._graphs: dict[tuple[str, Figure], deque[float]] = {}
        self._sampled_s = float("-inf")
        self._started = 0

    def update(self, health: pb.MeshHealth) -> None:
        """Takes the newest message."""
        started = health.started_time.ToNanoseconds()
        if self._started and started != self._started:
            self.restarts += 1
            self._looks.clear()
        self._started = started
        at_s = health.read_time.ToNanoseconds() / 1e9
        counts = {service.name: _totals(service.counts) for service in health.services}
        calls = {service.name: _ended(service.calls_by_code) for service in health.services}
        tries = {
            (service.name, replica.endpoint): _ended(replica.tries_by_code)
            for service in health.services
            for replica in service.replicas
        }
        self._looks.append(_Look(at_s, counts, calls, tries))
        while len(self._looks) > 2 and self._looks[1].at_s <= at_s - WINDOW_S:
            self._looks.popleft()  # the one before the window's edge stays: paces are over at least the window
        self._sample(health, at_s)

    def pace(self, service: str) -> Pace:
        """What the pipeline did for a service; nothing before a second message."""
        seconds, before, now = self._span()
        if not seconds or service not in now.counts:
            return Pace()
        was = before.counts.get(service, (0,) * len(now.counts[service]))
        rates = [max(0, total - old) / seconds for total, old in zip(now.counts[service], was, strict=True)]
        return Pace(**dict(zip(Pace.__slots__, rates, strict=True)))

    def calls(self, service: str) -> TryPace:
        """Calls of a service, over the same time; none before a second message."""
        seconds, before, now = self._span()
        return _pace(before.calls.get(service, (0, 0)), now.calls.get(service), seconds)

    def tries(self, service: str, endpoint: str) -> TryPace:
        """Tries on a replica, over the same time; none before a second message."""
        seconds, before, now = self._span()
        key = service, endpoint
        return _pace(before.tries.get(key, (0, 0)), now.tries.get(key), seconds)

    @property
    def span_s(self) -> float:
        """Seconds that paces are of: about ten once so much was seen; 0 before a second message."""
        return self._span()[0]

    def graph(self, service: str, figure: Figure) -> tuple[float, ...]:
        """Points of a service's graph, oldest first, at most 60."""
        return tuple(self._graphs.get((service, figure), ()))

    def _span(self) -> tuple[float, _Look, _Look]:
        if not self._looks:
            nothing = _Look(0.0, {}, {}, {})
            return 0.0, nothing, nothing
        before, now = self._looks[0], self._looks[-1]
        return max(0.0, now.at_s - before.at_s), before, now

    def _sample(self, health: pb.MeshHealth, at_s: float) -> None:
        is_new = at_s >= self._sampled_s + 0.9 * self._sample_s  # messages come a little early or late
        if is_new:
            self._sampled_s = at_s
        for service in health.services:
            figures: dict[Figure, float] = {
                "calls": service.calls_per_s,
                "p50": service.latency_ms_p50,
                "p99": service.latency_ms_p99,
            }
            for figure, value in figures.items():
                points = self._graphs.setdefault((service.name, figure), deque(maxlen=SAMPLES_MAX))
                if points and not is_new:
                    points[-1] = value
                else:
                    points.append(value)


def load_of(health: pb.MeshHealth, replica: pb.ReplicaHealth) -> pb.ReplicaLoad | None:
    """What a replica said of its load in the last ten seconds; None where it said nothing, as one without calls."""
    if not replica.HasField("load"):
        return None
    age_s = (health.read_time.ToNanoseconds() - replica.load.reported_time.ToNanoseconds()) / 1e9
    return replica.load if age_s <= WINDOW_S else None


def brief(problem: str) -> str:
    """Why a replica cannot be reached, as short as it can be said: without its address, which stands before it, and
    without grpc's words around the cause."""
    _, _, words = problem.partition(": ")
    if problem.startswith("DEADLINE_EXCEEDED") or "Stream removed" in words or "ping timeout" in words:
        return "silent: it answers no health check"
    if "timed out" in words:
        return "silent: it takes no connection"
    tail = re.search(r"ipv[46]:\S+: (?:Failed to connect to remote host: )?(.*)$", words)
    cause = tail[1] if tail else ""
    if "onnection refused" in (cause or words):
        return "connection refused"
    return cause.removesuffix(")") if cause and "(" not in cause else cause or problem


def _totals(counts: pb.PipelineCounts) -> tuple[int, ...]:
    """In the order of `Pace`."""
    return (
        counts.hedges,
        counts.retries,
        sum(counts.shed.values()),
        counts.cache_hits + counts.shared,
        sum(counts.fallbacks.values()),
        counts.broken + counts.late,
        counts.chunks_resent,
    )


def _ended(by_code: Mapping[str, int]) -> tuple[int, int]:
    """Calls or tries that ended, and those that failed for a reason of the mesh's."""
    return sum(by_code.values()), sum(number for code, number in by_code.items() if code in MESH_FAILURES)


def _pace(was: tuple[int, int], now: tuple[int, int] | None, seconds: float) -> TryPace:
    if not seconds or now is None:
        return TryPace()
    ended, failed = now[0] - was[0], now[1] - was[1]
    if ended <= 0:  # a replica that was taken out and came back counts from 0 again
        return TryPace()
    return TryPace(tries_per_s=ended / seconds, failed_share=max(0, failed) / ended)
