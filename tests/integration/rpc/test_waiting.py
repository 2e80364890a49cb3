"""Calls that wait: for a server that comes back, and for one that says UNAVAILABLE meanwhile."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from meshcast.rpc import ChannelSettings, InvalidInput, NotReady, channel

WAITING = ChannelSettings(wait_for_ready=True)


class Refusing:
    """Refuses until it is told to answer."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error
        self.calls = 0

    async def __call__(self, text: str, context: Any) -> str:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return text


async def test_a_unary_call_waits_for_a_server_that_says_unavailable(serve: Any, kinds_service: Any, ask: Any) -> None:
    act = Refusing(NotReady("the model is loading", retry_after_s=0.05))
    server = await serve(kinds_service(act), access="none")
    async with channel(server.address, settings=WAITING) as to_server, asyncio.TaskGroup() as group:
        asked = group.create_task(ask(to_server, "Unary", timeout=20))
        while act.calls < 5:  # noqa: ASYNC110  # more than one round of the channel's own retries
            await asyncio.sleep(0.01)
        assert not asked.done()
        act.error = None
        assert await asked == ["a"]


async def test_it_waits_no_longer_than_its_deadline_and_says_what_it_waited_for(
    serve: Any, kinds_service: Any, ask: Any
) -> None:
    server = await serve(kinds_service(Refusing(NotReady("the model is loading"))), access="none")
    async with channel(server.address, settings=WAITING) as to_server:
        began = time.monotonic()
        with pytest.raises(NotReady, match="loading"):
            await ask(to_server, "Unary", timeout=1.4)  # the last try begins before .95 s, the next would at 1.5
        assert time.monotonic() - began < 5


async def test_what_does_not_pass_by_itself_is_not_waited_for(serve: Any, kinds_service: Any, ask: Any) -> None:
    act = Refusing(InvalidInput("no"))
    server = await serve(kinds_service(act))
    async with channel(server.address, settings=WAITING) as to_server:
        with pytest.raises(InvalidInput):
            await ask(to_server, "Unary", timeout=20)
    assert act.calls == 1


async def test_a_call_that_waits_can_be_cancelled(serve: Any, kinds_service: Any, ask: Any) -> None:
    act = Refusing(NotReady("the model is loading"))
    server = await serve(kinds_service(act), access="none")
    async with channel(server.address, settings=WAITING) as to_server:
        asked = asyncio.create_task(ask(to_server, "Unary", timeout=60))
        while act.calls < 4:  # noqa: ASYNC110  # a counter
            await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        calls = act.calls
        await asyncio.sleep(0.3)
        assert act.calls <= calls + 3  # what was under way
