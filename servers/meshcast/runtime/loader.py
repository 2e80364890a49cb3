"""Loader of a model's versions: opens, proves, warms and closes sessions off the serving threads."""

import asyncio
import contextlib
import ctypes
import gc
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

import structlog

from meshcast.runtime.session import Session

__all__ = ["Loader", "give_back_memory"]

log = structlog.get_logger()

Result = TypeVar("Result")


class Loader:
    """A thread for everything about sessions but running them, and one that steps back; use as `async with`.

    The second is for loading beside serving, in back-ends whose sessions have no threads of their own: those would
    inherit its priority for good. It is not put last of all: a thread that is put aside while it holds the
    interpreter's lock holds serving up for longer than it works, so it also rests (`choosing.Pace`).

    Args:
        name: of the model, for the threads' names.
        nice: how far the second thread steps back, 0 to 19; ignored where threads have no priority of their own.
    """

    def __init__(self, name: str, *, nice: int) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"load:{name}")
        self._low = ThreadPoolExecutor(1, thread_name_prefix=f"swap:{name}", initializer=_step_back, initargs=(nice,))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.to_thread(self._low.shutdown)
        await asyncio.to_thread(self._executor.shutdown)

    async def run(self, function: Callable[[], Result], *, low: bool = False) -> Result:
        """Runs a function on the loader's thread, or on the one that steps back."""
        return await asyncio.get_running_loop().run_in_executor(self._low if low else self._executor, function)

    def close(self, session: Session, done: Callable[[], None]) -> None:
        """Closes a session when the thread has time, gives the memory back, then calls `done`. From any thread."""

        def run() -> None:
            try:
                session.close()
            except Exception:  # a library's: the session is gone all the same
                log.exception("a session could not be closed")
            give_back_memory()
            done()

        with contextlib.suppress(RuntimeError):  # the loader has closed: the process ends and frees everything
            self._executor.submit(run)


def _step_back(nice: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        # On Linux a thread has a priority of its own, under its native id.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def give_back_memory() -> None:
    """Returns freed native memory to the system: glibc keeps what several sessions' worth of weights took."""
    gc.collect(0)
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
