"""Spreading: deals the numbered chunks of one caller's stream to the replicas of its route, and answers in order.

The next chunk is read only when there is room for it, so that HTTP/2's window holds the caller back. A replica gets a
stream of its own once there is a chunk that it would answer first. What a replica loses is sent again to another.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine
from typing import Any

import grpc.aio

from meshcast.rpc import Cancelled, MeshError, end_call, finished, from_rpc_error

from .backends import Backend
from .breaker import Outcome
from .budget import unreachable
from .forwarding import Context, Metadata, pass_head, pass_trailers
from .lane import Lane
from .ledger import Chunk, Ledger
from .numbered import Numbered
from .replica import Replica
from .window import StreamSettings, Window

_END_S = 1.0  # how long a stream whose chunks are all answered waits for its replicas' last word
_LOST_S = 1.0  # how long a replica that has lost a stream is left alone by it, as health names may lag behind
_HELD_UP_S = 0.05  # a caller that takes longer for its answers holds up whoever gives them; less is the same for all
_LOOKS = 4  # at the lanes, within the time of a stall
_STALL_INTERVALS = 4.0  # silences this much longer than any that was usual are stalls


class Spread:
    """One caller's stream, spread over the replicas of its route.

    Args:
        method: of the stream.
        backend: the route.
        context: of the caller's call.
        settings: of streams.
        metadata: of the caller, to be passed on.
        timeout_s: seconds that replicas have for the whole stream.
        default_ms: the route's deadline in milliseconds where the caller set none, else 0.
        retry_after_s: seconds after which callers may ask again when no replica can be reached.

    Attributes:
        failed_on: endpoint of the replica whose failure ended the stream; empty where none did.
    """

    def __init__(
        self,
        method: Numbered,
        backend: Backend,
        context: Context,
        settings: StreamSettings,
        *,
        metadata: Metadata,
        timeout_s: float,
        default_ms: int,
        retry_after_s: float,
    ) -> None:
        self.failed_on = ""
        self._method = method
        self._backend = backend
        self._context = context
        self._settings = settings
        self._metadata = metadata
        self._ends_at = time.perf_counter() + timeout_s
        self._default_ms = default_ms
        self._retry_after_s = retry_after_s
        self._ledger = Ledger()
        self._window = Window(settings)
        self._lanes: list[Lane] = []
        self._lost: dict[Replica, float] = {}
        self._room = asyncio.Event()
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._bug: BaseException | None = None
        self._is_writing = False
        self._wrote_at = 0.0
        self._has_head = False
        self._is_complete = False  # the caller sends nothing more
        self._is_over = False  # nothing is dealt any more
        self._last_call: Any = None
        self._ending: asyncio.TimerHandle | None = None

    async def run(self) -> grpc.aio.AioRpcError | None:
        """Answers until the caller's last chunk is answered; returns the replica's failure that ended the stream, None
        when it ended well.

        Raises:
            Cancelled: the caller is gone.
            NotReady: no replica can be reached.
        """
        self._look_later()
        self._backend.load.streams.add(self._ledger)
        dealing = self._start(self._deal_all(), "spread-deal")
        try:
            await self._ended.wait()
            dealing.cancel()  # what the caller still sends has nobody to read it
        finally:
            self._is_over = True  # a chunk that has just been read must not be given to an ended call
            self._room.set()
            self._timer.cancel()
            if self._ending is not None:
                self._ending.cancel()
            now = time.perf_counter()
            for lane in self._lanes:
                lane.end(Outcome.IGNORED, now)
            try:
                # Those of a caller that has gone end by themselves, and leave nothing behind.
                await finished(*self._tasks)
            finally:
                self._backend.load.streams.discard(self._ledger)
                self._backend.bulkhead.in_use -= self._ledger.open
        if isinstance(self._bug, grpc.aio.BaseError):
            # Reading and writing end so when the caller has gone; the server's cancellation is on its way then.
            raise Cancelled("the caller has left the stream") from self._bug
        if self._bug is not None:
            raise self._bug
        if self._ledger.has_failed:
            failure: grpc.aio.AioRpcError | MeshError = self._ledger.failure
            if isinstance(failure, MeshError):
                raise failure
            return failure
        if self._last_call is not None:
            await pass_trailers(self._last_call, self._context)
        return None

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task of the stream, which ends the stream when it fails."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._stopped)
        return task

    def _stopped(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._bug = self._bug or bug
            self._ended.set()

    async def _deal_all(self) -> None:
        """Reads the caller's chunks, each when there is room for it, and deals them."""
        read, end, ledger, window, room = self._context.read, grpc.aio.EOF, self._ledger, self._window, self._room
        number, bulkhead = self._method.asked, self._backend.bulkhead
        while True:
            # A stream that holds nothing takes a chunk all the same: nobody else would tell it of the room there is.
            while not window.has_room(ledger.open, ledger.size_bytes) or (bulkhead.is_full and ledger.open):
                room.clear()
                await room.wait()
                if self._is_over:
                    return
            message: Any = await read()
            if self._is_over:
                return
            if message is end:
                break
            now = time.perf_counter()
            chunk = ledger.take(message, number(message), now)
            bulkhead.in_use += 1
            lane = self._choose(chunk, now) if ledger.failure is None else None
            if lane is None:
                nobody = unreachable(self._backend, self._method.service, retry_after_s=self._retry_after_s)
                self._fail(chunk.position, nobody, "")
                return
            lane.give(chunk, now, window.answered)
        self._is_complete = True
        for lane in self._lanes:
            lane.close()
        self._conclude()

    def _choose(self, chunk: Chunk, now: float) -> Lane | None:
        """The lane that would answer a chunk first, opened where it is not; None where no replica can be asked."""
        lanes, backend, service = self._lanes, self._backend, self._method.service
        if len(lanes) == 1 and len(backend.replicas) == 1 and not (chunk.avoid or lanes[0].is_closing):
            return lanes[0]
        ready = backend.ready(service)
        best: Lane | None = None
        usual_s = min((lane.interval_s for lane in lanes if lane.interval_s), default=1.0)
        least_s = math.inf
        for lane in lanes:
            replica = lane.replica
            if lane.is_closing or lane.is_stalled or replica in chunk.avoid or replica not in ready:
                continue
            if replica.breaker.admits(now) and (cost_s := lane.cost_s(usual_s)) < least_s:
                best, least_s = lane, cost_s
        if best is None or best.held:
            best = self._open_other(chunk, now) or best
        if best is None:
            # Nobody who is well: one that is silent or leaves may answer all the same.
            rest = [lane for lane in lanes if not lane.is_closing and lane.replica not in chunk.avoid]
            best = min(rest, key=_burden, default=None)
        if best is None:
            replica_or_none = backend.pick(service, avoid=chunk.avoid)
            if replica_or_none is not None:
                best = self._open(replica_or_none, now)
        if best is not None:
            for lane in lanes:
                if lane is not best:
                    lane.forget_a_little()
        return best

    def _open_other(self, chunk: Chunk, now: float) -> Lane | None:
        """A lane to a replica that has none; None where there is no such replica that is well."""
        backend = self._backend
        if len(self._lanes) >= len(backend.replicas):
            return None
        used = {lane.replica for lane in self._lanes if not lane.is_closing}
        lost = {replica for replica, until in self._lost.items() if now < until}
        replica = backend.pick_admitted(self._method.service, avoid=used | lost | set(chunk.avoid))
        return None if replica is None else self._open(replica, now)

    def _open(self, replica: Replica, now: float) -> Lane:
        call = replica.stream(self._method.path)(timeout=max(0.0, self._ends_at - now), metadata=self._metadata)
        lane = Lane(replica, call, now)
        self._lanes.append(lane)
        self._start(lane.write_all(), f"spread-up:{replica.endpoint}")
        self._start(self._hear_all(lane), f"spread-down:{replica.endpoint}")
        return lane

    async def _hear_all(self, lane: Lane) -> None:
        """Takes a replica's answers until its call ends, and gives the caller those whose turn it is."""
        receive, end = lane.call.read, grpc.aio.EOF
        failure: grpc.aio.AioRpcError | None = None
        try:
            while (message := await receive()) is not end:
                now = time.perf_counter()
                self._hear(lane, message, now)
                if not self._is_writing:
                    await self._give_all()
                    if (taken_s := self._wrote_at - now) > _HELD_UP_S:
                        lane.heard_at += taken_s  # it is the caller who took that time, not the replica
        except grpc.aio.AioRpcError as error:
            failure = lane.status.restored(error) or error
        self._lanes.remove(lane)
        self._end(lane, failure, time.perf_counter())
        if not self._is_writing:
            await self._give_all()

    def _hear(self, lane: Lane, message: bytes, now: float) -> None:
        """Takes one answer of a replica."""
        was_stalled = lane.is_stalled
        sent, interval_s = lane.take(self._method.told(message), now)
        if sent is None:
            return  # a second answer to the same chunk
        if not was_stalled:
            self._method.silences.record(interval_s)
        chunk = sent.chunk
        refusal = None if chunk.is_answered else self._method.refusal(message)
        lane.judge(sent, Outcome.OK if refusal is None else Outcome.IGNORED, now)
        if chunk.is_answered:
            return
        if refusal is not None:
            lane.refuse()
            chunk.avoid += (lane.replica,)
            if chunk.copies or self._send_again(chunk, now):
                return
        self._ledger.answer(chunk, message, lane)
        before, window = self._window.size, self._window
        window.record(now - sent.since, sent.answered_before, len(self._lanes))
        if window.size > before:
            self._room.set()

    async def _give_all(self) -> None:
        """Gives the caller the answers whose turn it is. Only one task at a time may write."""
        ledger, write, fragments = self._ledger, self._context.write, self._method.has_receipt
        bulkhead = self._backend.bulkhead
        self._is_writing = True
        try:
            while (answer := ledger.next()) is not None:
                bulkhead.in_use -= 1
                lane, chunk = answer.by, answer.chunk
                if not self._has_head:
                    self._has_head = True
                    await pass_head(lane.call, self._context)
                message = answer.message
                if fragments:
                    elapsed_us = int((time.perf_counter() - chunk.arrived) * 1e6)
                    message += lane.replica.fragment(chunk.sends, self._default_ms).encode(elapsed_us)
                await write(message)
                self._room.set()
        finally:
            self._is_writing = False
            self._wrote_at = time.perf_counter()
        self._conclude()

    def _end(self, lane: Lane, failure: grpc.aio.AioRpcError | None, now: float) -> None:
        """Deals with the end of a replica's call: what it held is sent elsewhere, where that may help."""
        if failure is None and not lane.held:
            self._last_call = lane.call
            lane.end(Outcome.IGNORED, now)
            return
        is_passing = failure is None or _is_passing(failure)
        first = next((sent.chunk.position for sent in lane.held if not sent.chunk.is_answered), self._ledger.taken)
        lost = lane.end(Outcome.FAILED if is_passing else _outcome(failure), now)
        error = failure or _early_end()
        if not is_passing:
            self._fail(first, error, lane.replica.endpoint)
            return
        self._lost[lane.replica] = now + _LOST_S
        for sent in lost:
            chunk = sent.chunk
            if chunk.is_answered or chunk.copies:
                continue
            chunk.avoid += (lane.replica,)
            if not self._send_again(chunk, now):
                self._fail(chunk.position, error, lane.replica.endpoint)
        if not self._lanes and not self._is_complete:
            # A caller that waits hears of it now, where nobody else could take what it sends next.
            if self._backend.pick(self._method.service, avoid=(lane.replica,)) is None:
                self._fail(self._ledger.taken, error, lane.replica.endpoint)

    def _send_again(self, chunk: Chunk, now: float) -> bool:
        """Sends a chunk to another replica; False where that is not possible or was done too often."""
        if chunk.sends >= self._settings.sends_max:
            return False
        lane = self._choose(chunk, now)
        if lane is None or lane.is_stalled:
            return False
        lane.give(chunk, now, self._window.answered)
        if self._is_complete:
            asyncio.get_running_loop().call_soon(lane.close)  # not yet: what is lost beside this chunk goes there too
        self._backend.load.counts.chunks_resent += 1
        return True

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._settings.stall_s / _LOOKS, self._look)

    def _look(self) -> None:
        """Sends what silent replicas hold to others as well, and leaves replicas that take no more calls."""
        self._look_later()
        now = time.perf_counter()
        ready = self._backend.ready(self._method.service)
        for lane in self._lanes:
            if not lane.is_closing and not lane.held and ready and lane.replica not in ready:
                lane.close()
        if self._is_writing:
            return  # it is the caller who holds all up
        bound_s = max(self._settings.stall_s, _STALL_INTERVALS * self._method.silences.longest_s)
        for lane in tuple(self._lanes):
            if not lane.held:
                continue
            if not lane.is_stalled:
                lane.is_stalled = now - max(lane.held.oldest.since, lane.heard_at, self._wrote_at) > bound_s
            if lane.is_stalled:
                self._leave(lane, now)

    def _leave(self, lane: Lane, now: float) -> None:
        """Sends what a silent replica holds to others; whoever answers first is heard."""
        outcome = Outcome.FAILED
        for sent in tuple(lane.held):
            chunk = sent.chunk
            if sent.turn is not None:
                lane.judge(sent, outcome, now)
                outcome = Outcome.IGNORED
            if not chunk.is_answered and not (chunk.copies > 1 and self._is_held_by_others(chunk)):
                if lane.replica not in chunk.avoid:
                    chunk.avoid += (lane.replica,)
                self._send_again(chunk, now)

    def _is_held_by_others(self, chunk: Chunk) -> bool:
        """Whether a replica that is not silent has a chunk."""
        return any(sent.chunk is chunk for lane in self._lanes if not lane.is_stalled for sent in lane.held)

    def _fail(self, position: int, error: grpc.aio.AioRpcError | MeshError, endpoint: str) -> None:
        before = self._ledger.failure
        self._ledger.fail(position, error)
        if self._ledger.failure is not before:
            self.failed_on = endpoint
        if not self._is_writing:
            self._conclude()

    def _conclude(self) -> None:
        """Ends the stream when nothing is left to do."""
        ledger = self._ledger
        if ledger.has_failed:
            self._ended.set()
        elif self._is_complete and not ledger.open:
            for lane in self._lanes:
                if lane.held:  # only what others have answered
                    end_call(lane.call)
            if not any(not lane.held for lane in self._lanes):
                self._ended.set()
            elif self._ending is None:
                self._ending = asyncio.get_running_loop().call_later(_END_S, self._ended.set)


def _burden(lane: Lane) -> int:
    return len(lane.held)


def _is_passing(error: grpc.aio.AioRpcError) -> bool:
    """Whether another replica may be asked what this one has failed: it is away, drains or has a full queue."""
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):  # not by us: that raises no error
        return True
    return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and from_rpc_error(error).is_retryable


def _outcome(error: grpc.aio.AioRpcError | None) -> Outcome:
    is_bug = error is not None and error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    return Outcome.FAILED if is_bug else Outcome.IGNORED


def _early_end() -> grpc.aio.AioRpcError:
    return _unavailable("the service ended the stream before its last answer")


def _unavailable(details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details)
