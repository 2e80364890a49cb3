"""Retry: tries a call on another replica after one has failed it, within a budget that a broken mesh soon empties."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import from_rpc_error
from meshcast.rpc.status import PUSHBACK_KEY

from .allowance import Allowance
from .budget import unreachable
from .exchange import Answer, Exchange, TryFailed
from .forwarding import never_began
from .policy import MethodPolicy, Tries

if TYPE_CHECKING:
    from .replica import Replica

Attempt = Callable[[Exchange, "Replica"], Awaitable[Answer]]

# Ended by the connection or by a drain; nothing that another replica would answer in the same way.
_PASSING = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
LASTING = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.NOT_FOUND})
"""What the same replica would say again after a short pause: only others are asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """How failed tries are repeated; the table `[gateway.retry]`."""

    attempts_max: int = 3
    """Tries of one call at most, the first included; tries on replicas that had not begun are not counted."""
    share_max: float = 0.2
    """Retries a call on average: each call pays in so much, and each retry takes 1."""
    burst: int = 10
    """Retries of a route that may come before any call has paid for them."""
    backoff_s: float = 0.02
    """Pause before the same replica is tried again; doubled each time, and drawn between 0 and that."""
    backoff_max_s: float = 0.5
    """Longest such pause."""

    def __post_init__(self) -> None:
        """Checks all values; raises ValueError naming the field."""
        if not 1 <= self.attempts_max <= 10:
            raise ValueError(f"retry.attempts_max must be between 1 and 10, is {self.attempts_max}")
        if not 0 <= self.share_max <= 1:  # NaN is none
            raise ValueError(f"retry.share_max must be between 0 and 1, is {self.share_max}")
        if not self.burst >= 1:
            raise ValueError(f"retry.burst must be 1 or more, is {self.burst}")
        if not 0 <= self.backoff_s <= self.backoff_max_s:
            raise ValueError(f"retry.backoff_s must be between 0 and backoff_max_s, is {self.backoff_s}")


def may_try_again(error: grpc.aio.AioRpcError, *, is_idempotent: bool) -> bool:
    """Whether another replica may answer a call that one has failed.

    A replica that is full is left for another only where it says when to come back, so that a mesh that is full
    everywhere is not asked twice as much by gateways that do not know what they are told. One that has not loaded the
    version that the call wants has refused it before it began.

    Args:
        error: how the replica's call ended.
        is_idempotent: whether a repeat of the call is harmless.
    """
    code = error.code()
    if never_began(error):
        return True
    if code is grpc.StatusCode.NOT_FOUND:
        return from_rpc_error(error).reason == ErrorReason.ERROR_REASON_VERSION_UNKNOWN
    if not is_idempotent:
        return False
    return code in _PASSING or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and _has_retry_time(error))


class Retry:
    """Stage: asks one replica and, where that fails, another.

    Where no other replica is left, one that failed is asked again after a pause, unless it was full.

    Args:
        inner: asks one replica.
        policy: of the method; methods of `Tries.ONCE` are repeated only where no replica had begun.
        settings: of the retries.
        budget: of the route.
        retry_after_s: seconds after which callers may ask again when no replica can be reached.
        rng: draws the pauses.
    """

    def __init__(
        self,
        inner: Attempt,
        policy: MethodPolicy,
        settings: RetrySettings,
        budget: Allowance,
        *,
        retry_after_s: float,
        rng: random.Random,
    ) -> None:
        self._inner = inner
        self._service = policy.service
        self._is_idempotent = policy.tries is not Tries.ONCE and policy.is_idempotent
        self._settings = settings
        self._budget = budget
        self._retry_after_s = retry_after_s
        self._rng = rng

    async def __call__(self, exchange: Exchange) -> Answer:
        """Answers the call, or raises the last replica's failure."""
        backend = exchange.backend
        replica = backend.pick(self._service)
        if replica is None:
            raise unreachable(backend, self._service, retry_after_s=self._retry_after_s)
        self._budget.earn()
        try:
            return await self._inner(exchange, replica)
        except TryFailed as failure:
            return await self._again(exchange, replica, failure)

    async def _again(self, exchange: Exchange, replica: Replica, failure: TryFailed) -> Answer:
        """The tries after the first."""
        backend = exchange.backend
        failed = [replica]
        begun = 0
        while True:
            error = failure.error
            if not may_try_again(error, is_idempotent=self._is_idempotent) or exchange.remaining_s() <= 0:
                raise failure
            has_begun = not never_began(error)
            if has_begun:
                begun += 1
                if begun >= self._settings.attempts_max:
                    raise failure
            other = backend.pick(self._service, avoid=failed)
            if other is None:
                # All have been asked. What a full one says holds for the caller, and refusals come back at once.
                if not has_begun or error.code() in LASTING:
                    raise failure
                if not backend.ready(self._service) or not self._budget.spend():
                    raise failure
                await pause(exchange, self._settings, begun, self._rng)
                other = backend.pick(self._service)  # not before: replicas come and go meanwhile
                if other is None:
                    raise failure
            elif has_begun and not self._budget.spend():
                raise failure
            if has_begun:
                backend.load.counts.retries += 1
            failed.append(other)
            try:
                return await self._inner(exchange, other)
            except TryFailed as later:
                failure = later


async def pause(exchange: Exchange, settings: RetrySettings, failed: int, rng: random.Random) -> None:
    """Waits before a replica that has failed a call is asked again; never longer than the call has.

    Args:
        exchange: the call.
        settings: of the retries.
        failed: tries of it that have failed, 1 or more.
        rng: draws the pause.
    """
    pause_s = rng.random() * min(settings.backoff_max_s, settings.backoff_s * 2 ** (failed - 1))
    await asyncio.sleep(max(0.0, min(pause_s, exchange.remaining_s())))


def _has_retry_time(error: grpc.aio.AioRpcError) -> bool:
    for key, value in error.trailing_metadata() or ():
        if key == PUSHBACK_KEY:  # negative or unreadable means "never", as gRPC has it
            return str(value).isdecimal()
    return from_rpc_error(error).retry_after_s is not None
