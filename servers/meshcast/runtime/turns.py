"""Turns: long work runs off the event loop, one piece after the other, and a bounded number of pieces waits."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc.errors import Overloaded

__all__ = ["Turns"]

WAITING_MAX = 16
"""Pieces that may wait for the one that runs, unless told otherwise."""

Result = TypeVar("Result")


class Turns:
    """A worker thread that concurrent calls use in turn; from one event loop.

    Args:
        model: name of the service's model, for the error of a full queue.
        what: the work is to people, as in `analysis`; names the thread too.
        waiting_max: pieces that may wait for the one that runs.
        retry_after_s: what callers who find the queue full are told to wait.
    """

    def __init__(self, model: str, what: str, *, waiting_max: int = WAITING_MAX, retry_after_s: float = 1.0) -> None:
        self._model, self._what = model, what
        self._waiting_max, self._retry_after_s = waiting_max, retry_after_s
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=what)
        self._turn = asyncio.Lock()  # held while the thread works, whether or not anybody still waits for the outcome
        self._waiting = 0
        self._closed = threading.Event()

    def close(self) -> None:
        """Takes no more work; what runs is told to stop, and left to its end where it does not look."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def take(self, work: Callable[[Callable[[], bool]], Result]) -> Result:
        """What `work` gives, done in the thread when its turn has come.

        Args:
            work: it is given a function that is true once nobody waits for the outcome any longer; long work looks at
                it from time to time, and raises what it likes then.

        Raises:
            Overloaded: too many pieces wait already.
            Exception: what `work` raised.
        """
        if self._waiting >= self._waiting_max:
            raise Overloaded(
                f"{self._waiting} calls wait for their {self._what} already; retry later.",
                reason=error_reason_pb2.ERROR_REASON_QUEUE_FULL,
                retry_after_s=self._retry_after_s,
                model=self._model,
            )
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        loop = asyncio.get_running_loop()
        gone = threading.Event()

        def release(_: Future[Result]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._turn.release)

        future = self._pool.submit(work, lambda: gone.is_set() or self._closed.is_set())
        future.add_done_callback(release)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            gone.set()
            raise
