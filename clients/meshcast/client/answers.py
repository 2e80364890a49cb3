"""Answers of the mesh as values: predictions, chunks of them, and what else is asked for."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.api.analyzer.v1 import analyzer_pb2
from meshcast.api.forecaster.v1 import forecaster_pb2
from meshcast.api.gateway.v1 import gateway_pb2
from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.type.v1 import receipt_pb2
from meshcast.client.chunk_answers import ChunkAnswer, checked_columns, errors_of
from meshcast.client.drift_reports import DriftReport
from meshcast.client.forecasts import Forecast
from meshcast.client.judgements import ContentJudgement
from meshcast.client.receipts import Receipt
from meshcast.columns import unpack_floats
from meshcast.rpc import MeshError, Violation, from_item

Floats = NDArray[np.float32]


class Interval(NamedTuple):
    """A central prediction interval: `level` of the posts end inside."""

    level: float
    """Share, as in 0.8."""
    lower_log: float
    """Lower end, log1p(count)."""
    upper_log: float
    """Upper end, log1p(count)."""

    @property
    def lower(self) -> float:
        """Lower end as a count."""
        return float(np.expm1(self.lower_log))

    @property
    def upper(self) -> float:
        """Upper end as a count."""
        return float(np.expm1(self.upper_log))


@dataclass(frozen=True, slots=True)
class EngagementPrediction:
    """What is expected of one planned post.

    Attributes:
        log_engagement: expected engagement, log1p(count).
        intervals: ascending by level.
        confidence: calibrated probability that the post ends above the median of the last 20 settled posts.
        recent_median_log: that median, log1p(count).
        receipt: how it came about.
    """

    log_engagement: float
    intervals: tuple[Interval, ...]
    confidence: float
    recent_median_log: float
    receipt: Receipt

    @property
    def engagement(self) -> float:
        """Expected engagement as a count."""
        return float(np.expm1(self.log_engagement))

    @property
    def prediction_id(self) -> str:
        """Id under which it can be read back."""
        return self.receipt.prediction_id

    @classmethod
    def of(cls, prediction: pb.Prediction, receipt: receipt_pb2.Receipt) -> "EngagementPrediction":
        """The value of a message."""
        return cls(
            prediction.log_engagement,
            tuple([Interval(i.level, i.lower_log, i.upper_log) for i in prediction.intervals]),
            prediction.confidence,
            prediction.recent_median_log,
            Receipt(receipt),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EngagementChunk(ChunkAnswer):
    """Predictions of one chunk of rows as columns; a failed row holds NaN in each, as all do where it was refused.

    Attributes:
        log_engagement: shape (n,), float32, log1p(count).
        levels: levels of the intervals, ascending.
        lower_log: shape (levels, n), float32, lower ends in log1p units.
        upper_log: shape (levels, n), float32, upper ends in log1p units.
        confidence: shape (n,), float32.
        recent_median_log: shape (n,), float32, log1p(count).
    """

    log_engagement: Floats
    levels: tuple[float, ...]
    lower_log: Floats
    upper_log: Floats
    confidence: Floats
    recent_median_log: Floats

    @property
    def engagement(self) -> NDArray[np.float64]:
        """Expected engagement as counts; shape (n,)."""
        return np.expm1(self.log_engagement.astype(np.float64))

    def prediction_id(self, row: int) -> str:
        """Id under which a row of the chunk, counted from 0, can be read back."""
        return self.row_id(row)

    def predictions(self) -> "list[EngagementPrediction | MeshError]":
        """The rows one by one, a failed one as its error."""
        n = len(self.rows)
        if self.error is not None:
            return [self.error] * n
        receipt = self.receipt.message
        levels = self.levels
        lows, highs = self.lower_log.T.tolist(), self.upper_log.T.tolist()
        columns = zip(
            self.log_engagement.tolist(),
            lows,
            highs,
            self.confidence.tolist(),
            self.recent_median_log.tolist(),
            strict=True,
        )
        answers: list[EngagementPrediction | MeshError] = [
            EngagementPrediction(
                log,
                tuple(map(Interval, levels, low, high)),
                confidence,
                median,
                Receipt(receipt, self.prediction_id(row)),
            )
            for row, (log, low, high, confidence, median) in enumerate(columns)
        ]
        for row, error in self.failed.items():
            answers[row] = error
        return answers

    @classmethod
    def of(
        cls,
        response: pb.PredictEngagementStreamResponse,
        rows: NDArray[np.int64],
        sequence: int,
        row_request_ids: tuple[str, ...] = (),
    ) -> "EngagementChunk":
        """The value of a message.

        Args:
            response: the message.
            rows: the rows asked about.
            sequence: number of the chunk, as callers count.
            row_request_ids: the rows' own request ids; empty when they had none.

        Raises:
            Internal: the columns are not of as many rows as were asked about.
        """
        n = len(rows)
        error, failed = errors_of(response)
        levels = tuple(response.levels)
        if error is not None:
            nothing = np.full(n, np.nan, dtype=np.float32)
            empty = np.empty((0, n), dtype=np.float32)
            log, low, high, confidence, median, levels = nothing, empty, empty, nothing, nothing, ()
        else:
            with checked_columns(response, n):
                log = unpack_floats(response.log_engagement, (n,), "log_engagement")
                low = unpack_floats(response.lower_log, (len(levels), n), "lower_log")
                high = unpack_floats(response.upper_log, (len(levels), n), "upper_log")
                confidence = unpack_floats(response.confidence, (n,), "confidence")
                median = unpack_floats(response.recent_median_log, (n,), "recent_median_log")
        return cls(
            sequence=sequence,
            rows=rows,
            log_engagement=log,
            levels=levels,
            lower_log=low,
            upper_log=high,
            confidence=confidence,
            recent_median_log=median,
            failed=failed,
            error=error,
            receipt=Receipt(response.receipt),
            row_request_ids=row_request_ids,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPrediction:
    """A prediction that was read back."""

    prediction_id: str
    """Id that was asked for."""
    prediction: EngagementPrediction
    """The prediction as it was answered; its receipt is of this read."""
    channel: str
    """The channel that the caller named."""
    published_at: datetime
    """When the planned post was to be published, UTC."""
    predicted_at: datetime
    """When it was predicted, UTC."""
    model_version: int
    """Version that predicted it."""
    backend: str
    """Runtime, device and precision that computed it."""

    @classmethod
    def of(cls, response: pb.ReadPredictionResponse) -> "StoredPrediction":
        """The value of a message."""
        return cls(
            prediction_id=response.prediction_id,
            prediction=EngagementPrediction.of(response.prediction, response.receipt),
            channel=response.channel,
            published_at=response.published_time.ToDatetime(tzinfo=UTC),
            predicted_at=response.predicted_time.ToDatetime(tzinfo=UTC),
            model_version=response.model_version,
            backend=response.backend,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The outcome of a check."""

    valid: bool
    """Whether the service would take the question."""
    violations: tuple[Violation, ...]
    """Rules that it breaks."""
    remarks: tuple[Violation, ...]
    """What is legal but unusual."""

    @classmethod
    def of(
        cls,
        response: pb.ValidateFeaturesResponse
        | forecaster_pb2.ValidateSeriesResponse
        | analyzer_pb2.ValidateContentResponse,
    ) -> "Validation":
        """The value of a message."""
        return cls(
            valid=response.valid,
            violations=tuple(Violation(v.field, v.description) for v in response.violations),
            remarks=tuple(Violation(v.field, v.description) for v in response.remarks),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ComprehensivePart:
    """One part of a composite answer, or the summary that ends it."""

    sequence: int
    """Number of the question; 0 for a single one."""
    part: str
    """engagement, growth, content or drift; empty in the summary."""
    prediction: EngagementPrediction | None
    """The answer of the part engagement, where it was given."""
    forecast: Forecast | None
    """The answer of the part growth, where it was given."""
    judgement: ContentJudgement | None
    """The answer of the part content, where it was given."""
    drift: DriftReport | None
    """The answer of the part drift, where it was given."""
    error: MeshError | None
    """Why the part was not answered; None when it was."""
    summary: gateway_pb2.ComprehensiveSummary | None
    """Ends the answer; None in the parts."""
    receipt: Receipt
    """The gateway's receipt."""

    @classmethod
    def of(cls, response: gateway_pb2.PredictComprehensiveResponse, sequence: int = 0) -> "ComprehensivePart":
        """The value of a message."""
        part = gateway_pb2.Part.Name(response.part).removeprefix("PART_").lower() if response.part else ""
        answer, kind = response.engagement, response.WhichOneof("answer")
        growth, content, drift = response.growth, response.content, response.drift
        return cls(
            sequence=sequence,
            part=part,
            prediction=EngagementPrediction.of(answer.prediction, answer.receipt) if kind == "engagement" else None,
            forecast=Forecast.of(growth.forecast, growth.receipt, tuple(growth.evidence)) if kind == "growth" else None,
            judgement=ContentJudgement.of(content.judgement, content.receipt) if kind == "content" else None,
            drift=DriftReport.of(drift.report, drift.receipt) if kind == "drift" else None,
            error=from_item(response.status) if response.status.code else None,
            summary=response.summary if response.HasField("summary") else None,
            receipt=Receipt(response.receipt),
        )
