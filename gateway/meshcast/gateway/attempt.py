"""Attempt: one try of a call on one replica, and what the replica's counters and its breaker learn from it."""

from __future__ import annotations

import math
import time
from typing import Any

import grpc
import grpc.aio

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import DeadlineExceeded, end_call, from_rpc_error, wait_ended
from meshcast.rpc.orca import TRAILER, parse

from .breaker import NOT_COUNTED, Outcome
from .exchange import Answer, Exchange, TryFailed
from .forwarding import backends_metadata
from .replica import Replica

_DETAILS = "grpc-status-details-bin"
_FAILURES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DATA_LOSS,
    }
)
_SMOOTHING = 0.05  # of what an answer of a method usually takes: about the last forty count
# The transport's own codes where nobody has answered.
_UNHEARD = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})
# Said by a replica that is well: its health names tell the same, and are what keeps calls away from it.
_TOLD = frozenset({ErrorReason.ERROR_REASON_DRAINING, ErrorReason.ERROR_REASON_MODEL_LOADING})


async def attempt(exchange: Exchange, replica: Replica) -> Answer:
    """Asks a replica.

    Args:
        exchange: the call; its tries are counted.
        replica: that is asked.

    Raises:
        TryFailed: the replica's word, or the transport's.
        DeadlineExceeded: no time is left.
    """
    return await Try(exchange, replica).answer()


class Try:
    """A try that has begun, as its call to the replica has.

    It must be ended: by `answer`, or by `abandon`.

    Attributes:
        replica: that is asked.
        call: grpc's call; its `done()` and `add_done_callback` tell when `answer` will not wait.
        began: when it began, on `time.perf_counter()`.
        given_s: what the replica was given.
    """

    __slots__ = ("_has_ended", "_path", "_turn", "_usual_s", "began", "call", "given_s", "replica")

    def __init__(self, exchange: Exchange, replica: Replica) -> None:
        """Begins the try.

        Args:
            exchange: the call; its tries are counted.
            replica: that is asked.

        Raises:
            DeadlineExceeded: no time is left.
        """
        self.began = now = time.perf_counter()
        self.given_s = exchange.ends_at - now
        if self.given_s <= 0:
            raise DeadlineExceeded("no time is left for another try", where="gateway")
        self.replica = replica
        self._path = path = exchange.policy.path
        self._usual_s = exchange.backend.usual_s
        self.call: Any = replica.unary(path)(exchange.request, timeout=self.given_s, metadata=exchange.metadata)
        self._has_ended = False
        self._turn = replica.breaker.begin(now)
        replica.in_flight += 1
        exchange.attempts += 1

    async def answer(self) -> Answer:
        """Waits for the answer.

        Raises:
            TryFailed: the replica's word, or the transport's.
        """
        replica, call = self.replica, self.call
        try:
            await wait_ended(call)
            response = await call
            ended = time.perf_counter()
            head, trailers = await call.initial_metadata(), await call.trailing_metadata()
        except grpc.aio.AioRpcError as error:
            self._failed(error)
            raise TryFailed(error, replica.endpoint) from error
        except BaseException:
            self.abandon()
            raise
        self._end("OK", Outcome.OK, ended)
        took_s = ended - self.began
        replica.answered(took_s, ended)
        usual_s = self._usual_s.get(self._path, took_s)
        self._usual_s[self._path] = usual_s + _SMOOTHING * (took_s - usual_s)
        for key, value in trailers or ():
            if key == TRAILER and (report := parse(value)) is not None:
                replica.report, replica.reported_at = report, ended
        return Answer(
            response,
            backends_metadata(head) if head else (),
            backends_metadata(trailers) if trailers else (),
            replica.endpoint,
        )

    def abandon(self, fair_s: float = math.inf) -> float:
        """Cancels the try, if it has not ended; returns how long it has run, in seconds.

        That says nothing about the replica, but for one thing: where nothing at all was heard from it since a try began
        that had a fair time, it is asked whether it is busy or gone. So a frozen replica, or one behind a dead network,
        is found out though its tries are all cancelled for the sake of quicker ones.

        Args:
            fair_s: seconds in which an answer could be expected. Infinite, as when the caller has gone: never.
        """
        now = time.perf_counter()
        ran_s = now - self.began
        if not self._has_ended:
            end_call(self.call)
            if ran_s >= fair_s:
                self.question()
            self._end("CANCELLED", Outcome.IGNORED, now)
        return ran_s

    @property
    def is_silent(self) -> bool:
        """True when nothing at all was heard from the replica since the try began."""
        return self.replica.heard_at < self.began

    def question(self) -> None:
        """Has the replica asked whether it is busy or gone, where it is silent; the try itself then says no more."""
        if self.is_silent and self._turn != NOT_COUNTED:
            self.replica.inquiry.accuse(self._turn)
            self._turn = NOT_COUNTED

    def _failed(self, error: grpc.aio.AioRpcError) -> None:
        now = time.perf_counter()
        code = error.code()
        has_said = any(key == _DETAILS for key, _ in error.trailing_metadata() or ())
        if has_said or code not in _UNHEARD:
            self.replica.heard_at = now
        self._end(code.name, self._outcome(code, error, has_said=has_said), now)

    def _outcome(self, code: grpc.StatusCode, error: grpc.aio.AioRpcError, *, has_said: bool) -> Outcome:
        if code not in _FAILURES:
            return Outcome.IGNORED
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._late()
        if has_said and from_rpc_error(error).reason in _TOLD:
            return Outcome.IGNORED
        return Outcome.FAILED

    def _late(self) -> Outcome:
        """What it says of the replica that the time was over: a failure where the time was enough for an answer."""
        usual_s = self._usual_s.get(self._path, math.inf)
        if self.given_s < self.replica.breaker.settings.given_ms_min / 1e3:
            return Outcome.IGNORED
        if self.given_s < usual_s:  # a caller may ask for what nobody can do; what others get must not hang on it
            self.question()
            return Outcome.IGNORED
        return Outcome.FAILED

    def _end(self, code: str, outcome: Outcome, now: float) -> None:
        self._has_ended = True
        replica = self.replica
        replica.in_flight -= 1
        replica.tries[code] += 1
        replica.breaker.end(self._turn, outcome, now)
