"""Answers of the forecaster as values: forecasts, chunks of them, what was recorded, and what was read back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.api.type.v1 import receipt_pb2
from meshcast.client.chunk_answers import ChunkAnswer, checked_columns, errors_of
from meshcast.client.receipts import Receipt
from meshcast.columns import unpack_column, unpack_floats
from meshcast.rpc import Internal, InvalidInput, MeshError
from meshcast.series import days_from_messages

Values = NDArray[np.float64]
Floats = NDArray[np.float32]

_DAY = np.dtype("<i4")
_EPOCH = date(1970, 1, 1).toordinal()


class Band(NamedTuple):
    """A central prediction interval, day by day."""

    lower: Values
    """Lower ends, shape (days,), in the unit of the series."""
    upper: Values
    """Upper ends, shape (days,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalEvidence:
    """How the intervals of a series have held so far, at one level."""

    level: float
    """Level of the interval."""
    compared: int
    """Forecast values that were compared with an actual one."""
    coverage: float | None
    """Share of those inside, over the last 500; None when there were none."""
    width_factor: float
    """How much wider than the model's the intervals are drawn now."""

    @classmethod
    def of(cls, message: pb.IntervalEvidence) -> "IntervalEvidence":
        """The value of a message."""
        return cls(
            level=message.level,
            compared=message.compared,
            coverage=message.coverage if message.HasField("coverage") else None,
            width_factor=message.width_factor,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Forecast:
    """How a series will go on.

    Attributes:
        first_day: the first day.
        median: the median forecast, shape (days,), float64, in the unit of the series.
        intervals: by level, ascending.
        quantiles: by level, ascending; each of shape (days,), float64.
        evidence: how the intervals have held, ascending by level; empty when no actual values were recorded.
        receipt: how it came about.
    """

    first_day: date
    median: Values
    intervals: Mapping[float, Band]
    quantiles: Mapping[float, Values]
    evidence: tuple[IntervalEvidence, ...] = ()
    receipt: Receipt = field(default_factory=lambda: Receipt(receipt_pb2.Receipt()))

    def __len__(self) -> int:
        return len(self.median)

    @property
    def days(self) -> NDArray[np.datetime64]:
        """The days; shape (days,), datetime64[D]."""
        return np.datetime64(self.first_day, "D") + np.arange(len(self.median))

    @property
    def forecast_id(self) -> str:
        """Id under which it can be read back."""
        return self.receipt.prediction_id

    @classmethod
    def of(
        cls,
        forecast: pb.Forecast,
        receipt: receipt_pb2.Receipt,
        evidence: "list[pb.IntervalEvidence] | tuple[pb.IntervalEvidence, ...]" = (),
    ) -> "Forecast":
        """The value of a message.

        Raises:
            Internal: it has no date, or bands of other lengths than the median.
        """
        median = np.array(forecast.median, dtype=np.float64)
        intervals = {
            i.level: Band(np.array(i.lower, dtype=np.float64), np.array(i.upper, dtype=np.float64))
            for i in forecast.intervals
        }
        quantiles = {q.level: np.array(q.values, dtype=np.float64) for q in forecast.quantiles}
        lengths = {len(side) for band in intervals.values() for side in band} | {len(q) for q in quantiles.values()}
        if lengths - {len(median)}:
            raise Internal(f"the server answered {len(median)} days with bands of {sorted(lengths)}")
        return cls(
            first_day=date_of(forecast.first_date),
            median=median,
            intervals=intervals,
            quantiles=quantiles,
            evidence=tuple(map(IntervalEvidence.of, evidence)),
            receipt=Receipt(receipt),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ForecastChunk(ChunkAnswer):
    """Forecasts of one chunk of rows as columns; a failed row holds NaN in each, a refused chunk has no days.

    Attributes:
        first_day: shape (n,), int64, first day of each forecast, days since 1970-01-01; 0 where the row failed.
        median: shape (n, days), float32, in the unit of the series.
        levels: levels of the intervals, ascending.
        lower: shape (levels, n, days), float32, lower ends.
        upper: shape (levels, n, days), float32, upper ends.
        quantile_levels: levels of the quantiles, ascending.
        quantiles: shape (quantiles, n, days), float32.
    """

    first_day: NDArray[np.int64]
    median: Floats
    levels: tuple[float, ...]
    lower: Floats
    upper: Floats
    quantile_levels: tuple[float, ...]
    quantiles: Floats

    def forecast_id(self, row: int) -> str:
        """Id under which a row of the chunk, counted from 0, can be read back."""
        return self.row_id(row)

    def forecasts(self) -> "list[Forecast | MeshError]":
        """The rows one by one, a failed one as its error."""
        if self.error is not None:
            return [self.error] * len(self.rows)
        return [self.failed[row] if row in self.failed else self._forecast(row) for row in range(len(self.rows))]

    def _forecast(self, row: int) -> Forecast:
        return Forecast(
            first_day=date.fromordinal(_EPOCH + int(self.first_day[row])),
            median=self.median[row].astype(np.float64),
            intervals={
                level: Band(self.lower[at, row].astype(np.float64), self.upper[at, row].astype(np.float64))
                for at, level in enumerate(self.levels)
            },
            quantiles={
                level: self.quantiles[at, row].astype(np.float64) for at, level in enumerate(self.quantile_levels)
            },
            receipt=Receipt(self.receipt.message, self.forecast_id(row)),
        )

    @classmethod
    def of(
        cls,
        response: pb.ForecastGrowthStreamResponse,
        rows: NDArray[np.int64],
        sequence: int,
        row_request_ids: tuple[str, ...] = (),
    ) -> "ForecastChunk":
        """The value of a message.

        Args:
            response: the message.
            rows: the rows asked about.
            sequence: number of the chunk, as callers count.
            row_request_ids: the rows' own request ids; empty when they had none.

        Raises:
            Internal: the columns are not of as many rows and days as were asked about.
        """
        n, days = len(rows), response.horizon_days
        error, failed = errors_of(response)
        levels, quantile_levels = tuple(response.levels), tuple(response.quantile_levels)
        if error is not None:
            first_day = np.zeros(n, dtype=np.int64)
            median = np.empty((n, 0), dtype=np.float32)
            lower = upper = quantiles = np.empty((0, n, 0), dtype=np.float32)
            levels, quantile_levels = (), ()
        else:
            with checked_columns(response, n):
                first_day = unpack_column(response.first_day, _DAY, (n,), "first_day").astype(np.int64)
                median = unpack_floats(response.median, (n, days), "median")
                lower = unpack_floats(response.lower, (len(levels), n, days), "lower")
                upper = unpack_floats(response.upper, (len(levels), n, days), "upper")
                quantiles = unpack_floats(response.quantiles, (len(quantile_levels), n, days), "quantiles")
        return cls(
            sequence=sequence,
            rows=rows,
            first_day=first_day,
            median=median,
            levels=levels,
            lower=lower,
            upper=upper,
            quantile_levels=quantile_levels,
            quantiles=quantiles,
            failed=failed,
            error=error,
            receipt=Receipt(response.receipt),
            row_request_ids=row_request_ids,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedActuals:
    """What became of actual values that were recorded."""

    recorded: int
    """Days that were new."""
    unchanged: int
    """Days that were known with the same value."""
    corrected: int
    """Days that were known with another value, which is replaced."""
    compared: int
    """Forecast values that the new days were compared with."""
    evidence: tuple[IntervalEvidence, ...]
    """How the intervals of the series hold now, ascending by level."""
    receipt: Receipt
    """Receipt of the call."""

    @classmethod
    def of(cls, response: pb.RecordActualsResponse) -> "RecordedActuals":
        """The value of a message."""
        return cls(
            recorded=response.recorded,
            unchanged=response.unchanged,
            corrected=response.corrected,
            compared=response.compared,
            evidence=tuple(map(IntervalEvidence.of, response.evidence)),
            receipt=Receipt(response.receipt),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredForecast:
    """A forecast that was read back.

    Attributes:
        forecast_id: id that was asked for.
        forecast: the forecast as it was answered; its receipt is of this read.
        series: name of the series that the caller gave; empty when none was.
        actual_day: shape (k,), int64, days of the forecast whose actual value was recorded, days since 1970-01-01.
        actual_value: shape (k,), float64, those values.
        predicted_at: when it was forecast, UTC.
        model_version: version that forecast it.
        backend: runtime, device and precision that computed it.
    """

    forecast_id: str
    forecast: Forecast
    series: str
    actual_day: NDArray[np.int64]
    actual_value: Values
    predicted_at: datetime
    model_version: int
    backend: str

    @classmethod
    def of(cls, response: pb.ReadForecastResponse) -> "StoredForecast":
        """The value of a message.

        Raises:
            Internal: it holds a date that is none.
        """
        try:
            day, value = days_from_messages(response.actuals, "actuals")
        except InvalidInput as wrong:
            raise Internal(f"the server answered with {wrong}") from wrong
        return cls(
            forecast_id=response.forecast_id,
            forecast=Forecast.of(response.forecast, response.receipt),
            series=response.series,
            actual_day=day,
            actual_value=value,
            predicted_at=response.predicted_time.ToDatetime(tzinfo=UTC),
            model_version=response.model_version,
            backend=response.backend,
        )


def date_of(text: str) -> date:
    """The date of an answer.

    Raises:
        Internal: it is none.
    """
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise Internal(f"the server answered {text!r} for a date") from error
