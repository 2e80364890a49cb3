"""Drafts: rows that are collected on disk until they become a reference. A bounded number of them, each bounded."""

import json
import sqlite3
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.observations import Floats, Observations
from meshcast.rpc.errors import CorruptData, InvalidInput, NotFound, Precondition
from meshcast.services.drift.changes import checked, checksum
from meshcast.services.drift.packed_rows import rows_from_bytes

__all__ = ["DRAFTS_MAX", "DRAFT_BYTES_MAX", "DRAFT_ROWS_MAX", "Chunk", "chunk_of", "collect", "rows_of_draft"]

DRAFT_ROWS_MAX = 1_000_000
"""Rows of a draft at most, of the contract."""

DRAFT_BYTES_MAX = 256 << 20
"""Bytes of a draft at most, of the contract."""

DRAFTS_MAX = 16
"""Drafts that are kept: 4 GB when all are full. Where there are more, the one that was left alone longest goes."""

_STALE_US = 86_400_000_000  # a day: nobody is still collecting

_STREAMS_MAX = 64  # of a draft whose last chunk is remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Rows on their way into a draft.

    Attributes:
        draft: its name.
        rows: of the chunk.
        columns: the kinds and names of its columns, as a text that tells whether two chunks go together.
        data: the rows, packed.
        stream_id: of the caller's stream; may be empty.
        sequence: of the chunk.
        now_us: microseconds since 1970.
    """

    draft: str
    rows: int
    columns: str
    data: bytes
    stream_id: str
    sequence: int
    now_us: int


def chunk_of(draft: str, rows: Observations, data: bytes, *, stream_id: str, sequence: int, now_us: int) -> Chunk:
    """A chunk of these rows, which are packed as `data`."""
    columns = json.dumps([sorted(rows.numeric), sorted(rows.categorical)], ensure_ascii=False)
    return Chunk(
        draft=draft,
        rows=rows.rows,
        columns=columns,
        data=data,
        stream_id=stream_id,
        sequence=sequence,
        now_us=now_us,
    )


def collect(connection: sqlite3.Connection, chunk: Chunk) -> bool:
    """Takes a chunk into its draft, inside a transaction; False where it was taken before.

    Raises:
        InvalidInput: its columns are not those of the draft's first chunk.
        Precondition: the draft, or the number of drafts, would pass its bound.
    """
    query = "SELECT rows, bytes, columns, streams FROM drafts WHERE draft = ?"
    row = connection.execute(query, (chunk.draft,)).fetchone()
    if row is None:
        _make_room(connection, chunk.now_us)
        row = (0, 0, chunk.columns, "{}")
    rows, size, columns, streams = row[0] + chunk.rows, row[1] + len(chunk.data), row[2], json.loads(row[3])
    if columns != chunk.columns:
        raise InvalidInput(
            f"the chunk has other columns than the first chunk of the draft {chunk.draft!r}", field="observations"
        )
    if chunk.stream_id:
        if chunk.sequence <= streams.pop(chunk.stream_id, chunk.sequence - 1):
            return False
        streams[chunk.stream_id] = chunk.sequence
        while len(streams) > _STREAMS_MAX:
            del streams[next(iter(streams))]
    if rows > DRAFT_ROWS_MAX or size > DRAFT_BYTES_MAX:
        raise Precondition(
            f"The draft {chunk.draft!r} would have {rows} rows in {size >> 20} MiB, and may have {DRAFT_ROWS_MAX} in "
            f"{DRAFT_BYTES_MAX >> 20} MiB. Set the reference from it, or collect a sample under another name."
        )
    connection.execute(
        "INSERT OR REPLACE INTO drafts VALUES (?, ?, ?, ?, ?, ?)",
        (chunk.draft, rows, size, columns, json.dumps(streams), chunk.now_us),
    )
    connection.execute(
        "INSERT INTO draft_rows (draft, crc, data) VALUES (?, ?, ?)", (chunk.draft, checksum(chunk.data), chunk.data)
    )
    return True


def rows_of_draft(connection: sqlite3.Connection, draft: str) -> Observations:
    """All rows of a draft, in the order in which they came.

    Raises:
        NotFound: SUBJECT_UNKNOWN, there is no such draft.
        CorruptData: a part of it is damaged.
    """
    found = connection.execute("SELECT rows FROM drafts WHERE draft = ?", (draft,)).fetchone()
    if found is None:
        raise NotFound(
            f"There is no draft {draft!r}; send its rows by ObserveStream with PURPOSE_REFERENCE first.",
            reason=error_reason_pb2.ERROR_REASON_SUBJECT_UNKNOWN,
            subject=draft,
        )
    whole = _Whole(int(found[0]))
    query = "SELECT crc, data FROM draft_rows WHERE draft = ? ORDER BY number"
    for crc, data in connection.execute(query, (draft,)):
        whole.add(rows_from_bytes(checked(data, crc, f"A chunk of the draft {draft!r}")))
    return whole.rows()


class _Whole:
    """Rows that are put end to end, chunk by chunk, so that none is held twice.

    Args:
        count: of rows there will be.
    """

    def __init__(self, count: int) -> None:
        self._count, self._at = count, 0
        self._numeric: dict[str, Floats] = {}
        self._categorical: dict[str, list[Observations]] = {}
        self._times: NDArray[np.int64] | None = np.empty(count, np.int64)

    def add(self, chunk: Observations) -> None:
        """Takes the next rows.

        Raises:
            CorruptData: there are more than were announced.
        """
        at, stop = self._at, self._at + chunk.rows
        if stop > self._count:
            raise CorruptData("a draft has more rows than were counted")
        for name, values in chunk.numeric.items():
            column = self._numeric.get(name)
            if column is None:
                column = self._numeric[name] = np.empty(self._count, values.dtype)
            elif column.dtype != values.dtype and column.dtype == np.float32:
                column = self._numeric[name] = column.astype(np.float64)
            column[at:stop] = values
        for name, codes in chunk.categorical.items():
            self._categorical.setdefault(name, []).append(Observations(chunk.rows, {}, {name: codes}))
        if chunk.unix_us is None:
            self._times = None
        elif self._times is not None:
            self._times[at:stop] = chunk.unix_us
        self._at = stop

    def rows(self) -> Observations:
        """All of them.

        Raises:
            CorruptData: there are fewer than were announced.
        """
        if self._at != self._count:
            raise CorruptData("a draft has fewer rows than were counted")
        categorical = {name: Observations.concat(parts).categorical[name] for name, parts in self._categorical.items()}
        return Observations(self._count, self._numeric, categorical, self._times)


def _make_room(connection: sqlite3.Connection, now_us: int) -> None:
    oldest = connection.execute("SELECT draft, changed_us FROM drafts ORDER BY changed_us").fetchall()
    if len(oldest) < DRAFTS_MAX:
        return
    draft, changed_us = oldest[0]
    if now_us - changed_us < _STALE_US:
        raise Precondition(
            f"{len(oldest)} drafts are kept, which is the most, and rows came to all of them within a day. Set a "
            f"reference from one of them first, as from {draft!r}."
        )
    connection.execute("DELETE FROM drafts WHERE draft = ?", (draft,))
    connection.execute("DELETE FROM draft_rows WHERE draft = ?", (draft,))
