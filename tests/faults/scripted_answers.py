"""Scripted answers: what scripted backends answer in the place of our services; each follows from its request alone."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from meshcast.api.analyzer.v1 import analyzer_pb2
from meshcast.api.drift.v1 import drift_pb2
from meshcast.api.forecaster.v1 import forecaster_pb2
from meshcast.api.predictor.v1 import predictor_pb2


def log_engagement(content_length: Any, hour_of_day: Any) -> Any:
    """What a scripted predictor answers, log1p(count): float32, of the arguments' shape, single posts or columns."""
    length, hour = np.asarray(content_length, np.int64), np.asarray(hour_of_day, np.int64)
    return ((length * 7 + hour * 13) % 997 / 100).astype(np.float32)


def _predicted(request: bytes) -> bytes:
    asked = predictor_pb2.PredictEngagementRequest.FromString(request)
    expected = float(log_engagement(asked.planned.content_length, asked.planned.hour_of_day))
    answer = predictor_pb2.PredictEngagementResponse()
    answer.prediction.log_engagement = expected
    answer.prediction.engagement = float(np.expm1(expected))
    answer.prediction.confidence = 0.5
    answer.prediction.recent_median_log = 2.0
    upper = expected + 1.0
    answer.prediction.intervals.add(
        level=0.8, lower_log=0.0, upper_log=upper, lower=0.0, upper=float(np.expm1(np.float32(upper)))
    )
    answer.receipt.prediction_id = asked.request_id
    answer.receipt.model = "predictor"
    return answer.SerializeToString()


def _predicted_chunk(request: bytes) -> bytes:
    asked = predictor_pb2.PredictEngagementStreamRequest.FromString(request)
    rows = asked.planned.posts
    lengths = np.frombuffer(asked.planned.content_length, "<f4", rows)
    expected = log_engagement(lengths, np.frombuffer(asked.planned.hour_of_day, "<f4", rows))
    answer = predictor_pb2.PredictEngagementStreamResponse(
        sequence=asked.sequence,
        rows=rows,
        log_engagement=expected.tobytes(),
        levels=[0.8],
        lower_log=bytes(4 * rows),
        upper_log=(expected + np.float32(1)).tobytes(),
        confidence=np.full(rows, 0.5, np.float32).tobytes(),
        recent_median_log=np.full(rows, 2.0, np.float32).tobytes(),
    )
    answer.receipt.prediction_id = asked.request_id
    answer.receipt.model = "predictor"
    return answer.SerializeToString()


def _forecast(request: bytes) -> bytes:
    asked = forecaster_pb2.ForecastGrowthRequest.FromString(request)
    days = asked.horizon_days or 30
    answer = forecaster_pb2.ForecastGrowthResponse()
    answer.forecast.first_date = "2016-06-01"
    answer.forecast.median.extend(float(day) for day in range(days))
    answer.receipt.prediction_id = asked.request_id
    return answer.SerializeToString()


def _analyzed(request: bytes) -> bytes:
    asked = analyzer_pb2.AnalyzeContentRequest.FromString(request)
    answer = analyzer_pb2.AnalyzeContentResponse()
    answer.judgement.viral = zlib.crc32(asked.content.text.encode()) % 1_000 / 1_000
    answer.judgement.characters_read = len(asked.content.text)
    answer.receipt.prediction_id = asked.request_id
    return answer.SerializeToString()


def _detected(request: bytes) -> bytes:
    asked = drift_pb2.DetectDataDriftRequest.FromString(request)
    answer = drift_pb2.DetectDataDriftResponse()
    answer.report.subject = asked.subject
    answer.report.severity_score = 0.5
    answer.receipt.prediction_id = asked.request_id
    return answer.SerializeToString()


ANSWERS: dict[str, dict[str, Callable[[bytes], bytes]]] = {
    "predictor": {"PredictEngagement": _predicted, "PredictEngagementStream": _predicted_chunk},
    "forecaster": {"ForecastGrowth": _forecast},
    "analyzer": {"AnalyzeContent": _analyzed},
    "drift": {"DetectDataDrift": _detected},
}
"""Answers by service and method; each follows from its request alone."""
