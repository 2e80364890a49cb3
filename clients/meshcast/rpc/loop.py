"""Event loop of a process: uvloop where it is installed, asyncio's own otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the process's event loop; None means asyncio's own."""
    try:
        import uvloop
    except ImportError:  # optional: 10-25 % more throughput under load
        return None
    return uvloop.new_event_loop


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Runs the coroutine to its end on the fastest loop at hand, and closes the loop.

    Args:
        main: the process's entry point.
    """
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(main)
