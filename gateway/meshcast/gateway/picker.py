"""Picker: which replica takes the next call. The less busy of two that are drawn at random."""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Sequence

from meshcast.rpc.orca import LoadReport

from .breaker import BreakerState
from .replica import Replica

REPORT_FRESH_S = 5.0  # a replica's own word about its load is older than that only where it gets no calls
LATENCY_FRESH_S = 1.0  # after it a slow replica is tried like any other: else it could never show that it is well again
# Latencies of equal replicas differ by chance, most where they are short; only more than this counts.
_RATIO_MIN, _DIFFERENCE_S_MIN = 1.5, 0.005
_BUSY_MIN = 0.1  # reports are a second old: to run after each small difference would only make it swing
_BATCH_ROWS = 32.0  # rows that a service runs at a time: as many waiting rows are as much as a call under way


class Picker:
    """Power of two choices over what is known of the replicas' load.

    Two random choices are nearly as good as the best of all, and callers that share stale reports do not all run to the
    same replica. Source: M. Mitzenmacher, The Power of Two Choices in Randomized Load Balancing (IEEE TPDS, 2001).

    Args:
        rng: draws; None for one of its own. The same draws give the same picks.
    """

    __slots__ = ("_picks", "_random")

    def __init__(self, rng: random.Random | None = None) -> None:
        self._random = (rng or random.Random()).random
        self._picks = 0

    def admitted(
        self, ready: Sequence[Replica], avoid: Collection[Replica] = (), now: float | None = None
    ) -> Replica | None:
        """The replica that takes the next call, among those whose breaker admits it; None when none does.

        One that is being asked whether it is gone is passed over while there is another.

        Args:
            ready: replicas that take calls.
            avoid: those that have just failed this call, or are busy with it.
            now: time on `time.perf_counter()`; None reads it.
        """
        now = time.perf_counter() if now is None else now
        closed = BreakerState.CLOSED
        if not avoid:
            count = len(ready)
            if count == 1:
                return ready[0] if ready[0].breaker.admits(now) else None
            if count:
                one, other = self._two(ready)
                if (
                    one.breaker.state is closed
                    and other.breaker.state is closed
                    and not one.inquiry.is_under_way
                    and not other.inquiry.is_under_way
                ):
                    return self._noted(lighter(one, other, now))
        admitted = [each for each in ready if each not in avoid and each.breaker.admits(now)]
        return self._among([each for each in admitted if not each.inquiry.is_under_way] or admitted, now)

    def any(
        self, ready: Sequence[Replica], avoid: Collection[Replica] = (), now: float | None = None
    ) -> Replica | None:
        """As `admitted`, but where no breaker admits it the lightest of the others; None when `ready` has no more."""
        now = time.perf_counter() if now is None else now
        return self.admitted(ready, avoid, now) or self._among([each for each in ready if each not in avoid], now)

    def _among(self, replicas: Sequence[Replica], now: float) -> Replica | None:
        if len(replicas) < 2:
            return replicas[0] if replicas else None
        return self._noted(lighter(*self._two(replicas), now))

    def _noted(self, picked: Replica) -> Replica:
        self._picks += 1
        picked.picked = self._picks
        return picked

    def _two(self, replicas: Sequence[Replica]) -> tuple[Replica, Replica]:
        count = len(replicas)
        first = int(self._random() * count)
        second = int(self._random() * (count - 1))
        return replicas[first], replicas[second + (second >= first)]


def lighter(one: Replica, other: Replica, now: float) -> Replica:
    """The one of two replicas that will likely answer first; of equals, the one whose turn it is.

    Compared are the calls under way on them from here, times what both have said of their load lately, times their
    recent latencies. What is known of one only, or is not fresh, says nothing.

    Args:
        one: a replica.
        other: another.
        now: time on `time.perf_counter()`.
    """
    weight, others = one.in_flight + 1.0, other.in_flight + 1.0
    report, others_report = one.report, other.report
    if report is not None and others_report is not None:
        oldest = now - REPORT_FRESH_S
        if one.reported_at >= oldest and other.reported_at >= oldest:
            busy, others_busy = _busy(report), _busy(others_report)
            if abs(busy - others_busy) > _BUSY_MIN:
                weight *= busy
                others *= others_busy
    oldest = now - LATENCY_FRESH_S
    if one.latency_at >= oldest and other.latency_at >= oldest:
        low_s, high_s = sorted((one.latency_s, other.latency_s))
        if high_s > _RATIO_MIN * low_s and high_s > low_s + _DIFFERENCE_S_MIN:
            weight *= one.latency_s
            others *= other.latency_s
    if weight == others:
        return one if one.picked <= other.picked else other
    return one if weight < others else other


def _busy(report: LoadReport) -> float:
    return 1.0 + report.application_utilization + report.named_metrics.get("queue_rows", 0.0) / _BATCH_ROWS
