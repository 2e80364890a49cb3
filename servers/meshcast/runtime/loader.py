"""Loader of a model's versions: one thread, off the serving threads, which proves and warms at low priority."""

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

from meshcast.rpc.errors import MeshError
from meshcast.runtime.session import Session

__all__ = ["Loader"]

log = structlog.get_logger()

Result = TypeVar("Result")


class Loader:
    """Two threads that work one after the other: one opens and closes sessions, one proves and warms them.

    The second one runs at low priority. The first must not: a back-end's own threads inherit the priority of the
    thread that opens it. Use as `async with`.

    Args:
        name: of the model, for the threads' names.
        nice: how far the second thread steps back, 0 to 19; ignored where threads have no priority of their own.
    """

    def __init__(self, name: str, *, nice: int) -> None:
        self._opener = ThreadPoolExecutor(1, thread_name_prefix=f"open:{name}")
        self._prover = ThreadPoolExecutor(
            1, thread_name_prefix=f"prove:{name}", initializer=_step_back, initargs=(nice,)
        )

    async def __aenter__(self) -> Self:
        # Started here, so that neither inherits the other's priority.
        for executor in (self._opener, self._prover):
            await asyncio.get_running_loop().run_in_executor(executor, threading.get_native_id)
        return self

    async def __aexit__(self, *exception: object) -> None:
        for executor in (self._prover, self._opener):
            await asyncio.to_thread(executor.shutdown)

    async def prove(self, function: Callable[[], Result]) -> Result:
        """Runs a function on the low-priority thread."""
        return await asyncio.get_running_loop().run_in_executor(self._prover, function)

    def open(self, function: Callable[[], Result]) -> Result:
        """Runs a function on the opening thread and waits for it; called on the low-priority thread."""
        return self._opener.submit(function).result()

    def close(self, session: Session, done: Callable[[], None]) -> None:
        """Closes a session on the opening thread, whenever it has time, gives the memory back and calls `done`."""

        def run() -> None:
            try:
                session.close()
            except MeshError:
                log.exception("a session could not be closed")
            give_back_memory()
            done()

        with contextlib.suppress(RuntimeError):  # the loader has closed: the process ends and frees everything
            self._opener.submit(run)


def give_back_memory() -> None:
    """Returns freed native memory to the system: glibc keeps what several sessions' worth of weights took."""
    gc.collect(0)
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _step_back(nice: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        # On Linux a thread has a priority of its own, under its native id.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
