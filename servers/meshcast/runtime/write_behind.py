"""Write-behind: a SQLite file that takes items behind the answers, shared by the processes of the host."""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, Self, TypeVar

import structlog

from meshcast.rpc.errors import CorruptData, NotReady, Precondition

__all__ = ["WriteBehind", "transaction"]

log = structlog.get_logger()

GATHER_S = 0.02  # a transaction an item would cost single calls a quarter of their time
ITEMS_AT_ONCE = 1024  # most items of a transaction
BUSY_S = 15.0  # another process of the host may be writing; nearly always that takes milliseconds

Item = TypeVar("Item")
Result = TypeVar("Result")


class WriteBehind(Generic[Item]):
    """Items on their way into one SQLite file in WAL mode, reads from it and changes of it; use as `async with`.

    A thread writes items in transactions of whatever has gathered. Leaving writes everything that was put.

    Args:
        path: the file; its folder is made.
        tables: statements that make the tables where they are missing.
        insert: writes items, inside a transaction.
        what: the file is to people, as in "prediction log".
        items_max: items that may wait; then `put` waits too.
        busy_s: how long a write waits for another process of the host that is writing.

    Raises:
        Precondition: on entering; the file cannot be made, or is something else.
    """

    def __init__(
        self,
        path: Path,
        *,
        tables: str,
        insert: Callable[[sqlite3.Connection, Sequence[Item]], None],
        what: str,
        items_max: int = 4096,
        busy_s: float = BUSY_S,
    ) -> None:
        self._path, self._tables, self._insert, self._what = path, tables, insert, what
        self._busy_s = busy_s
        self._queue: queue.Queue[Item | _Flush | None] = queue.Queue(maxsize=items_max)
        self._writer = threading.Thread(target=self._write, name=what.replace(" ", "-"), daemon=True)
        self._connection: sqlite3.Connection | None = None  # the writer's
        self._readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._changers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._changing = asyncio.Lock()  # one waits for the file, the others for the one: no threads are tied up
        self._put = 0  # items that were put; counted on the event loop
        self._written = 0  # of those, the ones that are on file or have failed; counted by the writer
        self.failed = 0  # items that could not be written

    async def __aenter__(self) -> Self:
        def prepare() -> sqlite3.Connection:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                connection = self._connect()
                connection.executescript(self._tables)
            except (OSError, sqlite3.Error) as error:
                raise Precondition(
                    f"The {self._what} {self._path} cannot be opened: {error}. Move the file away, or set "
                    "runtime.state_dir or runtime.log_predictions."
                ) from error
            return connection

        self._connection = await asyncio.to_thread(prepare)
        self._writer.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.to_thread(self._queue.put, None)
        await asyncio.to_thread(self._writer.join)
        for pool in (self._readers, self._changers):
            while not pool.empty():
                pool.get().close()

    async def put(self, item: Item) -> None:
        """Takes an item to be written behind the answer; waits only while the queue is full."""
        self._put += 1
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            await asyncio.to_thread(self._queue.put, item)

    async def flush(self) -> None:
        """Waits until everything that was put is on file."""
        if self._put != self._written:
            await asyncio.to_thread(self._flush)

    async def read(self, look: Callable[[sqlite3.Connection], Result]) -> Result:
        """What `look` reads from what is on file; it runs in a thread."""
        return await asyncio.to_thread(self._read, look)

    async def find(self, look: Callable[[sqlite3.Connection], Result | None]) -> Result | None:
        """What `look` finds, those still to be written included; it runs in a thread, twice at most."""
        is_behind = self._put != self._written  # asked before the look: an item that lands during it is not missed
        found = await self.read(look)
        if found is None and is_behind:
            await self.flush()
            found = await self.read(look)
        return found

    async def change(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """What `work` returns once all that it changed, in one transaction, is on disk; it runs in a thread.

        The transaction holds the file's only write lock from its beginning, so what `work` reads stays true.

        Raises:
            NotReady: others were writing for too long.
            CorruptData: the file is damaged.
            Precondition: it cannot be written, as when the disk is full. In all three cases nothing is acknowledged.
        """
        async with self._changing:
            return await asyncio.to_thread(self._change, work)

    def _connect(self, synchronous: str = "NORMAL") -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=self._busy_s, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        # WAL with NORMAL keeps the file sound through a crash; the last moments before a power cut may be lost.
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        return connection

    def _flush(self) -> None:
        flush = _Flush()
        self._queue.put(flush)
        flush.done.wait()

    def _write(self) -> None:
        assert self._connection is not None
        with contextlib.closing(self._connection) as connection:
            while True:
                waiting = [self._queue.get()]
                if waiting[0] is not None and not isinstance(waiting[0], _Flush):
                    time.sleep(GATHER_S)
                with contextlib.suppress(queue.Empty):
                    while len(waiting) < ITEMS_AT_ONCE:
                        waiting.append(self._queue.get_nowait())
                items = [entry for entry in waiting if entry is not None and not isinstance(entry, _Flush)]
                try:
                    if items:
                        with transaction(connection):
                            self._insert(connection, items)
                except Exception:  # whatever it is: without a writer the queue fills and answers wait for ever
                    self.failed += len(items)
                    log.exception("items were not stored", store=self._what, items=len(items))
                self._written += len(items)
                for entry in waiting:
                    if isinstance(entry, _Flush):
                        entry.done.set()
                if None in waiting:
                    return

    def _read(self, look: Callable[[sqlite3.Connection], Result]) -> Result:
        with self._borrowed(self._readers, "NORMAL") as connection:
            return look(connection)

    def _change(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        try:
            with self._borrowed(self._changers, "FULL") as connection, transaction(connection):
                return work(connection)
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code; what is above it is detail
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise NotReady(f"The {self._what} is busy.", retry_after_s=1.0) from error
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise CorruptData(f"The {self._what} {self._path} is damaged: {error}.") from error
            raise Precondition(f"The {self._what} {self._path} cannot be written: {error}.") from error

    @contextlib.contextmanager
    def _borrowed(
        self, pool: "queue.SimpleQueue[sqlite3.Connection]", synchronous: str
    ) -> Iterator[sqlite3.Connection]:
        try:
            connection = pool.get_nowait()
        except queue.Empty:
            connection = self._connect(synchronous)
        try:
            yield connection
        finally:
            pool.put(connection)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction that holds the write lock from its beginning, so that what it reads stays true until it ends."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some failures have rolled back by themselves
            connection.execute("ROLLBACK")
        raise


class _Flush:
    """Marks a place in the queue; `done` is set when everything before it is on file."""

    def __init__(self) -> None:
        self.done = threading.Event()
