"""Calls: what every group of a client's calls stands on: channels, stubs, deadlines, streams of chunks."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2_grpc

from meshcast.api.analyzer.v1 import analyzer_pb2_grpc
from meshcast.api.drift.v1 import drift_pb2_grpc
from meshcast.api.forecaster.v1 import forecaster_pb2_grpc
from meshcast.api.gateway.v1 import gateway_pb2_grpc
from meshcast.api.predictor.v1 import predictor_pb2_grpc
from meshcast.client.questions import Histories, RequestIds
from meshcast.client.stream import AnswerOf, Chunk, ChunkStream, OpenCall
from meshcast.client.window import AdaptiveWindow
from meshcast.rpc import ChannelSettings, InvalidInput, TlsSettings, channel, end_call, mesh_errors, wait_ended

T = TypeVar("T")

Progress = Callable[[int, int | None], None]
"""Told after each chunk: rows answered so far, and rows in all (None while that is not known)."""

TIMEOUT_S = 5.0
"""Deadline of a single call when none is given, in seconds."""
STREAM_TIMEOUT_S = 3_600.0
"""Deadline of a whole stream when none is given, in seconds."""
CHUNK_ROWS = 256
"""Rows of a chunk: the largest run of a model."""
WINDOW = 4
"""Chunks in flight: enough to keep a server busy while answers travel."""


class Stubs:
    """The channels of a client and the stubs over them."""

    def __init__(self, target: str, settings: ChannelSettings | None, tls: TlsSettings | None) -> None:
        self._channel = channel(target, settings=settings, tls=tls)
        # Streams are resumed by us, chunk by chunk; the channel's own retries below that would multiply the tries.
        once = replace(settings or ChannelSettings(), attempts_max=1)
        self._streams = channel(target, settings=once, tls=tls)
        self.predictor = predictor_pb2_grpc.PredictorServiceStub(self._channel)
        self.streaming_predictor = predictor_pb2_grpc.PredictorServiceStub(self._streams)
        self.forecaster = forecaster_pb2_grpc.ForecasterServiceStub(self._channel)
        self.streaming_forecaster = forecaster_pb2_grpc.ForecasterServiceStub(self._streams)
        self.analyzer = analyzer_pb2_grpc.AnalyzerServiceStub(self._channel)
        self.streaming_analyzer = analyzer_pb2_grpc.AnalyzerServiceStub(self._streams)
        self.drift = drift_pb2_grpc.DriftServiceStub(self._channel)
        self.streaming_drift = drift_pb2_grpc.DriftServiceStub(self._streams)
        self.gateway = gateway_pb2_grpc.GatewayServiceStub(self._channel)
        self.health = health_pb2_grpc.HealthStub(self._channel)

    async def close(self) -> None:
        """Ends every call that is under way."""
        await self._channel.close()
        await self._streams.close()


class Calls:
    """A group of a client's calls.

    Args:
        timeout_s: deadline of single calls that name none, in seconds.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._stubs: Stubs | None = None
        self._histories = Histories()
        self._ids = RequestIds()

    @property
    def _open(self) -> Stubs:
        if self._stubs is None:
            raise RuntimeError("the client is not open: use it as `async with MeshClient(...) as mesh:`")
        return self._stubs

    def _timeout(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s


async def stream_answers(
    open_call: OpenCall,
    chunks: Iterator[Chunk] | AsyncIterator[Chunk],
    answer_of: AnswerOf[T],
    *,
    window: int | None,
    timeout_s: float,
    progress: Progress | None,
    rows_total: int | None,
) -> AsyncGenerator[T, None]:
    """Sends chunks over one stream, yields their answers in order, and tells of the progress; see `ChunkStream`."""
    sized = AdaptiveWindow() if window is None else window
    stream = ChunkStream(open_call, chunks, answer_of, window=sized, timeout_s=timeout_s)
    async with aclosing(stream.answers()) as answers:
        async for answer in answers:
            if progress is not None:
                progress(stream.rows_answered, rows_total)
            yield answer


async def answer_to(call: grpc.aio.UnaryUnaryCall[Any, T]) -> T:
    """The answer to a call, which is cancelled when its caller is."""
    with mesh_errors():
        await wait_ended(call)
        return await call


async def answers_to(call: Any) -> AsyncGenerator[Any, None]:
    """The answers of a streaming call, which is cancelled when the reader stops early: else it would live on."""
    try:
        with mesh_errors(call):
            async for answer in call:
                yield answer
    finally:
        end_call(call)


async def each(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    """The items of either kind of iterable."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
            await asyncio.sleep(0)  # a long plain iterable must not hold the loop


def check_window(chunk_rows: int, window: int | None) -> None:
    """Refuses bounds of a stream that are none.

    Raises:
        InvalidInput: the argument is named.
    """
    for name, value, most in (("chunk_rows", chunk_rows, 16_384), ("window", window, 256)):
        if value is not None and not 1 <= value <= most:
            raise InvalidInput(f"{name} must be from 1 to {most}, is {value}", field=name)
