import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from meshcast.rpc import Precondition, prediction_id, row_id
from meshcast.runtime import Record, SqlitePredictionLog


def record(request_id: str, rows: int = 1, value: float = 0.0, own: tuple[str, ...] = ()) -> Record:
    return Record(
        prediction_id=prediction_id(request_id),
        row_ids=tuple(map(prediction_id, own)),
        model="m",
        model_version=3,
        backend="test/cpu/f32",
        channel="news",
        predicted_unix_us=17,
        published_unix_s=np.arange(rows) + 100,
        columns=("a", "b"),
        values=np.arange(2 * rows, dtype=np.float32).reshape(rows, 2) + np.float32(value),
    )


def test_an_id_follows_from_the_request_id() -> None:
    assert prediction_id("x") == prediction_id("x") != prediction_id("y")
    assert len(prediction_id("x")) == 32
    assert prediction_id("") != prediction_id("")
    assert row_id("ab", 3) == "ab.3"


async def test_a_prediction_can_be_read_back_at_once(tmp_path: Path) -> None:
    async with SqlitePredictionLog(tmp_path / "log.sqlite") as log:
        await log.put(record("one", value=5.0))
        stored = await log.read(prediction_id("one"))
        assert stored is not None
        assert stored.values.tolist() == [5.0, 6.0] and stored.columns == ("a", "b")
        assert (stored.channel, stored.model, stored.model_version, stored.backend) == ("news", "m", 3, "test/cpu/f32")
        assert (stored.published_unix_s, stored.predicted_unix_us) == (100, 17)
        assert await log.read(prediction_id("other")) is None


async def test_rows_of_a_chunk_have_ids_of_their_own(tmp_path: Path) -> None:
    async with SqlitePredictionLog(tmp_path / "log.sqlite") as log:
        await log.put(record("chunk", rows=3, own=("p", "q", "r")))
        base = prediction_id("chunk")
        by_row = await log.read(row_id(base, 2))
        by_own = await log.read(prediction_id("r"))
        assert by_row is not None and by_own is not None
        assert by_row.values.tolist() == by_own.values.tolist() == [4.0, 5.0]
        assert by_row.published_unix_s == 102
        for unknown in (row_id(base, 3), f"{base}.x", f"{base}.-1", base, ""):
            assert await log.read(unknown) is None


async def test_a_retry_is_stored_once_and_keeps_the_first_answer(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    async with SqlitePredictionLog(path) as log:
        await log.put(record("same", value=1.0))
        await log.put(record("same", value=2.0))
        await log.flush()
        stored = await log.read(prediction_id("same"))
        assert stored is not None and stored.values[0] == 1.0
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM predictions").fetchone() == (1,)
    connection.close()


async def test_leaving_writes_everything_and_another_process_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log.sqlite"
    async with SqlitePredictionLog(path) as first, SqlitePredictionLog(path) as second:
        await asyncio.gather(*[first.put(record(f"a{k}")) for k in range(50)])
        await asyncio.gather(*[second.put(record(f"b{k}")) for k in range(50)])
        await first.flush()
        assert await second.read(prediction_id("a49")) is not None
    async with SqlitePredictionLog(path) as log:
        assert await log.read(prediction_id("b49")) is not None
        assert log.failed == 0


async def test_a_full_queue_makes_the_caller_wait_and_loses_nothing(tmp_path: Path) -> None:
    async with SqlitePredictionLog(tmp_path / "log.sqlite", records_max=2) as log:
        await asyncio.gather(*[log.put(record(f"r{k}", rows=64)) for k in range(100)])
        await log.flush()
        assert all([await log.read(row_id(prediction_id(f"r{k}"), 63)) for k in (0, 50, 99)])


async def test_a_log_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "other.sqlite").write_text("something else, and long enough to be looked at " * 40)
    for path in (tmp_path / "file" / "log.sqlite", tmp_path / "other.sqlite"):
        with pytest.raises(Precondition, match=path.name):
            async with SqlitePredictionLog(path):
                pass


async def test_a_record_that_cannot_be_written_does_not_stop_the_writer(tmp_path: Path) -> None:
    async with SqlitePredictionLog(tmp_path / "log.sqlite") as log:
        await log.put(replace(record("broken"), model_version=1 << 70))  # past what SQLite holds
        await log.flush()
        assert log.failed == 1
        await log.put(record("next"))
        assert await log.read(prediction_id("next")) is not None


@pytest.mark.parametrize("single_us", [10, 30])
async def test_of_a_prediction_and_a_row_with_the_same_id_the_earlier_is_read(tmp_path: Path, single_us: int) -> None:
    async with SqlitePredictionLog(tmp_path / "log.sqlite") as log:
        await log.put(replace(record("same", value=50.0), predicted_unix_us=single_us))
        await log.put(replace(record("chunk", rows=2, own=("other", "same")), predicted_unix_us=20))
        stored = await log.read(prediction_id("same"))
        assert stored is not None and stored.predicted_unix_us == min(single_us, 20)
        assert stored.values.tolist() == ([50.0, 51.0] if single_us < 20 else [2.0, 3.0])
