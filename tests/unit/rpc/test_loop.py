"""The process's event loop is uvloop where that is installed."""

from __future__ import annotations

import asyncio
import importlib.util

from meshcast.rpc import run


def test_run_returns_what_main_returns_on_the_fastest_loop_at_hand() -> None:
    async def main() -> str:
        return type(asyncio.get_running_loop()).__module__

    expected = "uvloop" if importlib.util.find_spec("uvloop") else "asyncio.unix_events"
    assert run(main()) == expected
