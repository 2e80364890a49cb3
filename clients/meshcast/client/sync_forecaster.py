"""Calls to the forecaster from plain code."""

from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.client.answers import Validation
from meshcast.client.calls import CHUNK_ROWS, STREAM_TIMEOUT_S, WINDOW, Progress
from meshcast.client.forecasts import Forecast, ForecastChunk, RecordedActuals, StoredForecast
from meshcast.client.growth import GrowthPatterns
from meshcast.client.priority import Priority
from meshcast.client.series_questions import SeriesLike
from meshcast.client.sync_calls import SyncCalls, Told
from meshcast.series import SeriesIndex, SeriesTable


class SyncForecasterCalls(SyncCalls):
    """What plain code asks the forecaster."""

    def forecast_growth(
        self,
        history: SeriesLike,
        *,
        horizon_days: int = 30,
        levels: Sequence[float] = (),
        quantiles: Sequence[float] = (),
        series: str | None = None,
        nonnegative: bool = False,
        request_id: str | None = None,
        version: int = 0,
        priority: Priority = "normal",
        timeout_s: float | None = None,
    ) -> Forecast:
        """Forecasts one series; see `MeshClient.forecast_growth`."""
        return self._run(
            self._mesh.forecast_growth(
                history,
                horizon_days=horizon_days,
                levels=levels,
                quantiles=quantiles,
                series=series,
                nonnegative=nonnegative,
                request_id=request_id,
                version=version,
                priority=priority,
                timeout_s=timeout_s,
            )
        )

    def forecast_stream(
        self,
        table: SeriesTable,
        rows: SeriesIndex | None = None,
        *,
        horizon_days: int = 30,
        levels: Sequence[float] = (),
        quantiles: Sequence[float] = (),
        named: bool = True,
        nonnegative: bool | NDArray[np.bool_] = False,
        chunk_rows: int = CHUNK_ROWS,
        window: int | None = WINDOW,
        progress: Progress | None = None,
        request_id: str | None = None,
        version: int = 0,
        priority: Priority = "low",
        timeout_s: float = STREAM_TIMEOUT_S,
    ) -> Generator[ForecastChunk, None, None]:
        """Forecasts many series, in order; see `MeshClient.forecast_stream`. Progress is told in this thread."""
        answers = self._mesh.forecast_stream(
            table,
            rows,
            horizon_days=horizon_days,
            levels=levels,
            quantiles=quantiles,
            named=named,
            nonnegative=nonnegative,
            chunk_rows=chunk_rows,
            window=window,
            request_id=request_id,
            version=version,
            priority=priority,
            timeout_s=timeout_s,
            progress=(told := Told(progress)),
        )
        return self._each(answers, told.tell)

    def record_actuals(
        self,
        actuals: SeriesLike,
        *,
        series: str | None = None,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> RecordedActuals:
        """Records what a series really did; see `MeshClient.record_actuals`."""
        return self._run(self._mesh.record_actuals(actuals, series=series, request_id=request_id, timeout_s=timeout_s))

    def read_forecast(
        self,
        forecast_id: str,
        *,
        levels: Sequence[float] = (),
        quantiles: Sequence[float] = (),
        timeout_s: float | None = None,
    ) -> StoredForecast:
        """Reads a forecast back by its id; see `MeshClient.read_forecast`."""
        return self._run(self._mesh.read_forecast(forecast_id, levels=levels, quantiles=quantiles, timeout_s=timeout_s))

    def analyze_growth_patterns(
        self, history: SeriesLike, *, nonnegative: bool = False, timeout_s: float | None = None
    ) -> GrowthPatterns:
        """Finds the patterns of a series; see `MeshClient.analyze_growth_patterns`."""
        return self._run(self._mesh.analyze_growth_patterns(history, nonnegative=nonnegative, timeout_s=timeout_s))

    def validate_series(
        self,
        history: SeriesLike,
        *,
        horizon_days: int = 30,
        levels: Sequence[float] = (),
        quantiles: Sequence[float] = (),
        series: str | None = None,
        nonnegative: bool = False,
        timeout_s: float | None = None,
    ) -> Validation:
        """Asks whether the forecaster would take a question; see `MeshClient.validate_series`."""
        return self._run(
            self._mesh.validate_series(
                history,
                horizon_days=horizon_days,
                levels=levels,
                quantiles=quantiles,
                series=series,
                nonnegative=nonnegative,
                timeout_s=timeout_s,
            )
        )

    def describe_forecaster(self, *, version: int = 0, timeout_s: float | None = None) -> pb.DescribeModelResponse:
        """Describes the forecaster's model; see `MeshClient.describe_forecaster`."""
        return self._run(self._mesh.describe_forecaster(version=version, timeout_s=timeout_s))
