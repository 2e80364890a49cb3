"""Streaming batch: chunks of rows over one stream, answered in order, few in flight, resumed when the stream breaks."""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from meshcast.client.window import FixedWindow, Window
from meshcast.rpc import (
    DeadlineExceeded,
    Internal,
    MeshError,
    NotReady,
    Overloaded,
    end_call,
    from_item,
    mesh_errors,
    send,
)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Call = grpc.aio.StreamStreamCall[Any, Any]
OpenCall = Callable[[float], Call]
"""Opens the stream with a timeout in seconds."""

RESUMES_MAX = 5
"""Times that a stream is opened again without an answer in between before its failure is the caller's."""
BACKOFF_S = 0.05
"""Wait before the first of them; it doubles up to `BACKOFF_MAX_S`."""
BACKOFF_MAX_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A chunk that is to be sent: its message, and the rows it asks about."""

    request: Any
    """Of the contract of its stream; its `sequence` numbers the chunks."""
    rows: NDArray[np.int64]
    row_request_ids: tuple[str, ...] = ()


class AnswerOf(Protocol[T_co]):
    """Makes the value of an answer to a chunk; raises Internal when the message contradicts the chunk."""

    def __call__(
        self, response: Any, rows: NDArray[np.int64], sequence: int, row_request_ids: tuple[str, ...], /
    ) -> T_co: ...


def may_resume(error: MeshError) -> bool:
    """Whether the same chunk may be sent again after this failure: the peer was away, drained or had a full queue."""
    return isinstance(error, NotReady | Overloaded) and error.is_retryable


def backoff_s(failures: int, error: MeshError) -> float:
    """Seconds to wait before the next try: what the server asked for, else doubling with jitter.

    Args:
        failures: tries that failed in a row, at least 1.
        error: the last failure.
    """
    if error.retry_after_s is not None:
        return min(error.retry_after_s, BACKOFF_MAX_S)
    return min(BACKOFF_S * 2.0 ** min(failures - 1, 16), BACKOFF_MAX_S) * random.uniform(0.5, 1.0)


class StreamCall:
    """One stream of chunks, seen so that a refusal is never lost: grpc drops the server's status while we still write.

    Args:
        call: just made.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._errors = mesh_errors(call)

    async def read(self) -> Any | None:
        """The next answer; None when the server has ended the stream in peace.

        Raises:
            MeshError: the stream broke.
        """
        with self._errors:
            answer = await self._call.read()
        return None if answer is grpc.aio.EOF else answer

    async def write(self, request: Any) -> bool:
        """Sends a chunk; False when the call has ended, of which `read` tells the reason."""
        return await send(self._call, request, request.SerializeToString())

    async def done_writing(self) -> None:
        """Tells the server that nothing follows."""
        await self._call.done_writing()

    def cancel(self) -> None:
        """Ends the call, where it has not ended: an abandoned one would live on."""
        end_call(self._call)


def is_cancelled() -> bool:
    """Whether the running task itself is being cancelled, so that a CancelledError must go on."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def failure_of(task: asyncio.Task[Any]) -> BaseException | None:
    """What a task has failed with; None while it runs, and when it ended well or was cancelled."""
    return task.exception() if task.done() and not task.cancelled() else None


class ChunkStream(Generic[T]):
    """Sends chunks, yields their answers in order.

    At most a window of chunks is unanswered at a time; the source is asked for the next one only when there is room.
    When the stream breaks with UNAVAILABLE, or a chunk is refused for a full queue, the stream is opened again and the
    unanswered chunks are sent again as they were, so that their prediction ids do not change.

    Args:
        open_call: opens the stream.
        chunks: the source; an error that it raises is raised after the chunks before it were answered.
        answer_of: makes the value of an answer.
        window: chunks in flight at most.
        timeout_s: seconds for the whole.
        patience_s: seconds for which a stream that breaks is opened again without an answer in between; None:
            `RESUMES_MAX` times.
    """

    def __init__(
        self,
        open_call: OpenCall,
        chunks: Iterator[Chunk] | AsyncIterator[Chunk],
        answer_of: AnswerOf[T],
        *,
        window: int | Window,
        timeout_s: float,
        patience_s: float | None = None,
    ) -> None:
        self._open_call = open_call
        self._chunks = chunks
        self._answer_of = answer_of
        self._window = FixedWindow(window) if isinstance(window, int) else window
        self._patience_s = patience_s
        self._ends_at = time.monotonic() + timeout_s
        self._room = asyncio.Event()
        self._unanswered: deque[Chunk] = deque()
        self._unanswered_bytes = 0
        self._fetching: asyncio.Task[Chunk | None] | None = None
        self._fetched_all = False
        self._source_error: Exception | None = None
        self.resumes = 0
        """Times that the stream was opened again."""
        self.rows_answered = 0
        """Rows of the answers so far."""

    async def answers(self) -> AsyncGenerator[T, None]:
        """The answers, in the order of the chunks.

        Raises:
            MeshError: the stream failed for good; chunks that were answered before are not lost.
        """
        failures = answered = 0
        failing_since = 0.0
        try:
            while True:
                failure: MeshError | None = None
                call = StreamCall(self._open_call(self._remaining_s()))
                writer = asyncio.create_task(self._write(call), name="stream-writer")
                try:
                    while True:
                        response = await call.read()
                        if response is None:
                            if not (self._fetched_all and not self._unanswered):
                                failure = NotReady("the server ended the stream before its last answer")
                            break
                        if response.status.code and self._is_patient(failures, failing_since):
                            refusal = from_item(response.status)
                            if may_resume(refusal):
                                failure = refusal
                                break
                        chunk = self._take(response)
                        answer = self._answer_of(response, chunk.rows, answered, chunk.row_request_ids)
                        failures = 0
                        answered += 1
                        self._window.answered(len(chunk.rows), time.monotonic())
                        self.rows_answered += len(chunk.rows)
                        yield answer
                except MeshError as error:
                    failure = error
                except asyncio.CancelledError:
                    if is_cancelled() or (bug := failure_of(writer)) is None:
                        raise
                    failure = Internal(f"a chunk could not be sent: {bug!r}")
                finally:
                    writer.cancel()
                    call.cancel()
                    await asyncio.gather(writer, return_exceptions=True)
                if failure is None:
                    break
                if not failures:
                    failing_since = time.monotonic()
                is_patient = self._is_patient(failures, failing_since)
                failures += 1
                wait_s = backoff_s(failures, failure)
                if not may_resume(failure) or not is_patient or wait_s >= self._remaining_s():
                    raise failure
                self._window.broken()
                await asyncio.sleep(wait_s)
                self.resumes += 1
        finally:
            if self._fetching is not None:
                self._fetching.cancel()
                await asyncio.gather(self._fetching, return_exceptions=True)
        if self._source_error is not None:
            raise self._source_error

    def _take(self, response: Any) -> Chunk:
        if not self._unanswered or self._unanswered[0].request.sequence != response.sequence:
            wanted = self._unanswered[0].request.sequence if self._unanswered else "none"
            raise Internal(f"the server answered chunk {response.sequence}, expected was {wanted}")
        self._room.set()
        chunk = self._unanswered.popleft()
        self._unanswered_bytes -= chunk.request.ByteSize()
        return chunk

    def _is_patient(self, failures: int, since: float) -> bool:
        """Whether one more failure is to be borne, after so many in a row since a time."""
        if self._patience_s is None or not failures:
            return failures < RESUMES_MAX
        return time.monotonic() - since < self._patience_s

    @property
    def _is_full(self) -> bool:
        window, unanswered = self._window, len(self._unanswered)
        return unanswered >= window.size or (unanswered > 0 and self._unanswered_bytes >= window.bytes_max)

    async def _write(self, call: StreamCall) -> None:
        """Sends what is unanswered, then what is new, until the source or the call ends; the reader learns why."""
        try:
            for chunk in tuple(self._unanswered):
                if not await call.write(chunk.request):
                    return
            while not self._fetched_all:
                while self._is_full:
                    self._room.clear()
                    await self._room.wait()
                fetched = await self._fetch()
                if fetched is not None:
                    self._unanswered.append(fetched)
                    self._unanswered_bytes += fetched.request.ByteSize()
                    if not await call.write(fetched.request):
                        return
            await call.done_writing()
        except Exception:
            call.cancel()  # wakes the reader, which looks here for the reason
            raise

    async def _fetch(self) -> Chunk | None:
        """The next chunk of the source; None when it has ended. A break of the stream does not cancel the source."""
        if isinstance(self._chunks, Iterator):
            await asyncio.sleep(0)  # building chunks takes the loop: the reader gets its turn between two
            try:
                return next(self._chunks)
            except StopIteration:
                self._fetched_all = True
            except Exception as error:
                self._fetched_all, self._source_error = True, error
            return None
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._await_next(self._chunks), name="stream-source")
        await asyncio.wait({self._fetching})
        fetched, self._fetching = self._fetching.result(), None
        return fetched

    async def _await_next(self, chunks: AsyncIterator[Chunk]) -> Chunk | None:
        try:
            return await anext(chunks)
        except StopAsyncIteration:
            self._fetched_all = True
        except Exception as error:
            self._fetched_all, self._source_error = True, error
        return None

    def _remaining_s(self) -> float:
        remaining = self._ends_at - time.monotonic()
        if remaining <= 0:
            raise DeadlineExceeded("the stream's time is over; give a larger timeout_s", where="client")
        return remaining
