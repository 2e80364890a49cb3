"""Every sink alike: rows and token stand together, in order, once; what is not theirs is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshcast.rpc import AlreadyExists, Conflict, CorruptData, InvalidInput, NotFound
from meshcast.sinks import FileSink, ParquetSink, Sink, SqliteSink, open_sink
from meshcast.sinks.blocks import Blocks

Make = Callable[..., Sink]


def test_what_was_committed_is_read_back_to_the_bit_with_its_token(make: Make, tmp_path: Path, kit: Any) -> None:
    with closing(make(tmp_path)) as sink:
        assert sink.open("s") == "" and sink.rows == 0
        assert list(sink.read()) == []
        sink.commit(kit.block(0, 10), "after 10")
        sink.commit(kit.block(10, 13), "after 23")
        assert sink.rows == 23
        kit.same(kit.read_whole(sink), kit.block(0, 23))
    with closing(make(tmp_path)) as sink:
        assert sink.open("s") == "after 23" and sink.rows == 23
        sink.commit(kit.block(23, 4), "after 27")
        kit.same(kit.read_whole(sink), kit.block(0, 27))


def test_a_sink_is_opened_again_where_it_was(make: Make, tmp_path: Path, kit: Any) -> None:
    with closing(make(tmp_path)) as sink:
        for number in range(5):
            token = sink.open("s")
            assert token == (f"t{number - 1}" if number else "") and sink.rows == 3 * number
            sink.commit(kit.block(3 * number, 3), f"t{number}")
        sink.close()
        sink.close()


def test_what_was_removed_is_made_anew(make: Make, tmp_path: Path, kit: Any) -> None:
    with closing(make(tmp_path)) as sink:
        sink.open("s")
        sink.commit(kit.block(0, 3), "old")
        sink.close()
        if isinstance(sink, SqliteSink):
            with closing(sqlite3.connect(sink.path)) as database:
                database.execute("DROP TABLE rows")
        else:
            for part in sorted(tmp_path.glob("rows.*/*")):
                part.unlink()
            for path in tmp_path.glob("rows.*"):
                path.rmdir() if path.is_dir() else path.unlink()
        assert sink.open("s") == "" and sink.rows == 0
        sink.commit(kit.block(5, 2), "new")
        kit.same(kit.read_whole(sink), kit.block(5, 2))
        assert sink.open("s") == "new"


def test_a_second_writer_is_told_of_the_first(make: Make, tmp_path: Path, kit: Any) -> None:
    with closing(make(tmp_path)) as first, closing(make(tmp_path)) as second:
        first.open("s")
        with pytest.raises(Conflict, match="another process"):
            second.open("s")  # SQLite tells at the commit
            first.commit(kit.block(0, 3), "one")
            second.commit(kit.block(0, 3), "two")
        if first.rows == 0:
            first.commit(kit.block(0, 3), "one")
        kit.same(kit.read_whole(first), kit.block(0, 3))


def test_other_columns_than_the_first_blocks_are_named(make: Make, tmp_path: Path, kit: Any) -> None:
    with closing(make(tmp_path)) as sink:
        sink.open("s")
        sink.commit(kit.block(0, 3), "t")
        other = kit.block(3, 3)
        other["new"], other["row"] = other.pop("exact"), other["row"].astype(np.float64)
        with pytest.raises(InvalidInput, match=r"missing: exact; new: new; changed: row \(int, now float64\)"):
            sink.commit(other, "u")
        with pytest.raises(InvalidInput, match="one length"):
            sink.commit({"row": np.arange(3), "value": np.arange(2)}, "u")
        with pytest.raises(InvalidInput, match="no sink stores"):
            sink.commit({"row": np.arange(3).astype("datetime64[D]")}, "u")
        sink.commit(kit.block(3, 3), "u")
        kit.same(kit.read_whole(sink), kit.block(0, 6))


def test_what_no_stream_has_written_is_left_alone(tmp_path: Path, kit: Any) -> None:
    (tmp_path / "rows.csv").write_text("mine\n")
    with closing(FileSink(tmp_path / "rows.csv")) as file, pytest.raises(AlreadyExists, match="no journal"):
        file.open("s")
    assert (tmp_path / "rows.csv").read_text() == "mine\n"
    with closing(ParquetSink(tmp_path / "rows.csv")) as folder, pytest.raises(AlreadyExists, match="is a file"):
        folder.open("s")
    (tmp_path / ".rows.part").write_text("mine too\n")
    with (
        closing(ParquetSink(tmp_path)) as folder,
        pytest.raises(AlreadyExists, match=r"other files \(.rows.part, rows.csv\)"),
    ):
        folder.open("s")
    assert (tmp_path / ".rows.part").read_text() == "mine too\n"
    with closing(SqliteSink(tmp_path / "rows.csv", table="t")) as database, pytest.raises(AlreadyExists):
        database.open("s")
    with closing(SqliteSink(tmp_path / "a.db", table="t")) as database:
        database.open("s")
        assert database._database is not None
        database._database.execute("CREATE TABLE mine (x)")
    with closing(SqliteSink(tmp_path / "a.db", table="mine")) as database, pytest.raises(AlreadyExists, match="mine"):
        database.open("s")


def test_a_table_that_was_given_another_column_is_told(tmp_path: Path, kit: Any) -> None:
    with closing(SqliteSink(tmp_path / "a.db", table="t")) as sink:
        sink.open("s")
        sink.commit(kit.block(0, 3), "t")
        assert sink._database is not None
        sink._database.execute("ALTER TABLE t ADD COLUMN mine")
        with pytest.raises(CorruptData, match="has 7 columns, the stream gave it 6"):
            sink.open("s")


def test_a_table_that_has_lost_rows_is_told(tmp_path: Path, kit: Any) -> None:
    with closing(SqliteSink(tmp_path / "a.db", table="t")) as sink:
        sink.open("s")
        sink.commit(kit.block(0, 3), "t")
        assert sink._database is not None
        sink._database.execute("DELETE FROM t WHERE rowid > 1")
        with pytest.raises(CorruptData, match="vouches for 3 rows, 1 stand there: something else has changed it"):
            sink.open("s")


def test_a_part_that_has_lost_rows_is_told(tmp_path: Path, kit: Any) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    with closing(ParquetSink(tmp_path / "rows.parquet")) as sink:
        sink.open("s")
        sink.commit(kit.block(0, 3), "t")
    part = next((tmp_path / "rows.parquet").glob("*.parquet"))
    parquet.write_table(parquet.read_table(part).slice(0, 2), part)
    with closing(ParquetSink(tmp_path / "rows.parquet")) as sink:
        with pytest.raises(CorruptData, match="vouches for 3 rows, 2 stand there"):
            sink.open("s")


def test_a_database_holds_several_streams_each_in_its_table(tmp_path: Path, kit: Any) -> None:
    for stream, rows in (("one", 3), ('an "odd" name', 5)):
        with closing(SqliteSink(tmp_path / "rows.db")) as sink:
            assert sink.open(stream) == ""
            sink.commit(kit.block(0, rows), f"token of {stream}")
    for stream, rows in (("one", 3), ('an "odd" name', 5)):
        with closing(SqliteSink(tmp_path / "rows.db")) as sink:
            assert sink.open(stream) == f"token of {stream}"
            kit.same(kit.read_whole(sink), kit.block(0, rows))
    with closing(SqliteSink(tmp_path / "rows.db")) as sink, pytest.raises(InvalidInput, match="name the table"):
        sink.open(None)


def test_a_sink_is_told_by_the_end_of_its_name(tmp_path: Path) -> None:
    kinds = {
        "a.CSV": FileSink,
        "a.jsonl": FileSink,
        "a.parquet": ParquetSink,
        "a.sqlite": SqliteSink,
        "a.db": SqliteSink,
    }
    for name, kind in kinds.items():
        assert isinstance(open_sink(tmp_path / name), kind)
    with pytest.raises(InvalidInput, match=r"\.csv, \.jsonl"):
        open_sink(tmp_path / "a.txt")
    for name in kinds:
        with pytest.raises(NotFound, match="no folder"):
            open_sink(tmp_path / "missing" / name)


def test_pyarrow_and_pandas_read_the_parts_as_one_table(tmp_path: Path, kit: Any) -> None:
    pandas = pytest.importorskip("pandas")
    import pyarrow.dataset

    with closing(ParquetSink(tmp_path / "rows.parquet")) as sink:
        sink.open("s")
        for first in range(0, 30, 10):
            sink.commit(kit.block(first, 10), f"after {first}")
    wanted = kit.block(0, 30)
    assert pyarrow.dataset.dataset(tmp_path / "rows.parquet").to_table()["row"].to_pylist() == list(range(30))
    frame = pandas.read_parquet(tmp_path / "rows.parquet")
    assert frame["row"].tolist() == list(range(30))
    np.testing.assert_array_equal(frame["value"].to_numpy(), wanted["value"])


def test_blocks_are_committed_by_rows_or_by_seconds(tmp_path: Path, kit: Any) -> None:
    with closing(FileSink(tmp_path / "rows.csv", block_rows=10, block_s=5.0)) as sink:
        sink.open("s")
        blocks = Blocks(sink, 0.0)
        assert not blocks.is_due(100.0), "nothing waits"
        blocks.add(kit.block(0, 4), "a", 100.0)
        assert not blocks.is_due(104.0) and blocks.is_due(105.0), "by seconds since the first row"
        blocks.add(kit.block(4, 4), "b", 104.0)
        assert not blocks.is_due(104.0)
        blocks.add(kit.block(8, 4), "c", 104.0)
        assert blocks.is_due(104.0) and blocks.rows == 12
        assert blocks.commit() and not blocks.commit(), "the second time nothing waits"
        assert (sink.rows, blocks.rows, blocks.is_due(1e9)) == (12, 0, False)
        kit.same(kit.read_whole(sink), kit.block(0, 12))
    with closing(FileSink(tmp_path / "rows.csv")) as sink:
        assert sink.open("s") == "c"
