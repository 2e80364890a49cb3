"""Single calls to the forecaster against a real server: values in and out, errors as raised."""

import asyncio
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest

from meshcast.client import MeshClient, SyncMeshClient, prediction_id
from meshcast.rpc import InvalidInput, NotFound
from meshcast.series import SeriesTable, day_texts


async def test_a_series_is_forecast_from_all_of_its_days(target: str, forecaster: Any, kit: Any) -> None:
    table = kit.many_series()
    async with MeshClient(target) as mesh:
        for part in (table["s001"], table["s003"][10:]):
            forecast = await mesh.forecast_growth(part, horizon_days=14, request_id="mine", version=7)
            np.testing.assert_allclose(forecast.median, kit.arithmetic(part.day, part.value, 14))
            assert forecast.days.astype(np.int64).tolist() == list(range(kit.today, kit.today + 14))
            assert list(forecast.intervals) == [0.8, 0.95]
            np.testing.assert_allclose(forecast.intervals[0.8].lower, forecast.median - 0.8)
            np.testing.assert_allclose(forecast.intervals[0.95].upper, forecast.median + 0.95)
            assert forecast.forecast_id == prediction_id("mine")
            assert forecast.receipt.model_version == 7
            (evidence,) = forecast.evidence
            assert (evidence.level, evidence.compared, evidence.coverage, evidence.width_factor) == (0.8, 3, 0.75, 1.5)
    assert [request.series for request in forecaster.unary] == ["s001", "s003"]


async def test_any_shape_of_history_is_the_same_question(target: str, kit: Any) -> None:
    pandas = pytest.importorskip("pandas")
    table = kit.many_series(1)
    dates = day_texts(table.day)
    shapes = [
        table,
        (table.day, table.value),
        (dates, table.value.tolist()),
        (table.day.astype("datetime64[D]"), table.value),
        dict(zip(dates, table.value.tolist(), strict=True)),
        {date.fromisoformat(text): value for text, value in zip(dates, table.value.tolist(), strict=True)},
        pandas.Series(table.value, index=pandas.to_datetime(dates)),
    ]
    async with MeshClient(target) as mesh:
        for shape in shapes:
            forecast = await mesh.forecast_growth(shape)
            np.testing.assert_allclose(forecast.median, kit.arithmetic(table.day, table.value, 30))


async def test_quantiles_alone_leave_the_intervals_out(target: str, kit: Any) -> None:
    async with MeshClient(target) as mesh:
        forecast = await mesh.forecast_growth(kit.many_series(1), quantiles=[0.1, 0.9])
    assert not forecast.intervals
    np.testing.assert_allclose(forecast.quantiles[0.9], forecast.median + 0.9)


async def test_a_broken_rule_names_the_day(target: str, kit: Any) -> None:
    table = kit.many_series(1)
    value = table.value.copy()
    value[3] = -1
    shuffled = np.random.default_rng(0).permutation(len(table))
    async with MeshClient(target) as mesh:
        with pytest.raises(InvalidInput, match=r"history_columns.value\[3\] is -1"):
            await mesh.forecast_growth((table.day, value), nonnegative=True)
        assert (await mesh.forecast_growth((table.day, value))).median.size == 30
        with pytest.raises(InvalidInput, match="sort the days, oldest first"):
            await mesh.forecast_growth((table.day[shuffled], table.value[shuffled]))
        with pytest.raises(InvalidInput, match="14 of its last 112 days"):
            await mesh.forecast_growth(table[-10:])
        with pytest.raises(InvalidInput, match="holds 5 series"):
            await mesh.forecast_growth(kit.many_series())
        with pytest.raises(InvalidInput, match=r"day\[1\] must be a date"):
            await mesh.forecast_growth((["2016-05-31", "31.5.2016"], [1, 2]))


async def test_actual_values_are_counted_once(target: str, kit: Any) -> None:
    table = kit.many_series(1)
    async with MeshClient(target) as mesh:
        first = await mesh.record_actuals(table[:20])
        assert (first.recorded, first.unchanged, first.corrected, first.compared) == (20, 0, 0, 2)
        assert [evidence.coverage for evidence in first.evidence] == [0.5, None]
        again = await mesh.record_actuals((table.day[:30], table.value[:30] + (np.arange(30) == 4)), series="s000")
        assert (again.recorded, again.unchanged, again.corrected) == (10, 19, 1)
        with pytest.raises(InvalidInput, match="series is required"):
            await mesh.record_actuals((table.day, table.value))


async def test_a_forecast_is_read_back_beside_what_happened(target: str) -> None:
    async with MeshClient(target) as mesh:
        stored = await mesh.read_forecast("known", quantiles=[0.5])
        assert stored.forecast.first_day == date(2016, 6, 1)
        assert stored.forecast.quantiles[0.5].tolist() == [1.0, 2.0]
        assert (stored.series, stored.model_version, stored.backend) == ("a", 4, "arithmetic")
        assert (day_texts(stored.actual_day), stored.actual_value.tolist()) == (["2016-06-01"], [1.5])
        assert stored.predicted_at == datetime.fromtimestamp(30, UTC)
        with pytest.raises(NotFound, match="no such forecast"):
            await mesh.read_forecast("unknown")


async def test_patterns_come_as_values(target: str, kit: Any) -> None:
    table = kit.many_series(1)
    async with MeshClient(target) as mesh:
        patterns = await mesh.analyze_growth_patterns(table)
    assert patterns.trend.direction == "growing"
    assert patterns.trend.growth_weekly == 0.02
    assert patterns.trend.last_day.isoformat() == day_texts(table.day[-1:])[0]
    assert patterns.weekly is not None
    assert patterns.weekly.effects.shape == (7,)
    assert patterns.yearly is None
    assert [point.kind for point in patterns.change_points] == ["level"]
    assert patterns.change_points[0].relative_change is None
    assert (patterns.phases[0].days, patterns.anomalies[0].score) == (len(table), 6.0)
    assert patterns.anomaly_scores == (-4.0, 4.0)


async def test_a_check_says_what_would_be_refused(target: str, kit: Any) -> None:
    table = kit.many_series(1)
    async with MeshClient(target) as mesh:
        good = await mesh.validate_series(table)
        assert good.valid
        assert good.remarks[0].description == "has 3 missing days"
        bad = await mesh.validate_series((table.day, table.value * np.inf))
        assert not bad.valid
        assert bad.violations[0].field == "history_columns.value[0]"
        assert (await mesh.describe_forecaster()).model.name == "forecaster"


async def test_plain_code_asks_the_same(target: str, kit: Any) -> None:
    table: SeriesTable = kit.many_series()

    def work() -> None:
        with SyncMeshClient(target) as mesh:
            single = mesh.forecast_growth(table["s000"], horizon_days=7)
            told: list[tuple[int, int | None]] = []
            chunks = list(
                mesh.forecast_stream(table, horizon_days=7, chunk_rows=2, progress=lambda *at: told.append(at))
            )
            assert told == [(2, 5), (4, 5), (5, 5)]
            first = chunks[0].forecasts()[0]
            assert not isinstance(first, Exception)
            np.testing.assert_allclose(first.median, single.median, rtol=1e-6)
            assert mesh.record_actuals(table["s000"]).recorded == len(table["s000"])
            assert mesh.analyze_growth_patterns(table["s000"]).notes
            assert mesh.validate_series(table["s000"]).valid
            assert mesh.read_forecast("known").series == "a"
            assert mesh.describe_forecaster().model.version == 1

    await asyncio.to_thread(work)
