"""A process that is killed at any step of a commit: what stands afterwards is what its token says, and goes on."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcast.rpc import CorruptData
from meshcast.sinks import FileSink, ParquetSink, Sink, SqliteSink

Make = Callable[..., Sink]

SIZES = (3, 1, 8, 2, 6)  # rows of the blocks


def push(sink: Sink, kit: Any) -> None:
    """Goes on until everything stands; the token is the number of the block that follows."""
    token = sink.open("s")
    number = int(token or 0)
    assert sink.rows == sum(SIZES[:number]), "rows and token tell the same"
    kit_rows = kit.read_whole(sink)
    assert len(next(iter(kit_rows.values()), ())) == sink.rows
    while number < len(SIZES):
        sink.commit(kit.block(sum(SIZES[:number]), SIZES[number]), str(number + 1))
        number += 1


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0, 1)), max_size=6))
def test_each_row_stands_once_wherever_the_process_was_killed(
    make_on_disk: Make, kit: Any, stops: list[tuple[int, float]]
) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        for steps, share in stops:
            sink = make_on_disk(folder, disk=kit.disk(steps, share))
            with closing(sink):
                try:
                    push(sink, kit)
                except kit.stopped:
                    continue
        with closing(make_on_disk(folder)) as sink:
            push(sink, kit)
            kit.same(kit.read_whole(sink), kit.block(0, sum(SIZES)))
    finally:
        shutil.rmtree(folder)


def test_each_step_of_a_commit_may_be_the_last(make_on_disk: Make, kit: Any, tmp_path: Path) -> None:
    for steps in range(60):
        folder = tmp_path / str(steps)
        folder.mkdir()
        ended = True
        with closing(make_on_disk(folder, disk=kit.disk(steps, 0.5))) as sink:
            try:
                push(sink, kit)
            except kit.stopped:
                ended = False
        with closing(make_on_disk(folder)) as sink:
            push(sink, kit)
            kit.same(kit.read_whole(sink), kit.block(0, sum(SIZES)))
        if ended:
            assert steps > 10
            return
    raise AssertionError("more steps than expected")


@given(st.integers(0, 400))
def test_a_block_that_was_cut_at_any_byte_is_cut_off(kit: Any, size: int) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        with closing(FileSink(folder / "rows.csv")) as sink:
            sink.open("s")
            sink.commit(kit.block(0, 5), "t")
        whole = (folder / "rows.csv").read_bytes()
        with (folder / "rows.csv").open("ab") as file:
            file.write((whole * 3)[:size])
        with closing(FileSink(folder / "rows.csv")) as sink:
            assert sink.open("s") == "t"
            assert (folder / "rows.csv").read_bytes() == whole
    finally:
        shutil.rmtree(folder)


@given(st.floats(0, 1))
def test_a_database_whose_log_was_cut_at_any_byte_holds_what_its_token_says(kit: Any, share: float) -> None:
    folder, copy = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    try:
        with closing(SqliteSink(folder / "rows.db", table="rows")) as sink:
            sink.open("s")
            for number, rows in enumerate(SIZES):
                sink.commit(kit.block(sum(SIZES[:number]), rows), str(number + 1))
            shutil.copy(folder / "rows.db", copy)
            log = (folder / "rows.db-wal").read_bytes()
        (copy / "rows.db-wal").write_bytes(log[: round(len(log) * share)])
        with closing(SqliteSink(copy / "rows.db", table="rows")) as sink:
            push(sink, kit)
            kit.same(kit.read_whole(sink), kit.block(0, sum(SIZES)))
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(copy)


def test_a_commit_that_failed_leaves_nothing_and_the_next_one_counts(tmp_path: Path, kit: Any) -> None:
    with closing(FileSink(tmp_path / "rows.csv", disk=kit.disk(4, 0.5))) as sink:
        sink.open("s")  # four steps: the first journal
        for _ in range(3):
            with pytest.raises(kit.stopped):
                sink.commit(kit.block(0, 5), "t")
        sink._disk = kit.disk(1_000, 1.0)
        sink.commit(kit.block(0, 5), "t")
        kit.same(kit.read_whole(sink), kit.block(0, 5))


def test_what_something_else_has_changed_is_refused(tmp_path: Path, kit: Any) -> None:
    with closing(FileSink(tmp_path / "rows.csv")) as sink:
        sink.open("s")
        sink.commit(kit.block(0, 5), "t")
    (tmp_path / "rows.csv").write_text("row\n")
    with pytest.raises(CorruptData, match="vouches for"):
        FileSink(tmp_path / "rows.csv").open("s")
    for text in ("{", "[]", '{"bytes": "many"}', '{"token": null}'):
        (tmp_path / ".rows.csv.journal").write_text(text)
        with pytest.raises(CorruptData, match="cannot be read"):
            FileSink(tmp_path / "rows.csv").open("s")

    with closing(ParquetSink(tmp_path / "rows.parquet")) as parts:
        parts.open("s")
        for first in range(0, 9, 3):
            parts.commit(kit.block(first, 3), "t")
    (tmp_path / "rows.parquet" / "part-000000000003.parquet").unlink()
    with pytest.raises(CorruptData, match=r"3 rows before part-000000000006\.parquet, which begins at row 6"):
        ParquetSink(tmp_path / "rows.parquet").open("s")
    (tmp_path / "rows.parquet" / "part-000000000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptData, match="no part that a stream has written"):
        ParquetSink(tmp_path / "rows.parquet").open("s")
