"""History of the drift service: reports and alarms that were kept, read page by page and from a cursor."""

import sqlite3
import zlib
from dataclasses import dataclass
from typing import Any

import structlog

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc.errors import CorruptData, InvalidInput, NotFound
from meshcast.services.drift.alarms import Alarm

__all__ = [
    "ReportFilter",
    "ReportPage",
    "StoredReport",
    "alarms_after",
    "newest_report",
    "page_of_reports",
    "report_of",
]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReport:
    """A report as it is kept, and what lists filter by.

    Attributes:
        report_id: its id.
        subject: it is about.
        reference_version: that was compared with.
        made_us: when, microseconds since 1970.
        severity: level, the contract's number.
        is_drift: True when drift is called.
        message: the report as bytes.
    """

    report_id: str
    subject: str
    reference_version: int
    made_us: int
    severity: int
    is_drift: bool
    message: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFilter:
    """Which reports are listed; empty, 0 or None: whichever. The span is from its start until just before its end."""

    subject: str = ""
    severity_min: int = 0
    drift_only: bool = False
    start_us: int | None = None
    end_us: int | None = None


@dataclass(frozen=True, slots=True)
class ReportPage:
    """A page of reports, newest first, and the token of the next; empty where there is none."""

    reports: tuple[StoredReport, ...]
    next_page_token: str


_COLUMNS = "report_id, subject, reference_version, made_us, severity, is_drift, message, crc"


def page_of_reports(
    connection: sqlite3.Connection, which: ReportFilter, *, page_size: int, page_token: str
) -> ReportPage:
    """A page of stored reports, newest first; a report that is kept meanwhile shifts no page.

    Damaged ones are left out.

    Raises:
        InvalidInput: the token is none of ours.
    """
    if page_token and not (page_token.isascii() and page_token.isdigit() and len(page_token) < 19):
        raise InvalidInput("page_token is none that this service gave", field="page_token")
    terms: list[str] = []
    values: list[str | int] = []
    for term, value in (
        ("subject = ?", which.subject or None),
        ("severity >= ?", which.severity_min or None),
        ("is_drift = ?", 1 if which.drift_only else None),
        ("made_us >= ?", which.start_us),
        ("made_us < ?", which.end_us),
        ("number < ?", int(page_token) if page_token else None),
    ):
        if value is not None:
            terms.append(term)
            values.append(value)
    where = f"WHERE {' AND '.join(terms)}" if terms else ""
    query = f"SELECT number, {_COLUMNS} FROM reports {where} ORDER BY number DESC LIMIT ?"
    rows = connection.execute(query, (*values, page_size + 1)).fetchall()
    token = str(rows[page_size - 1][0]) if len(rows) > page_size else ""
    found = (_report(row[1:]) for row in rows[:page_size])
    return ReportPage(tuple(report for report in found if report is not None), token)


def report_of(connection: sqlite3.Connection, report_id: str) -> StoredReport:
    """A stored report.

    Raises:
        NotFound: REPORT_UNKNOWN.
        CorruptData: it is damaged.
    """
    row = connection.execute(f"SELECT {_COLUMNS} FROM reports WHERE report_id = ?", (report_id,)).fetchone()
    return _sound(row, f"No report is kept under {report_id[:128]!r}.", report_id=report_id[:128])


def newest_report(connection: sqlite3.Connection, subject: str) -> StoredReport:
    """The newest stored report of a subject.

    Raises:
        NotFound: REPORT_UNKNOWN.
        CorruptData: it is damaged.
    """
    query = f"SELECT {_COLUMNS} FROM reports WHERE subject = ? ORDER BY number DESC LIMIT 1"
    row = connection.execute(query, (subject,)).fetchone()
    return _sound(row, f"No report of the subject {subject!r} is kept.", subject=subject)


def alarms_after(connection: sqlite3.Connection, after: int, *, subject: str, limit: int) -> tuple[list[Alarm], int]:
    """Alarms after a cursor, oldest first, and the cursor behind them; fewer than `limit` means that these are all.

    Args:
        connection: to the file.
        after: the cursor.
        subject: whose alarms; empty: all. The cursor moves past the alarms of others too.
        limit: alarms at most.
    """
    connection.execute("BEGIN")  # one view of the file: an alarm that is written in between must not be passed over
    try:
        rows = connection.execute(
            "SELECT alarm_id, text FROM alarms "
            "WHERE alarm_id > ?1 AND (?2 = '' OR subject = ?2) ORDER BY alarm_id LIMIT ?3",
            (after, subject, limit),
        ).fetchall()
        (newest,) = connection.execute("SELECT value FROM facts WHERE name = 'alarm_id'").fetchone()
    finally:
        connection.execute("COMMIT")
    cursor = rows[-1][0] if len(rows) == limit else max(newest, after)
    alarms = []
    for alarm_id, text in rows:
        try:
            alarms.append(Alarm.from_json(alarm_id, text))
        except (ValueError, KeyError, TypeError) as error:
            log.error("an alarm is damaged and left out", alarm_id=alarm_id, why=str(error))
    return alarms, cursor


def _report(row: tuple[Any, ...]) -> StoredReport | None:
    """The report of a row; None where it is damaged."""
    report_id, subject, version, made_us, severity, is_drift, message, crc = row
    if not isinstance(message, bytes) or zlib.crc32(message) != crc:
        log.error("a report is damaged and left out", report_id=report_id, subject=subject)
        return None
    return StoredReport(
        report_id=report_id,
        subject=subject,
        reference_version=version,
        made_us=made_us,
        severity=severity,
        is_drift=bool(is_drift),
        message=message,
    )


def _sound(row: tuple[Any, ...] | None, missing: str, **facts: str) -> StoredReport:
    if row is None:
        raise NotFound(missing, reason=error_reason_pb2.ERROR_REASON_REPORT_UNKNOWN, **facts)
    report = _report(row)
    if report is None:
        raise CorruptData(f"The report {row[0]!r} is damaged on disk: its checksum differs.")
    return report
