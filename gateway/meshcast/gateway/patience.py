"""Patience: has a call wait for a service whose last replica has just left, as in a restart, in place of failing."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import MeshError, from_rpc_error

from .backends import state_of
from .exchange import Answer, Exchange, Stage, TryFailed
from .forwarding import never_began
from .policy import MethodPolicy, Tries
from .replica import State

if TYPE_CHECKING:
    from .backends import Backend, Backends

_LOOK_S = 0.1  # between two looks where no state has changed; an open breaker tells nobody when its pause is over
_TELL_S = 0.15  # before its deadline a call fails, while its caller still hears why; more than a look
_WAITING_MAX = 1_000  # of a method; a call more fails as it would without, so that an outage fills no memory
_OF_NOBODY = frozenset({ErrorReason.ERROR_REASON_BACKEND_UNREACHABLE, ErrorReason.ERROR_REASON_CIRCUIT_OPEN})


class Patience:
    """Stage: asks again once a replica serves, while the route's last one is not gone for longer than a restart takes.

    A call that waited in vain fails as it did first. Methods that are asked once wait only where no replica had begun.

    Args:
        inner: the stages that it stands before.
        policy: of the method.
        backend: the route.
        backends: tells when states change.
        restart_s: how long a restart may take, in seconds.

    Attributes:
        waiting: calls that wait.
    """

    def __init__(
        self, inner: Stage, policy: MethodPolicy, backend: Backend, backends: Backends, *, restart_s: float
    ) -> None:
        self.waiting = 0
        self._inner = inner
        self._service = policy.service
        self._is_repeatable = policy.tries is not Tries.ONCE
        self._backend = backend
        self._backends = backends
        self._restart_s = restart_s

    async def __call__(self, exchange: Exchange) -> Answer:
        """Answers the call, or raises what failed it."""
        try:
            return await self._inner(exchange)
        except (TryFailed, MeshError) as failure:
            if exchange.is_hasty or not self._may_pass(failure) or self.waiting >= _WAITING_MAX:
                raise
            self.waiting += 1
            try:
                return await self._wait(exchange, failure)
            finally:
                self.waiting -= 1

    async def _wait(self, exchange: Exchange, failure: TryFailed | MeshError) -> Answer:
        began_time = datetime.now(UTC) - timedelta(seconds=time.perf_counter() - exchange.started)
        if isinstance(failure, TryFailed):  # a lost connection is seen here sooner than by who watches its health
            await asyncio.sleep(min(_LOOK_S, max(0.0, exchange.remaining_s())))
        left_s = self._left_s(exchange, began_time)
        if left_s <= 0:
            raise failure
        async with aclosing(self._backends.changes(min(_LOOK_S, left_s))) as changes:
            async for _ in changes:
                if self._left_s(exchange, began_time) <= 0:
                    break
                if not self._can_ask():
                    continue
                try:
                    return await self._inner(exchange)
                except (TryFailed, MeshError) as again:
                    if not self._may_pass(again):
                        raise
        raise failure

    def _can_ask(self) -> bool:
        """Whether a replica serves, and its breaker admits a call."""
        if self._backend.state(self._service) is not State.SERVING:
            return False
        now = time.perf_counter()
        return any(replica.breaker.admits(now) for replica in self._backend.ready(self._service))

    def _left_s(self, exchange: Exchange, began_time: datetime) -> float:
        """Seconds for which the call may still wait: none where no replica has left, or come back since it began."""
        backend = self._backend
        if not backend.was_reached:
            return 0.0
        lost_times = [
            replica.changed_time
            for replica in backend.replicas.values()
            if replica.changed_time >= began_time
            or state_of(replica, backend.settings, self._service) is not State.SERVING
        ]
        if not lost_times:
            return 0.0
        gone_s = (datetime.now(UTC) - max(lost_times)).total_seconds()
        return min(self._restart_s - gone_s, exchange.remaining_s() - _TELL_S)

    def _may_pass(self, failure: TryFailed | MeshError) -> bool:
        """Whether the end of a restart may make the failure good."""
        if isinstance(failure, MeshError):
            return failure.reason in _OF_NOBODY
        error = failure.error
        if never_began(error):
            return True
        if not self._is_repeatable or error.code() is not grpc.StatusCode.UNAVAILABLE:
            return False
        if from_rpc_error(error).reason == ErrorReason.ERROR_REASON_MODEL_LOADING:
            return True
        replica = self._backend.replicas.get(failure.endpoint)
        return replica is None or replica.channel.get_state() is not grpc.ChannelConnectivity.READY
