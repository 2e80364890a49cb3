"""Loader of a model's versions: one thread, off the serving threads, that opens, proves, warms and closes sessions."""

import asyncio
import contextlib
import ctypes
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

import structlog

from meshcast.runtime.session import Session

__all__ = ["Loader"]

log = structlog.get_logger()

Result = TypeVar("Result")


class Loader:
    """One thread for everything about sessions but running them; use as `async with`.

    It has the priority of the serving threads, and rests instead (`candidates.Pace`): a thread of low priority that is
    put aside while it holds the interpreter's lock, or an allocator's, holds serving up for longer than it works.

    Args:
        name: of the model, for the thread's name.
    """

    def __init__(self, name: str) -> None:
        # One thread also keeps all sessions in one malloc arena: what one frees, the next one takes.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"load:{name}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.to_thread(self._executor.shutdown)

    async def run(self, function: Callable[[], Result]) -> Result:
        """Runs a function on the loader's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)

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


def give_back_memory() -> None:
    """Returns freed native memory to the system: glibc keeps what several sessions' worth of weights took."""
    gc.collect(0)
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
