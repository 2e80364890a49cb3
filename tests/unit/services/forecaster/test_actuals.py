"""Each day is compared once whoever records it how often, and what is acknowledged stays."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from meshcast.rpc import MeshError, NotReady, Precondition
from meshcast.runtime.write_behind import READERS
from meshcast.services.forecaster.actuals import Forecasts, ForecastStore
from meshcast.services.forecaster.intervals import CENTRAL, IntervalTracker, adapted
from meshcast.services.forecaster.signature import LEVELS

NORMAL = np.array([NormalDist().inv_cdf(level) for level in LEVELS], dtype=np.float32)


def forecasts(
    name: str, first_day: Sequence[int] = (100,), *, days: int = 14, series: str = "s", own: Sequence[str] = ()
) -> Forecasts:
    rows = len(first_day)
    return Forecasts(
        prediction_id=name,
        row_ids=tuple(own),
        model="forecaster",
        model_version=3,
        backend="test/cpu/f32",
        predicted_unix_us=17,
        series=(series,) * rows,
        first_day=np.array(first_day),
        nonnegative=np.zeros(rows, dtype=bool),
        quantiles=np.tile(NORMAL + 10, (rows, days, 1)) + np.arange(days, dtype=np.float32)[None, :, None] * 0.01,
    )


def values(first: int, count: int, seed: int = 0, scale: float = 2.0) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    return np.arange(first, first + count), 10 + np.random.default_rng(seed).normal(0, scale, count)


async def test_a_forecast_can_be_read_back_at_once_as_it_was_answered(tmp_path: Path) -> None:
    one = forecasts("one")
    answered = adapted(one.quantiles, [widened()])
    async with ForecastStore(tmp_path / "f.sqlite") as store:
        await store.put(replace(one, answered=answered, nonnegative=np.array([True])))
        stored = await store.read("one")
        assert stored is not None
        assert (stored.quantiles == answered[0]).all() and stored.quantiles.shape == (14, 9)
        assert (stored.series, stored.model, stored.model_version) == ("s", "forecaster", 3)
        assert (stored.backend, stored.predicted_unix_us) == ("test/cpu/f32", 17)
        assert (stored.first_day, stored.nonnegative) == (100, True)
        assert await store.read("other") is None


async def test_rows_of_a_chunk_have_ids_of_their_own_and_failed_rows_none(tmp_path: Path) -> None:
    chunk = forecasts("chunk", (100, 200, 300), own=("p", "", "r"))
    quantiles = chunk.quantiles.copy()
    quantiles[2] = np.nan
    async with ForecastStore(tmp_path / "f.sqlite") as store:
        await store.put(replace(chunk, quantiles=quantiles))
        await store.put(forecasts("next", (400,)))
        by_row, by_own = await store.read("chunk.0"), await store.read("p")
        assert by_row is not None and by_own is not None
        assert by_row.first_day == by_own.first_day == 100
        second = await store.read("chunk.1")
        assert second is not None and second.first_day == 200
        for unknown in ("chunk.2", "r", "chunk.3", "chunk", "chunk.x", "chunk.-1", ""):
            assert await store.read(unknown) is None


async def test_a_retried_forecast_is_stored_once_and_keeps_the_first_answer(tmp_path: Path) -> None:
    async with ForecastStore(tmp_path / "f.sqlite") as store:
        for first_day in (100, 200):
            await store.put(forecasts("same", (first_day,)))
        stored = await store.read("same")
        assert stored is not None and stored.first_day == 100


@pytest.mark.parametrize("single_first", [True, False])
async def test_of_a_forecast_and_a_row_with_the_same_id_the_first_is_read(tmp_path: Path, single_first: bool) -> None:
    both = [forecasts("same", (100,)), forecasts("chunk", (200, 300), own=("other", "same"))]
    async with ForecastStore(tmp_path / "f.sqlite") as store:
        for one in both if single_first else both[::-1]:
            await store.put(one)
        stored = await store.read("same")
        assert stored is not None and stored.first_day == (100 if single_first else 300)


async def test_what_waits_to_be_written_holds_no_more_than_its_own_memory(tmp_path: Path) -> None:
    path = tmp_path / "f.sqlite"
    batch = np.tile(NORMAL, (1024, 90, 1))
    async with ForecastStore(path, bytes_max=1 << 20) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for k in range(100):  # rows of one pass, 126 KB together, 330 MB with all that they are views of
                await store.put(replace(forecasts(f"f{k}"), quantiles=batch.copy()[k : k + 1, :14]))
            late = asyncio.create_task(store.put(replace(forecasts("late"), quantiles=batch[:1024])))
            later = asyncio.create_task(store.put(forecasts("later")))
            await asyncio.sleep(0.05)
            assert late.done() and not later.done()
            other.execute("ROLLBACK")
        await later
        assert await store.read("later") is not None


async def test_trackers_are_answered_while_recordings_wait_for_a_held_file(tmp_path: Path) -> None:
    path = tmp_path / "f.sqlite"
    async with ForecastStore(path, wait_s=5.0) as store:
        done = await store.record_actuals("s", "forecaster", *values(100, 14))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await store.put(forecasts("one"))
            waiting = [
                asyncio.create_task(store.record_actuals(f"s{k}", "forecaster", *values(100, 1))) for k in range(50)
            ]
            await asyncio.sleep(0.05)
            async with asyncio.timeout(2):
                seen, unknown = await store.trackers(["s", "t"], "forecaster")
            assert seen is not None and seen.evidence() == done.evidence and unknown is None
            assert not any(each.done() for each in waiting)
            other.execute("ROLLBACK")
        assert {each.recorded for each in await asyncio.gather(*waiting)} == {1}


async def test_trackers_come_from_memory_when_the_file_does_not_answer_and_are_read_behind(tmp_path: Path) -> None:
    path = tmp_path / "f.sqlite"
    async with ForecastStore(path) as before:
        for name in ("s", "t"):
            await before.record_actuals(name, "forecaster", *values(100, 14))
    async with ForecastStore(path, wait_s=5.0, clock=lambda: 0.0) as store:
        await store.trackers(["s"], "forecaster")
        stalled, goes_on = threading.Barrier(READERS + 1), threading.Event()

        def stall(_: sqlite3.Connection) -> None:
            stalled.wait()
            goes_on.wait()

        busy = [asyncio.create_task(store._file.read(stall)) for _ in range(READERS)]
        await asyncio.to_thread(stalled.wait)
        store._wait_s = 0.01
        for _ in range(100):  # each would wait for 11 ms if it asked
            seen, unread = await store.trackers(["s", "t"], "forecaster")
            assert seen is not None and unread is None
        assert len(store._reading) == 1
        goes_on.set()
        await asyncio.gather(*busy, *store._reading)
        seen, read = await store.trackers(["s", "t"], "forecaster")
        assert seen is not None and read is not None


async def test_opening_a_file_reads_no_tracker_and_misses_no_change(tmp_path: Path) -> None:
    path, now = tmp_path / "f.sqlite", 0.0
    async with ForecastStore(path) as one, ForecastStore(path) as other:
        await other.record_actuals("s", "forecaster", *values(100, 14))
        async with ForecastStore(path, wait_s=5.0, clock=lambda: now) as store:
            (before,) = await store.trackers(["s"], "forecaster")
            done = await one.record_actuals("s", "forecaster", *values(114, 14))
            now += 1.0
            (after,) = await store.trackers(["s"], "forecaster")
            assert before is not None and after is not None and after.evidence() == done.evidence


async def test_actuals_are_compared_with_forecasts_answered_just_before(tmp_path: Path) -> None:
    day, value = values(100, 10)
    async with ForecastStore(tmp_path / "f.sqlite") as store:
        await store.put(forecasts("one"))
        done = await store.record_actuals("s", "forecaster", day, value)
        assert (done.recorded, done.unchanged, done.corrected, done.compared) == (10, 0, 0, 10)
        assert [one.level for one in done.evidence] == list(CENTRAL)
        assert {one.compared for one in done.evidence} == {10}
        kept = await store.actuals("s", 102, 104)
        assert kept.day.tolist() == [102, 103, 104] and (kept.value == value[2:5]).all()
        assert len((await store.actuals("other", 0, 1000)).day) == 0


async def test_a_retry_changes_nothing_and_a_correction_leaves_the_comparison(tmp_path: Path) -> None:
    day, value = values(100, 10)
    async with ForecastStore(tmp_path / "f.sqlite") as store:
        await store.put(forecasts("one"))
        first = await store.record_actuals("s", "forecaster", day, value)
        again = await store.record_actuals("s", "forecaster", day, value)
        assert (again.recorded, again.unchanged, again.compared) == (0, 10, 0)
        other = value.copy()
        other[3] += 100.0
        put_right = await store.record_actuals("s", "forecaster", day, other)
        assert (put_right.recorded, put_right.unchanged, put_right.corrected, put_right.compared) == (0, 9, 1, 0)
        assert first.evidence == again.evidence == put_right.evidence
        assert (await store.actuals("s", 103, 103)).value.tolist() == [other[3]]


async def test_days_that_are_partly_known_count_only_where_new(tmp_path: Path) -> None:
    day, value = values(100, 10)
    async with ForecastStore(tmp_path / "f.sqlite") as store:
        await store.put(forecasts("one"))
        await store.record_actuals("s", "forecaster", day[:6:2], value[:6:2])
        done = await store.record_actuals("s", "forecaster", day, value)
        assert (done.recorded, done.unchanged, done.compared) == (7, 3, 7)
        assert done.evidence[0].compared == 10


async def test_a_series_forecast_a_thousand_times_a_day_is_compared_once_an_origin(tmp_path: Path) -> None:
    async with ForecastStore(tmp_path / "f.sqlite") as store:
        for k in range(1000):
            await store.put(forecasts(f"a{k}", (100,)))
        await store.put(forecasts("long", (99,), days=90))
        await store.put(forecasts("short", (99,), days=1))  # the latest of its origin, but it covers one day only
        done = await store.record_actuals("s", "forecaster", *values(100, 2))
        assert done.compared == 4


async def test_the_latest_forecast_of_an_origin_counts(tmp_path: Path) -> None:
    wide = forecasts("wide")
    async with ForecastStore(tmp_path / "f.sqlite") as store:
        await store.put(forecasts("first"))
        await store.put(replace(wide, quantiles=(wide.quantiles - 10) * 50 + 10))
        done = await store.record_actuals("s", "forecaster", np.array([100]), np.array([15.0]))
        assert (done.compared, done.evidence[0].coverage) == (1, 1.0)


async def test_forecasts_of_other_series_models_and_days_are_left_alone(tmp_path: Path) -> None:
    async with ForecastStore(tmp_path / "f.sqlite") as store:
        await store.put(forecasts("a", (100,), series="t"))
        await store.put(forecasts("b", (100,), series=""))
        await store.put(replace(forecasts("c", (100,)), model="another"))
        await store.put(forecasts("d", (80, 110, 120)))
        done = await store.record_actuals("s", "forecaster", *values(100, 5))
        assert (done.recorded, done.compared) == (5, 0)
        assert {(one.compared, one.coverage, one.width_factor) for one in done.evidence} == {(0, None, 1.0)}
        assert (await store.record_actuals("s", "forecaster", *values(0, 0))).recorded == 0


async def test_one_call_or_a_call_a_day_comes_to_the_same(tmp_path: Path) -> None:
    day, value = values(100, 300)
    async with ForecastStore(tmp_path / "a.sqlite") as whole, ForecastStore(tmp_path / "b.sqlite") as daily:
        for store in (whole, daily):
            await store.put(forecasts("chunk", range(60, 400, 3), days=30))
        at_once = await whole.record_actuals("s", "forecaster", day, value)
        for k in range(len(day)):
            by_day = await daily.record_actuals("s", "forecaster", day[k : k + 1], value[k : k + 1])
        assert at_once.evidence == by_day.evidence
        assert at_once.compared == by_day.evidence[0].compared == 300 * 10


async def test_concurrent_retries_on_one_file_are_compared_once(tmp_path: Path) -> None:
    path = tmp_path / "f.sqlite"
    day, value = values(100, 14)
    async with ForecastStore(path) as one, ForecastStore(path) as other:
        await one.put(forecasts("one"))
        await one.flush()
        done = await asyncio.gather(
            *(store.record_actuals("s", "forecaster", day, value) for _ in range(4) for store in (one, other))
        )
        assert sum(each.recorded for each in done) == sum(each.compared for each in done) == 14
        assert sum(each.unchanged for each in done) == 7 * 14


async def test_a_tracker_is_seen_at_once_here_and_soon_elsewhere_and_outlives_the_process(tmp_path: Path) -> None:
    path, now = tmp_path / "f.sqlite", 0.0
    async with ForecastStore(path) as here, ForecastStore(path, wait_s=5.0, clock=lambda: now) as elsewhere:
        await here.put(forecasts("one"))
        assert await elsewhere.trackers(["s", "t"], "forecaster") == [None, None]
        done = await here.record_actuals("s", "forecaster", *values(100, 14))
        (tracker,) = await here.trackers(["s"], "forecaster")
        assert tracker is not None and tracker.evidence() == done.evidence
        now += 1.0
        seen, unknown = await elsewhere.trackers(["s", "t"], "forecaster")
        assert seen is not None and unknown is None and seen.snapshot() == tracker.snapshot()
        await here.put(forecasts("two", (200,)))
        done = await here.record_actuals("s", "forecaster", *values(200, 14))
        now += 1.0
        (seen,) = await elsewhere.trackers(["s"], "forecaster")
        assert seen is not None and seen.evidence() == done.evidence
    async with ForecastStore(path, wait_s=5.0) as later:
        (restored,) = await later.trackers(["s"], "forecaster")
        assert restored is not None and restored.evidence() == done.evidence
        assert await later.trackers(["s", ""], "another") == [None, None]


async def test_series_without_a_tracker_are_remembered_as_such(tmp_path: Path) -> None:
    path = tmp_path / "f.sqlite"
    async with ForecastStore(path, wait_s=5.0, clock=lambda: 0.0) as store:
        await store.record_actuals("s", "forecaster", *values(100, 1))
        assert await store.trackers(["t", "u", "t"], "forecaster") == [None, None, None]
        with sqlite3.connect(path) as connection:  # behind the store's back, without a change that it could see
            connection.execute(
                "UPDATE trackers SET series = 't'",
            )
        connection.close()
        assert await store.trackers(["t"], "forecaster") == [None]


async def test_memory_is_bounded_and_forgetting_loses_nothing(tmp_path: Path) -> None:
    names = [f"s{k}" for k in range(20)]
    async with ForecastStore(tmp_path / "f.sqlite", trackers_max=4, wait_s=5.0) as store:
        for name in names:
            await store.record_actuals(name, "forecaster", *values(100, 1))
        for _ in range(2):
            found = await store.trackers([*names, "unknown"], "forecaster")
            assert [tracker is not None for tracker in found] == [True] * 20 + [False]


async def test_what_cannot_be_written_is_not_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "f.sqlite"
    async with ForecastStore(path) as store:
        await store.put(forecasts("one"))
        await store.flush()
        with sqlite3.connect(path) as connection:
            connection.execute(
                "CREATE TRIGGER full BEFORE INSERT ON trackers BEGIN SELECT RAISE(ABORT, 'disk full'); END"
            )
        with pytest.raises(Precondition, match="disk full"):
            await store.record_actuals("s", "forecaster", *values(100, 14))
        assert len((await store.actuals("s", 0, 1000)).day) == 0
        with connection:
            connection.execute("DROP TRIGGER full")
        connection.close()
        done = await store.record_actuals("s", "forecaster", *values(100, 14))
        assert (done.recorded, done.compared) == (14, 14)


async def test_a_file_that_others_hold_for_too_long_is_not_ready(tmp_path: Path) -> None:
    path = tmp_path / "f.sqlite"
    async with ForecastStore(path, busy_s=0.05) as store:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotReady) as refused:
            await store.record_actuals("s", "forecaster", *values(100, 1))
        assert refused.value.is_retryable and isinstance(refused.value, MeshError)
        connection.execute("ROLLBACK")
        connection.close()
        assert (await store.record_actuals("s", "forecaster", *values(100, 1))).recorded == 1


async def test_a_tracker_of_another_layout_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "f.sqlite"
    async with ForecastStore(path) as store:
        await store.record_actuals("s", "forecaster", *values(100, 1))
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE trackers SET snapshot = '{}'")
        connection.close()
    async with ForecastStore(path, wait_s=5.0) as store:
        (tracker,) = await store.trackers(["s"], "forecaster")
        assert tracker is not None and tracker.is_neutral


@pytest.mark.parametrize("seed", range(3))
def test_a_process_killed_after_the_acknowledgement_loses_nothing(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "f.sqlite"
    script = """
        import asyncio, sys
        from pathlib import Path
        import numpy as np
        from meshcast.services.forecaster.actuals import ForecastStore, Forecasts

        async def main():
            async with ForecastStore(Path(sys.argv[1])) as store:
                for k in range(100_000):
                    fan = np.sort(np.random.default_rng(k).normal(0, 1, (1, 14, 9)).astype(np.float32))
                    await store.put(Forecasts(
                        prediction_id=f"f{k}", model="m", model_version=1, backend="b", predicted_unix_us=0,
                        series=("s",), first_day=np.array([k]), nonnegative=np.array([False]), quantiles=fan))
                    done = await store.record_actuals("s", "m", np.array([k]), np.array([float(k)]))
                    print(k, done.evidence[0].compared, flush=True)

        asyncio.run(main())
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline() for _ in range(20 + 7 * seed)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.readlines()
    last, compared = map(int, [line for line in acknowledged if line.endswith("\n")][-1].split())

    async def look() -> None:
        async with ForecastStore(path, wait_s=5.0) as store:
            kept = await store.actuals("s", 0, 1_000_000)
            assert kept.day.tolist()[: last + 1] == list(range(last + 1))
            assert (kept.value == kept.day).all()
            (tracker,) = await store.trackers(["s"], "m")
            assert tracker is not None
            # One more may have been written in the moment between its commit and its acknowledgement.
            assert len(kept.day) - (last + 1) in (0, 1)
            assert tracker.compared == compared + (len(kept.day) - (last + 1)) * min(14, last + 2)
            again = await store.record_actuals("s", "m", kept.day, kept.value)
            assert (again.recorded, again.compared) == (0, 0)

    asyncio.run(look())


def test_processes_that_record_the_same_days_at_the_same_time_compare_each_once(tmp_path: Path) -> None:
    path = tmp_path / "f.sqlite"

    async def prepare() -> None:
        async with ForecastStore(path) as store:
            await store.put(forecasts("chunk", range(0, 100, 5), days=20))

    asyncio.run(prepare())
    script = """
        import asyncio, sys
        from pathlib import Path
        import numpy as np
        from meshcast.services.forecaster.actuals import ForecastStore

        async def main():
            recorded = compared = 0
            async with ForecastStore(Path(sys.argv[1])) as store:
                print("ready", flush=True)
                sys.stdin.readline()
                for k in range(0, 100, 2):
                    done = await store.record_actuals("s", "forecaster", np.array([k, k + 1]), np.array([9.0, 12.0]))
                    recorded, compared = recorded + done.recorded, compared + done.compared
            print(recorded, compared)

        asyncio.run(main())
    """
    start = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    with (
        subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as one,
        subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other,
    ):
        for process in (one, other):
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for process in (one, other):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        counts = [tuple(map(int, process.communicate()[0].split())) for process in (one, other)]
    assert [sum(column) for column in zip(*counts, strict=True)] == [100, 5 * 1 + 5 * 2 + 5 * 3 + 85 * 4]


def widened() -> IntervalTracker:
    tracker = IntervalTracker()
    tracker.update(np.arange(50), np.ones(50, np.int64), np.full(50, 4.0), np.tile(NORMAL, (50, 1)))
    return tracker
