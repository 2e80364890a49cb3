"""Coalescing: single questions that are awaited at the same time travel together, in chunks on one long-lived stream.

A unary call costs a Python server about 200 us whatever it carries, a row in a packed chunk about 2 us: gathering is
what makes single calls cheap. Nothing is held back for it: a chunk leaves at the end of the loop's turn that asked for
it, unless two chunks are under way already; rows that come meanwhile form the next one.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from meshcast.client.priority import Priority
from meshcast.client.questions import RequestIds
from meshcast.client.stream import OpenCall, StreamCall, backoff_s, failure_of, is_cancelled
from meshcast.rpc import Cancelled, DeadlineExceeded, Internal, InvalidInput, MeshError, NotReady, Overloaded, from_item

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Item_contra = TypeVar("Item_contra", contravariant=True)
Answer_co = TypeVar("Answer_co", covariant=True)

LANES_MAX = 16
"""Streams at a time, one for each version, priority and channel; calls beyond them go out unary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Bounds of a lane.

    Args:
        chunk_rows: rows of a chunk; 256 is the largest run of a model.
        window: chunks in flight: one is computed while the next is under way, and more would only cut them smaller
            (bench/client_coalescing.py).
        rows_waiting_max: rows that wait to be sent; more are refused at once with Overloaded.
        stream_s: age at which a stream is replaced, in seconds, so that replicas that joined get work too.
        idle_s: silence after which a stream is closed, in seconds, so that an idle client holds up nobody's drain.
    """

    chunk_rows: int = 256
    window: int = 2
    rows_waiting_max: int = 8_192
    stream_s: float = 600.0
    idle_s: float = 30.0


LaneKey = tuple[int, Priority, str]
"""What rows of a chunk have in common, since the contract states it once a chunk: version, priority, channel."""


class Chunks(Protocol[Item_contra, Answer_co]):
    """How single questions of a contract become chunks of its stream, and answers to chunks single answers."""

    def request(
        self, items: Sequence[Item_contra], key: LaneKey, *, sequence: int, request_id: str, row_request_ids: list[str]
    ) -> Any:
        """Questions as the message of a chunk."""

    def answers(
        self, response: Any, items: Sequence[Any], row_request_ids: tuple[str, ...]
    ) -> Sequence[Answer_co | MeshError]:
        """Answers of a chunk, one a question in its order.

        Raises:
            Internal: the message contradicts the chunk.
        """


class _Row(Generic[Item, Answer]):
    """One awaited answer."""

    __slots__ = ("alone", "answer", "ends_at", "item", "request_id", "resent")

    def __init__(self, item: Item, request_id: str, ends_at: float, answer: asyncio.Future[Answer]) -> None:
        self.item = item
        self.request_id = request_id
        self.ends_at = ends_at
        self.answer = answer
        self.resent = False
        self.alone = False


class Coalescer(Generic[Item, Answer]):
    """The lanes of a client and a contract. Belongs to one event loop; `close` ends every stream and all that awaits.

    Args:
        open_call: opens a stream.
        chunks: of the contract.
        bounds: of every lane.
    """

    def __init__(self, open_call: OpenCall, chunks: Chunks[Item, Answer], bounds: Bounds | None = None) -> None:
        self._open_call = open_call
        self._chunks = chunks
        self._bounds = bounds or Bounds()
        self._lanes: dict[LaneKey, _Lane[Item, Answer]] = {}

    def has_room(self, key: LaneKey) -> bool:
        """Whether a call with this key may travel on a stream; else it goes out on its own."""
        if key in self._lanes or len(self._lanes) < LANES_MAX:
            return True
        for other, lane in list(self._lanes.items()):
            if lane.is_over:
                del self._lanes[other]
        return len(self._lanes) < LANES_MAX

    async def ask(self, item: Item, *, key: LaneKey, request_id: str, timeout_s: float) -> Answer:
        """The answer to one question, together with those that are awaited at the same time.

        Raises:
            MeshError: as a single call would; DeadlineExceeded after `timeout_s`.
        """
        lane = self._lanes.get(key)
        if lane is None or lane.is_over:
            lane = self._lanes[key] = _Lane(self._open_call, self._chunks, key, self._bounds)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        lane.add(_Row(item, request_id, time.monotonic() + timeout_s, answer))
        # A caller that is cancelled here cancels its future, by which the lane knows that nobody waits for the row.
        return await answer

    async def close(self) -> None:
        """Ends every stream; whoever awaits an answer gets Cancelled."""
        lanes, self._lanes = list(self._lanes.values()), {}
        await asyncio.gather(*(lane.close() for lane in lanes))


class _Lane(Generic[Item, Answer]):
    """One stream and the rows that wait for it or are under way on it."""

    def __init__(self, open_call: OpenCall, chunks: Chunks[Item, Answer], key: LaneKey, bounds: Bounds) -> None:
        self._open_call = open_call
        self._chunks = chunks
        self._key = key
        self._bounds = bounds
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Row[Item, Answer]] = deque()
        self._in_flight: dict[int, list[_Row[Item, Answer]]] = {}
        self._sequence = 0
        self._ids = RequestIds()
        self._wake = asyncio.Event()
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._task = asyncio.create_task(self._run(), name="coalescing-lane")

    @property
    def is_over(self) -> bool:
        """True when the lane has ended and takes no more rows."""
        return self._task.done()

    def add(self, row: _Row[Item, Answer]) -> None:
        """Takes a row in.

        Raises:
            Overloaded: too many rows wait already.
        """
        most = self._bounds.rows_waiting_max
        if len(self._waiting) >= most:
            raise Overloaded(f"{most} questions wait to be sent; await some first", rows_max=most)
        self._waiting.append(row)
        if row.ends_at < self._timer_at:
            self._set_timer(row.ends_at)
        self._wake.set()  # wakes the writer in the loop's next turn: whoever asks in this one travels along

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        """Opens streams for as long as there are rows; ends after `idle_s` without any."""
        end: MeshError = Cancelled("the client was closed")
        try:
            while await self._has_rows():
                failure = await self._travel()
                if failure is not None:
                    self._failures += 1
                    self._send_again(failure)
                    if self._waiting:
                        await asyncio.sleep(backoff_s(self._failures, failure))
        except Exception as bug:
            end = Internal(f"gathered questions failed in the client: {bug!r}")  # whoever awaits one must learn of it
        finally:
            self._fail(end)
            if self._timer is not None:
                self._timer.cancel()

    async def _has_rows(self) -> bool:
        """Waits for rows; False when none came within `idle_s`."""
        if not self._waiting:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._bounds.idle_s):
                    await self._wake.wait()
        return bool(self._waiting)

    async def _travel(self) -> MeshError | None:
        """One stream, from its opening to its end; None when it ended in peace."""
        call = StreamCall(self._open_call(self._bounds.stream_s + 60.0))
        writer = asyncio.create_task(self._write(call), name="coalescing-writer")
        try:
            while (response := await call.read()) is not None:
                self._answer(response)
            return NotReady("the server ended the stream before its last answer") if self._in_flight else None
        except MeshError as error:
            return error
        except asyncio.CancelledError:
            if is_cancelled() or (bug := failure_of(writer)) is None:
                raise
            return Internal(f"gathered questions could not be put into a message: {bug!r}")
        finally:
            writer.cancel()
            call.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, call: StreamCall) -> None:
        """Sends chunks while there are rows and room, until the stream is old or idle."""
        ends_at = time.monotonic() + self._bounds.stream_s
        try:
            while time.monotonic() < ends_at:
                self._wake.clear()
                while self._waiting and len(self._in_flight) < self._bounds.window:
                    request = self._next_chunk()
                    if request is not None and not await call.write(request):
                        return  # the call ended under the writer: its status is what the reader gets
                if not self._wake.is_set() and not await self._is_woken():
                    break
            await call.done_writing()
        except Exception:
            call.cancel()  # wakes the reader, which looks here for the reason
            raise

    async def _is_woken(self) -> bool:
        """Waits for rows or for room; False when nothing at all was under way for `idle_s`."""
        if self._waiting or self._in_flight:
            await self._wake.wait()
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._bounds.idle_s):
                await self._wake.wait()
        return self._wake.is_set()

    def _next_chunk(self) -> Any | None:
        """The next rows that somebody still waits for, as a message; None when there are none."""
        waiting = self._waiting
        rows: list[_Row[Item, Answer]] = []
        while waiting and len(rows) < self._bounds.chunk_rows:
            if waiting[0].alone and rows:
                break
            row = waiting.popleft()
            if not row.answer.done():
                rows.append(row)
            if row.alone:
                break
        if not rows:
            return None
        try:
            request = self._chunks.request(
                [row.item for row in rows],
                self._key,
                sequence=self._sequence + 1,
                # Only groups the chunk's rows in the store: a row is known by its own id, whatever it travels with.
                request_id=self._ids.next(),
                row_request_ids=[row.request_id for row in rows],
            )
        except Exception as bug:
            text = f"gathered questions could not be put into a message: {bug!r}"
            self._refuse_together(rows, bug if isinstance(bug, MeshError) else Internal(text))
            return None
        self._sequence += 1
        self._in_flight[self._sequence] = rows
        return request

    def _refuse_together(self, rows: list[_Row[Item, Answer]], refusal: MeshError) -> None:
        """Refuses the one row, or puts several back to be asked one by one: the fault of one caller is no other's."""
        if len(rows) == 1:
            _refuse(rows[0], refusal)
            return
        for row in rows:
            row.alone = True
        self._waiting.extendleft(reversed(rows))

    def _answer(self, response: Any) -> None:
        rows = self._in_flight.get(response.sequence)
        if rows is None:
            raise Internal(f"the server answered chunk {response.sequence}, which is not under way")
        if response.status.code:
            refusal = from_item(response.status)
            if isinstance(refusal, NotReady):
                raise refusal  # as if the stream broke: another replica, or the same one later, may take the rows
            if isinstance(refusal, InvalidInput):
                self._refuse_together(rows, refusal)
            else:
                for row in rows:
                    _refuse(row, refusal)
        else:
            ids = tuple([row.request_id for row in rows])
            answers = self._chunks.answers(response, [row.item for row in rows], ids)
            for row, answer in zip(rows, answers, strict=True):
                if isinstance(answer, MeshError):
                    _refuse(row, answer)
                elif not row.answer.done():
                    row.answer.set_result(answer)
        del self._in_flight[response.sequence]
        self._failures = 0
        self._wake.set()  # there is room for rows that wait, or silence to be timed

    def _send_again(self, failure: MeshError) -> None:
        """Puts the rows of a broken stream back in front, once each; the others fail as the stream did."""
        rows = [row for chunk in self._in_flight.values() for row in chunk]
        self._in_flight.clear()
        again: list[_Row[Item, Answer]] = []
        for row in rows:
            if isinstance(failure, NotReady) and not row.resent:
                row.resent = True
                again.append(row)
            else:
                _refuse(row, failure)
        self._waiting.extendleft(reversed(again))

    def _fail(self, error: MeshError) -> None:
        for row in self._rows():
            _refuse(row, error)
        self._waiting.clear()
        self._in_flight.clear()

    def _rows(self) -> Iterable[_Row[Item, Answer]]:
        yield from self._waiting
        for chunk in self._in_flight.values():
            yield from chunk

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(max(0.0, at - time.monotonic()), self._expire)

    def _expire(self) -> None:
        """Ends rows whose deadline has passed; one timer for all rows costs a call nothing."""
        now = time.monotonic()
        earliest = float("inf")
        for row in self._rows():
            if row.answer.done():
                continue
            if row.ends_at <= now:
                _refuse(row, DeadlineExceeded("no answer within the deadline", where="client"))
            else:
                earliest = min(earliest, row.ends_at)
        self._timer, self._timer_at = None, float("inf")
        if earliest < float("inf"):
            self._set_timer(earliest)


def _refuse(row: _Row[Any, Any], error: MeshError) -> None:
    if not row.answer.done():
        # Each caller gets an exception of its own: one that several tasks raise gathers all of their tracebacks.
        own = error.__class__.__new__(error.__class__)
        own.__dict__.update(error.__dict__)
        own.args = error.args
        row.answer.set_exception(own)
