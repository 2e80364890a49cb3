"""The analyst: runs analyses one after the other off the event loop, and lets a bounded number wait."""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc import Overloaded
from meshcast.services.forecaster.patterns import Patterns, analyze
from meshcast.services.forecaster.questions import Question

__all__ = ["Analyst"]

WAITING_MAX = 16
"""Analyses that may wait for the one that runs; one of a long series takes a few tenths of a second."""


class Analyst:
    """Analyses series of concurrent calls, one at a time; from one event loop.

    Args:
        model: name of the service's model, for the error of a full queue.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="analysis")
        self._turn = asyncio.Lock()  # held while the thread works, whether or not anybody still waits for the outcome
        self._waiting = 0

    def close(self) -> None:
        """Takes no more work; what runs is left to its end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def analyze(self, question: Question, *, nonnegative: bool) -> Patterns:
        """The growth patterns of a question of one sound series.

        Raises:
            Overloaded: too many wait already.
            InvalidInput: fewer than 14 days have a value.
        """
        if self._waiting >= WAITING_MAX:
            raise Overloaded(
                f"{self._waiting} analyses wait already.",
                reason=error_reason_pb2.ERROR_REASON_QUEUE_FULL,
                retry_after_s=1.0,
                model=self._model,
            )
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        known = ~np.isnan(question.value)
        loop = asyncio.get_running_loop()

        def release(_: Future[Patterns]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._turn.release)

        work = self._pool.submit(analyze, question.day[known], question.value[known], nonnegative=nonnegative)
        work.add_done_callback(release)
        return await asyncio.wrap_future(work)
