"""Calls to the forecaster: forecasts, streams of them, actual values, patterns, and what was forecast before."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import numpy as np
from numpy.typing import NDArray

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.client.answers import Validation
from meshcast.client.calls import (
    CHUNK_ROWS,
    STREAM_TIMEOUT_S,
    WINDOW,
    Calls,
    Progress,
    answer_to,
    check_window,
    stream_answers,
)
from meshcast.client.forecast_chunks import forecast_chunks
from meshcast.client.forecasts import Forecast, ForecastChunk, RecordedActuals, StoredForecast
from meshcast.client.growth import GrowthPatterns
from meshcast.client.priority import PRIORITIES, Priority
from meshcast.client.series_questions import GrowthQuestion, SeriesLike, packed_history
from meshcast.client.stream import Call
from meshcast.rpc import InvalidInput
from meshcast.series import SeriesIndex, SeriesTable


class ForecasterCalls(Calls):
    """What a client asks the forecaster."""

    async def forecast_growth(
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
        """Forecasts one series.

        ```python
        table = read_series("visits.csv", today=datetime.now(UTC).date())
        forecast = await mesh.forecast_growth(table["berlin"], horizon_days=14, nonnegative=True)
        lower, upper = forecast.intervals[0.8]
        ```

        Args:
            history: days of one series, oldest first; at least 14 of its last 112 days with a value. A table or a slice
                of one, values by day, or a pair of columns.
            horizon_days: 1 to 90 days from the day after the history's last one.
            levels: levels of the central intervals, above 0 and up to 0.99; empty for 0.8 and 0.95, or for none where
                `quantiles` are asked for.
            quantiles: quantiles, each from 0.005 to 0.995.
            series: its name, by which forecasts and actual values belong together; None takes the table's. A series
                without a name never adapts.
            nonnegative: whether the series cannot be negative; then no forecast is below 0.
            request_id: unique to the question, at most 128 characters; the forecast's id follows from it, so that a
                retry is stored once. None: one is made.
            version: version that must answer; 0 for the one that serves.
            priority: which rows go first when the queue holds more than a batch.
            timeout_s: deadline in seconds; None takes the client's.

        Raises:
            InvalidInput: a rule of the contract is broken; the fields are named.
            MeshError: as the server raised it.
        """
        question = GrowthQuestion(
            history=history,
            series=series,
            horizon_days=horizon_days,
            levels=levels,
            quantiles=quantiles,
            nonnegative=nonnegative,
            request_id=request_id or self._ids.next(),
        )
        request = question.message(version=version, priority=priority)
        response = await answer_to(self._open.forecaster.ForecastGrowth(request, timeout=self._timeout(timeout_s)))
        return Forecast.of(response.forecast, response.receipt, tuple(response.evidence))

    async def forecast_stream(
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
    ) -> AsyncGenerator[ForecastChunk, None]:
        """Forecasts many series of a table, over one stream, in order.

        A stream that breaks is opened again and goes on where it was; every row is answered once. Where the caller may
        stop early, close the generator (`contextlib.aclosing`), so that the stream ends at once.

        ```python
        table = read_series("visits.csv", today=datetime.now(UTC).date())
        async for chunk in mesh.forecast_stream(table, horizon_days=14):
            for row, forecast in zip(chunk.rows, chunk.forecasts()):
                print(table.names[row], forecast)
        ```

        Args:
            table: the series.
            rows: the histories that are asked about; None: each series with all of its days.
            horizon_days: 1 to 90 days for every row.
            levels: as in `forecast_growth`.
            quantiles: as in `forecast_growth`.
            named: whether the rows carry their series' names. Without, as in a backtest, no forecast adapts, or is
                compared with actual values.
            nonnegative: whether the series cannot be negative: for all rows, or shape (m,).
            chunk_rows: rows of a chunk at most; a chunk also ends where its days would make too large a message.
            window: chunks in flight at most; None: as many as bring rows, see `AdaptiveWindow`.
            progress: told after each chunk.
            request_id: prefix of the chunks' request ids; the same prefix and rows give the same forecast ids again.
            version: version that must answer; 0 for the one that serves.
            priority: which rows go first when the queue holds more than a batch.
            timeout_s: deadline of the whole stream, in seconds.

        Raises:
            InvalidInput: the rows or the arguments break a rule.
            MeshError: the stream failed for good. Failed rows and refused chunks are no error here: see the chunks.
        """
        index = table.whole() if rows is None else rows
        check_series_index(index, table)
        check_window(chunk_rows, window)
        owner = np.searchsorted(table.bounds, index.start, side="right") - 1
        names = table.names[owner].tolist() if named else []
        chunks = forecast_chunks(
            table,
            index,
            chunk_rows,
            prefix=request_id or self._ids.next(),
            names=names if any(names) else (),
            nonnegative=np.broadcast_to(np.asarray(nonnegative, dtype=np.bool_), (len(index),)),
            horizon_days=horizon_days,
            levels=levels,
            quantiles=quantiles,
            model_version=version,
            priority=PRIORITIES[priority],
        )
        answers = stream_answers(
            self._open_forecasts,
            chunks,
            ForecastChunk.of,
            window=window,
            timeout_s=timeout_s,
            progress=progress,
            rows_total=len(index),
        )
        async with aclosing(answers):
            async for answer in answers:
                yield answer

    async def record_actuals(
        self,
        actuals: SeriesLike,
        *,
        series: str | None = None,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> RecordedActuals:
        """Records what a series really did, so that the intervals of its next forecasts keep their level.

        A day counts once, whatever is sent again.

        Args:
            actuals: days of one series, oldest first, each with a value; at most 10,000.
            series: its name, as its forecasts gave it; None takes the table's.
            request_id: unique to the request. None: one is made.
            timeout_s: deadline in seconds; None takes the client's.

        Raises:
            InvalidInput: the series has no name, or a day or value breaks a rule.
        """
        name, columns = packed_history(actuals)
        request = pb.RecordActualsRequest(
            request_id=request_id or self._ids.next(),
            series=name if series is None else series,
            actual_columns=columns,
        )
        call = self._open.forecaster.RecordActuals(request, timeout=self._timeout(timeout_s))
        return RecordedActuals.of(await answer_to(call))

    async def read_forecast(
        self,
        forecast_id: str,
        *,
        levels: Sequence[float] = (),
        quantiles: Sequence[float] = (),
        timeout_s: float | None = None,
    ) -> StoredForecast:
        """Reads a forecast back by its id, beside the actual values recorded since.

        Args:
            forecast_id: from `Forecast.forecast_id` or `ForecastChunk.forecast_id`.
            levels: as in `forecast_growth`; they need not be those that were asked for then.
            quantiles: as in `forecast_growth`.
            timeout_s: deadline in seconds; None takes the client's.

        Raises:
            NotFound: none is stored under the id.
        """
        request = pb.ReadForecastRequest(forecast_id=forecast_id, levels=levels, quantiles=quantiles)
        call = self._open.forecaster.ReadForecast(request, timeout=self._timeout(timeout_s))
        return StoredForecast.of(await answer_to(call))

    async def analyze_growth_patterns(
        self, history: SeriesLike, *, nonnegative: bool = False, timeout_s: float | None = None
    ) -> GrowthPatterns:
        """Finds the trend, the seasons, the change points, the phases of growth and the anomalies of a series.

        Args:
            history: as in `forecast_growth`.
            nonnegative: whether the series cannot be negative.
            timeout_s: deadline in seconds; None takes the client's.

        Raises:
            InvalidInput: a rule of the contract is broken; the fields are named.
        """
        request = pb.AnalyzeGrowthPatternsRequest(history_columns=packed_history(history)[1], nonnegative=nonnegative)
        call = self._open.forecaster.AnalyzeGrowthPatterns(request, timeout=self._timeout(timeout_s))
        return GrowthPatterns.of(await answer_to(call))

    async def validate_series(
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
        """Asks whether the forecaster would take a question, and what is unusual about it, without forecasting.

        Arguments as in `forecast_growth`.
        """
        question = GrowthQuestion(
            history=history,
            series=series,
            horizon_days=horizon_days,
            levels=levels,
            quantiles=quantiles,
            nonnegative=nonnegative,
        )
        request = pb.ValidateSeriesRequest(request=question.message())
        response = await answer_to(self._open.forecaster.ValidateSeries(request, timeout=self._timeout(timeout_s)))
        return Validation.of(response)

    async def describe_forecaster(
        self, *, version: int = 0, timeout_s: float | None = None
    ) -> pb.DescribeModelResponse:
        """Describes the forecaster's model: versions, back-ends, metrics, card, horizon.

        Raises:
            NotFound: there is no such version.
        """
        call = self._open.forecaster.DescribeModel(
            pb.DescribeModelRequest(model_version=version), timeout=self._timeout(timeout_s)
        )
        return await answer_to(call)

    def _open_forecasts(self, timeout_s: float) -> Call:
        return self._open.streaming_forecaster.ForecastGrowthStream(timeout=timeout_s)


def check_series_index(index: SeriesIndex, table: SeriesTable) -> None:
    """Refuses rows that are no ranges of their table.

    Raises:
        InvalidInput: the row is named.
    """
    if len(index) == 0:
        raise InvalidInput("there is no series to forecast", field="rows")
    inside = (index.start >= 0) & (index.start < index.stop) & (index.stop <= len(table))
    if not inside.all():
        row = int(np.flatnonzero(~inside)[0])
        text = f"rows[{row}] is no range of the {len(table)} days of the table"
        raise InvalidInput(text, field=f"rows[{row}]")
