"""Endpoint source: where the replicas of a route are, now and as that changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol


class EndpointSource(Protocol):
    """Tells the addresses of one route's replicas."""

    def watch(self) -> AsyncIterator[Sequence[str]]:
        """Yields the whole list of `host:port` at once and after every change; it may end when no change can come."""
        ...


class StaticEndpoints:
    """A list of addresses that never changes."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        self._endpoints = tuple(dict.fromkeys(endpoints))

    async def watch(self) -> AsyncIterator[Sequence[str]]:
        """Yields the list once."""
        yield self._endpoints
