"""Load: calls by code, calls under way, rates of the last ten seconds and latencies of one route."""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import Protocol

from meshcast.rpc.metrics import BUCKETS_S

from .counts import PipelineCounts
from .percentiles import Percentiles

WINDOW_S = 10  # as ServiceHealth documents it
MESH_FAILURES = frozenset(
    ("UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN", "DATA_LOSS", "RESOURCE_EXHAUSTED")
)
"""Codes of calls that failed for a reason of the mesh's, not of the caller's; likewise."""

_SLOTS = WINDOW_S + 1  # whole seconds, and the one that is running


class RecentCalls:
    """Calls and failures of the last ten seconds, counted by the second."""

    __slots__ = ("_calls", "_failed", "_second")

    def __init__(self) -> None:
        self._calls = [0] * _SLOTS
        self._failed = [0] * _SLOTS
        self._second = 0

    def add(self, is_failure: bool, now: float) -> None:
        """Counts one call.

        Args:
            is_failure: whether it failed for a reason of the mesh's.
            now: seconds on a clock that never goes back.
        """
        second = int(now)
        if second != self._second:
            self._forget(second)
        slot = second % _SLOTS
        self._calls[slot] += 1
        if is_failure:
            self._failed[slot] += 1

    def calls_per_s(self, now: float) -> float:
        """Calls a second; of the second that the window's edge cuts, its share inside of the window."""
        return self._sum(self._calls, now) / WINDOW_S

    def error_share(self, now: float) -> float | None:
        """Share of the calls that failed, 0 to 1; None without calls."""
        calls = self._sum(self._calls, now)
        return self._sum(self._failed, now) / calls if calls else None

    def _sum(self, counts: list[int], now: float) -> float:
        second = int(now)
        self._forget(second)
        # Slot `second + 1` holds the oldest second: as much of it has left the window as the running one is old.
        return sum(counts) - counts[(second + 1) % _SLOTS] * (now - second)

    def _forget(self, second: int) -> None:
        """Empties the slots of the seconds that have begun since the last look."""
        for gone in range(max(self._second, second - _SLOTS) + 1, second + 1):
            self._calls[gone % _SLOTS] = self._failed[gone % _SLOTS] = 0
        self._second = max(self._second, second)


class CallLimit(Protocol):
    """How many calls of a route may be under way."""

    @property
    def calls_max(self) -> int:
        """Calls that may be under way now."""
        ...

    @property
    def share(self) -> float:
        """Share of them that are under way; more than 1 where calls wait."""
        ...

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn."""
        ...


class OpenChunks(Protocol):
    """The chunks of one stream."""

    @property
    def open(self) -> int:
        """Chunks that are not answered yet."""
        ...


class RouteLoad:
    """Counters of one route since the gateway started; plain numbers that only the gateway's event loop changes.

    Attributes:
        calls_by_code: finished calls by the name of their gRPC status code.
        in_flight: calls that are under way.
        counts: what the pipeline's stages did.
        recent: calls of the last ten seconds.
        latencies_ms: of the last single calls.
        buckets: single calls by latency, a number a bucket of `meshcast.rpc.metrics.BUCKETS_S` and one beyond.
        seconds: sum of the same latencies.
        limit: the route's limit, which the pipeline puts here; None where it has none.
        streams: the chunks of each stream that is spread over the replicas now.
    """

    __slots__ = (
        "buckets",
        "calls_by_code",
        "counts",
        "in_flight",
        "latencies_ms",
        "limit",
        "recent",
        "seconds",
        "streams",
    )

    def __init__(self) -> None:
        self.calls_by_code: dict[str, int] = {}
        self.in_flight = 0
        self.counts = PipelineCounts()
        self.recent = RecentCalls()
        self.latencies_ms = Percentiles()
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.seconds = 0.0
        self.limit: CallLimit | None = None
        self.streams: set[OpenChunks] = set()

    @property
    def chunks_in_flight(self) -> int:
        """Chunks of streams that are not answered yet."""
        return sum(stream.open for stream in tuple(self.streams))  # which the thread of the metrics reads too

    def record(self, code: str, latency_s: float | None = None, *, now: float | None = None) -> None:
        """Counts one finished call.

        Args:
            code: name of its gRPC status code, as in `OK`.
            latency_s: seconds from arrival to answer; None for streams, whose length says nothing about the service.
            now: when it ended, on `time.perf_counter()`; None reads it.
        """
        self.calls_by_code[code] = self.calls_by_code.get(code, 0) + 1
        self.recent.add(code in MESH_FAILURES, time.perf_counter() if now is None else now)
        if latency_s is None:
            return
        self.seconds += latency_s
        self.buckets[bisect_left(BUCKETS_S, latency_s)] += 1
        self.latencies_ms.add(latency_s * 1e3)
