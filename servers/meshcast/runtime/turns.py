"""Turns: long work runs off the event loop, one piece after the other, and a bounded number of pieces waits."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc.errors import NotReady, Overloaded

__all__ = ["Turn", "Turns"]

WAITING_MAX = 16
"""Pieces that may wait for the one that runs, unless told otherwise."""

Result = TypeVar("Result")


class Turn:
    """A call's turn: until its block ends, the worker thread is the call's own."""

    def __init__(self, pool: ThreadPoolExecutor, closed: threading.Event) -> None:
        self._pool, self._closed = pool, closed
        self._ran: Future[Any] | None = None

    async def run(self, work: Callable[[Callable[[], bool]], Result]) -> Result:
        """What `work` gives, done in the thread; one piece after the other.

        Args:
            work: it is given a function that is true once nobody waits for the outcome any longer; long work looks at
                it from time to time, and raises what it likes then.

        Raises:
            NotReady: DRAINING, the turns have been closed.
            Exception: what `work` raised.
        """
        self.require_open()
        gone = threading.Event()
        future = self._ran = self._pool.submit(work, lambda: gone.is_set() or self._closed.is_set())
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            gone.set()
            raise

    def require_open(self) -> None:
        """Checks that the turns have not been closed.

        Raises:
            NotReady: DRAINING, they have.
        """
        if self._closed.is_set():
            raise NotReady(
                "The process is draining; ask another replica.",
                reason=error_reason_pb2.ERROR_REASON_DRAINING,
                retry_after_s=1.0,
            )

    def when_over(self, done: Callable[[], None]) -> None:
        """Calls `done` on the loop when the thread works no longer, whether or not anybody waits for the outcome."""
        if self._ran is None or self._ran.done():
            done()
            return
        loop = asyncio.get_running_loop()

        def tell(_: Future[Any]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(done)

        self._ran.add_done_callback(tell)


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
        self._lock = asyncio.Lock()  # held while the thread works, whether or not anybody still waits for the outcome
        self._waiting = 0
        self._closed = threading.Event()

    def close(self) -> None:
        """Takes no more work: what runs is told to stop, and left to its end where it does not look; what waits is
        refused when its turn comes."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Turn]:
        """A block that begins when the call's turn has come, for work that also waits for others before it runs.

        Raises:
            Overloaded: too many calls wait already; nothing was done.
            NotReady: DRAINING, the turns have been closed.
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
            await self._lock.acquire()
        finally:
            self._waiting -= 1
        turn = Turn(self._pool, self._closed)
        try:
            turn.require_open()
            yield turn
        finally:
            turn.when_over(self._lock.release)

    async def take(self, work: Callable[[Callable[[], bool]], Result]) -> Result:
        """What `work` gives, done in the thread when its turn has come: a `turn` of one piece.

        Raises:
            MeshError: as `turn`.
            Exception: what `work` raised.
        """
        async with self.turn() as turn:
            return await turn.run(work)
