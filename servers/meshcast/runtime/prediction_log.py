"""Prediction log: what was predicted, readable by its id from every process of the host. SQLite, written behind."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from meshcast.runtime.write_behind import WriteBehind

__all__ = ["NoPredictionLog", "PredictionLog", "Record", "SqlitePredictionLog", "StoredPrediction"]

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
        registry: gets the log's metrics; None: nobody does.

    Raises:
        Precondition: on entering; the file cannot be made, or is something else.
    """

    def __init__(self, path: Path, *, records_max: int = 4096, registry: CollectorRegistry | None = None) -> None:
        self._file = WriteBehind[Record](
            path,
            tables=_TABLES,
            insert=_insert,
            what="prediction log",
            bytes_of=_bytes_of,
            items_max=records_max,
            registry=registry,
        )

    async def __aenter__(self) -> Self:
        await self._file.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._file.__aexit__(*exception)

    @property
    def failed(self) -> int:
        """Records that could not be written."""
        return self._file.failed

    async def put(self, record: Record) -> None:
        """Takes a record to be written behind the answer; waits only while the queue is full."""
        await self._file.put(record)

    async def flush(self) -> None:
        """Waits until everything that was put is on file.

        Raises:
            NotReady: another process was writing for too long.
        """
        await self._file.flush()

    async def read(self, prediction_id: str) -> StoredPrediction | None:
        """The prediction of this id: a single one, `<chunk's id>.<row>`, or a row's own id; None when there is none.

        Of a single one and a row of the same id it is the earlier, as if the later had been a retry.

        Raises:
            NotReady: the file was held for too long.
            CorruptData: the file is damaged.
            Precondition: it cannot be read.
        """
        return await self._file.find(lambda connection: _find(connection, prediction_id))


def _bytes_of(record: Record) -> int:
    return 1024 + record.values.nbytes + record.published_unix_s.nbytes + 128 * len(record.row_ids)


def _insert(connection: sqlite3.Connection, records: Sequence[Record]) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO predictions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", map(_row, records)
    )
    aliases = [(own, record.prediction_id, row) for record in records for row, own in enumerate(record.row_ids) if own]
    if aliases:
        connection.executemany("INSERT OR IGNORE INTO aliases VALUES (?, ?, ?)", aliases)


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
    alone = _stored(connection, prediction_id, 0, alone=True)
    row = None if alias is None else _stored(connection, *alias)
    if alone is None or row is None:
        return alone or row
    return alone if alone.predicted_unix_us <= row.predicted_unix_us else row


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
