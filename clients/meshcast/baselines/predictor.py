"""The predictor's baseline: what the channel's settled posts did, whatever is planned."""

from collections.abc import Callable, Mapping

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.baselines.quantiles import future_quantiles
from meshcast.posts import (
    POSTS_MIN,
    Planned,
    PostTable,
    engagement,
    planned_from_message,
    posts_from_columns,
    posts_from_messages,
    row_violations,
)
from meshcast.rpc.errors import InvalidInput

__all__ = ["BASELINES", "LEVELS", "MODEL", "predict_engagement", "prediction_of"]

MODEL = "baseline/predictor"
"""What the receipt names in place of a model."""

LEVELS = (0.8, 0.95)
"""Levels of the intervals, as the model that ships states them."""

RECENT = 20
"""Posts behind `recent_median_log`, of the contract."""

_ID_CHARACTERS_MAX, _CHANNEL_CHARACTERS_MAX = 128, 256  # of the contract
_COUNTED = ("forwards", "replies", "reactions")

Floats = NDArray[np.float64]


def predict_engagement(request: bytes) -> bytes | None:
    """The baseline of a planned post's engagement.

    Args:
        request: an encoded `PredictEngagementRequest`.

    Returns:
        An encoded `PredictEngagementResponse`; None where the service would refuse the request, or where it asks for a
        version of the model.
    """
    asked = pb.PredictEngagementRequest()
    try:
        asked.ParseFromString(request)
    except DecodeError:
        return None
    if (
        asked.model_version
        or len(asked.request_id) > _ID_CHARACTERS_MAX
        or len(asked.channel) > _CHANNEL_CHARACTERS_MAX
        or bool(asked.history) == asked.HasField("history_columns")
    ):
        return None
    try:
        posts = posts_from_messages(asked.history) if asked.history else posts_from_columns(asked.history_columns)
        planned = planned_from_message(asked.planned)
    except InvalidInput:
        return None
    settled = settled_levels(posts, planned)
    if settled is None:
        return None
    response = pb.PredictEngagementResponse(prediction=prediction_of(settled))
    response.receipt.model = MODEL
    response.receipt.notes.append(
        f"statistical baseline: median, quantiles and shares of the channel's last {len(settled)} settled posts; "
        "the planned post itself was not looked at"
    )
    response.receipt.notes.extend(
        f"{name} missing: left out of the sum where unknown, not counted as zero"
        for name in _COUNTED
        if np.isnan(getattr(posts, name)).any()
    )
    return response.SerializeToString()


def settled_levels(posts: PostTable, planned: Planned) -> Floats | None:
    """Engagement of the settled posts of which it is known, oldest first, log1p(count); None where a rule is broken.

    Args:
        posts: the history.
        planned: the one post that is planned.

    Returns:
        Shape (n,), float64, 20 posts or more.
    """
    start, stop = np.array([0], dtype=np.int64), np.array([len(posts)], dtype=np.int64)
    if row_violations(posts, planned, start, stop):
        return None
    levels = np.log1p(engagement(posts).astype(np.float64))
    settled: Floats = levels[~np.isnan(levels)]
    return settled if len(settled) >= POSTS_MIN and np.isfinite(settled).all() else None


def prediction_of(settled: Floats) -> pb.Prediction:
    """What settled posts say of the next one, taken to be one of them.

    The expectation is their median, the intervals are their quantiles, and the confidence is the share of them above
    the median of the newest 20, ties by half.

    Args:
        settled: shape (n,), float64, log1p(count), newest last; 20 to 100 posts.
    """
    recent = float(np.median(settled[-RECENT:]))
    tails = np.array([(1 - level) / 2 for level in LEVELS])
    middle, *ends = future_quantiles(settled, [0.5, *tails, *(1 - tails)]).tolist()
    prediction = pb.Prediction(
        log_engagement=middle,
        engagement=float(np.expm1(middle)),
        confidence=float(np.mean((settled > recent) + 0.5 * (settled == recent))),
        recent_median_log=recent,
    )
    for level, lower, upper in zip(LEVELS, ends[: len(LEVELS)], ends[len(LEVELS) :], strict=True):
        prediction.intervals.add(
            level=level,
            lower_log=lower,
            upper_log=upper,
            lower=float(np.expm1(lower)),
            upper=float(np.expm1(upper)),
        )
    return prediction


BASELINES: Mapping[str, Callable[[bytes], bytes | None]] = {
    "/meshcast.api.predictor.v1.PredictorService/PredictEngagement": predict_engagement
}
"""By the path of the method that each stands in for."""
