"""Streams of forecasts against a real server: in order, days that rows share sent once, resumed, failed rows told."""

from typing import Any

import numpy as np
import pytest

from meshcast.client import Forecast, ForecastChunk, MeshClient, prediction_id
from meshcast.rpc import InvalidInput, MeshError, Precondition
from meshcast.series import SeriesIndex, SeriesTable


def check(chunks: list[ForecastChunk], table: SeriesTable, index: SeriesIndex, horizon: int, kit: Any) -> None:
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
    assert np.concatenate([chunk.rows for chunk in chunks]).tolist() == list(range(len(index)))
    given = np.concatenate([chunk.median for chunk in chunks])
    wanted = [
        kit.arithmetic(table.day[start:stop], table.value[start:stop], horizon)
        for start, stop in zip(index.start, index.stop, strict=True)
    ]
    np.testing.assert_allclose(given, np.array(wanted), rtol=1e-6)
    first = np.concatenate([chunk.first_day for chunk in chunks])
    np.testing.assert_array_equal(first, table.day[index.stop - 1] + 1)


@pytest.mark.parametrize("window", [1, 4])
async def test_every_series_is_forecast_in_order_and_once_though_the_stream_breaks(
    target: str, forecaster: Any, kit: Any, window: int
) -> None:
    forecaster.break_at, forecaster.refuse_at = {0: 1, 3: 2}, {5: 1}
    table = kit.many_series(23)
    told: list[tuple[int, int | None]] = []
    async with MeshClient(target) as mesh:
        answers = mesh.forecast_stream(
            table,
            horizon_days=14,
            chunk_rows=3,
            window=window,
            request_id="run",
            progress=lambda done, total: told.append((done, total)),
        )
        chunks = [chunk async for chunk in answers]
    check(chunks, table, table.whole(), 14, kit)
    assert told[-1] == (23, 23)
    assert forecaster.streams == 5
    assert [chunk.receipt.prediction_id for chunk in chunks] == [prediction_id(f"run/{n}") for n in range(8)]
    names = {request.sequence: list(request.series) for request in forecaster.chunks}
    assert [name for sequence in range(8) for name in names[sequence]] == table.names.tolist()


async def test_rolling_origins_send_their_series_once(target: str, forecaster: Any, kit: Any) -> None:
    table = kit.many_series(1, 400)
    stop = np.arange(100, len(table) + 1)
    index = SeriesIndex(start=np.zeros_like(stop), stop=stop)
    async with MeshClient(target) as mesh:
        chunks = [chunk async for chunk in mesh.forecast_stream(table, index, named=False, chunk_rows=100)]
    check(chunks, table, index, 30, kit)
    assert sum(request.history.days for request in forecaster.chunks) < 4 * len(table)
    assert not any(request.series for request in forecaster.chunks)


async def test_a_chunk_ends_before_its_days_make_too_large_a_message(target: str, forecaster: Any, kit: Any) -> None:
    table = kit.many_series(60, 9_000)
    async with MeshClient(target) as mesh:
        chunks = [chunk async for chunk in mesh.forecast_stream(table, horizon_days=1)]
    check(chunks, table, table.whole(), 1, kit)
    assert len(chunks) > 1
    assert max(request.ByteSize() for request in forecaster.chunks) < 4 * 1024 * 1024


async def test_a_row_that_fails_names_its_day_and_leaves_the_others_alone(target: str, kit: Any) -> None:
    table = kit.many_series(4)
    table.value[table.bounds[1] + 2] = -5
    nonnegative = np.array([True, True, False, True])
    async with MeshClient(target) as mesh:
        (chunk,) = [chunk async for chunk in mesh.forecast_stream(table, nonnegative=nonnegative, levels=[0.5])]
    assert chunk.is_ok.tolist() == [True, False, True, True]
    assert np.isnan(chunk.median[1]).all()
    assert chunk.levels == (0.5,)
    kinds = [type(one) for one in chunk.forecasts()]
    assert kinds == [Forecast, InvalidInput, Forecast, Forecast]
    assert chunk.failed[1].violations[0].field == f"history.value[{table.bounds[1] + 2}]"
    third = chunk.forecasts()[2]
    assert isinstance(third, Forecast)
    assert third.forecast_id == f"{chunk.receipt.prediction_id}.2" == chunk.forecast_id(2)
    np.testing.assert_allclose(third.intervals[0.5].upper, third.median + 0.5, rtol=1e-6)


async def test_a_refused_chunk_is_told_as_such(target: str, forecaster: Any, kit: Any) -> None:
    forecaster.refuse_for_good = Precondition("unloaded")
    async with MeshClient(target) as mesh:
        chunks = [chunk async for chunk in mesh.forecast_stream(kit.many_series(4), chunk_rows=2)]
    assert [type(chunk.error) for chunk in chunks] == [Precondition, Precondition]
    assert not chunks[0].is_ok.any()
    assert all(isinstance(one, MeshError) for one in chunks[0].forecasts())
    assert chunks[0].median.shape == (2, 0)


async def test_rows_outside_of_the_table_are_not_sent(target: str, kit: Any) -> None:
    table = kit.many_series(2)
    async with MeshClient(target) as mesh:
        for start, stop, said in (
            ([0], [len(table) + 1], "rows\\[0\\]"),
            ([5], [5], "no range"),
            ([], [], "no series"),
        ):
            index = SeriesIndex(start=np.array(start, dtype=np.int64), stop=np.array(stop, dtype=np.int64))
            with pytest.raises(InvalidInput, match=said):
                _ = [chunk async for chunk in mesh.forecast_stream(table, index)]
