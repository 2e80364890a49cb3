"""What a change acknowledges is whole and on file, and what fails leaves nothing behind."""

import asyncio
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from meshcast.rpc import CorruptData, NotReady, Precondition
from meshcast.runtime import WriteBehind
from meshcast.runtime.write_behind import owned


def insert(connection: sqlite3.Connection, items: Sequence[int]) -> None:
    connection.executemany("INSERT INTO numbers VALUES (?)", ((item,) for item in items))


def count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM numbers").fetchone()[0])


def add(connection: sqlite3.Connection) -> int:
    connection.execute("INSERT INTO numbers VALUES (1)")
    return count(connection)


def numbers(path: Path, *, busy_s: float = 15.0, bytes_max: int = 1 << 20, **more: Any) -> WriteBehind[int]:
    tables = "CREATE TABLE IF NOT EXISTS numbers (number INTEGER NOT NULL);"
    return WriteBehind(
        path,
        tables=tables,
        insert=insert,
        what="list of numbers",
        bytes_of=lambda _: 100,
        bytes_max=bytes_max,
        busy_s=busy_s,
        **more,
    )


@contextmanager
def held(path: Path) -> Iterator[sqlite3.Connection]:
    """The file while another connection holds its write lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other
        if other.in_transaction:
            other.execute("ROLLBACK")


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
        with pytest.raises(CorruptData, match=r"n\.sqlite is damaged"):
            await file.read(lambda connection: connection.execute("SELECT sum(number) FROM numbers").fetchone())


async def test_errors_that_leave_the_process_do_not_name_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "n.sqlite"
    async with numbers(path) as file:

        def missing(connection: sqlite3.Connection) -> None:
            connection.execute("SELECT * FROM letters")

        for done in (file.read(missing), file.change(missing)):
            with pytest.raises(Precondition, match=r"n\.sqlite") as refused:
                await done
            assert str(tmp_path) not in refused.value.message


async def test_nobody_who_waits_for_a_held_file_takes_a_thread_of_the_loop(tmp_path: Path) -> None:
    path = tmp_path / "n.sqlite"
    async with numbers(path) as file:
        with held(path):
            await file.put(1)
            waiting = [asyncio.create_task(file.flush()) for _ in range(100)]
            waiting += [asyncio.create_task(file.change(add)) for _ in range(100)]  # type: ignore[arg-type]  # of int
            async with asyncio.timeout(10):
                await asyncio.gather(*(asyncio.to_thread(threading.get_ident) for _ in range(100)))
                assert await file.read(count) == 0
            assert not any(each.done() for each in waiting)
        await asyncio.gather(*waiting)
        assert await file.read(count) == 101


async def test_a_held_file_is_tried_again_until_it_is_free(tmp_path: Path) -> None:
    path = tmp_path / "n.sqlite"
    async with numbers(path, busy_s=0.01) as file:
        with held(path):
            for number in range(3):
                await file.put(number)
            while file.retries < 3:
                with pytest.raises(NotReady, match="busy"):
                    await file.flush()
            with pytest.raises(NotReady, match="busy"):
                await file.find(lambda connection: None)
        async with asyncio.timeout(10):
            while file.waiting:
                with suppress(NotReady):
                    await file.flush()
        assert (await file.read(count), file.failed) == (3, 0)


async def test_what_cannot_be_written_before_the_end_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "n.sqlite"
    file = numbers(path, busy_s=0.01)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        async with file:
            other.execute("BEGIN IMMEDIATE")
            for number in range(3):
                await file.put(number)
        assert (file.failed, file.waiting, file.waiting_bytes) == (3, 0, 0)


async def test_a_caller_waits_while_too_many_bytes_wait(tmp_path: Path) -> None:
    path = tmp_path / "n.sqlite"
    async with numbers(path, bytes_max=1000) as file:
        with held(path):
            for number in range(10):
                await file.put(number)
            gone, late = (asyncio.create_task(file.put(number)) for number in (10, 11))
            await asyncio.sleep(0.05)
            assert (file.waiting, file.waiting_bytes) == (10, 1000) and not late.done()
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
        await late
        await file.flush()
        assert (await file.read(count), file.waiting_bytes) == (11, 0)


async def test_a_change_begins_in_time_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "n.sqlite"
    async with numbers(path) as file:
        with held(path):
            both = (file.change(add, within_s=0.05) for _ in range(2))
            async with asyncio.timeout(10):
                outcomes = await asyncio.gather(*both, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [NotReady, NotReady]
        assert await file.change(add) == 1


async def test_depth_and_failures_are_metrics_as_long_as_the_store_is_open(tmp_path: Path) -> None:
    path, registry = tmp_path / "n.sqlite", CollectorRegistry()

    def values() -> list[float | None]:
        names = ("waiting_items", "waiting_bytes", "failed_items_total", "retries_total")
        return [registry.get_sample_value(f"meshcast_list_of_numbers_{name}") for name in names]

    async with numbers(path, registry=registry) as file:
        with held(path):
            await file.put(1)
            await file.put(2)
            assert values() == [2, 200, 0, 0]
        await file.flush()
        await file.put(1 << 70)  # past what SQLite holds
        await file.flush()
        assert values() == [0, 0, 1, 0]
    assert values() == [None] * 4


def test_a_view_is_copied_and_an_array_of_its_own_is_not() -> None:
    whole = np.zeros((4, 90, 9), np.float32)
    assert owned(whole) is whole and owned(whole[0]).base is None and owned(whole[:, :30]).base is None
    assert np.shares_memory(owned(whole.reshape(-1)), whole)
    assert owned(np.frombuffer(bytes(16), np.float32)[1:]).base is None
