"""Load: calls by code, calls under way and latency percentiles of one route."""

from __future__ import annotations

import math
from array import array

from .counts import PipelineCounts

LATENCIES_MAX = 1024  # as ServiceHealth documents it


class RouteLoad:
    """Counters of one route since the gateway started."""

    __slots__ = ("_latencies_ms", "_recorded", "calls_by_code", "counts", "in_flight")

    def __init__(self) -> None:
        self.calls_by_code: dict[str, int] = {}
        self.in_flight = 0
        self.counts = PipelineCounts()
        self._latencies_ms = array("d")
        self._recorded = 0

    def record(self, code: str, latency_s: float | None = None) -> None:
        """Counts one finished call.

        Args:
            code: name of its gRPC status code, as in `OK`.
            latency_s: seconds from arrival to answer; None for streams, whose length says nothing about the service.
        """
        self.calls_by_code[code] = self.calls_by_code.get(code, 0) + 1
        if latency_s is None:
            return
        if self._recorded < LATENCIES_MAX:
            self._latencies_ms.append(latency_s * 1e3)
        else:
            self._latencies_ms[self._recorded % LATENCIES_MAX] = latency_s * 1e3
        self._recorded += 1

    def latency_ms(self, share: float) -> float | None:
        """Latency in milliseconds that this share of the last 1,024 calls stayed at or below; None without calls.

        Args:
            share: 0 to 1, as in 0.5 for the median. Nearest-rank definition.
        """
        if not self._latencies_ms:
            return None
        ordered = sorted(self._latencies_ms)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
