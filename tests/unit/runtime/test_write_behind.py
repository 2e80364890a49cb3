"""What a change acknowledges is whole and on file, and what fails leaves nothing behind."""

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from meshcast.rpc import CorruptData, NotReady, Precondition
from meshcast.runtime import WriteBehind


def insert(connection: sqlite3.Connection, items: Sequence[int]) -> None:
    connection.executemany("INSERT INTO numbers VALUES (?)", ((item,) for item in items))


def count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM numbers").fetchone()[0])


def add(connection: sqlite3.Connection) -> int:
    connection.execute("INSERT INTO numbers VALUES (1)")
    return count(connection)


def numbers(path: Path, *, busy_s: float = 15.0) -> WriteBehind[int]:
    tables = "CREATE TABLE IF NOT EXISTS numbers (number INTEGER NOT NULL);"
    return WriteBehind(
        path, tables=tables, insert=insert, what="list of numbers", bytes_of=lambda _: 100, busy_s=busy_s
    )


async def test_a_change_that_fails_leaves_nothing_and_the_next_one_works(tmp_path: Path) -> None:
    async with numbers(tmp_path / "n.sqlite") as file:

        def broken(connection: sqlite3.Connection) -> None:
            add(connection)
            raise ValueError("after the first row")

        with pytest.raises(ValueError, match="first row"):
            await file.change(broken)
        assert await file.change(add) == 1


async def test_changes_wait_for_each_other(tmp_path: Path) -> None:
    async with numbers(tmp_path / "n.sqlite") as file:
        assert sorted(await asyncio.gather(*(file.change(add) for _ in range(20)))) == list(range(1, 21))


async def test_a_change_whose_caller_went_away_does_not_disturb_the_next(tmp_path: Path) -> None:
    async with numbers(tmp_path / "n.sqlite") as file:
        gone = asyncio.create_task(file.change(add))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert await file.change(add) in (1, 2)


async def test_what_waits_is_found_and_what_is_missing_is_not(tmp_path: Path) -> None:
    async with numbers(tmp_path / "n.sqlite") as file:
        await file.put(7)
        find = "SELECT number FROM numbers WHERE number = ?"
        assert await file.find(lambda connection: connection.execute(find, (7,)).fetchone()) == (7,)
        assert await file.find(lambda connection: connection.execute(find, (8,)).fetchone()) is None


async def test_a_file_that_another_holds_is_busy_and_one_that_is_read_only_is_not_writable(tmp_path: Path) -> None:
    path = tmp_path / "n.sqlite"
    async with numbers(path, busy_s=0.05) as file:
        with sqlite3.connect(path, isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(NotReady, match="list of numbers is busy"):
                await file.change(add)
            other.execute("ROLLBACK")
        other.close()

        def refused(connection: sqlite3.Connection) -> int:
            connection.execute("PRAGMA query_only = 1")
            try:
                return add(connection)
            finally:
                connection.execute("PRAGMA query_only = 0")

        with pytest.raises(Precondition, match="cannot be written"):
            await file.change(refused)


async def test_a_damaged_file_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "n.sqlite"
    async with numbers(path) as file:
        for number in range(20_000):
            await file.put(number)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    async with numbers(path) as file:
        with pytest.raises(CorruptData, match=r"n\.sqlite is damaged"):
            await file.change(add)
