"""Waiting: unary calls that stand until somebody can answer, as long as their deadline."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import grpc

from .status import from_rpc_error

PAUSE_S, PAUSE_S_MAX = 0.05, 1.0
# The second is what a call gets that crosses the end of its connection, however a server drains. The caller's own
# cancellation is no status here.
_PASSING = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})


class Waiting(grpc.aio.UnaryUnaryClientInterceptor):
    """Asks again while nobody could answer a call and its deadline leaves time: the counterpart of `wait_for_ready`.

    That one waits for a connection. This one waits for a server behind a gateway that answers, and for one that drains
    or loads its model. It pauses for as long as the server asks (`RetryInfo`), and longer each time.

    Args:
        rng: spreads the pauses of many callers; None for one of its own.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self._random = (rng or random.Random()).random

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Any],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        """The call that was answered, or the last one."""
        details: Any = client_call_details
        ends_at = float("inf") if details.timeout is None else time.perf_counter() + details.timeout
        pause_s = PAUSE_S
        while True:
            call = await continuation(details, request)
            try:
                await call
                return call
            except grpc.aio.AioRpcError as error:
                if error.code() not in _PASSING:
                    return call
                asked_s = min(from_rpc_error(error).retry_after_s or 0.0, PAUSE_S_MAX)
            wait_s = max(asked_s, pause_s) * (1 + self._random() / 4)
            if time.perf_counter() + wait_s >= ends_at:
                return call
            await asyncio.sleep(wait_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)
            if details.timeout is not None:
                details = details._replace(timeout=ends_at - time.perf_counter())
