"""Prediction log: what was predicted, readable by its id from every process of the host. SQLite, written behind."""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import structlog
from numpy.typing import NDArray

from meshcast.rpc.errors import Precondition

__all__ = ["NoPredictionLog", "PredictionLog", "Record", "SqlitePredictionLog", "StoredPrediction"]

log = structlog.get_logger()

_TABLES = """
CREATE TABLE IF NOT EXISTS predictions (
    prediction_id TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    model_version INTEGER NOT NULL,
    backend TEXT NOT NULL,
    channel TEXT NOT NULL,
    predicted_unix_us INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    column_names TEXT NOT NULL,
    published_unix_s BLOB NOT NULL,
    row_values BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS aliases (
    prediction_id TEXT PRIMARY KEY,
    base TEXT NOT NULL,
    row INTEGER NOT NULL
) WITHOUT ROWID;
"""

GATHER_S = 0.02  # a transaction a record would cost single calls a quarter of their time
RECORDS_AT_ONCE = 1024  # most records of a transaction
BUSY_S = 5.0  # another process of the host may be writing


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Predictions of one call or one chunk.

    Attributes:
        prediction_id: id of a single prediction, or the common part of a chunk's row ids.
        row_ids: ids of the rows' own; empty, or one a row, "" for a row that has none.
        model: its name.
        model_version: version that predicted.
        backend: that computed.
        channel: named by the caller; may be empty.
        predicted_unix_us: when, microseconds since 1970.
        published_unix_s: shape (rows,), int64, when each post was to be published.
        columns: names of the columns of `values`.
        values: shape (rows, columns), float32.
    """

    prediction_id: str
    row_ids: Sequence[str] = ()
    model: str
    model_version: int
    backend: str
    channel: str = ""
    predicted_unix_us: int
    published_unix_s: NDArray[np.int64]
    columns: tuple[str, ...]
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPrediction:
    """One row of a record, as it was answered; `values` has shape (columns,)."""

    model: str
    model_version: int
    backend: str
    channel: str
    predicted_unix_us: int
    published_unix_s: int
    columns: tuple[str, ...]
    values: NDArray[np.float32]


class PredictionLog(Protocol):
    """Where predictions are kept."""

    async def put(self, record: Record) -> None:
        """Takes a record to be written behind the answer; waits only while the queue is full."""

    async def read(self, prediction_id: str) -> StoredPrediction | None:
        """The prediction of this id, those still to be written included; None when there is none."""


class NoPredictionLog:
    """A log that keeps nothing, where keeping is switched off."""

    async def put(self, record: Record) -> None:
        """Forgets the record."""

    async def read(self, prediction_id: str) -> StoredPrediction | None:
        """Nothing."""
        return None


class SqlitePredictionLog:
    """A log in one SQLite file in WAL mode, shared by the processes of the host; use as `async with`.

    A thread writes records in transactions of whatever has gathered. An id that exists is left as it is, so a retry is
    stored once. Leaving writes everything that was put.

    Args:
        path: the file; its folder is made.
        records_max: records that may wait; then `put` waits too.

    Raises:
        Precondition: on entering; the file cannot be made, or is something else.
    """

    def __init__(self, path: Path, *, records_max: int = 4096) -> None:
        self._path = path
        self._queue: queue.Queue[Record | _Flush | None] = queue.Queue(maxsize=records_max)
        self._writer = threading.Thread(target=self._write, name="prediction-log", daemon=True)
        self._connection: sqlite3.Connection | None = None  # the writer's
        self._readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._put = 0  # records that were put; counted on the event loop
        self._written = 0  # of those, the ones that are on file or have failed; counted by the writer
        self.failed = 0  # records that could not be written

    async def __aenter__(self) -> Self:
        def prepare() -> sqlite3.Connection:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                connection = self._connect()
                connection.executescript(_TABLES)
            except (OSError, sqlite3.Error) as error:
                raise Precondition(
                    f"The prediction log {self._path} cannot be opened: {error}. Move the file away, or set "
                    "runtime.state_dir or runtime.log_predictions."
                ) from error
            return connection

        self._connection = await asyncio.to_thread(prepare)
        self._writer.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.to_thread(self._queue.put, None)
        await asyncio.to_thread(self._writer.join)
        while not self._readers.empty():
            self._readers.get().close()

    async def put(self, record: Record) -> None:
        """Takes a record to be written behind the answer; waits only while the queue is full."""
        self._put += 1
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            await asyncio.to_thread(self._queue.put, record)

    async def flush(self) -> None:
        """Waits until everything that was put is on file."""
        await asyncio.to_thread(self._flush)

    async def read(self, prediction_id: str) -> StoredPrediction | None:
        """The prediction of this id: a single one, `<chunk's id>.<row>`, or a row's own id; None when there is none."""
        is_behind = self._put != self._written  # asked before the look: a record that lands during it is not missed
        found = await asyncio.to_thread(self._read, prediction_id)
        if found is None and is_behind:
            await self.flush()
            found = await asyncio.to_thread(self._read, prediction_id)
        return found

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        # WAL with NORMAL keeps the file sound through a crash; the last moments before a power cut may be lost.
        connection.execute("PRAGMA synchronous = NORMAL")
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
                if isinstance(waiting[0], Record):
                    time.sleep(GATHER_S)
                with contextlib.suppress(queue.Empty):
                    while len(waiting) < RECORDS_AT_ONCE:
                        waiting.append(self._queue.get_nowait())
                records = [entry for entry in waiting if isinstance(entry, Record)]
                try:
                    _insert(connection, records)
                except Exception:  # whatever it is: without a writer the queue fills and answers wait for ever
                    self.failed += len(records)
                    log.exception("predictions were not stored", records=len(records))
                self._written += len(records)
                for entry in waiting:
                    if isinstance(entry, _Flush):
                        entry.done.set()
                if None in waiting:
                    return

    def _read(self, prediction_id: str) -> StoredPrediction | None:
        try:
            connection = self._readers.get_nowait()
        except queue.Empty:
            connection = self._connect()
        try:
            return _find(connection, prediction_id)
        finally:
            self._readers.put(connection)


class _Flush:
    """Marks a place in the queue; `done` is set when everything before it is on file."""

    def __init__(self) -> None:
        self.done = threading.Event()


def _insert(connection: sqlite3.Connection, records: Sequence[Record]) -> None:
    if not records:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany(
            "INSERT OR IGNORE INTO predictions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", map(_row, records)
        )
        aliases = [
            (own, record.prediction_id, row) for record in records for row, own in enumerate(record.row_ids) if own
        ]
        if aliases:
            connection.executemany("INSERT OR IGNORE INTO aliases VALUES (?, ?, ?)", aliases)
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _row(record: Record) -> tuple[Any, ...]:
    return (
        record.prediction_id,
        record.model,
        record.model_version,
        record.backend,
        record.channel,
        record.predicted_unix_us,
        len(record.values),
        ",".join(record.columns),
        np.ascontiguousarray(record.published_unix_s, dtype="<i8").tobytes(),
        np.ascontiguousarray(record.values, dtype="<f4").tobytes(),
    )


_SELECT = """
SELECT model, model_version, backend, channel, predicted_unix_us, rows, column_names, published_unix_s, row_values
FROM predictions WHERE prediction_id = ?
"""


def _find(connection: sqlite3.Connection, prediction_id: str) -> StoredPrediction | None:
    base, _, tail = prediction_id.partition(".")
    if tail:
        return _stored(connection, base, int(tail)) if tail.isascii() and tail.isdigit() and len(tail) < 10 else None
    alias = connection.execute("SELECT base, row FROM aliases WHERE prediction_id = ?", (prediction_id,)).fetchone()
    if alias is not None:
        return _stored(connection, *alias)
    return _stored(connection, prediction_id, 0, alone=True)


def _stored(connection: sqlite3.Connection, base: str, row: int, *, alone: bool = False) -> StoredPrediction | None:
    found = connection.execute(_SELECT, (base,)).fetchone()
    if found is None or row >= found[5] or (alone and found[5] != 1):  # a chunk has rows, not one prediction
        return None
    model, version, backend, channel, predicted, rows, names, published, values = found
    columns = tuple(names.split(","))
    return StoredPrediction(
        model=model,
        model_version=version,
        backend=backend,
        channel=channel,
        predicted_unix_us=predicted,
        published_unix_s=int(np.frombuffer(published, dtype="<i8")[row]),
        columns=columns,
        values=np.frombuffer(values, dtype="<f4").reshape(rows, len(columns))[row],
    )
