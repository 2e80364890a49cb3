"""Receipts: the gateway's part of an answer's receipt, as bytes to append or as a message."""

from __future__ import annotations

import time

from meshcast.api.type.v1 import receipt_pb2

from .exchange import Answer, Exchange
from .wire import ReceiptFragment

_KEPT_MAX = 4_096  # replicas come and go; attempts and defaults are few


class Receipts:
    """Makes receipts; keeps the constant bytes of those that every answer of a replica has."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int, int, bool], ReceiptFragment] = {}

    def appended(self, exchange: Exchange, answer: Answer) -> bytes:
        """The answer's response with the gateway's part of its receipt.

        Args:
            exchange: the call.
            answer: to it; its method's response has a receipt.
        """
        if answer.from_cache or answer.fallback or answer.notes:
            fragment = _special(exchange, answer)
        else:
            key = (answer.endpoint, exchange.attempts, exchange.default_ms, exchange.hedged)
            kept = self._kept.get(key)
            fragment = self._keep(key) if kept is None else kept
        return answer.response + fragment.encode(int((time.perf_counter() - exchange.started) * 1e6))

    def _keep(self, key: tuple[str, int, int, bool]) -> ReceiptFragment:
        endpoint, attempts, default_ms, hedged = key
        if len(self._kept) >= _KEPT_MAX:
            self._kept.clear()
        fragment = self._kept[key] = ReceiptFragment(
            endpoint=endpoint, attempts=attempts, default_deadline_ms=default_ms, hedged=hedged
        )
        return fragment


def receipt_of(exchange: Exchange, answer: Answer | None, *, endpoint: str = "") -> receipt_pb2.Receipt:
    """The gateway's receipt of a call as a message.

    Args:
        exchange: the call.
        answer: to it; None where it failed.
        endpoint: replica that failed it, where one did.
    """
    receipt = receipt_pb2.Receipt(deadline_ms=exchange.default_ms, deadline_default=exchange.default_ms > 0)
    gateway = receipt.gateway
    gateway.attempts = exchange.attempts
    gateway.hedged = exchange.hedged
    gateway.endpoint = endpoint if answer is None else answer.endpoint
    gateway.elapsed_us = int((time.perf_counter() - exchange.started) * 1e6)
    if answer is not None:
        gateway.from_cache = answer.from_cache
        gateway.fallback = answer.fallback  # type: ignore[assignment]  # a number of the enum
        gateway.degraded = answer.fallback != 0
        receipt.notes.extend(answer.notes)
    return receipt


def _special(exchange: Exchange, answer: Answer) -> ReceiptFragment:
    # What no replica was asked for has no deadline of this call yet: the caller's own, less the gateway's margin.
    deadline_ms = (
        0 if exchange.attempts and not answer.from_cache else round((exchange.ends_at - exchange.started) * 1e3)
    )
    return ReceiptFragment(
        endpoint=answer.endpoint,
        attempts=exchange.attempts,
        default_deadline_ms=exchange.default_ms,
        deadline_ms=deadline_ms,
        hedged=exchange.hedged,
        from_cache=answer.from_cache,
        fallback=answer.fallback,
        notes=answer.notes,
    )
