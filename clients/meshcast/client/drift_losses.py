"""Answers about losses as values: whether they have risen, and what each detector found."""

from collections.abc import Mapping
from dataclasses import dataclass

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.client.drift_questions import DETECTORS, LossDetector
from meshcast.client.drift_reports import Severity, severity_of
from meshcast.client.receipts import Receipt

_DETECTORS: Mapping[int, LossDetector] = {number: name for name, number in DETECTORS.items()}


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


def _verdict(message: pb.LossVerdict) -> LossVerdict:
    return LossVerdict(
        detector=_DETECTORS.get(message.detector, "shiryaev_roberts"),
        alarms=tuple(message.alarms),
        onset=message.onset if message.HasField("onset") else None,
        log_evidence=message.log_evidence if message.HasField("log_evidence") else None,
        log_threshold=message.log_threshold if message.HasField("log_threshold") else None,
    )
