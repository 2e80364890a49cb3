"""Virtual time: an event loop whose clock stands still while anything is to be done, and else jumps to the next timer.

Code that waits runs at once and the same way each time; nothing in it may wait for anything outside of the loop.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class _Selector(selectors.BaseSelector):
    """Asks the real one for what has happened, without waiting; lets its loop's time pass in place of that."""

    def __init__(self) -> None:
        self.now = 0.0
        self._real = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Lets `timeout` seconds pass, unless something has happened."""
        events = self._real.select(0)
        if not events:
            if timeout is None:
                raise RuntimeError("everything waits for something that cannot happen in virtual time")
            self.now += max(0.0, timeout)
        return events

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """As the real one."""
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """As the real one."""
        return self._real.unregister(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """As the real one."""
        return self._real.get_map()

    def close(self) -> None:
        """As the real one."""
        self._real.close()


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock of its own, which begins at 0."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Seconds that have passed in the loop."""
        return self._virtual.now


def run_virtually(main: Coroutine[Any, Any, _Result]) -> _Result:
    """Runs a coroutine to its end in a loop of virtual time; `asyncio.get_running_loop().time()` tells the time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
