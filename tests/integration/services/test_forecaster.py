"""The forecaster as a service: a real server with the shipped model, asked by its stub."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import pytest_asyncio

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.api.forecaster.v1 import forecaster_pb2_grpc as pb_grpc
from meshcast.columns import pack_positions, unpack_floats
from meshcast.rpc import InvalidInput, NotFound, RpcSettings, channel, mesh_errors
from meshcast.runtime import RuntimeSettings, find_service
from meshcast.runtime.main import serving
from meshcast.series import day_texts, pack_days

DAYS = np.arange(16_600, 17_000, dtype=np.int64)
VALUES = np.round(200 * (1 + 0.3 * np.sin(2 * np.pi * DAYS / 7)) * np.random.default_rng(5).lognormal(0, 0.1, 400))
HISTORY = pack_days(DAYS, VALUES)


@pytest_asyncio.fixture
async def forecaster(tmp_path: Path) -> AsyncIterator[pb_grpc.ForecasterServiceStub]:
    """The stub of a forecaster of its own."""
    runtime = RuntimeSettings(state_dir=tmp_path, backend="onnxruntime/cpu/f32")
    async with serving(find_service("forecaster"), runtime, RpcSettings(port=0, metrics=False)) as (server, _):
        async with channel(f"127.0.0.1:{server.port}") as to_server:
            yield pb_grpc.ForecasterServiceStub(to_server)


def request(**fields: object) -> pb.ForecastGrowthRequest:
    whole: dict[str, object] = {"history_columns": HISTORY, "horizon_days": 14, "nonnegative": True}
    return pb.ForecastGrowthRequest(**(whole | fields))  # type: ignore[arg-type]


def actuals(value: float, days: int) -> list[pb.DayValue]:
    """The first days of the forecast's horizon, all of one value."""
    return [pb.DayValue(date=date, value=value) for date in day_texts(np.arange(17_000, 17_000 + days))]


async def test_a_forecast_has_the_shape_that_was_asked_for(forecaster: pb_grpc.ForecasterServiceStub) -> None:
    answer = await forecaster.ForecastGrowth(request(levels=[0.9, 0.5], quantiles=[0.01]))
    forecast = answer.forecast
    assert forecast.first_date == day_texts(np.array([17_000]))[0]
    assert len(forecast.median) == 14
    assert [interval.level for interval in forecast.intervals] == [0.5, 0.9]
    inner, outer = forecast.intervals
    for lower, low, median, high, upper in zip(
        outer.lower, inner.lower, forecast.median, inner.upper, outer.upper, strict=True
    ):
        assert 0 <= lower <= low <= median <= high <= upper
    assert len(forecast.quantiles[0].values) == 14
    assert not answer.evidence


async def test_a_forecast_can_be_read_back_at_other_levels(forecaster: pb_grpc.ForecasterServiceStub) -> None:
    answer = await forecaster.ForecastGrowth(request(request_id="one", series="page"))
    again = await forecaster.ForecastGrowth(request(request_id="one", series="page"))
    assert again.receipt.prediction_id == answer.receipt.prediction_id
    read = await forecaster.ReadForecast(pb.ReadForecastRequest(forecast_id=answer.receipt.prediction_id))
    assert read.forecast == answer.forecast
    assert read.series == "page"
    assert read.model_version == answer.receipt.model_version
    wide = await forecaster.ReadForecast(
        pb.ReadForecastRequest(forecast_id=answer.receipt.prediction_id, levels=[0.98], quantiles=[0.5])
    )
    assert list(wide.forecast.quantiles[0].values) == list(answer.forecast.median)
    assert wide.forecast.intervals[0].upper[0] > answer.forecast.intervals[1].upper[0]


async def test_an_id_that_nobody_has_is_not_found(forecaster: pb_grpc.ForecasterServiceStub) -> None:
    with pytest.raises(NotFound), mesh_errors():
        await forecaster.ReadForecast(pb.ReadForecastRequest(forecast_id="nothing"))
    with pytest.raises(InvalidInput), mesh_errors():
        await forecaster.ReadForecast(pb.ReadForecastRequest())


async def test_actual_values_far_outside_widen_the_next_intervals_of_their_series_alone(
    forecaster: pb_grpc.ForecasterServiceStub,
) -> None:
    before = await forecaster.ForecastGrowth(request(series="page"))
    recorded = await forecaster.RecordActuals(pb.RecordActualsRequest(series="page", actuals=actuals(5_000, 14)))
    assert (recorded.recorded, recorded.compared) == (14, 14)
    assert all(evidence.coverage == 0 and evidence.width_factor > 1 for evidence in recorded.evidence)
    again = await forecaster.RecordActuals(pb.RecordActualsRequest(series="page", actuals=actuals(5_000, 14)))
    assert (again.recorded, again.unchanged, again.compared) == (0, 14, 0)
    after = await forecaster.ForecastGrowth(request(series="page"))
    other = await forecaster.ForecastGrowth(request(series="other"))
    assert after.forecast.intervals[0].upper[0] > before.forecast.intervals[0].upper[0]
    assert after.forecast.median == before.forecast.median
    assert [evidence.compared for evidence in after.evidence] == [14] * len(after.evidence)
    assert other.forecast == before.forecast
    read = await forecaster.ReadForecast(pb.ReadForecastRequest(forecast_id=before.receipt.prediction_id))
    assert read.forecast == before.forecast
    assert [day.value for day in read.actuals] == [5_000.0] * 14


async def test_a_chunk_answers_good_rows_and_names_bad_ones(forecaster: pb_grpc.ForecasterServiceStub) -> None:
    good = await forecaster.ForecastGrowth(request())
    chunk = pb.ForecastGrowthStreamRequest(
        sequence=7,
        request_id="chunk",
        history=HISTORY,
        history_start=pack_positions(np.array([0, 0, 390])),
        history_stop=pack_positions(np.array([400, 300, 400])),
        series=["a", "b", "c"],
        horizon_days=14,
        nonnegative=[True],
    )

    async def chunks() -> AsyncIterator[pb.ForecastGrowthStreamRequest]:
        yield pb.ForecastGrowthStreamRequest(sequence=6)
        yield chunk

    refused, answer = [answer async for answer in forecaster.ForecastGrowthStream(chunks())]
    assert refused.sequence == 6
    assert refused.status.violations[0].field == "history_start"
    assert answer.sequence == 7
    assert [row.row for row in answer.failed] == [2]
    assert answer.failed[0].status.violations[0].field == "history_start[2]"
    median = unpack_floats(answer.median, (3, 14), "median")
    np.testing.assert_allclose(median[0], np.array(good.forecast.median), rtol=1e-4)
    assert np.isnan(median[2]).all()
    stored = await forecaster.ReadForecast(pb.ReadForecastRequest(forecast_id=f"{answer.receipt.prediction_id}.1"))
    assert stored.series == "b"
    np.testing.assert_array_equal(np.array(stored.forecast.median, dtype=np.float32), median[1])
    with pytest.raises(NotFound), mesh_errors():
        await forecaster.ReadForecast(pb.ReadForecastRequest(forecast_id=f"{answer.receipt.prediction_id}.2"))


async def test_a_check_names_what_a_forecast_would_be_refused_for(
    forecaster: pb_grpc.ForecasterServiceStub,
) -> None:
    cases = [
        (request(), None),
        (request(horizon_days=91), "horizon_days"),
        (request(history_columns=pack_days(DAYS[:5], VALUES[:5])), "history_columns"),
        (request(history_columns=pack_days(DAYS, -VALUES)), "history_columns.value[0]"),
        (request(history_columns=pack_days(DAYS[::-1], VALUES)), "history_columns.day[1]"),
    ]
    for asked, at in cases:
        checked = await forecaster.ValidateSeries(pb.ValidateSeriesRequest(request=asked))
        assert checked.valid == (at is None)
        assert [violation.field for violation in checked.violations][:1] == ([at] if at else [])
        if at:
            with pytest.raises(InvalidInput) as refusal, mesh_errors():
                await forecaster.ForecastGrowth(asked)
            assert refusal.value.violations[0].field == at


async def test_patterns_tell_the_season_and_the_change(forecaster: pb_grpc.ForecasterServiceStub) -> None:
    values = VALUES * np.where(np.arange(400) >= 250, 3, 1)
    patterns = await forecaster.AnalyzeGrowthPatterns(
        pb.AnalyzeGrowthPatternsRequest(history_columns=pack_days(DAYS, values), nonnegative=True)
    )
    assert patterns.weekly.present
    assert len(patterns.weekly.effects) == 7
    assert [change.kind for change in patterns.change_points] == [pb.CHANGE_KIND_LEVEL]
    changed = np.datetime64(patterns.change_points[0].date, "D").astype(np.int64)
    assert abs(int(changed) - int(DAYS[250])) <= 3
    assert len(patterns.phases) == 2
    assert not patterns.HasField("yearly")
    with pytest.raises(InvalidInput), mesh_errors():
        await forecaster.AnalyzeGrowthPatterns(pb.AnalyzeGrowthPatternsRequest())


async def test_more_analyses_than_may_wait_are_refused_with_a_time_to_come_back(
    forecaster: pb_grpc.ForecasterServiceStub,
) -> None:
    day = np.arange(8_000, 17_000, dtype=np.int64)
    rng = np.random.default_rng(1)
    long = pb.AnalyzeGrowthPatternsRequest(history_columns=pack_days(day, rng.normal(size=len(day)).cumsum()))
    calls = [forecaster.AnalyzeGrowthPatterns(long) for _ in range(30)]
    codes = await asyncio.gather(*(call.code() for call in calls))
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) >= 1
    assert set(codes) <= {
        grpc.StatusCode.OK,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }


async def test_flat_and_huge_and_tiny_series_are_forecast_in_their_own_size(
    forecaster: pb_grpc.ForecasterServiceStub,
) -> None:
    zeros = await forecaster.ForecastGrowth(request(history_columns=pack_days(DAYS, np.zeros(400))))
    assert list(zeros.forecast.median) == [0.0] * 14
    for scale in (1e-6, 1e12):
        own = await forecaster.ForecastGrowth(request(history_columns=pack_days(DAYS, VALUES * scale)))
        one = await forecaster.ForecastGrowth(request())
        np.testing.assert_allclose(np.array(own.forecast.median) / scale, np.array(one.forecast.median), rtol=2e-3)


async def test_a_held_file_holds_up_who_records_and_nobody_who_asks(
    forecaster: pb_grpc.ForecasterServiceStub, tmp_path: Path
) -> None:
    await forecaster.ForecastGrowth(request(series="page"))
    with contextlib.closing(sqlite3.connect(tmp_path / "forecasts" / "forecaster.sqlite")) as held:
        held.execute("BEGIN IMMEDIATE")
        records = [
            forecaster.RecordActuals(pb.RecordActualsRequest(series="page", actuals=actuals(1, 3)), timeout=0.7)
            for _ in range(8)
        ]
        answers = await asyncio.gather(
            *(forecaster.ForecastGrowth(request(series="page"), timeout=5) for _ in range(8))
        )
        assert all(len(answer.forecast.median) == 14 for answer in answers)
        codes = await asyncio.gather(*(call.code() for call in records))
        assert set(codes) <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
        held.rollback()
    recorded = await forecaster.RecordActuals(pb.RecordActualsRequest(series="page", actuals=actuals(1, 3)))
    assert recorded.recorded + recorded.unchanged == 3
