"""Single flight: equal questions that are under way at the same time share one call."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from typing import TypeAlias

import grpc

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import Cancelled, DeadlineExceeded, MeshError

from .cache import question_key
from .exchange import Answer, Exchange, Priority, Stage, TryFailed

_Outcome: TypeAlias = Answer | TryFailed | MeshError | None
"""How the shared call ended; None where that says nothing about the others."""
_Waiters: TypeAlias = "dict[asyncio.Future[_Outcome], None]"
_Key: TypeAlias = tuple[bytes, Priority, bool]

# Ends that come of the one caller: its deadline, its leaving.
_OF_ONE_CALLER = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})


class SingleFlight:
    """Stage: the first of equal questions asks, those that come meanwhile wait for its answer.

    Each waits within its own deadline, and may leave at any time without a trace. Where the one that asks leaves, its
    deadline passes or the limit refuses it, the next in line asks in its stead. Any other failure is everyone's. Equal
    questions of different priorities do not share: one that is urgent must not wait where one that is not waits. Nor do
    those that wait for a restart and those that do not.

    What is shared carries the id of the call that asked, so it says `from_cache`.

    Args:
        inner: the next stage.
    """

    def __init__(self, inner: Stage) -> None:
        self._inner = inner
        self._flights: dict[_Key, _Waiters] = {}

    async def __call__(self, exchange: Exchange) -> Answer:
        """Answers the call, or raises as the shared call did.

        Raises:
            DeadlineExceeded: the shared call took longer than this one could wait.
        """
        key = question_key(exchange), exchange.priority, exchange.is_hasty
        while (waiters := self._flights.get(key)) is not None:
            outcome = await _follow(waiters, exchange)
            if isinstance(outcome, Answer):
                exchange.backend.load.counts.shared += 1
                return replace(outcome, head=(), trailers=(), from_cache=True)
            if outcome is not None:
                exchange.backend.load.counts.shared += 1
                raise _own(outcome)
        return await self._lead(key, exchange)

    async def _lead(self, key: _Key, exchange: Exchange) -> Answer:
        """Asks; tells those who wait how it ended, whatever way that is."""
        waiters = self._flights[key] = {}
        outcome: _Outcome = None
        try:
            answer = outcome = await self._inner(exchange)
            return answer
        except (TryFailed, MeshError) as failure:
            outcome = None if _is_of_one_caller(failure) else failure
            raise
        finally:
            del self._flights[key]
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(outcome)


async def _follow(waiters: _Waiters, exchange: Exchange) -> _Outcome:
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[_Outcome] = loop.create_future()  # its own, as whoever is cancelled cancels what it awaits
    waiters[waiter] = None
    timer = loop.call_later(max(0.0, exchange.remaining_s()), _expire, waiter, exchange.backend.name)
    try:
        return await waiter
    finally:
        timer.cancel()
        waiters.pop(waiter, None)


def _expire(waiter: asyncio.Future[_Outcome], backend: str) -> None:
    if not waiter.done():
        waiter.set_exception(
            DeadlineExceeded(f"{backend} had not answered an equal call in time either", where="gateway")
        )


def _is_of_one_caller(failure: TryFailed | MeshError) -> bool:
    if isinstance(failure, TryFailed):
        return failure.error.code() in _OF_ONE_CALLER
    return isinstance(failure, DeadlineExceeded | Cancelled) or failure.reason == ErrorReason.ERROR_REASON_LIMIT_REACHED


def _own(failure: TryFailed | MeshError) -> TryFailed | MeshError:
    """The failure for another task to raise: an exception collects the traces of everyone that raises it."""
    if isinstance(failure, TryFailed):
        return TryFailed(failure.error, failure.endpoint)
    return copy.copy(failure)
