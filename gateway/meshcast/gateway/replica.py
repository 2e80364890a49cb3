"""Replica: one address of a model service, its long-lived channel and what its health names say."""

from __future__ import annotations

import asyncio
import enum
import math
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import grpc.aio

from meshcast.rpc.orca import LoadReport

from .breaker import Breaker
from .inquiry import Inquiry
from .percentiles import Percentiles
from .wire import ReceiptFragment

_CHECK = "/grpc.health.v1.Health/Check"
_CHECK_S = 0.4  # a busy service answers within some milliseconds, as its models run beside its event loop
_NOBODY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})
_SMOOTHING = 0.2  # of the latency: about the last ten tries count


class State(enum.IntEnum):
    """State of a service or model; the numbers of `ServingState`, the best one lowest."""

    SERVING = 1
    NOT_SERVING = 2
    UNREACHABLE = 3


class Replica:
    """One address of a model service.

    Attributes:
        endpoint: `host:port`.
        channel: the one channel to it, for its whole life.
        in_flight: calls that are under way on it, from this gateway.
        services: state of each watched health name; None for a name that the replica does not know.
        models: state of each `model/...` health name that it listed last.
        models_asked: set when the models should be listed at once.
        changed_time: when the state last changed.
        problem: why it cannot be reached; empty when it can.
        is_known: True once it was reached or found unreachable.
        breaker: admits tries, or keeps them away after failures.
        inquiry: asks it whether it is busy or gone, when tries wait without a word.
        tries: finished tries on it by the name of their gRPC status code.
        latencies_ms: of its last tries that were answered.
        latency_s: the same, smoothed; 0 before the first.
        latency_at: when `latency_s` changed last, on `time.perf_counter()`; minus infinity before that.
        heard_at: when anything was heard from it last, on the same clock.
        report: what it said of its load last; None when it never did.
        reported_at: when it did, on the same clock.
        picked: number of the route's pick that chose it last; 0 before any.
    """

    __slots__ = (
        "_fragments",
        "_stream",
        "_unary",
        "_unary_stream",
        "breaker",
        "changed_time",
        "channel",
        "endpoint",
        "heard_at",
        "in_flight",
        "inquiry",
        "is_known",
        "latencies_ms",
        "latency_at",
        "latency_s",
        "models",
        "models_asked",
        "picked",
        "problem",
        "report",
        "reported_at",
        "services",
        "tries",
    )

    def __init__(self, endpoint: str, channel: grpc.aio.Channel, breaker: Breaker | None = None) -> None:
        self.endpoint = endpoint
        self.channel = channel
        self.in_flight = 0
        self.services: dict[str, State | None] = {}
        self.models: dict[str, State] = {}
        self.models_asked = asyncio.Event()
        self.changed_time = datetime.now(UTC)
        self.problem = "not reached yet"
        self.is_known = False
        self.breaker = breaker or Breaker()
        self.inquiry = Inquiry(endpoint, self._says_anything, lambda: self.is_reachable, self.breaker)
        self.tries: Counter[str] = Counter()
        self.latencies_ms = Percentiles()
        self.latency_s = 0.0
        self.latency_at = -math.inf
        self.heard_at = -math.inf
        self.report: LoadReport | None = None
        self.reported_at = -math.inf
        self.picked = 0
        self._unary: dict[str, Callable[..., Any]] = {}
        self._unary_stream: dict[str, Callable[..., Any]] = {}
        self._stream: dict[str, Callable[..., Any]] = {}
        self._fragments: dict[tuple[int, int], ReceiptFragment] = {}

    @property
    def is_reachable(self) -> bool:
        """True when its health could be read last time."""
        return not self.problem

    def ask_models(self) -> None:
        """Has the models listed at once, as a call has just changed them."""
        self.models_asked.set()

    async def close(self, grace_s: float | None = None) -> None:
        """Closes the channel.

        Args:
            grace_s: seconds that its calls get to end; None ends them at once.
        """
        await self.channel.close(grace=grace_s)
        await self.inquiry.close()

    def answered(self, latency_s: float, now: float) -> None:
        """Takes note of a try that was answered.

        Args:
            latency_s: seconds from the try's begin to its answer.
            now: time on `time.perf_counter()`.
        """
        self.heard_at = now
        self.latencies_ms.add(latency_s * 1e3)
        if self.latency_s:
            self.latency_s += _SMOOTHING * (latency_s - self.latency_s)
        else:
            self.latency_s = latency_s
        self.latency_at = now

    async def _says_anything(self) -> bool:
        try:
            await self.unary(_CHECK)(b"", timeout=_CHECK_S)
        except grpc.aio.AioRpcError as error:
            if error.code() in _NOBODY:
                return False
        except grpc.aio.UsageError:  # its channel is being closed: the route has left it
            return True
        self.heard_at = time.perf_counter()
        return True

    def unary(self, method: str) -> Callable[..., Any]:
        """The unary call of a method over encoded messages, made once."""
        call = self._unary.get(method)
        if call is None:
            call = self._unary[method] = self.channel.unary_unary(method)
        return call

    def unary_stream(self, method: str) -> Callable[..., Any]:
        """The server-streaming call of a method over encoded messages, made once."""
        call = self._unary_stream.get(method)
        if call is None:
            call = self._unary_stream[method] = self.channel.unary_stream(method)
        return call

    def stream(self, method: str) -> Callable[..., Any]:
        """The bidirectional call of a method over encoded messages, made once. On the wire every kind is one."""
        call = self._stream.get(method)
        if call is None:
            call = self._stream[method] = self.channel.stream_stream(method)
        return call

    def fragment(self, attempts: int, default_deadline_ms: int) -> ReceiptFragment:
        """The receipt fragment of answers from here; arguments as in `ReceiptFragment`."""
        key = (attempts, default_deadline_ms)
        fragment = self._fragments.get(key)
        if fragment is None:
            fragment = self._fragments[key] = ReceiptFragment(
                endpoint=self.endpoint, attempts=attempts, default_deadline_ms=default_deadline_ms
            )
        return fragment
