"""Answers out of arrays: what the graph gave becomes the messages of the contract, and back from the prediction log."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from meshcast.api.predictor.v1 import predictor_pb2 as pb

LEVELS = (0.8, 0.95)
"""Levels of the intervals, ascending; the graph's quantiles are .025, .10, .90, .975."""

_LOWER, _UPPER = (1, 0), (2, 3)  # columns of `quantiles`, level after level

COLUMNS = (
    "log_engagement",
    *(f"lower_{level}" for level in LEVELS),
    *(f"upper_{level}" for level in LEVELS),
    "confidence",
    "recent_median",
)
"""Columns of one answer, as the prediction log keeps them."""

Floats = NDArray[np.float32]


def answer_columns(
    outputs: Mapping[str, Floats], recent_median: Floats, sound: NDArray[np.int64], rows: int
) -> dict[str, Floats]:
    """The columns of an answer; rows that are not sound hold NaN.

    Args:
        outputs: the graph's outputs for the sound rows, (g,) and (g, 4).
        recent_median: median of the last 20 settled posts of the sound rows, (g,).
        sound: positions of those rows, (g,).
        rows: rows of the whole question.
    """
    quantiles = outputs["quantiles"]
    parts = [
        outputs["log_engagement"],
        *(quantiles[:, column] for column in (*_LOWER, *_UPPER)),
        outputs["confidence"],
        recent_median,
    ]
    if len(sound) == rows:
        return {name: np.ascontiguousarray(part, dtype="<f4") for name, part in zip(COLUMNS, parts, strict=True)}
    columns = {}
    for name, part in zip(COLUMNS, parts, strict=True):
        columns[name] = np.full(rows, np.nan, dtype="<f4")
        columns[name][sound] = part
    return columns


def prediction(columns: Mapping[str, Floats], row: int) -> pb.Prediction:
    """One row of an answer as a message."""
    point = float(columns["log_engagement"][row])
    answer = pb.Prediction(
        log_engagement=point,
        engagement=float(np.expm1(point)),
        confidence=float(columns["confidence"][row]),
        recent_median_log=float(columns["recent_median"][row]),
    )
    for level in LEVELS:
        lower, upper = float(columns[f"lower_{level}"][row]), float(columns[f"upper_{level}"][row])
        answer.intervals.add(
            level=level,
            lower_log=lower,
            upper_log=upper,
            lower=float(np.expm1(lower)),
            upper=float(np.expm1(upper)),
        )
    return answer


def chunk_answer(columns: Mapping[str, Floats], rows: int) -> pb.PredictEngagementStreamResponse:
    """A whole answer as a message of packed columns."""
    return pb.PredictEngagementStreamResponse(
        rows=rows,
        levels=LEVELS,
        log_engagement=columns["log_engagement"].tobytes(),
        lower_log=b"".join(columns[f"lower_{level}"].tobytes() for level in LEVELS),
        upper_log=b"".join(columns[f"upper_{level}"].tobytes() for level in LEVELS),
        confidence=columns["confidence"].tobytes(),
        recent_median_log=columns["recent_median"].tobytes(),
    )
