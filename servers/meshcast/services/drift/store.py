"""Store of the drift service: one SQLite file that holds subjects' state, closed buckets, reports, alarms and losses.

What the worker has counted becomes `Changes`; many calls' effects share one, and one transaction writes it whole. So
after a kill the file holds what was last acknowledged, or more, and never a half.

Every piece is stored with its checksum. A piece that is damaged is told to those who ask for its subject; all others
go on.
"""

import asyncio
import sqlite3
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Self, TypeVar

import structlog
from prometheus_client import CollectorRegistry

from meshcast.rpc.errors import CorruptData, Precondition
from meshcast.runtime.write_behind import WriteBehind
from meshcast.services.drift.alarms import Alarm
from meshcast.services.drift.history import StoredReport
from meshcast.services.drift.store_lock import StoreLock

__all__ = ["ALARMS_MAX", "REPORTS_MAX", "SCHEMA", "Changes", "Store", "checked", "checksum"]

Result = TypeVar("Result")

log = structlog.get_logger()

SCHEMA = 1
"""Version of the tables. A file of a newer one is left alone."""

REPORTS_MAX = 10_000
"""Reports of a subject that are kept, the newest."""

ALARMS_MAX = 10_000
"""Alarms of a subject that are kept, the newest."""

REQUESTS_MAX = 10_000
"""Requests whose answers are kept, the newest, so that a retry is answered as before."""

_VERSION_OF = "version of "

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


@dataclass(slots=True)
class Changes:
    """What one transaction writes.

    Attributes:
        forgotten: subjects whose parts and buckets go first.
        parts: pieces of state by subject and part; None removes one.
        buckets: closed time buckets by subject, level and start; None removes one.
        reports: new ones; one with an id that is kept takes its place.
        alarms: new ones, with their ids.
        losses: states by subject and metric.
        requests: digest and answer by key.
        drafts_used: drafts whose rows go.
        versions: of subjects' references, by subject; they outlive a damaged state.
    """

    forgotten: set[str] = field(default_factory=set)
    parts: dict[tuple[str, str], bytes | None] = field(default_factory=dict)
    buckets: dict[tuple[str, int, int], bytes | None] = field(default_factory=dict)
    reports: list[StoredReport] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    losses: dict[tuple[str, str], bytes] = field(default_factory=dict)
    requests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    drafts_used: set[str] = field(default_factory=set)
    versions: dict[str, int] = field(default_factory=dict)

    def forget(self, subject: str) -> None:
        """Drops what was to be written of a subject, and has what is on file removed."""
        self.forgotten.add(subject)
        self.parts = {key: data for key, data in self.parts.items() if key[0] != subject}
        self.buckets = {key: data for key, data in self.buckets.items() if key[0] != subject}

    def then(self, later: "Changes") -> "Changes":
        """Both, one after the other."""
        for subject in later.forgotten:
            self.forget(subject)
        return Changes(
            forgotten=self.forgotten,
            parts=self.parts | later.parts,
            buckets=self.buckets | later.buckets,
            reports=self.reports + later.reports,
            alarms=self.alarms + later.alarms,
            losses=self.losses | later.losses,
            requests=self.requests | later.requests,
            drafts_used=self.drafts_used | later.drafts_used,
            versions=self.versions | later.versions,
        )

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__dataclass_fields__)


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
        await self._file.change(lambda connection: _write(connection, changes))

    async def subjects(self) -> list[str]:
        """Names of the subjects that have a reference, ascending."""
        query = "SELECT subject FROM parts WHERE part = 'reference' ORDER BY subject"
        return await self.read(lambda connection: [name for (name,) in connection.execute(query)])

    async def version(self, subject: str) -> int:
        """Version of the subject's newest reference; 0 where it never had one."""
        query = "SELECT value FROM facts WHERE name = ?"
        row = await self.read(lambda connection: connection.execute(query, (_VERSION_OF + subject,)).fetchone())
        return 0 if row is None else int(row[0])

    async def part(self, subject: str, part: str) -> bytes | None:
        """One piece of a subject's state; None where there is none.

        Raises:
            CorruptData: it is damaged.
        """

        def look(connection: sqlite3.Connection) -> bytes | None:
            query = "SELECT crc, data FROM parts WHERE subject = ? AND part = ?"
            row = connection.execute(query, (subject, part)).fetchone()
            return None if row is None else checked(row[1], row[0], f"The {part} of the subject {subject!r}")

        return await self.read(look)

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

        def look(connection: sqlite3.Connection) -> bytes | None:
            query = "SELECT crc, state FROM losses WHERE subject = ? AND metric = ?"
            row = connection.execute(query, (subject, metric)).fetchone()
            return None if row is None else checked(row[1], row[0], f"The losses {metric!r} of {subject!r}")

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


def checksum(data: bytes) -> int:
    """The number that `checked` looks at."""
    return zlib.crc32(data)


def checked(data: bytes, crc: int, what: str) -> bytes:
    """Bytes of the file whose checksum is right.

    Raises:
        CorruptData: it is not.
    """
    if not isinstance(data, bytes) or checksum(data) != crc:
        raise CorruptData(f"{what} is damaged on disk: its checksum differs.")
    return data


def _write(connection: sqlite3.Connection, changes: Changes) -> None:
    for subject in changes.forgotten:
        connection.execute("DELETE FROM parts WHERE subject = ?", (subject,))
        connection.execute("DELETE FROM buckets WHERE subject = ?", (subject,))
    connection.executemany(
        "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?)",
        [(*key, checksum(data), data) for key, data in changes.parts.items() if data is not None],
    )
    connection.executemany(
        "DELETE FROM parts WHERE subject = ? AND part = ?",
        [key for key, data in changes.parts.items() if data is None],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO buckets VALUES (?, ?, ?, ?, ?)",
        [(*key, checksum(data), data) for key, data in changes.buckets.items() if data is not None],
    )
    connection.executemany(
        "DELETE FROM buckets WHERE subject = ? AND level = ? AND start_us = ?",
        [key for key, data in changes.buckets.items() if data is None],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO losses VALUES (?, ?, ?, ?)",
        [(*key, checksum(state), state) for key, state in changes.losses.items()],
    )
    _write_history(connection, changes.reports, changes.alarms)
    if changes.requests:
        connection.executemany(
            "INSERT OR REPLACE INTO requests (request_key, digest, answer) VALUES (?, ?, ?)",
            [(key, digest, answer) for key, (digest, answer) in changes.requests.items()],
        )
        connection.execute(
            "DELETE FROM requests WHERE number <= (SELECT max(number) FROM requests) - ?", (REQUESTS_MAX,)
        )
    connection.executemany(
        "INSERT OR REPLACE INTO facts VALUES (?, ?)",
        [(_VERSION_OF + subject, version) for subject, version in changes.versions.items()],
    )
    for draft in changes.drafts_used:
        connection.execute("DELETE FROM drafts WHERE draft = ?", (draft,))
        connection.execute("DELETE FROM draft_rows WHERE draft = ?", (draft,))


def _write_history(connection: sqlite3.Connection, reports: Sequence[StoredReport], alarms: Sequence[Alarm]) -> None:
    # A report that takes the place of one with its id keeps the number, so that no page is shifted.
    connection.executemany(
        "INSERT INTO reports (report_id, subject, reference_version, made_us, severity, is_drift, crc, message) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (report_id) DO UPDATE SET subject = excluded.subject, "
        "reference_version = excluded.reference_version, made_us = excluded.made_us, severity = excluded.severity, "
        "is_drift = excluded.is_drift, crc = excluded.crc, message = excluded.message",
        [
            (
                report.report_id,
                report.subject,
                report.reference_version,
                report.made_us,
                report.severity,
                report.is_drift,
                checksum(report.message),
                report.message,
            )
            for report in reports
        ],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO alarms VALUES (?, ?, ?)",
        [(alarm.alarm_id, alarm.subject, alarm.to_json()) for alarm in alarms],
    )
    if alarms:
        connection.execute(
            "UPDATE facts SET value = max(value, ?) WHERE name = 'alarm_id'",
            (max(alarm.alarm_id for alarm in alarms),),
        )
    for table, number, kept, subjects in (
        ("reports", "number", REPORTS_MAX, {report.subject for report in reports}),
        ("alarms", "alarm_id", ALARMS_MAX, {alarm.subject for alarm in alarms}),
    ):
        connection.executemany(
            f"DELETE FROM {table} WHERE subject = ?1 AND {number} <= (SELECT {number} FROM {table} WHERE subject = ?1 "
            f"ORDER BY {number} DESC LIMIT 1 OFFSET {kept})",
            [(subject,) for subject in subjects],
        )


def _nothing_to_insert(connection: sqlite3.Connection, items: Sequence[NoReturn]) -> None:
    """Everything is written by `change`, whose callers wait for the disk."""
