"""Forecasts streamed into a sink: a row a series and day, each once, though the stream ends in the middle."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshcast.client import MeshClient
from meshcast.rpc import InvalidInput, NotReady
from meshcast.sinks import FileSink


async def test_every_day_of_every_series_stands_once(target: str, forecaster: Any, kit: Any, tmp_path: Path) -> None:
    table = kit.many_series(23)
    sink = FileSink(tmp_path / "forecasts.csv")
    forecaster.break_at = {3: 99}
    async with MeshClient(target) as mesh:
        with pytest.raises(NotReady):
            await mesh.forecast_stream_into(sink, table, horizon_days=14, chunk_rows=3, patience_s=0.0)
        forecaster.break_at = {}
        stored = await mesh.forecast_stream_into(sink, table, horizon_days=14)
        assert (stored.rows, stored.rows_before, stored.rows_failed) == (23, 9, 0)
        with pytest.raises(InvalidInput, match="another source, or were asked with other options"):
            await mesh.forecast_stream_into(sink, table, horizon_days=15)
    with closing(sink):
        sink.open(None)
        (whole,) = sink.read()
    rows = np.asarray(whole["row"])
    assert rows.tolist() == np.repeat(np.arange(23), 14).tolist()
    assert list(whole["series"]) == np.repeat(table.names, 14).tolist()
    for row, (start, stop) in enumerate(zip(table.whole().start, table.whole().stop, strict=True)):
        wanted = kit.arithmetic(table.day[start:stop], table.value[start:stop], 14)
        np.testing.assert_allclose(np.asarray(whole["median"])[rows == row], wanted, rtol=1e-6)
    first = np.datetime64(whole["date"][0])
    assert whole["date"][13] == str(first + 13) and len(set(whole["prediction_id"])) == 23
