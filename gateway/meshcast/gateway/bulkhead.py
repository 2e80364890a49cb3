"""Bulkhead: a hard bound of the calls and chunks under way on a route, so that a slow one cannot take all the room."""

from __future__ import annotations

from dataclasses import dataclass

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import Overloaded

from .exchange import Answer, Exchange, Priority, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkheadSettings:
    """The hard bound of what is under way on one route; the table `[gateway.bulkhead]`."""

    calls_max: int = 1_000
    """Unary calls and chunks of streams of a route under way at a time; one more is refused at once. As many as one
    connection to a replica carries (`rpc.max_concurrent_streams`)."""
    retry_after_s: float = 0.25
    """When one that was refused may ask again, in seconds."""

    def __post_init__(self) -> None:
        """Checks all values; raises ValueError naming the field."""
        if not self.calls_max >= 1:
            raise ValueError(f"bulkhead.calls_max must be 1 or more, is {self.calls_max}")
        if not self.retry_after_s >= 0:  # NaN is none
            raise ValueError(f"bulkhead.retry_after_s must be 0 or more, is {self.retry_after_s}")


class Bulkhead:
    """What is under way on one route: unary calls by `BulkheadGate`, chunks by `Spread`.

    A stream that is there already is never refused: while the bulkhead is full it takes a chunk only when it has none.

    Args:
        name: of the route.
        settings: the bound.

    Attributes:
        in_use: calls and chunks that are under way; written by those who begin and end them.
        calls_max: the bound.
    """

    __slots__ = ("_name", "_retry_after_s", "calls_max", "in_use")

    def __init__(self, name: str, settings: BulkheadSettings) -> None:
        self.in_use = 0
        self.calls_max = settings.calls_max
        self._name = name
        self._retry_after_s = settings.retry_after_s

    @property
    def is_full(self) -> bool:
        """Whether one more would be refused."""
        return self.in_use >= self.calls_max

    def check(self, service: str, priority: Priority = Priority.NORMAL) -> None:
        """Refuses a call or a stream while no place is free.

        Args:
            service: full name of the gRPC service, for the error.
            priority: of the call, for the error; a full bulkhead refuses all alike.

        Raises:
            Overloaded: none is free.
        """
        if self.in_use >= self.calls_max:
            raise Overloaded(
                f"{self._name} has {self.calls_max} calls under way, and takes no more",
                reason=ErrorReason.ERROR_REASON_LIMIT_REACHED,
                retry_after_s=self._retry_after_s,
                service=service,
                priority=priority.name.lower(),
                limit=self.calls_max,
            )


class BulkheadGate:
    """Stage: lets no more calls by than the route's bulkhead has places; counts those that it refuses as shed.

    Args:
        inner: the next stage.
        bulkhead: of the route.
    """

    def __init__(self, inner: Stage, bulkhead: Bulkhead) -> None:
        self._inner = inner
        self._bulkhead = bulkhead

    async def __call__(self, exchange: Exchange) -> Answer:
        """Answers the call.

        Raises:
            Overloaded: the bulkhead is full.
        """
        bulkhead = self._bulkhead
        if bulkhead.in_use >= bulkhead.calls_max:
            priority = exchange.priority
            exchange.backend.load.counts.shed[priority.name.lower()] += 1
            bulkhead.check(exchange.policy.service, priority)
        bulkhead.in_use += 1
        try:
            return await self._inner(exchange)
        finally:
            bulkhead.in_use -= 1
