"""Spreading over replicas that answer in any order, twice, not at all, or break: the caller sees each answer once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.gateway import Backend, Replica, RouteSettings, State
from meshcast.gateway.contracts import Contracts
from meshcast.gateway.numbered import Numbered
from meshcast.gateway.spread import Spread
from meshcast.gateway.window import StreamSettings
from meshcast.rpc import NotReady

SERVICE = "meshcast.api.predictor.v1.PredictorService"
PATH = f"/{SERVICE}/PredictEngagementStream"
Act = Callable[[int], str]
"""What a replica does with its n-th chunk: `answer`, `twice`, `later`, `refuse`, `no version`, `nothing`, `die` soon,
`end`, or to fail with a code's name."""


class ScriptedCall:
    """A replica's stream."""

    def __init__(self, endpoint: str, act: Act) -> None:
        self.endpoint = endpoint
        self._act = act
        self._got = 0
        self._is_mute = False
        self._later: list[bytes] = []
        self._answers: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self.is_cancelled = False

    @property
    def chunks(self) -> int:
        """Chunks that it was given."""
        return self._got

    async def write(self, message: bytes) -> None:
        """Takes a chunk and acts on it."""
        request = pb.PredictEngagementStreamRequest.FromString(message)
        self._got += 1
        answer = pb.PredictEngagementStreamResponse(sequence=request.sequence, rows=len(request.request_id))
        answer.receipt.model = self.endpoint
        act = self._act(self._got)
        match act:
            case "end":
                self._answers.put_nowait(b"end")
            case "later":
                self._later.append(answer.SerializeToString())
                asyncio.get_running_loop().call_later(0.001, self._say_later)  # or with the next one
                return
            case "nothing":
                self._is_mute = True
                return
            case "die":
                failure = _failure("UNAVAILABLE", self.endpoint)
                asyncio.get_running_loop().call_later(0.05, self._answers.put_nowait, failure)
                return
            case "answer" | "twice" | "refuse" | "no version":
                if act == "refuse":
                    answer.status.code = 8
                if act == "no version":
                    answer.status.code, answer.status.reason = 5, ErrorReason.ERROR_REASON_VERSION_UNKNOWN
                for _ in range(2 if act == "twice" else 1):
                    self._answers.put_nowait(answer.SerializeToString())
            case code:
                self._answers.put_nowait(_failure(code, self.endpoint))
        self._say_later()

    async def read(self) -> Any:
        """The next answer."""
        answer = await self._answers.get()
        if isinstance(answer, Exception):
            raise answer
        return grpc.aio.EOF if answer == b"end" else answer

    async def done_writing(self) -> None:
        """Ends the stream after what is left to say."""
        self._say_later()
        if not self._is_mute:
            self._answers.put_nowait(b"end")

    def cancel(self) -> None:
        """Notes that the call is over."""
        self.is_cancelled = True

    def add_done_callback(self, callback: object) -> None:
        """grpc's, never called here."""

    async def initial_metadata(self) -> tuple[()]:
        """None."""
        return ()

    async def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        """Tells whose they are."""
        return (("x-served-by", self.endpoint),)

    def _say_later(self) -> None:
        while self._later:
            self._answers.put_nowait(self._later.pop())


def _failure(code: str, endpoint: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(grpc.StatusCode[code], grpc.aio.Metadata(), grpc.aio.Metadata(), f"{endpoint} fails")


class ScriptedChannel:
    """A channel to a replica."""

    def __init__(self, endpoint: str, act: Act) -> None:
        self._endpoint = endpoint
        self._act = act
        self.calls: list[ScriptedCall] = []

    def stream_stream(self, path: str) -> Any:
        """grpc's."""

        def call(**_options: object) -> ScriptedCall:
            self.calls.append(ScriptedCall(self._endpoint, self._act))
            return self.calls[-1]

        return call


class Caller:
    """The caller's side: chunks to read, and the answers that were written."""

    def __init__(self, chunks: int, first: int = 5) -> None:
        self._chunks = iter(
            [
                pb.PredictEngagementStreamRequest(sequence=first + n, request_id="r" * (n % 7)).SerializeToString()
                for n in range(chunks)
            ]
        )
        self.answers: list[pb.PredictEngagementStreamResponse] = []
        self.trailers: object = None
        self.read_ahead = 0
        self._read = 0

    async def read(self) -> Any:
        """The next chunk, or EOF."""
        await asyncio.sleep(0)
        self._read += 1
        self.read_ahead = max(self.read_ahead, self._read - len(self.answers))
        return next(self._chunks, grpc.aio.EOF)

    async def write(self, message: bytes) -> None:
        """Takes an answer."""
        await asyncio.sleep(0)
        self.answers.append(pb.PredictEngagementStreamResponse.FromString(message))

    def set_trailing_metadata(self, trailers: object) -> None:
        """Takes the trailers."""
        self.trailers = trailers


def backend_of(*acts: Act) -> tuple[Backend, list[ScriptedChannel]]:
    backend = Backend("predictor", RouteSettings(services=(SERVICE,)), random.Random(1))
    channels = [ScriptedChannel(f"replica:{number}", act) for number, act in enumerate(acts)]
    for number, channel in enumerate(channels):
        to: Any = channel
        replica = Replica(f"replica:{number}", to)
        replica.problem, replica.services = "", {SERVICE: State.SERVING}
        backend.replicas[replica.endpoint] = replica
    backend.refresh()
    return backend, channels


def numbered() -> Numbered:
    return Numbered((Contracts().methods(SERVICE) or {})[PATH])


async def spread(
    backend: Backend, caller: Caller, method: Numbered | None = None, **changes: Any
) -> grpc.aio.AioRpcError | None:
    context: Any = caller
    running = Spread(
        method or numbered(),
        backend,
        context,
        StreamSettings(**changes),
        metadata=(),
        timeout_s=30,
        default_ms=0,
        retry_after_s=0.25,
    )
    async with asyncio.timeout(5):
        return await running.run()


def answers(_number: int) -> str:
    return "answer"


def assert_nothing_is_left(backend: Backend, channels: list[ScriptedChannel]) -> None:
    assert [replica.in_flight for replica in backend.replicas.values()] == [0] * len(backend.replicas)
    assert all(call.is_cancelled for channel in channels for call in channel.calls)
    assert backend.bulkhead.in_use == 0


def acting(seed: int) -> Act:
    rng = random.Random(seed)
    acts = ("answer", "twice", "later", "refuse", "end", "UNAVAILABLE", "CANCELLED")
    return lambda _number: rng.choices(acts, (6, 2, 2, 1, 1, 1, 1))[0]


@given(st.integers(0, 60), st.lists(st.integers(0, 1000), max_size=4), st.integers(1, 5))
@settings(max_examples=50)
async def test_each_chunk_is_answered_once_in_order_while_one_replica_is_well(
    chunks: int, seeds: list[int], window: int
) -> None:
    backend, channels = backend_of(answers, *(acting(seed) for seed in seeds))
    caller = Caller(chunks)
    failure = await spread(backend, caller, sends_max=10, window_min=window, window_max=window)
    assert failure is None
    assert [answer.sequence for answer in caller.answers] == [*range(5, 5 + chunks)]
    assert [answer.rows for answer in caller.answers] == [n % 7 for n in range(chunks)]
    assert all(answer.status.code == 0 for answer in caller.answers)
    assert all(answer.receipt.model == answer.receipt.gateway.endpoint for answer in caller.answers)
    assert caller.read_ahead <= window + 1  # the end of the stream counts too
    assert_nothing_is_left(backend, channels)


async def test_all_replicas_get_their_share_of_a_wide_stream() -> None:
    backend, channels = backend_of(*[lambda _number: "later"] * 3)
    caller = Caller(90)
    assert await spread(backend, caller) is None
    shares = {channel.calls[0].endpoint: 0 for channel in channels}
    for answer in caller.answers:
        shares[answer.receipt.gateway.endpoint] += 1
    assert min(shares.values()) >= 5
    assert [len(channel.calls) for channel in channels] == [1, 1, 1]  # one stream each, kept


async def test_a_stream_without_chunks_asks_nobody() -> None:
    backend, channels = backend_of(answers)
    caller = Caller(0)
    assert await spread(backend, caller) is None
    assert (caller.answers, channels[0].calls) == ([], [])


async def test_the_only_replicas_own_end_is_the_callers() -> None:
    backend, channels = backend_of(answers)
    caller = Caller(3)
    assert await spread(backend, caller) is None
    assert caller.trailers == (("x-served-by", "replica:0"),)
    assert_nothing_is_left(backend, channels)


async def test_a_chunk_that_breaks_every_replica_fails_the_stream_after_the_answers_before_it() -> None:
    def poisoned(number: int) -> str:
        return "answer" if number < 3 else "UNAVAILABLE"

    backend, channels = backend_of(poisoned, poisoned, poisoned, poisoned)
    caller = Caller(40)
    failure = await spread(backend, caller, sends_max=2)
    assert failure is not None and failure.code() is grpc.StatusCode.UNAVAILABLE
    assert [answer.sequence for answer in caller.answers] == [*range(5, 5 + len(caller.answers))]
    assert 2 <= len(caller.answers) < 40
    assert_nothing_is_left(backend, channels)


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "INTERNAL", "DEADLINE_EXCEEDED", "UNIMPLEMENTED"])
async def test_a_failure_that_would_come_again_is_not_tried_elsewhere(code: str) -> None:
    def failing(number: int) -> str:
        return "answer" if number < 2 else code

    backend, channels = backend_of(failing, failing)
    failure = await spread(backend, Caller(9))
    assert failure is not None and failure.code().name == code
    assert backend.load.counts.chunks_resent == 0
    assert_nothing_is_left(backend, channels)


async def test_a_refusal_that_every_replica_repeats_reaches_the_caller_in_its_place() -> None:
    def refusing(_number: int) -> str:
        return "refuse"

    backend, channels = backend_of(refusing, refusing)
    caller = Caller(3)
    assert await spread(backend, caller, window_min=1, window_max=1) is None
    assert [(answer.sequence, answer.status.code) for answer in caller.answers] == [(5, 8), (6, 8), (7, 8)]
    assert backend.load.counts.chunks_resent == 3
    assert_nothing_is_left(backend, channels)


async def test_a_full_bulkhead_slows_a_stream_down_and_does_not_stop_it() -> None:
    backend, channels = backend_of(answers)
    backend.bulkhead.calls_max = 3
    backend.bulkhead.in_use = 3  # by others
    caller = Caller(20)
    assert await spread(backend, caller, window_min=8, window_max=8) is None
    assert len(caller.answers) == 20 and caller.read_ahead <= 2
    assert backend.bulkhead.in_use == 3
    backend.bulkhead.in_use = 0
    assert_nothing_is_left(backend, channels)


async def test_a_version_that_one_replica_has_answers_all_chunks_and_the_other_is_rarely_asked() -> None:
    backend, channels = backend_of(lambda _number: "no version", answers)
    caller = Caller(200)
    assert await spread(backend, caller) is None
    assert [answer.status.code for answer in caller.answers] == [0] * 200
    assert sum(call.chunks for call in channels[0].calls) < 50
    assert_nothing_is_left(backend, channels)


async def test_a_version_that_no_replica_has_is_told() -> None:
    backend, channels = backend_of(*[lambda _number: "no version"] * 2)
    caller = Caller(3)
    assert await spread(backend, caller) is None
    assert [answer.status.reason for answer in caller.answers] == [ErrorReason.ERROR_REASON_VERSION_UNKNOWN] * 3
    assert_nothing_is_left(backend, channels)


async def test_a_chunk_that_two_silent_replicas_hold_goes_to_a_third() -> None:
    backend, channels = backend_of(*[lambda _number: "nothing"] * 2, answers)
    back = list(backend.replicas.values())[2]
    back.problem = "not there yet"
    backend.refresh()
    caller = Caller(1)
    running = asyncio.create_task(spread(backend, caller, stall_s=0.04))
    async with asyncio.timeout(5):
        while sum(call.chunks for channel in channels for call in channel.calls) < 2:  # noqa: ASYNC110  # they tell nobody
            await asyncio.sleep(0.01)
    back.problem = ""
    backend.refresh()
    assert await running is None
    assert [answer.sequence for answer in caller.answers] == [5]
    assert_nothing_is_left(backend, channels)


async def test_the_time_that_a_caller_takes_for_an_answer_is_no_silence_of_a_replica() -> None:
    class Slow(Caller):
        async def write(self, message: bytes) -> None:
            if len(self.answers) == 3:
                await asyncio.sleep(0.5)
            await super().write(message)

    backend, _ = backend_of(answers)
    method = numbered()
    assert await spread(backend, Slow(20), method) is None
    assert 0 < method.silences.longest_s < 0.4


async def test_a_chunk_that_is_read_as_its_caller_leaves_is_given_to_nobody() -> None:
    class Leaving(Caller):
        last: asyncio.Future[Any]

        async def read(self) -> Any:
            chunk = await super().read()
            if self._read == 3:
                self.last = asyncio.get_running_loop().create_future()
                await self.last
            return chunk

    backend, channels = backend_of(lambda _number: "nothing")
    caller = Leaving(9)
    running = asyncio.create_task(spread(backend, caller))
    while not hasattr(caller, "last"):  # noqa: ASYNC110  # one turn of the loop after the other
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.sleep(0)  # the stream hears of it first
    caller.last.set_result(None)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [call.chunks for call in channels[0].calls] == [2]
    assert_nothing_is_left(backend, channels)


@given(st.integers(-(2**63), 2**63 - 1), st.text(max_size=3))
def test_the_number_of_a_chunk_is_read_from_its_bytes(sequence: int, request_id: str) -> None:
    message = pb.PredictEngagementStreamRequest(sequence=sequence, request_id=request_id).SerializeToString()
    assert numbered().asked(message) == sequence % 2**64


async def test_what_a_replica_loses_at_the_end_of_a_stream_goes_to_another_in_one_more_stream() -> None:
    def dying(number: int) -> str:
        return "die" if number == 1 else "nothing"

    backend, channels = backend_of(dying, answers)
    caller = Caller(16)
    assert await spread(backend, caller, window_min=32, window_max=32) is None
    assert [answer.sequence for answer in caller.answers] == [*range(5, 21)]
    assert backend.load.counts.chunks_resent >= 2
    assert len(channels[1].calls) <= 2
    assert_nothing_is_left(backend, channels)


async def test_a_stream_whose_replicas_have_all_left_says_why_once_it_asks_for_one() -> None:
    backend, channels = backend_of(answers)
    replica = backend.replicas["replica:0"]

    class Left(Caller):
        async def read(self) -> Any:
            if self._read == 2:
                replica.problem = "connection refused"
                backend.refresh()
                backend.replicas["replica:1"] = Replica("replica:1", replica.channel)  # listed, and not reached yet
                call = channels[0].calls[0]
                while replica.in_flight:  # noqa: ASYNC110  # a number
                    await asyncio.sleep(0)
                await call.done_writing()  # it drains
                while not call.is_cancelled:  # noqa: ASYNC110  # nor does that tell anybody
                    await asyncio.sleep(0)
            return await super().read()

    caller = Left(5)
    message = r"no replica of predictor can be reached \(replica:0: connection refused; replica:1: not reached yet\)"
    with pytest.raises(NotReady, match=f"^{message}$") as caught:
        await spread(backend, caller)
    assert caught.value.retry_after_s == 0.25
    assert [answer.sequence for answer in caller.answers] == [5, 6]
    assert_nothing_is_left(backend, channels)
