"""Answers of the drift service as values, less its reports: references, observed chunks, alarms, losses, severities."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.api.type.v1 import receipt_pb2
from meshcast.client.drift_questions import DETECTORS, DriftOptions, LossDetector
from meshcast.client.drift_reports import (
    DriftOnset,
    FeatureFacts,
    FeatureKind,
    FeatureRole,
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
AutoencoderState = Literal["absent", "training", "ready"]
"""What became of a subject's autoencoder."""

_ALARM_KINDS: Mapping[int, AlarmKind] = {pb.ALARM_KIND_WORSENED: "worsened", pb.ALARM_KIND_RESOLVED: "resolved"}
_STATES: Mapping[int, AutoencoderState] = {
    pb.AUTOENCODER_STATE_TRAINING: "training",
    pb.AUTOENCODER_STATE_READY: "ready",
}
_DETECTORS: Mapping[int, LossDetector] = {
    pb.LOSS_DETECTOR_SHIRYAEV_ROBERTS: "shiryaev_roberts",
    pb.LOSS_DETECTOR_ADWIN: "adwin",
    pb.LOSS_DETECTOR_PAGE_HINKLEY: "page_hinkley",
    pb.LOSS_DETECTOR_DDM: "ddm",
}
assert len(_DETECTORS) == len(DETECTORS)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceFeature:
    """One feature of a reference."""

    name: str
    """Name of its column."""
    kind: FeatureKind
    """Its kind."""
    role: FeatureRole
    """Its role."""
    importance: float
    """Its weight."""
    facts: FeatureFacts
    """Facts of its values."""
    smallest_shift_sd: float | None
    """Smallest shift of its mean, in its standard deviations, that is found within 6 windows in about 9 of 10 cases;
    None for categories and constants."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """A subject's reference and where the subject stands.

    Attributes:
        subject: its name.
        version: counts up with each reference of the subject, from 1.
        set_at: when it was set.
        rows: rows of the reference.
        features: in the order of their columns, derived ones last.
        options: how the subject is watched; nothing is None.
        autoencoder: what became of it.
        autoencoder_why: why it is absent, with the way out; empty otherwise.
        autoencoder_version: version of the model that was trained on the reference; 0 until it is ready.
        observed_rows: rows observed since.
        windows: windows closed since.
        recent_rows: newest rows that are held and could become the reference.
        state_bytes: bytes of the subject's state.
        alarm: the data alarm that stands; None where none does.
        notes: what a reader should know.
        receipt: how the answer came about.
    """

    subject: str
    version: int
    set_at: datetime | None
    rows: int
    features: tuple[ReferenceFeature, ...]
    options: DriftOptions
    autoencoder: AutoencoderState
    autoencoder_why: str
    autoencoder_version: int
    observed_rows: int
    windows: int
    recent_rows: int
    state_bytes: int
    alarm: DriftAlarm | None
    notes: tuple[str, ...]
    receipt: Receipt = field(default_factory=lambda: Receipt(receipt_pb2.Receipt()))

    @classmethod
    def of(cls, message: pb.ReferenceDescription, receipt: receipt_pb2.Receipt | None = None) -> "Reference":
        """The value of a message."""
        options = message.options
        return cls(
            subject=message.subject,
            version=message.version,
            set_at=moment(message, "set_time"),
            rows=message.rows,
            features=tuple(map(_feature, message.features)),
            options=DriftOptions(
                false_alarms_a_year=options.false_alarms_a_year,
                window_rows=options.window_rows,
                window_duration=timedelta(microseconds=options.window_duration.ToMicroseconds()),
                trains_autoencoder=options.trains_autoencoder,
            ),
            autoencoder=_STATES.get(message.autoencoder.state, "absent"),
            autoencoder_why=message.autoencoder.why,
            autoencoder_version=message.autoencoder.model_version,
            observed_rows=message.observed_rows,
            windows=message.windows,
            recent_rows=message.recent_rows,
            state_bytes=message.state_bytes,
            alarm=DriftAlarm.of(message.alarm) if message.HasField("alarm") else None,
            notes=tuple(message.notes),
            receipt=Receipt(receipt if receipt is not None else receipt_pb2.Receipt()),
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
class LossVerdict:
    """What one detector found in losses.

    Attributes:
        detector: which.
        alarms: positions of alarms, counted from the first loss.
        onset: estimated position of the first loss of the rise, of the last alarm; None for comparators.
        log_evidence: evidence now, natural logarithm; None for comparators.
        log_threshold: level at which an alarm is raised; None for comparators.
    """

    detector: LossDetector
    alarms: tuple[int, ...]
    onset: int | None
    log_evidence: float | None
    log_threshold: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceDrift:
    """Whether losses have risen.

    Attributes:
        is_drift: whether they have: an alarm was raised in this call or stands.
        severity: level of the rise.
        severity_score: the same as a number, 0 to 1.
        verdicts: of each detector, the one that decides first.
        baseline: mean loss that is taken as normal; None while it is being learnt.
        baseline_upper: upper bound of it that the evidence is against.
        recent: mean of the last losses, at most 1,000.
        losses: losses counted since the beginning, those of the warm-up among them.
        summary: one paragraph for a person.
        advice: what to do, most important first.
        notes: what a reader should know.
        receipt: how it came about.
    """

    is_drift: bool
    severity: Severity
    severity_score: float
    verdicts: tuple[LossVerdict, ...]
    baseline: float | None
    baseline_upper: float | None
    recent: float | None
    losses: int
    summary: str
    advice: tuple[str, ...]
    notes: tuple[str, ...]
    receipt: Receipt

    @classmethod
    def of(cls, response: pb.DetectPerformanceDriftResponse) -> "PerformanceDrift":
        """The value of a message."""
        return cls(
            is_drift=response.is_drift,
            severity=severity_of(response.severity),
            severity_score=response.severity_score,
            verdicts=tuple(map(_verdict, response.verdicts)),
            baseline=response.baseline if response.HasField("baseline") else None,
            baseline_upper=response.baseline_upper if response.HasField("baseline_upper") else None,
            recent=response.recent if response.HasField("recent") else None,
            losses=response.losses,
            summary=response.summary,
            advice=tuple(response.advice),
            notes=tuple(response.notes),
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


def _feature(message: pb.ReferenceFeature) -> ReferenceFeature:
    roles: Mapping[int, FeatureRole] = {pb.FEATURE_ROLE_OUTPUT: "output", pb.FEATURE_ROLE_DERIVED: "derived"}
    return ReferenceFeature(
        name=message.name,
        kind="categorical" if message.kind == pb.FEATURE_KIND_CATEGORICAL else "numeric",
        role=roles.get(message.role, "input"),
        importance=message.importance,
        facts=FeatureFacts.of(message.facts),
        smallest_shift_sd=message.smallest_shift_sd if message.HasField("smallest_shift_sd") else None,
    )


def _verdict(message: pb.LossVerdict) -> LossVerdict:
    return LossVerdict(
        detector=_DETECTORS.get(message.detector, "shiryaev_roberts"),
        alarms=tuple(message.alarms),
        onset=message.onset if message.HasField("onset") else None,
        log_evidence=message.log_evidence if message.HasField("log_evidence") else None,
        log_threshold=message.log_threshold if message.HasField("log_threshold") else None,
    )
