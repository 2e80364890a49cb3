"""Load meter: how busy a server is, averaged over about a second, as the trailer that goes with its answers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import grpc

from .orca import NATIVE_TRAILER, TRAILER, LoadReport, encode

WINDOW_S = 1.0
"""Time over which figures are averaged: what was longer ago counts for less than a third."""
CACHED_S = 0.1
"""How long a report stands, so that most answers cost no more than a comparison."""
REPORTS_PER_S = 100.0
"""About as many answers a second carry the report: metadata cost both sides 17 us, an answer of the mesh 300."""

FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)
"""Ends that count as the server's errors: balancers give it less. A caller's mistakes are not among them."""


class Work(NamedTuple):
    """What a part of the server has done and has before it.

    Attributes:
        busy_s: seconds of work since the start, of all slots together.
        slots: things that work at a time.
        queue_rows: rows that wait for a slot.
        queue_s: seconds that the slots will take for them.
    """

    busy_s: float
    slots: int
    queue_rows: int = 0
    queue_s: float = 0.0


class LoadMeter:
    """Load of one server, as its own event loop sees it; make it on the loop's thread.

    Its utilisation is that of its busiest part: the event loop's thread, or the slots of a model. On top of it comes
    the time that the waiting rows will take, as a share of the window; it may therefore be more than 1.

    Args:
        works: tells the parts, always the same in the same order; None for a server that has only its loop.
        limit_share: tells what share of its own limits the server uses, 0 or more; None where it has none.
        clock: seconds that never go back.
        thread_clock: seconds of processor time of the loop's thread.

    Attributes:
        calls: that have ended.
        faults: those among them that the server itself failed, see `FAULTS`.
    """

    __slots__ = (
        "_at",
        "_averages",
        "_clock",
        "_due",
        "_every",
        "_left",
        "_limit_share",
        "_seen",
        "_thread_clock",
        "_trailers",
        "_works",
        "calls",
        "faults",
        "report",
    )

    def __init__(
        self,
        works: Callable[[], Sequence[Work]] | None = None,
        *,
        limit_share: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        thread_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self.calls = 0
        self.faults = 0
        self.report = LoadReport()
        self._works = works
        self._limit_share = limit_share
        self._clock, self._thread_clock = clock, thread_clock
        self._at = clock()
        self._due = self._at  # the first answer is the first look
        self._averages: list[float] = []  # a second: calls, faults, the loop's seconds, each part's
        self._seen = self._counters(() if works is None else works())
        self._trailers = _trailers(self.report)
        self._every = self._left = 1  # answers to one report

    def trailers(self) -> tuple[tuple[str, bytes], ...]:
        """Metadata with the report, at most `CACHED_S` old; none for most answers where there are very many."""
        now = self._clock()
        if now >= self._due:
            self._look(now)
        self._left -= 1
        if self._left > 0:
            return ()
        self._left = self._every
        return self._trailers

    def _counters(self, works: Sequence[Work]) -> list[float]:
        return [self.calls, self.faults, self._thread_clock(), *(work.busy_s / max(1, work.slots) for work in works)]

    def _look(self, now: float) -> None:
        works = () if self._works is None else self._works()
        counters = self._counters(works)
        elapsed_s = max(now - self._at, CACHED_S)  # right after the start there is nothing to divide by
        rates = [(new - old) / elapsed_s for new, old in zip(counters, self._seen, strict=True)]
        kept = math.exp(-elapsed_s / WINDOW_S) if self._averages else 0.0
        before = self._averages or rates
        self._averages = [old * kept + rate * (1.0 - kept) for old, rate in zip(before, rates, strict=True)]
        rps, eps, *shares = self._averages
        self._every = max(1, int(rps / REPORTS_PER_S))
        limit_share = 0.0 if self._limit_share is None else self._limit_share()
        waiting = max((work.queue_s for work in works), default=0.0) / WINDOW_S
        named = {"queue_rows": float(sum(work.queue_rows for work in works))} if self._works is not None else {}
        self.report = LoadReport(max(*shares, limit_share) + waiting, rps, eps, named)
        self._trailers = _trailers(self.report)
        self._seen, self._at, self._due = counters, now, now + CACHED_S


def _trailers(report: LoadReport) -> tuple[tuple[str, bytes], ...]:
    data = encode(report)
    return (NATIVE_TRAILER, data), (TRAILER, data)
