"""Example of the predictor's questions: a made-up channel, as one planned post or a chunk of them."""

import numpy as np
from numpy.typing import NDArray

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.posts import PLAN_COLUMNS, Planned, PostTable, pack_planned, pack_positions, pack_posts, unpack_floats
from meshcast.runtime import ExampleCall, ServiceExample
from meshcast.services.predictor.answers import LEVELS
from meshcast.services.predictor.features import tensors
from meshcast.services.predictor.prepare import Question
from meshcast.services.predictor.questions import chunk_question, single_question

__all__ = ["EXAMPLE"]

_HISTORY = 60
_HOUR_S = 3_600
_LEAD = 3  # posts, of eight hours each, between the history's newest and the planned one: a day

Floats = NDArray[np.float32]


def _channel(posts: int, seed: int) -> PostTable:
    """A channel with a post every eight hours."""
    rng = np.random.default_rng(seed)
    hours = np.arange(posts) * 8
    return PostTable.of(
        {
            "published_unix_s": 1_400_000_000 + hours * _HOUR_S,
            "hour_of_day": hours % 24,
            "day_of_week": hours // 24 % 7,
            "content_length": rng.integers(0, 300, posts),
            "has_media": rng.integers(0, 2, posts),
            "forwards": rng.lognormal(6, 1, posts).astype(int),
            "replies": rng.lognormal(4, 1, posts).astype(int),
            "reactions": rng.lognormal(7, 1, posts).astype(int),
        }
    )


def _request(rows: int, seed: int) -> pb.PredictEngagementRequest:
    """The post that follows a day after 60 settled ones; `rows` is 1."""
    table = _channel(_HISTORY + _LEAD, seed)
    request = pb.PredictEngagementRequest(history_columns=pack_posts(table[:_HISTORY]))
    planned = request.planned
    planned.published_time.FromSeconds(int(table.published_unix_s[-1]))
    planned.hour_of_day, planned.day_of_week = int(table.hour_of_day[-1]), int(table.day_of_week[-1])
    planned.content_length, planned.has_media = int(table.content_length[-1]), bool(table.has_media[-1])
    return request


def _chunk(rows: int, seed: int) -> pb.PredictEngagementStreamRequest:
    """Each post from the 63rd on, after the 60 posts that were settled by then."""
    table = _channel(_HISTORY + _LEAD + rows - 1, seed)
    start = np.arange(rows)
    planned = Planned(**{name: getattr(table, name)[start + _HISTORY + _LEAD - 1] for name in PLAN_COLUMNS})
    return pb.PredictEngagementStreamRequest(
        history=pack_posts(table[: _HISTORY + rows - 1]),
        planned=pack_planned(planned),
        history_start=pack_positions(start),
        history_stop=pack_positions(start + _HISTORY),
    )


def _tensors_of(question: Question) -> dict[str, Floats]:
    return tensors(question.posts, question.planned, question.start, question.stop)


def _outputs(answer: pb.PredictEngagementResponse) -> dict[str, Floats]:
    inner, outer = answer.prediction.intervals
    bounds = (outer.lower_log, inner.lower_log, inner.upper_log, outer.upper_log)
    return {
        "log_engagement": np.array([answer.prediction.log_engagement], dtype=np.float32),
        "quantiles": np.array([bounds], dtype=np.float32),
        "confidence": np.array([answer.prediction.confidence], dtype=np.float32),
    }


def _chunk_outputs(answer: pb.PredictEngagementStreamResponse) -> dict[str, Floats]:
    shape = (len(LEVELS), answer.rows)
    inner_lower, outer_lower = unpack_floats(answer.lower_log, shape, "lower_log")
    inner_upper, outer_upper = unpack_floats(answer.upper_log, shape, "upper_log")
    return {
        "log_engagement": unpack_floats(answer.log_engagement, shape[1:], "log_engagement"),
        "quantiles": np.stack([outer_lower, inner_lower, inner_upper, outer_upper], axis=1),
        "confidence": unpack_floats(answer.confidence, shape[1:], "confidence"),
    }


def _bad() -> pb.PredictEngagementRequest:
    request = _request(1, 0)
    request.planned.hour_of_day = 24
    return request


def _bad_chunk() -> pb.PredictEngagementStreamRequest:
    request = _chunk(2, 0)
    request.planned.posts = 0
    return request


EXAMPLE = ServiceExample(
    single=ExampleCall(
        method="PredictEngagement",
        request=_request,
        tensors=lambda request: _tensors_of(single_question(request)),
        outputs=_outputs,
        bad=_bad,
        bad_field="planned.hour_of_day",
    ),
    stream=ExampleCall(
        method="PredictEngagementStream",
        request=_chunk,
        tensors=lambda request: _tensors_of(chunk_question(request, rows_max=1024)),
        outputs=_chunk_outputs,
        bad=_bad_chunk,
        bad_field="planned.posts",
        rows_max=1024,
    ),
)
