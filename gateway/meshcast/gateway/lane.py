"""Lane: one replica's share of a caller's stream, as a stream of its own to that replica."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

import grpc.aio

from meshcast.rpc import FirstStatus, end_call, send

from .breaker import Outcome
from .ledger import Chunk, Held, Sent
from .replica import Replica

_SHARE = 0.2  # of a new interval in the mean
# Of the mean, when another lane is chosen: one that was slow is tried again after some hundred chunks.
_FORGOTTEN = 0.01
_REFUSED_S = (0.01, 0.25)  # interval of a lane that refuses: some chunks go by before it is asked again


class Lane:
    """A stream to one replica, and the chunks that it holds.

    Args:
        replica: that answers.
        call: to it, just made.
        now: on `time.perf_counter()`.

    Attributes:
        replica: that answers.
        call: to it.
        status: how the call ended, even where grpc forgets it.
        held: chunks that it was given and has not answered.
        heard_at: when it last answered, or was opened.
        interval_s: mean seconds between two answers while it holds chunks; 0.0 until the first.
        is_closing: whether it is given nothing more.
        is_stalled: whether it has been silent for so long that its chunks were sent elsewhere too.
    """

    __slots__ = (
        "_is_over",
        "_queue",
        "_wake",
        "call",
        "heard_at",
        "held",
        "interval_s",
        "is_closing",
        "is_stalled",
        "replica",
        "status",
    )

    def __init__(self, replica: Replica, call: Any, now: float) -> None:
        self.replica = replica
        self.call = call
        self.status = FirstStatus(call)
        self.held = Held()
        self.heard_at = now
        self.interval_s = 0.0
        self.is_closing = False
        self.is_stalled = False
        self._is_over = False
        self._queue: deque[Sent] = deque()
        self._wake = asyncio.Event()

    def cost_s(self, usual_s: float) -> float:
        """Seconds after which one more chunk would be answered.

        Args:
            usual_s: interval to go by, where the replica has answered nothing yet.
        """
        return (len(self.held) + 1) * (self.interval_s or usual_s)

    def give(self, chunk: Chunk, now: float, answered_before: int) -> None:
        """Gives the replica a chunk; never waits.

        Args:
            chunk: the chunk.
            now: on `time.perf_counter()`.
            answered_before: answers of the stream so far.
        """
        sent = self.held.add(chunk, now, answered_before)
        sent.turn = self.replica.breaker.begin(now)
        self.replica.in_flight += 1
        self._queue.append(sent)
        self._wake.set()

    def take(self, sequence: int, now: float) -> tuple[Sent | None, float]:
        """Hears an answer.

        Args:
            sequence: of the answer.
            now: on `time.perf_counter()`.

        Returns:
            The chunk that it answers, None where it answers none; and the seconds that the replica took for it.
        """
        sent = self.held.take(sequence)
        interval_s = 0.0
        if sent is not None:
            self.replica.in_flight -= 1
            interval_s = now - max(self.heard_at, sent.since)
            self.interval_s += (interval_s - self.interval_s) * (_SHARE if self.interval_s else 1.0)
        self.heard_at = self.replica.heard_at = now
        self.is_stalled = False
        return sent, interval_s

    def refuse(self) -> None:
        """Has the lane wait longer for its next chunk, as it has refused one: a quick refusal is no quick answer."""
        least_s, most_s = _REFUSED_S
        self.interval_s = max(self.interval_s, min(max(2 * self.interval_s, least_s), most_s))

    def _lose(self, outcome: Outcome, now: float) -> list[Sent]:
        """Takes back all that it holds, as it will answer nothing more.

        Args:
            outcome: what that says about the replica; said once, as it is one event however much is lost.
            now: on `time.perf_counter()`.
        """
        lost = self.held.lose()
        self.replica.in_flight -= len(lost)
        self._queue.clear()
        for sent in lost:
            self.judge(sent, outcome, now)
            outcome = Outcome.IGNORED
        return lost

    def judge(self, sent: Sent, outcome: Outcome, now: float) -> None:
        """Tells the replica's breaker how a chunk has ended, once.

        Args:
            sent: that was given to the replica.
            outcome: what its end says about the replica.
            now: on `time.perf_counter()`.
        """
        if sent.turn is not None:
            self.replica.breaker.end(sent.turn, outcome, now)
            sent.turn = None

    def forget_a_little(self) -> None:
        """Lets the mean sink, as another lane was chosen."""
        self.interval_s *= 1 - _FORGOTTEN

    def end(self, outcome: Outcome, now: float) -> list[Sent]:
        """Ends the call, of which both directions end by themselves; returns what was held, that it will not answer.

        Args:
            outcome: what the end says about the replica.
            now: on `time.perf_counter()`.
        """
        end_call(self.call)  # an abandoned call would never be collected
        self._is_over = True
        self._wake.set()
        return self._lose(outcome, now)

    def close(self) -> None:
        """Has the replica told that nothing follows, once it has got what it was given."""
        self.is_closing = True
        self._wake.set()

    async def write_all(self) -> None:
        """Sends what it is given until it is closed or the call has ended, of which reading tells how."""
        queue, wake, call = self._queue, self._wake, self.call
        try:
            while not self._is_over:
                while queue:
                    sent = queue.popleft()
                    if sent.chunk.is_answered:  # by another replica, before this one could take it
                        self.held.drop(sent)
                        self.replica.in_flight -= 1
                        self.judge(sent, Outcome.IGNORED, time.perf_counter())
                    elif not await send(call, sent.chunk.data, sent.chunk.data):
                        return
                if self.is_closing:
                    await call.done_writing()
                    return
                wake.clear()
                await wake.wait()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the replica has ended the call
