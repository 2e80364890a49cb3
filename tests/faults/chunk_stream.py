"""Chunk streams: numbered chunks to a scripted predictor whose answers can be checked row by row."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from scripted_answers import log_engagement

PREDICTOR = "meshcast.api.predictor.v1.PredictorService"
STREAM = f"/{PREDICTOR}/PredictEngagementStream"


def chunk(sequence: int, rows: int = 8, *, request_id: str = "") -> pb.PredictEngagementStreamRequest:
    """A chunk whose rows follow from its number."""
    planned = pb.PlannedPostColumns(
        posts=rows,
        content_length=(np.arange(rows) + 31 * sequence).astype("<f4").tobytes(),
        hour_of_day=np.full(rows, sequence % 24, "<f4").tobytes(),
    )
    return pb.PredictEngagementStreamRequest(sequence=sequence, request_id=request_id, planned=planned)


def check(answer: pb.PredictEngagementStreamResponse, rows: int = 8) -> None:
    """Fails where an answer is not that to the chunk of its number."""
    sequence = answer.sequence
    expected = log_engagement(np.arange(rows) + 31 * sequence, np.full(rows, sequence % 24))
    assert answer.status.code == 0
    assert np.frombuffer(answer.log_engagement, "<f4").tolist() == expected.tolist()


@dataclass
class ChunkStream:
    """A stream to a gateway, with a window of its own; every answer is checked, and its order.

    Attributes:
        call: grpc's.
        first: number of the first chunk.
        rows: of each chunk.
        sent: chunks so far.
        answered: chunks so far.
        by_endpoint: the same by the replica that answered.
        attempts: the most times that a chunk was sent.
    """

    call: Any
    first: int = 1
    rows: int = 8
    sent: int = 0
    answered: int = 0
    by_endpoint: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    _ends: bool = False
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def run(self, chunks: int = sys.maxsize, window: int = 8) -> None:
        """Sends so many chunks, or until `end`, few of them unanswered at a time, and takes their answers.

        Raises:
            grpc.aio.AioRpcError: the stream failed.
        """
        slots = asyncio.Semaphore(window)

        async def send() -> None:
            while self.sent < chunks and not self._ends:
                await slots.acquire()
                self.sent += 1
                await self.call.write(chunk(self.first + self.sent - 1, self.rows))
            await self.call.done_writing()

        sending = asyncio.create_task(send(), name="test-send")
        try:
            while (answer := await self.call.read()) is not grpc.aio.EOF:
                assert answer.sequence == self.first + self.answered
                check(answer, self.rows)
                self.by_endpoint[answer.receipt.gateway.endpoint] += 1
                self.attempts = max(self.attempts, answer.receipt.gateway.attempts)
                slots.release()
                async with self._news:
                    self.answered += 1
                    self._news.notify_all()
            await sending
            assert self.answered == self.sent
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    def end(self) -> None:
        """Has no further chunk sent."""
        self._ends = True

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits, answer by answer, for what a condition says."""
        async with self._news:
            await self._news.wait_for(condition)

    async def more(self, chunks: int) -> None:
        """Waits for so many further answers."""
        goal = self.answered + chunks
        await self.until(lambda: self.answered >= goal)
