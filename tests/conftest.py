"""Fixtures that every room shares: a real server on a free port, and a channel to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from meshcast.rpc import RpcSettings, Server

Serve = Callable[..., Awaitable[Server]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts servers on `127.0.0.1:0` and drains them at the end.

    Called with registrars, and with the keyword arguments of `Server`; gives the started server (`.address`, `.port`).
    """
    async with AsyncExitStack() as stack:

        async def start(*services: Callable[[grpc.aio.Server], None], **options: Any) -> Server:
            settings = options.pop("settings", None) or RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=1.0)
            return await stack.enter_async_context(Server(settings, services=services, **options))

        yield start
