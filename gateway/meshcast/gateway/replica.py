"""Replica: one address of a model service, its long-lived channel and what its health names say."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import grpc.aio

from .wire import ReceiptFragment


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
    """

    __slots__ = (
        "_fragments",
        "_stream",
        "_unary",
        "_unary_stream",
        "changed_time",
        "channel",
        "endpoint",
        "in_flight",
        "is_known",
        "models",
        "models_asked",
        "problem",
        "services",
    )

    def __init__(self, endpoint: str, channel: grpc.aio.Channel) -> None:
        self.endpoint = endpoint
        self.channel = channel
        self.in_flight = 0
        self.services: dict[str, State | None] = {}
        self.models: dict[str, State] = {}
        self.models_asked = asyncio.Event()
        self.changed_time = datetime.now(UTC)
        self.problem = "not reached yet"
        self.is_known = False
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
