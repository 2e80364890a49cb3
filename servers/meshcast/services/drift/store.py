"""Store of the drift service: one SQLite file that holds subjects' state, closed buckets, reports, alarms and losses.

What the worker has counted becomes `Changes`; many calls' effects share one, and one transaction writes it whole. So
after a kill the file holds what was last acknowledged, or more, and never a half.

Every piece is stored with its checksum. A piece that is damaged is told to those who ask for its subject; all others
go on.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, Self, TypeVar

import structlog
from prometheus_client import CollectorRegistry

from meshcast.rpc.errors import Precondition
from meshcast.runtime.write_behind import WriteBehind
from meshcast.services.drift.changes import VERSION_OF, Changes, checked, write_changes
from meshcast.services.drift.store_lock import StoreLock

__all__ = ["SCHEMA", "Store"]

Result = TypeVar("Result")

log = structlog.get_logger()

SCHEMA = 1
"""Version of the tables. A file of a newer one is left alone."""

_TABLES = f"""
CREATE TABLE IF NOT EXISTS parts (
    subject TEXT NOT NULL,
    part TEXT NOT NULL,
    crc INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (subject, part)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS buckets (
    subject TEXT NOT NULL,
    level INTEGER NOT NULL,
    start_us INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (subject, level, start_us)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reports (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    report_id TEXT NOT NULL UNIQUE,
    subject TEXT NOT NULL,
    reference_version INTEGER NOT NULL,
    made_us INTEGER NOT NULL,
    severity INTEGER NOT NULL,
    is_drift INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    message BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS reports_of_subject ON reports (subject, number);
CREATE TABLE IF NOT EXISTS alarms (
    alarm_id INTEGER PRIMARY KEY,
    subject TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS alarms_of_subject ON alarms (subject, alarm_id);
CREATE TABLE IF NOT EXISTS losses (
    subject TEXT NOT NULL,
    metric TEXT NOT NULL,
    crc INTEGER NOT NULL,
    state BLOB NOT NULL,
    PRIMARY KEY (subject, metric)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS requests (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    request_key TEXT NOT NULL UNIQUE,
    digest TEXT NOT NULL,
    answer BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS drafts (
    draft TEXT PRIMARY KEY,
    rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    columns TEXT NOT NULL,
    streams TEXT NOT NULL,
    changed_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS draft_rows (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    draft TEXT NOT NULL,
    crc INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS rows_of_draft ON draft_rows (draft, number);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO facts VALUES ('schema', {SCHEMA}), ('alarm_id', 0);
"""


class Store:
    """The file; use as `async with`. Its calls run in threads of its own.

    Args:
        root: folder of the file.
        registry: gets the file's metrics; None: nobody does.

    Raises:
        Precondition: on entering; the file cannot be made, is something else or of a newer version, or another process
            uses it.
    """

    def __init__(self, root: Path, *, registry: CollectorRegistry | None = None) -> None:
        self._lock = StoreLock(root)
        self._file: WriteBehind[NoReturn] = WriteBehind(
            root / "drift.sqlite",
            tables=_TABLES,
            insert=_nothing_to_insert,
            what="drift store",
            bytes_of=lambda _: 0,
            registry=registry,
        )

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._lock.take)
        try:
            await self._file.__aenter__()
            await self._require_schema()
        except BaseException:
            self._lock.give_back()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        try:
            await self._file.__aexit__(*error)
        finally:
            self._lock.give_back()

    async def read(self, look: Callable[[sqlite3.Connection], Result]) -> Result:
        """What `look` reads, as `WriteBehind.read`."""
        return await self._file.read(look)

    async def change(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """What `work` returns once all that it changed is on disk, as `WriteBehind.change`."""
        return await self._file.change(work)

    async def write(self, changes: Changes) -> None:
        """Writes changes in one transaction; when this returns they are on disk.

        Raises:
            NotReady, CorruptData, Precondition: as `WriteBehind.change`; nothing was written.
        """
        await self._file.change(lambda connection: write_changes(connection, changes))

    async def subjects(self) -> list[str]:
        """Names of the subjects that have a reference, ascending."""
        query = "SELECT subject FROM parts WHERE part = 'reference' ORDER BY subject"
        return await self.read(lambda connection: [name for (name,) in connection.execute(query)])

    async def version(self, subject: str) -> int:
        """Version of the subject's newest reference; 0 where it never had one."""
        query = "SELECT value FROM facts WHERE name = ?"
        row = await self.read(lambda connection: connection.execute(query, (VERSION_OF + subject,)).fetchone())
        return 0 if row is None else int(row[0])

    async def part(self, subject: str, part: str) -> bytes | None:
        """One piece of a subject's state; None where there is none.

        Raises:
            CorruptData: it is damaged.
        """
        query = "SELECT crc, data FROM parts WHERE subject = ? AND part = ?"
        return await self._checked(query, (subject, part), f"The {part} of the subject {subject!r}")

    async def parts(self, subject: str, *, without: str = "") -> dict[str, bytes]:
        """The pieces of a subject's state but for one, by their names; none where there is no such subject.

        Raises:
            CorruptData: one is damaged.
        """

        def look(connection: sqlite3.Connection) -> dict[str, bytes]:
            rows = connection.execute(
                "SELECT part, crc, data FROM parts WHERE subject = ? AND part <> ?", (subject, without)
            )
            return {part: checked(data, crc, f"The {part} of the subject {subject!r}") for part, crc, data in rows}

        return await self.read(look)

    async def buckets(self, subject: str) -> dict[tuple[int, int], bytes]:
        """A subject's closed time buckets, by level and start.

        Raises:
            CorruptData: one is damaged.
        """

        def look(connection: sqlite3.Connection) -> dict[tuple[int, int], bytes]:
            rows = connection.execute("SELECT level, start_us, crc, data FROM buckets WHERE subject = ?", (subject,))
            what = f"A time bucket of the subject {subject!r}"
            return {(level, start_us): checked(data, crc, what) for level, start_us, crc, data in rows}

        return await self.read(look)

    async def losses(self, subject: str, metric: str) -> bytes | None:
        """The state of a (subject, metric); None where there is none.

        Raises:
            CorruptData: it is damaged.
        """
        query = "SELECT crc, state FROM losses WHERE subject = ? AND metric = ?"
        return await self._checked(query, (subject, metric), f"The losses {metric!r} of {subject!r}")

    async def _checked(self, query: str, key: tuple[str, str], what: str) -> bytes | None:
        """The bytes of the one row that a query of (crc, bytes) finds; None where there is none."""

        def look(connection: sqlite3.Connection) -> bytes | None:
            row = connection.execute(query, key).fetchone()
            return None if row is None else checked(row[1], row[0], what)

        return await self.read(look)

    async def metrics(self) -> int:
        """How many (subject, metric) have a state."""
        query = "SELECT count(*) FROM losses"
        return int((await self.read(lambda connection: connection.execute(query).fetchone()))[0])

    async def answered(self, key: str) -> tuple[str, bytes] | None:
        """Digest and answer of a request that was answered before; None where it was not, or long ago."""
        query = "SELECT digest, answer FROM requests WHERE request_key = ?"
        found: tuple[str, bytes] | None = await self.read(
            lambda connection: connection.execute(query, (key,)).fetchone()
        )
        return found

    async def newest_alarm_id(self) -> int:
        """Id of the newest alarm that was ever written; 0 where none was."""
        query = "SELECT value FROM facts WHERE name = 'alarm_id'"
        return int((await self.read(lambda connection: connection.execute(query).fetchone()))[0])

    async def _require_schema(self) -> None:
        query = "SELECT value FROM facts WHERE name = 'schema'"
        schema = int((await self.read(lambda connection: connection.execute(query).fetchone()))[0])
        if schema != SCHEMA:
            await self._file.__aexit__(None, None, None)
            raise Precondition(
                f"The drift store is of version {schema}, and this service reads version {SCHEMA}. Move drift.sqlite "
                "away, or run the service that wrote it."
            )


def _nothing_to_insert(connection: sqlite3.Connection, items: Sequence[NoReturn]) -> None:
    """Everything is written by `change`, whose callers wait for the disk."""
