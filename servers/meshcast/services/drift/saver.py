"""Saver: calls wait for the disk together; one transaction takes whatever has gathered, and its cost sets the pace."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Self

import structlog

from meshcast.runtime.write_behind import Seldom
from meshcast.services.drift.changes import Changes

__all__ = ["PAUSE_S_MAX", "Saver"]

log = structlog.get_logger()

PAUSE_S_MAX = 0.2
"""Longest pause between two transactions while anything waits."""

_PAUSE_TIMES = 2.0  # a pause twice as long as the transaction: a third of the time at most goes into the disk


class Saver:
    """Writes what was done, for many calls at once; use as `async with`. Leaving writes what is left.

    Args:
        collect: gives what is to be written since it was last called; what it leaves out is not lost.
        write: brings it to the disk, all or nothing.
        saved: called once it is there.
    """

    def __init__(
        self,
        collect: Callable[[], Awaitable[Changes]],
        write: Callable[[Changes], Awaitable[None]],
        saved: Callable[[Changes], None],
    ) -> None:
        self._collect, self._write, self._saved = collect, write, saved
        self._waiting: list[asyncio.Future[None]] = []
        self._wanted = asyncio.Event()
        self._left = Changes()  # could not be written so far
        self._is_closing = False
        self._seldom = Seldom()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="drift:saver")
        return self

    async def __aexit__(self, *error: object) -> None:
        self._is_closing = True
        self._wanted.set()
        await self._task

    def begin(self) -> "asyncio.Future[None]":
        """What is done by now is on its way to the disk; the future is done once it is there.

        It fails as `write` does. What could not be written is tried again with what comes next.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._wanted.set()
        return future

    async def _run(self) -> None:
        pause_s = 0.0
        while not self._is_closing or self._waiting:
            await self._wanted.wait()
            if not self._is_closing:
                await asyncio.sleep(pause_s)
            began_s = time.monotonic()
            await self._save()
            pause_s = min(PAUSE_S_MAX, _PAUSE_TIMES * (time.monotonic() - began_s))
        await self._save()

    async def _save(self) -> None:
        self._wanted.clear()
        waiting, self._waiting = self._waiting, []
        try:
            changes = self._left = self._left.then(await self._collect())
            if changes:
                await self._write(changes)
                self._left = Changes()
                self._saved(changes)
        except Exception as error:  # whatever it is: those who wait must hear of it, and the next ones be served
            if self._seldom.is_due():
                log.error("what was counted is not on disk yet", waiting=len(waiting), why=str(error))
            for future in waiting:
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # nobody may be left who looks
        else:
            for future in waiting:
                if not future.done():
                    future.set_result(None)
