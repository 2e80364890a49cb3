"""A forecaster whose model is arithmetic on the days; it keeps the contract's rules and fails where it is told to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.api.forecaster.v1 import forecaster_pb2_grpc as pb_grpc
from meshcast.api.type.v1 import error_reason_pb2, model_pb2, receipt_pb2, status_pb2
from meshcast.columns import pack_floats
from meshcast.rpc import (
    InvalidInput,
    MeshError,
    NotFound,
    NotReady,
    Overloaded,
    RpcSettings,
    Server,
    prediction_id,
    to_item,
)
from meshcast.series import (
    SeriesTable,
    day_texts,
    days_from_columns,
    history_range,
    messages_from_days,
    series_violations,
)

Context = grpc.aio.ServicerContext[Any, Any]
Days = NDArray[np.int64]
Values = NDArray[np.float64]

TODAY = 20_700
"""The servicer's present day, in days since 1970-01-01."""
LEVELS = (0.8, 0.95)


def arithmetic(day: Days, value: Values, horizon: int) -> Values:
    """The model: a row's answer depends on all of its own days, and on nothing else."""
    known = ~np.isnan(value)
    level = float(value[known].mean()) + float(day[known].sum() % 97)
    return level + np.arange(horizon, dtype=np.float64)


def refusal(violations: list[tuple[str, str]]) -> InvalidInput:
    field, why = violations[0]
    return InvalidInput(f"{field} {why}", violations=violations)


@dataclass
class Forecaster(pb_grpc.ForecasterServiceServicer):
    """The servicer, and what it saw."""

    break_at: dict[int, int] = field(default_factory=dict)
    """How often the stream is to break when a chunk of this sequence arrives."""
    refuse_at: dict[int, int] = field(default_factory=dict)
    """How often a chunk of this sequence is to be refused for a full queue."""
    refuse_for_good: MeshError | None = None
    """What every chunk is refused with."""
    unary: list[pb.ForecastGrowthRequest] = field(default_factory=list)
    chunks: list[pb.ForecastGrowthStreamRequest] = field(default_factory=list)
    recorded: dict[str, dict[int, float]] = field(default_factory=dict)
    streams: int = 0
    in_flight_max: int = 0

    async def ForecastGrowth(self, request: pb.ForecastGrowthRequest, context: Context) -> pb.ForecastGrowthResponse:
        self.unary.append(request)
        day, value = self._history(request)
        levels = tuple(request.levels) or (() if request.quantiles else LEVELS)
        median = arithmetic(day, value, request.horizon_days or 30)
        return pb.ForecastGrowthResponse(
            forecast=pb.Forecast(
                first_date=day_texts(day[-1:] + 1)[0],
                median=median,
                intervals=[pb.Interval(level=one, lower=median - one, upper=median + one) for one in levels],
                quantiles=[pb.Quantile(level=one, values=median + one) for one in request.quantiles],
            ),
            evidence=[pb.IntervalEvidence(level=0.8, compared=3, coverage=0.75, width_factor=1.5)],
            receipt=receipt_pb2.Receipt(
                prediction_id=prediction_id(request.request_id),
                model="forecaster",
                model_version=request.model_version or 1,
            ),
        )

    async def ForecastGrowthStream(
        self, request_iterator: AsyncIterator[pb.ForecastGrowthStreamRequest], context: Context
    ) -> AsyncIterator[pb.ForecastGrowthStreamResponse]:
        self.streams += 1
        async for request in request_iterator:
            self.chunks.append(request)
            if self.break_at.get(request.sequence, 0) > 0:
                self.break_at[request.sequence] -= 1
                raise NotReady("the server goes away", retry_after_s=0.01)
            error = self.refuse_for_good
            if self.refuse_at.get(request.sequence, 0) > 0:
                self.refuse_at[request.sequence] -= 1
                error = Overloaded("the queue is full", retry_after_s=0.01)
            if error is not None:
                yield pb.ForecastGrowthStreamResponse(sequence=request.sequence, status=to_item(error))
            else:
                yield self._answer(request)

    async def RecordActuals(self, request: pb.RecordActualsRequest, context: Context) -> pb.RecordActualsResponse:
        if not request.series:
            raise InvalidInput("series is required", field="series")
        await asyncio.sleep(0)
        day, value = days_from_columns(request.actual_columns, "actual_columns")
        known = self.recorded.setdefault(request.series, {})
        new = [one for one in day.tolist() if one not in known]
        corrected = sum(known.get(d, v) != v for d, v in zip(day.tolist(), value.tolist(), strict=True))
        known.update(zip(day.tolist(), value.tolist(), strict=True))
        return pb.RecordActualsResponse(
            recorded=len(new),
            unchanged=len(day) - len(new) - corrected,
            corrected=corrected,
            compared=min(2, len(new)),
            evidence=[
                pb.IntervalEvidence(level=0.8, compared=2, coverage=0.5, width_factor=1.25),
                pb.IntervalEvidence(level=0.95, compared=0, width_factor=1.0),
            ],
        )

    async def ReadForecast(self, request: pb.ReadForecastRequest, context: Context) -> pb.ReadForecastResponse:
        if request.forecast_id != "known":
            raise NotFound(
                "no such forecast",
                reason=error_reason_pb2.ERROR_REASON_PREDICTION_UNKNOWN,
                prediction_id=request.forecast_id,
            )
        median = [1.0, 2.0]
        return pb.ReadForecastResponse(
            forecast_id="known",
            forecast=pb.Forecast(
                first_date="2016-06-01",
                median=median,
                quantiles=[pb.Quantile(level=one, values=median) for one in request.quantiles],
            ),
            series="a",
            actuals=[pb.DayValue(date="2016-06-01", value=1.5)],
            predicted_time=Timestamp(seconds=30),
            model_version=4,
            backend="arithmetic",
        )

    async def AnalyzeGrowthPatterns(
        self, request: pb.AnalyzeGrowthPatternsRequest, context: Context
    ) -> pb.AnalyzeGrowthPatternsResponse:
        day, value = days_from_columns(request.history_columns, "history_columns")
        first, middle, last = day_texts(day[[0, len(day) // 2, -1]])
        trend = pb.Trend(
            first_date=first,
            last_date=last,
            slope=0.5,
            slope_lower=0.25,
            slope_upper=0.75,
            growth_weekly=0.02,
            direction=pb.DIRECTION_GROWING,
            probability=0.99,
            strength=0.5,
            level=float(np.nanmean(value)),
        )
        return pb.AnalyzeGrowthPatternsResponse(
            trend=trend,
            recent_trend=trend,
            weekly=pb.WeeklySeason(effects=[1.0] * 7, multiplicative=True, strength=0.4, p_value=0.001, present=True),
            change_points=[
                pb.ChangePoint(date=middle, kind=pb.CHANGE_KIND_LEVEL, level_before=1.0, level_after=2.0, strength=4.0)
            ],
            phases=[pb.GrowthPhase(trend=trend, days=len(day))],
            anomalies=[pb.SeriesAnomaly(date=last, value=9.0, expected=3.0, score=6.0)],
            anomaly_score_low=-4.0,
            anomaly_score_high=4.0,
            notes=["the season of the year is unknown"],
        )

    async def ValidateSeries(self, request: pb.ValidateSeriesRequest, context: Context) -> pb.ValidateSeriesResponse:
        try:
            self._history(request.request)
        except InvalidInput as error:
            found = [
                status_pb2.FieldViolation(field=one.field, description=one.description) for one in error.violations
            ]
            return pb.ValidateSeriesResponse(violations=found)
        remark = status_pb2.FieldViolation(field="history_columns", description="has 3 missing days")
        return pb.ValidateSeriesResponse(valid=True, remarks=[remark])

    async def DescribeModel(self, request: pb.DescribeModelRequest, context: Context) -> pb.DescribeModelResponse:
        return pb.DescribeModelResponse(model=model_pb2.ModelDescription(name="forecaster", version=1, card="# A card"))

    def _history(self, request: pb.ForecastGrowthRequest) -> tuple[Days, Values]:
        day, value = days_from_columns(request.history_columns, "history_columns")
        start, stop = np.zeros(1, dtype=np.int64), np.full(1, len(day), dtype=np.int64)
        found = series_violations(
            day,
            value,
            start,
            stop,
            np.array([request.nonnegative]),
            today=TODAY,
            day_field=lambda at, column: f"history_columns.{column}[{at}]",
            history_field=lambda row: "history_columns",
        )
        if found:
            raise refusal(found[0])
        return day, value

    def _answer(self, request: pb.ForecastGrowthStreamRequest) -> pb.ForecastGrowthStreamResponse:
        rows, horizon = len(request.history_start) // 4, request.horizon_days or 30
        day, value = days_from_columns(request.history)
        start, stop = history_range(request.history_start, request.history_stop, rows)
        nonnegative = np.zeros(rows, dtype=np.bool_)
        nonnegative[:] = list(request.nonnegative) or False
        failed = series_violations(day, value, start, stop, nonnegative, today=TODAY)
        median = np.full((rows, horizon), np.nan)
        first_day = np.zeros(rows, dtype="<i4")
        for row in set(range(rows)) - set(failed):
            cut = slice(int(start[row]), int(stop[row]))
            median[row] = arithmetic(day[cut], value[cut], horizon)
            first_day[row] = day[cut][-1] + 1
        levels = tuple(request.levels) or (() if request.quantiles else LEVELS)
        ends = np.array(levels).reshape(-1, 1, 1)
        above = np.array(request.quantiles).reshape(-1, 1, 1)
        return pb.ForecastGrowthStreamResponse(
            sequence=request.sequence,
            rows=rows,
            horizon_days=horizon,
            first_day=first_day.tobytes(),
            median=pack_floats(median),
            levels=levels,
            lower=pack_floats(median - ends),
            upper=pack_floats(median + ends),
            quantile_levels=request.quantiles,
            quantiles=pack_floats(median + above),
            failed=[
                status_pb2.RowStatus(row=row, status=to_item(refusal(violations)))
                for row, violations in sorted(failed.items())
            ],
            receipt=receipt_pb2.Receipt(
                prediction_id=prediction_id(request.request_id),
                model="forecaster",
                model_version=request.model_version or 1,
                backend="arithmetic",
            ),
        )


def many_series(series: int = 5, days: int = 60, *, seed: int = 0, last: int = TODAY - 1) -> SeriesTable:
    """Series of counts that end on one day, a tenth of their days missing."""
    rng = np.random.default_rng(seed)
    parts: list[tuple[Any, Any, list[str]]] = []
    for at in range(series):
        day = np.sort(rng.permutation(np.arange(last - days + 1, last))[: days - days // 10])
        day = np.append(day, last)
        parts.append((day, rng.poisson(50, len(day)).astype(float), [f"s{at:03}"] * len(day)))
    columns = [np.concatenate([part[i] for part in parts]) for i in range(3)]
    return SeriesTable.of(*columns)


@dataclass(frozen=True)
class Kit:
    """What tests need of this file: modules cannot import it."""

    many_series: Callable[..., SeriesTable] = many_series
    arithmetic: Callable[..., Values] = arithmetic
    messages: Callable[..., Any] = messages_from_days
    today: int = TODAY


@pytest.fixture
def kit() -> Kit:
    """Made-up series, and what the arithmetic says of them."""
    return Kit()


@pytest.fixture
def forecaster() -> Forecaster:
    """The servicer behind `target`."""
    return Forecaster()


@pytest.fixture
async def target(serve: Callable[..., Awaitable[Server]], forecaster: Forecaster) -> str:
    """Address of a server of the arithmetic."""
    settings = RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=0.2)
    server = await serve(
        lambda server: pb_grpc.add_ForecasterServiceServicer_to_server(forecaster, server),
        settings=settings,
        service_names=("meshcast.api.forecaster.v1.ForecasterService",),
    )
    return server.address
