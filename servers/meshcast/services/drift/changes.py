"""Changes of the drift store: what one transaction writes, and how it is written."""

import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from meshcast.rpc.errors import CorruptData
from meshcast.services.drift.alarms import Alarm
from meshcast.services.drift.history import StoredReport

__all__ = ["ALARMS_MAX", "REPORTS_MAX", "VERSION_OF", "Changes", "checked", "checksum", "write_changes"]

REPORTS_MAX = 10_000
"""Reports of a subject that are kept, the newest."""

ALARMS_MAX = 10_000
"""Alarms of a subject that are kept, the newest."""

REQUESTS_MAX = 10_000
"""Requests whose answers are kept, the newest, so that a retry is answered as before."""

VERSION_OF = "version of "
"""How the names of facts begin that are versions of references."""


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


def write_changes(connection: sqlite3.Connection, changes: Changes) -> None:
    """Writes changes, inside a transaction, and lets go of what is more than is kept."""
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
        [(VERSION_OF + subject, version) for subject, version in changes.versions.items()],
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
