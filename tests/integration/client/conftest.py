"""A predictor whose model is arithmetic on the columns, and which fails where a row or its creator asks for it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.predictor.v1 import predictor_pb2_grpc as pb_grpc
from meshcast.api.type.v1 import error_reason_pb2, model_pb2, receipt_pb2, status_pb2
from meshcast.client import PlannedPost, prediction_id
from meshcast.posts import (
    Planned,
    PostTable,
    history_range,
    pack_floats,
    planned_from_columns,
    planned_from_message,
    posts_from_columns,
    row_violations,
)
from meshcast.rpc import (
    InvalidInput,
    MeshError,
    NotFound,
    NotReady,
    Overloaded,
    Precondition,
    RpcSettings,
    Server,
    to_item,
)

Context = grpc.aio.ServicerContext[Any, Any]
Positions = NDArray[np.int64]

FAULTS: dict[int, Callable[[], MeshError]] = {
    40_400: lambda: NotFound("no such version"),
    42_900: lambda: Overloaded("the queue is full", retry_after_s=0.01),
    41_200: lambda: Precondition("unloaded"),
}
"""Errors that a planned post asks for by its content length."""


def arithmetic(posts: PostTable, planned: Planned, start: Positions, stop: Positions) -> NDArray[np.float32]:
    """The model: a row's answer depends on all of its own history and plan, and on nothing else."""
    counts = np.nan_to_num(posts.reactions.astype(np.float64)) * (1 + posts.hour_of_day)
    total = np.concatenate([[0.0], np.cumsum(counts)])
    answer: NDArray[np.float32] = np.log1p(
        (total[stop] - total[start]) / (stop - start) + planned.content_length + planned.has_media
    ).astype(np.float32)
    return answer


def fault(posts: PostTable, planned: Planned, start: Positions, stop: Positions) -> dict[int, MeshError]:
    """Errors by row: broken rules, and those asked for."""
    found: dict[int, MeshError] = {
        row: InvalidInput(violations[0][1], violations=violations)
        for row, violations in row_violations(posts, planned, start, stop).items()
    }
    for row, length in enumerate(planned.content_length.tolist()):
        if length in FAULTS:
            found[row] = FAULTS[int(length)]()
    return found


@dataclass
class Predictor(pb_grpc.PredictorServiceServicer):
    """The servicer, and what it saw."""

    break_at: dict[int, int] = field(default_factory=dict)
    """How often the stream is to break when a chunk of this sequence arrives."""
    break_with: Callable[[], MeshError] = lambda: NotReady("the server goes away", retry_after_s=0.01)
    """What it breaks with."""
    refuse_at: dict[int, int] = field(default_factory=dict)
    """How often a chunk of this sequence is to be refused for a full queue."""
    serving: int = 1
    """Version that answers where a chunk asks for none."""
    gone: set[int] = field(default_factory=set)
    """Versions that chunks ask for in vain."""
    gate: asyncio.Event | None = None
    """Nothing is answered before it is set."""
    unary: list[pb.PredictEngagementRequest] = field(default_factory=list)
    chunks: list[pb.PredictEngagementStreamRequest] = field(default_factory=list)
    streams: int = 0
    open_streams: int = 0
    cancelled: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a question has come."""
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the last open stream has ended."""

    async def PredictEngagement(
        self, request: pb.PredictEngagementRequest, context: Context
    ) -> pb.PredictEngagementResponse:
        self.unary.append(request)
        self.arrived.set()
        await self._pass_gate()
        posts = posts_from_columns(request.history_columns, "history_columns")
        planned = planned_from_message(request.planned)
        start, stop = np.zeros(1, dtype=np.int64), np.full(1, len(posts), dtype=np.int64)
        for error in fault(posts, planned, start, stop).values():
            raise error
        log = float(arithmetic(posts, planned, start, stop)[0])
        return pb.PredictEngagementResponse(
            prediction=pb.Prediction(
                log_engagement=log,
                intervals=[
                    pb.Interval(level=level, lower_log=log - level, upper_log=log + level) for level in (0.8, 0.95)
                ],
                confidence=0.5,
                recent_median_log=log,
            ),
            receipt=receipt_pb2.Receipt(
                prediction_id=prediction_id(request.request_id), model_version=request.model_version or 1
            ),
        )

    async def PredictEngagementStream(
        self, request_iterator: AsyncIterator[pb.PredictEngagementStreamRequest], context: Context
    ) -> AsyncIterator[pb.PredictEngagementStreamResponse]:
        self.streams += 1
        self.open_streams += 1
        try:
            async for request in request_iterator:
                self.chunks.append(request)
                self.arrived.set()
                await self._pass_gate()
                if self.break_at.get(request.sequence, 0) > 0:
                    self.break_at[request.sequence] -= 1
                    raise self.break_with()
                if self.refuse_at.get(request.sequence, 0) > 0:
                    self.refuse_at[request.sequence] -= 1
                    full = to_item(Overloaded("the queue is full", retry_after_s=0.01))
                    yield pb.PredictEngagementStreamResponse(sequence=request.sequence, status=full)
                else:
                    yield self._answer(request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.open_streams -= 1
            if not self.open_streams:
                self.closed.set()

    async def ReadPrediction(self, request: pb.ReadPredictionRequest, context: Context) -> pb.ReadPredictionResponse:
        if request.prediction_id != "known":
            raise NotFound(
                "no such prediction",
                reason=error_reason_pb2.ERROR_REASON_PREDICTION_UNKNOWN,
                prediction_id=request.prediction_id,
            )
        return pb.ReadPredictionResponse(
            prediction_id="known",
            prediction=pb.Prediction(log_engagement=2.0),
            channel="a",
            published_time=Timestamp(seconds=60),
            predicted_time=Timestamp(seconds=30),
            model_version=4,
            backend="arithmetic",
        )

    async def ValidateFeatures(
        self, request: pb.ValidateFeaturesRequest, context: Context
    ) -> pb.ValidateFeaturesResponse:
        posts = posts_from_columns(request.request.history_columns)
        planned = planned_from_message(request.request.planned)
        start, stop = np.zeros(1, dtype=np.int64), np.full(1, len(posts), dtype=np.int64)
        found = row_violations(posts, planned, start, stop).get(0, [])
        violations = [status_pb2.FieldViolation(field=f, description=d) for f, d in found]
        remark = status_pb2.FieldViolation(field="history", description="views are missing")
        return pb.ValidateFeaturesResponse(valid=not found, violations=violations, remarks=[remark])

    async def DescribeModel(self, request: pb.DescribeModelRequest, context: Context) -> pb.DescribeModelResponse:
        return pb.DescribeModelResponse(model=model_pb2.ModelDescription(name="predictor", version=1))

    async def _pass_gate(self) -> None:
        if self.gate is not None:
            await self.gate.wait()

    def _answer(self, request: pb.PredictEngagementStreamRequest) -> pb.PredictEngagementStreamResponse:
        try:
            posts = posts_from_columns(request.history)
            planned = planned_from_columns(request.planned)
            start, stop = history_range(request.history_start, request.history_stop, len(planned))
        except InvalidInput as error:
            return pb.PredictEngagementStreamResponse(sequence=request.sequence, status=to_item(error))
        version = request.model_version or self.serving
        if version in self.gone:
            unknown = NotFound(f"no version {version}", reason=error_reason_pb2.ERROR_REASON_VERSION_UNKNOWN)
            return pb.PredictEngagementStreamResponse(sequence=request.sequence, status=to_item(unknown))
        failed = fault(posts, planned, start, stop)
        good = np.array([row not in failed for row in range(len(planned))])
        log = np.full(len(planned), np.nan, dtype=np.float32)
        safe_start, safe_stop = np.where(good, start, 0), np.where(good, stop, 1)
        log[good] = arithmetic(posts, planned, safe_start, safe_stop)[good]
        return pb.PredictEngagementStreamResponse(
            sequence=request.sequence,
            rows=len(planned),
            log_engagement=pack_floats(log),
            levels=[0.8, 0.95],
            lower_log=pack_floats(np.stack([log - np.float32(0.8), log - np.float32(0.95)])),
            upper_log=pack_floats(np.stack([log + np.float32(0.8), log + np.float32(0.95)])),
            confidence=pack_floats(np.where(good, np.float32(0.5), np.float32(np.nan))),
            recent_median_log=pack_floats(log),
            failed=[status_pb2.RowStatus(row=row, status=to_item(error)) for row, error in sorted(failed.items())],
            receipt=receipt_pb2.Receipt(prediction_id=prediction_id(request.request_id), model_version=version),
        )


def channel_posts(posts: int = 140, *, seed: int = 0, channel: str = "a") -> PostTable:
    """Posts of one channel, one every three hours."""
    rng = np.random.default_rng(seed)
    hours = np.arange(posts) * 3
    return PostTable.of(
        {
            "channel": [channel] * posts,
            "published_unix_s": 1_460_000_000 + hours * 3600,
            "hour_of_day": hours % 24,
            "day_of_week": hours // 24 % 7,
            "content_length": rng.integers(0, 500, posts),
            "has_media": rng.integers(0, 2, posts),
            "forwards": rng.poisson(20, posts),
            "reactions": np.where(rng.random(posts) < 0.1, np.nan, rng.poisson(200, posts)),
        }
    )


def plan(content_length: int = 120, **rest: Any) -> PlannedPost:
    """A post planned for long after every history."""
    return PlannedPost(published_at=datetime(2026, 1, 5, 18, tzinfo=UTC), content_length=content_length, **rest)


def expected(posts: PostTable, content_length: int = 120) -> float:
    """What the arithmetic says of `plan(content_length)` after these posts."""
    one = np.zeros(1, dtype=np.float32)
    planned = Planned(
        published_unix_s=np.zeros(1, dtype=np.int64),
        hour_of_day=one,
        day_of_week=one,
        content_length=np.full(1, content_length, dtype=np.float32),
        has_media=one,
    )
    start, stop = np.zeros(1, dtype=np.int64), np.full(1, len(posts), dtype=np.int64)
    return float(arithmetic(posts, planned, start, stop)[0])


@dataclass(frozen=True)
class Kit:
    """What tests need of this file: modules cannot import it."""

    channel_posts: Callable[..., PostTable] = channel_posts
    plan: Callable[..., PlannedPost] = plan
    expected: Callable[..., float] = expected
    arithmetic: Callable[..., NDArray[np.float32]] = arithmetic


@pytest.fixture
def kit() -> Kit:
    """Made-up posts and plans, and what the arithmetic says of them."""
    return Kit()


@pytest.fixture
def predictor() -> Predictor:
    """The servicer behind `target`."""
    return Predictor()


@pytest.fixture
async def target(serve: Callable[..., Awaitable[Server]], predictor: Predictor) -> str:
    """Address of a server of the arithmetic."""
    settings = RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=0.2)
    server = await serve(
        lambda server: pb_grpc.add_PredictorServiceServicer_to_server(predictor, server), settings=settings
    )
    return server.address
