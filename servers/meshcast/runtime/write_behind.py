"""Write-behind: a SQLite file that takes items behind the answers, shared by the processes of the host."""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, Self, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from meshcast.rpc.errors import CorruptData, NotReady, Precondition

__all__ = ["BYTES_MAX", "Seldom", "WriteBehind", "owned", "transaction"]

log = structlog.get_logger()

GATHER_S = 0.02  # a transaction an item would cost single calls a quarter of their time
ITEMS_AT_ONCE = 1024  # most items of a transaction
BYTES_AT_ONCE = 8 << 20  # of a transaction, the item that passes it included: a tenth of a second of the file's lock
BYTES_MAX = 64 << 20  # what may wait: half a second of chunks on two cores, a fifth of a process's memory
BUSY_S = 15.0  # another process of the host may be writing; nearly always that takes milliseconds
READERS = 2  # threads that read: one may be at something long
SELDOM_S = 60.0  # a file that fails does so at every item

Item = TypeVar("Item")
Result = TypeVar("Result")
Scalar = TypeVar("Scalar", bound=np.generic)


class WriteBehind(Generic[Item]):
    """Items on their way into one SQLite file in WAL mode, reads from it and changes of it; use as `async with`.

    A thread writes items in transactions of whatever has gathered. While another process holds the file it tries again
    and again; what fails for another reason is counted and lost. Leaving writes everything that was put, unless the
    file is held all the while. Threads that wait for the file are the store's own, so it holds nobody else up.

    Args:
        path: the file; its folder is made.
        tables: statements that make the tables where they are missing.
        insert: writes items, inside a transaction.
        what: the file is to people, as in "prediction log"; its metrics are `meshcast_prediction_log_*`.
        bytes_of: memory that an item takes while it waits.
        items_max: items that may wait; then `put` waits too.
        bytes_max: bytes that may wait, the item that passes it included; then `put` waits too.
        busy_s: how long a write waits for another process of the host that is writing.
        registry: gets the store's metrics; None: nobody does.

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
        bytes_of: Callable[[Item], int],
        items_max: int = 4096,
        bytes_max: int = BYTES_MAX,
        busy_s: float = BUSY_S,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._path, self._tables, self._insert, self._what = path, tables, insert, what
        self._bytes_of, self._items_max, self._bytes_max, self._busy_s = bytes_of, items_max, bytes_max, busy_s
        self._registry, self._metrics = registry, _Metrics(what.replace(" ", "_"), self)
        name = what.replace(" ", "-")
        self._queue: queue.SimpleQueue[tuple[Item, int] | None] = queue.SimpleQueue()  # `put` bounds it
        self._writer = threading.Thread(target=self._write, name=name, daemon=True)
        self._changer = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-change")
        self._reader = ThreadPoolExecutor(READERS, thread_name_prefix=f"{name}-read")
        self._connection: sqlite3.Connection | None = None  # the writer's
        self._readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._changers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._changing = asyncio.Lock()  # held until the thread is free, so that nothing waits in the thread's queue
        self._closing = threading.Event()
        self._seldom = Seldom()
        self._put = 0  # items that were put, and of those the ones that are on file or have failed; by the event loop
        self._written = 0
        self._has_ended = False
        self._progress = asyncio.Event()  # set, and replaced by a new one, whenever the writer gets on
        self.waiting_bytes = 0  # of the items that wait to be written
        self.failed = 0  # items that could not be written
        self.retries = 0  # transactions that were begun again because another process was writing

    async def __aenter__(self) -> Self:
        def prepare() -> sqlite3.Connection:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                connection = self._connect()
                connection.executescript(self._tables)
            except (OSError, sqlite3.Error) as error:
                raise Precondition(
                    f"The {self._what} {self._path} cannot be opened: {error}. Move the file away, or set "
                    "runtime.state_dir."
                ) from error
            return connection

        self._loop = asyncio.get_running_loop()
        self._connection = await asyncio.to_thread(prepare)
        self._writer.start()
        if self._registry is not None:
            self._registry.register(self._metrics)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._closing.set()
        self._queue.put(None)
        await self._until(lambda: self._has_ended)
        self._writer.join()
        for pool in (self._reader, self._changer):
            await asyncio.to_thread(pool.shutdown)
        for connections in (self._readers, self._changers):
            while not connections.empty():
                connections.get().close()
        if self._registry is not None:
            self._registry.unregister(self._metrics)

    @property
    def waiting(self) -> int:
        """Items that wait to be written."""
        return self._put - self._written

    async def put(self, item: Item) -> None:
        """Takes an item to be written behind the answer; waits only while as much waits as may."""
        size = self._bytes_of(item)
        await self._until(lambda: self.waiting < self._items_max and self.waiting_bytes < self._bytes_max)
        self._put += 1
        self.waiting_bytes += size
        self._queue.put((item, size))

    async def flush(self, *, within_s: float | None = None) -> None:
        """Waits until everything that was put is on file.

        Args:
            within_s: how long at most; None or more than `busy_s`: that.

        Raises:
            NotReady: it took longer, most likely because another process is writing.
        """
        upto = self._put
        if self._written < upto:
            try:
                async with asyncio.timeout(self._busy_s if within_s is None else min(within_s, self._busy_s)):
                    await self._until(lambda: self._written >= upto)
            except TimeoutError as error:
                raise self._busy() from error

    async def read(self, look: Callable[[sqlite3.Connection], Result]) -> Result:
        """What `look` reads from what is on file; it runs in a thread.

        Raises:
            NotReady: the file was held for too long.
            CorruptData: the file is damaged.
            Precondition: it cannot be read.
        """
        return await self._loop.run_in_executor(self._reader, self._read, look)

    async def find(self, look: Callable[[sqlite3.Connection], Result | None]) -> Result | None:
        """What `look` finds, those still to be written included; it runs in a thread, twice at most.

        Raises:
            NotReady: the file was held for too long.
            CorruptData: the file is damaged.
            Precondition: it cannot be read.
        """
        is_behind = self.waiting > 0  # asked before the look: an item that lands during it is not missed
        found = await self.read(look)
        if found is None and is_behind:
            await self.flush()
            found = await self.read(look)
        return found

    async def change(self, work: Callable[[sqlite3.Connection], Result], *, within_s: float | None = None) -> Result:
        """What `work` returns once all that it changed, in one transaction, is on disk; it runs in a thread.

        The transaction holds the file's only write lock from its beginning, so what `work` reads stays true. Once it
        has begun it is done, even when the caller goes away.

        Args:
            work: reads and changes.
            within_s: how long it may take until the transaction begins; None or more than `busy_s`: that.

        Raises:
            NotReady: others were writing for too long.
            CorruptData: the file is damaged.
            Precondition: it cannot be written, as when the disk is full. In all three cases nothing is acknowledged.
        """
        wait_s = self._busy_s if within_s is None else min(within_s, self._busy_s)
        begin_at = self._loop.time() + wait_s
        try:
            async with asyncio.timeout(wait_s):
                await self._changing.acquire()
        except TimeoutError as error:
            raise self._busy() from error
        running = self._changer.submit(self._change, work, max(0.0, begin_at - self._loop.time()))
        running.add_done_callback(lambda _: self._tell(self._changing.release))
        return await asyncio.wrap_future(running)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            await self._progress.wait()

    def _tell(self, what: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any longer
            self._loop.call_soon_threadsafe(what, *arguments)

    def _landed(self, items: int, size: int, has_ended: bool) -> None:
        self._written += items
        self.waiting_bytes -= size
        self._has_ended = has_ended
        self._progress.set()
        self._progress = asyncio.Event()

    def _connect(self, synchronous: str = "NORMAL") -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=self._busy_s, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # WAL with NORMAL keeps the file sound through a crash; the last moments before a power cut may be lost.
            connection.execute(f"PRAGMA synchronous = {synchronous}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _write(self) -> None:
        assert self._connection is not None
        with contextlib.closing(self._connection) as connection:
            has_ended = False
            while not has_ended:
                entry = self._queue.get()
                if entry is not None:
                    time.sleep(GATHER_S)
                items: list[Item] = []
                size = 0
                while entry is not None:
                    items.append(entry[0])
                    size += entry[1]
                    if len(items) >= ITEMS_AT_ONCE or size >= BYTES_AT_ONCE:
                        break
                    try:
                        entry = self._queue.get_nowait()
                    except queue.Empty:
                        break
                has_ended = entry is None
                if items:
                    self._store(connection, items)
                self._tell(self._landed, len(items), size, has_ended)

    def _store(self, connection: sqlite3.Connection, items: Sequence[Item]) -> None:
        while True:
            is_last = self._closing.is_set()
            try:
                with transaction(connection):
                    self._insert(connection, items)
                return
            except Exception as error:  # whatever it is: without a writer the queue fills and answers wait for ever
                if _is_busy(error):
                    if not is_last:
                        self.retries += 1
                        if self._seldom.is_due():
                            log.warning("the file is held by another writer, items wait", store=self._what)
                        time.sleep(GATHER_S)
                        continue
                    connection.execute("PRAGMA busy_timeout = 0")  # what is left is tried, but not waited for
                self.failed += len(items)
                if self._seldom.is_due():
                    log.exception("items were not stored", store=self._what, path=str(self._path), failed=self.failed)
                return

    def _read(self, look: Callable[[sqlite3.Connection], Result]) -> Result:
        with self._translated("read"), self._borrowed(self._readers, "NORMAL") as connection:
            return look(connection)

    def _change(self, work: Callable[[sqlite3.Connection], Result], busy_s: float) -> Result:
        with self._translated("written"), self._borrowed(self._changers, "FULL") as connection:
            connection.execute(f"PRAGMA busy_timeout = {int(busy_s * 1000)}")
            with transaction(connection):
                return work(connection)

    @contextlib.contextmanager
    def _translated(self, verb: str) -> Iterator[None]:
        """Errors that leave the process name the file; its folder is the host's own business, and stands in the log."""
        try:
            yield
        except sqlite3.Error as error:
            if _is_busy(error):
                raise self._busy() from error
            if self._seldom.is_due():
                log.error("the file fails", store=self._what, path=str(self._path), why=str(error))
            if _primary_code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise CorruptData(f"The {self._what} {self._path.name} is damaged: {error}.") from error
            raise Precondition(f"The {self._what} {self._path.name} cannot be {verb}: {error}.") from error

    def _busy(self) -> NotReady:
        return NotReady(f"The {self._what} is busy.", retry_after_s=1.0)

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


class Seldom:
    """Says, at most once in a minute, that what goes wrong all the time is to be logged."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def is_due(self) -> bool:
        """Whether the minute is over; then the next one begins."""
        now = time.monotonic()
        if now < self._next_s:
            return False
        self._next_s = now + SELDOM_S
        return True


class _Metrics(Collector):
    """The `meshcast_<store>_*` families; each store has names of its own, since a registry takes a family once."""

    def __init__(self, name: str, store: "WriteBehind[Item]") -> None:
        self._prefix, self._store = f"meshcast_{name}", store

    def collect(self) -> Iterable[Metric]:
        """The families as they stand; called by the registry."""
        store = self._store
        return [
            GaugeMetricFamily(f"{self._prefix}_waiting_items", "Items that wait to be written.", store.waiting),
            GaugeMetricFamily(f"{self._prefix}_waiting_bytes", "Bytes of those items.", store.waiting_bytes),
            CounterMetricFamily(f"{self._prefix}_failed_items", "Items that could not be written.", store.failed),
            CounterMetricFamily(
                f"{self._prefix}_retries", "Writes begun again since another process was writing.", store.retries
            ),
        ]


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


def owned(values: NDArray[Scalar]) -> NDArray[Scalar]:
    """The same values in memory that holds nothing else: a copy of a view into something larger, else `values`."""
    base = values.base
    if base is None or (isinstance(base, np.ndarray) and base.nbytes <= values.nbytes):
        return values
    return values.copy()


def _primary_code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF  # what is above it is detail


def _is_busy(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) and _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
