"""Streams into sinks against a real server: each row once, in order, whatever breaks; one version; what is foreign."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.client import MeshClient, StoredStream, SyncMeshClient, engagement_columns, prediction_id
from meshcast.posts import HistoryIndex, PostTable, settled_history
from meshcast.rpc import InvalidInput, NotFound, NotReady, Overloaded, Precondition
from meshcast.sinks import Column, FileSink, Sink, SqliteSink, open_sink

NAMES = ("rows.csv", "rows.jsonl", "rows.parquet", "rows.sqlite")


def many(kit: Any, posts: int = 400) -> tuple[PostTable, HistoryIndex]:
    table = kit.channel_posts(posts, seed=3)
    return table, settled_history(table)


def read_whole(sink: Sink) -> dict[str, list[Any]]:
    """What stands in a sink, by column."""
    with closing(sink):
        sink.open(None)
        whole: dict[str, list[Any]] = {}
        for part in sink.read(97):
            for name, column in part.items():
                whole.setdefault(name, []).extend(column.tolist() if isinstance(column, np.ndarray) else column)
    return whole


def check(sink: Sink, table: PostTable, index: HistoryIndex, kit: Any) -> dict[str, list[Any]]:
    """Every row once, in order, with the answer of the arithmetic."""
    whole = read_whole(sink)
    assert whole["row"] == list(range(len(index)))
    assert whole["post"] == index.row.tolist()
    wanted = kit.arithmetic(table, table.planned(index.row), index.start, index.stop)
    np.testing.assert_allclose(whole["log_engagement"], wanted, atol=1e-5)
    assert len(set(whole["prediction_id"])) == len(index)
    return whole


@pytest.mark.parametrize("name", NAMES)
async def test_every_row_stands_once_in_order_with_the_id_that_follows_from_the_stream(
    target: str, kit: Any, tmp_path: Path, name: str
) -> None:
    table, index = many(kit)
    told: list[tuple[int, int | None]] = []
    async with MeshClient(target) as mesh:
        stored = await mesh.predict_posts_into(
            open_sink(tmp_path / name),
            table,
            stream_id="nightly",
            chunk_rows=16,
            progress=lambda done, total: told.append((done, total)),
        )
        assert (stored.rows, stored.rows_before, stored.rows_failed, stored.resumes) == (len(index), 0, 0, 0)
        assert stored.stream_id == "nightly" and stored.versions == {1: len(index)}
        again = await mesh.predict_posts_into(open_sink(tmp_path / name), table)
        assert (again.stream_id, again.rows_before, again.versions) == ("nightly", len(index), {})
    whole = check(open_sink(tmp_path / name), table, index, kit)
    assert told[0] == (0, len(index)) and told[-1] == (len(index), len(index))
    assert whole["prediction_id"][37] == f"{prediction_id('nightly/32')}.5"
    assert set(whole["status"]) == {"OK"} and set(whole["error"]) == {""} and set(whole["model_version"]) == {1}


@pytest.mark.parametrize("name", NAMES)
async def test_a_stream_that_ends_in_the_middle_goes_on_with_the_next_call(
    target: str, predictor: Any, kit: Any, tmp_path: Path, name: str
) -> None:
    table, index = many(kit)
    predictor.break_with = lambda: Precondition("the model was unloaded")
    async with MeshClient(target) as mesh:
        for sequence in (3, 9, 0, 4):
            predictor.break_at = {sequence: 1}
            with pytest.raises(Precondition):
                await mesh.predict_posts_into(open_sink(tmp_path / name), table, index, chunk_rows=16)
        stored = await mesh.predict_posts_into(open_sink(tmp_path / name), table, index, chunk_rows=16)
    assert stored.rows_before == 16 * (3 + 9 + 0 + 4), "what was answered before each break stood"
    check(open_sink(tmp_path / name), table, index, kit)


async def test_breaks_and_full_queues_are_waited_out_beyond_five_tries(
    target: str, predictor: Any, kit: Any, tmp_path: Path
) -> None:
    table, index = many(kit)
    predictor.break_at, predictor.refuse_at = {2: 8, 7: 1}, {5: 8}
    async with MeshClient(target) as mesh:
        stored = await mesh.predict_posts_into(FileSink(tmp_path / "rows.csv"), table, chunk_rows=16)
    check(FileSink(tmp_path / "rows.csv"), table, index, kit)
    assert stored.resumes >= 16


async def test_patience_ends(target: str, predictor: Any, kit: Any, tmp_path: Path) -> None:
    table, _ = many(kit)
    predictor.break_at = {2: 10_000}
    async with MeshClient(target) as mesh:
        with pytest.raises(NotReady) as caught:
            await mesh.predict_posts_into(FileSink(tmp_path / "a.csv"), table, chunk_rows=16, patience_s=0.2)
        assert caught.value.__notes__ == [f"32 rows stand in {tmp_path / 'a.csv'}; the same call goes on after them"]
        predictor.break_at, predictor.refuse_at = {}, {0: 10_000}
        with pytest.raises(Overloaded):
            await mesh.predict_posts_into(FileSink(tmp_path / "a.csv"), table, patience_s=0.2)


async def test_one_version_answers_all_rows_though_another_serves_by_then(
    target: str, predictor: Any, kit: Any, tmp_path: Path
) -> None:
    table, index = many(kit)

    def swap(done: int, total: int | None) -> None:
        predictor.serving = 2 if done else 1

    async with MeshClient(target) as mesh:
        stored = await mesh.predict_posts_into(FileSink(tmp_path / "a.csv"), table, chunk_rows=16, progress=swap)
    assert stored.versions == {1: len(index)}
    assert {chunk.model_version for chunk in predictor.chunks[1:]} == {1} and predictor.chunks[0].model_version == 0


async def test_a_version_that_is_gone_ends_the_stream_unless_it_may_change(
    target: str, predictor: Any, kit: Any, tmp_path: Path
) -> None:
    table, index = many(kit)
    sink = tmp_path / "a.csv"

    def swap(done: int, total: int | None) -> None:
        if done >= 100:
            predictor.serving, predictor.gone = 2, {1}

    async with MeshClient(target) as mesh:
        with pytest.raises(
            NotFound, match=r"version 1, which answered the rows before row \d+, .* repin=True"
        ) as caught:
            await mesh.predict_posts_into(FileSink(sink), table, chunk_rows=16, progress=swap)
        assert caught.value.reason == error_reason_pb2.ERROR_REASON_VERSION_UNKNOWN
        with pytest.raises(NotFound, match="repin=True"):
            await mesh.predict_posts_into(FileSink(sink), table)
        with pytest.raises(InvalidInput, match="are of version 1, asked for is 3"):
            await mesh.predict_posts_into(FileSink(sink), table, version=3)
        stored = await mesh.predict_posts_into(FileSink(sink), table, repin=True)
    versions = check(FileSink(sink), table, index, kit)["model_version"]
    assert stored.versions == {2: len(index) - stored.rows_before} and stored.rows_before >= 112
    assert versions == [1] * stored.rows_before + [2] * stored.versions[2]

    predictor.serving, predictor.gone = 1, set()
    async with MeshClient(target) as mesh:
        stored = await mesh.predict_posts_into(
            FileSink(tmp_path / "b.csv"), table, chunk_rows=16, progress=swap, repin=True
        )
    assert stored.versions.keys() == {1, 2} and sum(stored.versions.values()) == len(index)
    check(FileSink(tmp_path / "b.csv"), table, index, kit)


async def test_a_version_that_only_some_replicas_have_still_answers_all_rows(
    target: str, predictor: Any, kit: Any, tmp_path: Path
) -> None:
    table, index = many(kit)

    class GoneNowAndThen(set[int]):
        asked = 0

        def __contains__(self, version: object) -> bool:
            self.asked += 1
            return self.asked % 5 in (3, 4)

    predictor.gone = GoneNowAndThen()
    async with MeshClient(target) as mesh:
        stored = await mesh.predict_posts_into(FileSink(tmp_path / "a.csv"), table, chunk_rows=64, window=1)
    assert stored.versions == {1: len(index)}
    check(FileSink(tmp_path / "a.csv"), table, index, kit)


async def test_failed_rows_are_rows_with_their_error(target: str, kit: Any, tmp_path: Path) -> None:
    table = kit.channel_posts(140)
    lengths = table.content_length.copy()
    lengths[[100, 130]] = 40_400
    names = ("channel", "published_unix_s", "hour_of_day", "day_of_week", "reactions")
    broken = PostTable.of({name: getattr(table, name) for name in names} | {"content_length": lengths})
    async with MeshClient(target) as mesh:
        stored = await mesh.predict_posts_into(FileSink(tmp_path / "a.jsonl"), broken, chunk_rows=50)
    whole = read_whole(FileSink(tmp_path / "a.jsonl"))
    failed = [row for row, status in enumerate(whole["status"]) if status != "OK"]
    assert [whole["post"][row] for row in failed] == [100, 130] and stored.rows_failed == 2
    for row in failed:
        assert whole["status"][row] == "NOT_FOUND" and whole["error"][row] == "no such version"
        assert whole["prediction_id"][row] == "" and np.isnan(whole["log_engagement"][row])
    assert sum(map(bool, whole["prediction_id"])) == len(whole["row"]) - 2


async def test_a_sink_of_another_stream_or_source_is_refused_with_the_way_out(
    target: str, kit: Any, tmp_path: Path
) -> None:
    table, index = many(kit)
    sink = SqliteSink(tmp_path / "a.db", table="t")
    async with MeshClient(target) as mesh:
        await mesh.predict_posts_into(sink, table, stream_id="one", chunk_rows=64)
        for options, what in (
            ({"stream_id": "two"}, "of the stream 'one', not of 'two'"),
            ({"chunk_rows": 32}, "its chunks have 64 rows, not 32"),
            ({"rows": index[:300]}, "another source"),
            ({"channel": "b"}, "another source, or were asked with other options"),
        ):
            with pytest.raises(InvalidInput, match=what) as caught:
                await mesh.predict_posts_into(sink, table, **options)
            assert caught.value.reason == error_reason_pb2.ERROR_REASON_TOKEN_INVALID
            assert "(table t)" in caught.value.message and "another sink" in caught.value.message
        with pytest.raises(InvalidInput, match="another source"):
            await mesh.predict_posts_into(sink, kit.channel_posts(400, seed=4))
        for wrong, field in (
            ({"stream_id": "x" * 97}, "stream_id"),
            ({"window": 0}, "window"),
            ({"version": -1}, "version"),
        ):
            with pytest.raises(InvalidInput) as caught:
                await mesh.predict_posts_into(sink, table, **wrong)
            assert caught.value.violations[0].field == field
    check(SqliteSink(tmp_path / "a.db", table="t"), table, index, kit)


async def test_a_caller_who_leaves_finds_what_was_answered(
    target: str, predictor: Any, kit: Any, tmp_path: Path
) -> None:
    table, index = many(kit)
    reached = asyncio.Event()

    def progress(done: int, total: int | None) -> None:
        if done >= 160:
            predictor.gate = asyncio.Event()
            reached.set()

    async with MeshClient(target) as mesh:
        sink = SqliteSink(tmp_path / "a.db", table="t")
        task = asyncio.create_task(mesh.predict_posts_into(sink, table, chunk_rows=16, progress=progress))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await predictor.closed.wait()
        predictor.gate = None
        stored = await mesh.predict_posts_into(sink, table)
    assert stored.rows_before >= 160
    check(sink, table, index, kit)


async def test_callers_choose_what_is_stored(target: str, kit: Any, tmp_path: Path) -> None:
    table, index = many(kit)

    def columns(chunk: Any, first_row: int) -> dict[str, Column]:
        return {**engagement_columns(chunk, first_row), "published": table.published_unix_s[chunk.rows]}

    async with MeshClient(target) as mesh:
        await mesh.predict_posts_into(FileSink(tmp_path / "a.csv"), table, columns=columns)
    whole = check(FileSink(tmp_path / "a.csv"), table, index, kit)
    assert whole["published"] == table.published_unix_s[index.row].tolist()


async def test_plain_code_streams_into_a_sink_too(target: str, kit: Any, tmp_path: Path) -> None:
    table, index = many(kit)
    told: list[int] = []

    def work() -> StoredStream:
        with SyncMeshClient(target) as mesh:
            return mesh.predict_posts_into(
                FileSink(tmp_path / "a.csv"), table, chunk_rows=32, window=3, progress=lambda done, _: told.append(done)
            )

    stored = await asyncio.to_thread(work)
    assert stored.rows == told[-1] == len(index)
    check(FileSink(tmp_path / "a.csv"), table, index, kit)
