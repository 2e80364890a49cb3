"""Answers of the drift service as values: observed chunks, alarms, and how bad a drift is."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.client.drift_reports import (
    DriftOnset,
    Severity,
    moment,
    severity_of,
)
from meshcast.client.receipts import Receipt
from meshcast.columns import unpack_floats
from meshcast.rpc import Internal, InvalidInput, MeshError, from_item

AlarmKind = Literal["raised", "worsened", "resolved"]
"""What an alarm says."""
AlarmSource = Literal["data", "performance"]
"""What an alarm is about."""

_ALARM_KINDS: Mapping[int, AlarmKind] = {pb.ALARM_KIND_WORSENED: "worsened", pb.ALARM_KIND_RESOLVED: "resolved"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftAlarm:
    """An alarm.

    Attributes:
        alarm_id: counts up over all subjects; the cursor after which `watch_drift` goes on.
        subject: whose it is.
        kind: what it says.
        source: what it is about.
        raised_at: when it was raised, by the server's clock.
        observed_at: last time of the rows that raised it; None where they had none.
        severity: its level.
        blamed: shares of the features to blame, those to blame first; the metric where it is about losses.
        onset: since when; None where nothing is called, as when it is resolved.
        report_id: report of the window that raised it; empty where it is about losses.
        text: one sentence for a person.
        position: number of the window that raised it, or position of the loss.
        reference_version: reference at the time.
    """

    alarm_id: int
    subject: str
    kind: AlarmKind
    source: AlarmSource
    raised_at: datetime | None
    observed_at: datetime | None
    severity: Severity
    blamed: Mapping[str, float]
    onset: DriftOnset | None
    report_id: str
    text: str
    position: int
    reference_version: int

    @classmethod
    def of(cls, message: pb.DriftAlarm) -> "DriftAlarm":
        """The value of a message."""
        return cls(
            alarm_id=message.alarm_id,
            subject=message.subject,
            kind=_ALARM_KINDS.get(message.kind, "raised"),
            source="performance" if message.source == pb.ALARM_SOURCE_PERFORMANCE else "data",
            raised_at=moment(message, "raised_time"),
            observed_at=moment(message, "observed_time"),
            severity=severity_of(message.severity),
            blamed={one.name: one.share for one in message.blamed},
            onset=DriftOnset.of(message.onset) if message.HasField("onset") else None,
            report_id=message.report_id,
            text=message.text,
            position=message.position,
            reference_version=message.reference_version,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObservedChunk:
    """The answer to one chunk of rows.

    Attributes:
        sequence: number of the chunk, from 0.
        rows: shape (n,), int64: its rows, counted from 0 over the whole stream.
        error: why the chunk was refused and not counted; None when it was counted.
        is_duplicate: whether it had been counted before.
        reference_version: reference that it was counted against.
        windows_closed: windows that it closed.
        alarms: alarms that it raised.
        row_errors: how unusual each row is, shape (n,), float32; None unless it was wanted.
        receipt: how it came about.
    """

    sequence: int
    rows: NDArray[np.int64]
    error: MeshError | None
    is_duplicate: bool
    reference_version: int
    windows_closed: int
    alarms: tuple[DriftAlarm, ...]
    row_errors: NDArray[np.float32] | None
    receipt: Receipt

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(
        cls,
        response: pb.ObserveStreamResponse,
        rows: NDArray[np.int64],
        sequence: int,
        row_request_ids: tuple[str, ...] = (),
    ) -> "ObservedChunk":
        """The value of a message.

        Raises:
            Internal: it is not of the rows that were sent.
        """
        return cls(
            sequence=sequence,
            rows=rows,
            error=from_item(response.status) if response.status.code else None,
            is_duplicate=response.is_duplicate,
            reference_version=response.reference_version,
            windows_closed=response.windows_closed,
            alarms=tuple(map(DriftAlarm.of, response.alarms)),
            row_errors=unpacked_errors(response.row_errors, len(rows)),
            receipt=Receipt(response.receipt),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SeverityPart:
    """One feature's severity and what it is made of: effect x importance x evidence.

    Attributes:
        name: of the feature.
        severity: its level.
        severity_score: the product.
        effect: how far it moved, 0 to 1.
        importance: its weight, relative to the largest.
        evidence: how sure that is, 0 to 1.
        blame: its share of the blame.
        advice: what to do about it; empty where nothing is to be done.
    """

    name: str
    severity: Severity
    severity_score: float
    effect: float
    importance: float
    evidence: float
    blame: float
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSeverity:
    """How bad a report's drift is.

    Attributes:
        report_id: the report.
        severity: level overall.
        severity_score: the same as a number, 0 to 1.
        parts: by feature, worst first.
        summary: one paragraph for a person.
        advice: what to do, most important first.
        receipt: how it came about.
    """

    report_id: str
    severity: Severity
    severity_score: float
    parts: tuple[SeverityPart, ...]
    summary: str
    advice: tuple[str, ...]
    receipt: Receipt

    @classmethod
    def of(cls, response: pb.AnalyzeDriftSeverityResponse) -> "DriftSeverity":
        """The value of a message."""
        return cls(
            report_id=response.report_id,
            severity=severity_of(response.severity),
            severity_score=response.severity_score,
            parts=tuple(
                SeverityPart(
                    name=part.name,
                    severity=severity_of(part.severity),
                    severity_score=part.severity_score,
                    effect=part.effect,
                    importance=part.importance,
                    evidence=part.evidence,
                    blame=part.blame,
                    advice=part.advice,
                )
                for part in response.parts
            ),
            summary=response.summary,
            advice=tuple(response.advice),
            receipt=Receipt(response.receipt),
        )


def unpacked_errors(data: bytes, rows: int) -> NDArray[np.float32] | None:
    """How unusual each row is, shape (rows,); None where nobody asked.

    Raises:
        Internal: the bytes are not of that many rows.
    """
    if not data:
        return None
    try:
        return unpack_floats(data, (rows,), "row_errors")
    except InvalidInput as wrong:
        raise Internal(f"the server answered {rows} rows with other row errors: {wrong}") from wrong
