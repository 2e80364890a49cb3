"""Calls of plain code: coroutines and streams of the asynchronous client, run on its loop and awaited here."""

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any, TypeVar

from meshcast.client.calls import Progress
from meshcast.client.mesh import MeshClient

T = TypeVar("T")


class SyncCalls:
    """A group of calls of plain code.

    Args:
        mesh: the asynchronous client that makes them.
    """

    def __init__(self, mesh: MeshClient) -> None:
        self._mesh = mesh
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # between a call that is handed to the loop and the loop's end
        self._is_closing = False

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the client's loop and waits; a wait that is interrupted cancels it."""
        is_inside = threading.current_thread() is self._thread
        with self._lock:
            if self._loop is None or self._is_closing or is_inside:
                work.close()
                where = "inside of its own calls" if is_inside else "outside of its with block"
                raise RuntimeError(f"the client is used {where}")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            if not future.done():  # Ctrl-C, here: the call must not live on
                future.cancel()
                with suppress(concurrent.futures.CancelledError):
                    future.result()
            raise

    def _each(
        self, answers: AsyncGenerator[T, None], tell: Callable[[], None] = lambda: None
    ) -> Generator[T, None, None]:
        try:
            while True:
                try:
                    answer = self._run(_next(answers))
                except StopAsyncIteration:
                    return
                tell()
                yield answer
        finally:
            if self._loop is not None and not self._is_closing:
                self._run(answers.aclose())


class Told:
    """Holds what a stream tells of its progress until the caller's own thread can be told."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._last: tuple[int, int | None] | None = None

    def __call__(self, done: int, total: int | None) -> None:
        self._last = (done, total)

    def tell(self) -> None:
        """Tells the caller, in the thread that runs this."""
        if self._progress is not None and self._last is not None:
            self._progress(*self._last)


async def _next(answers: AsyncGenerator[T, None]) -> T:
    return await anext(answers)
