"""Drift reports as values: what moved, how far, how surely, since when, and what to do about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.api.type.v1 import receipt_pb2
from meshcast.client.receipts import Receipt

Severity = Literal["none", "low", "moderate", "high", "critical"]
"""How bad a drift is."""
SEVERITIES: tuple[Severity, ...] = ("none", "low", "moderate", "high", "critical")
"""Levels, mildest first."""

FeatureKind = Literal["numeric", "categorical"]
"""Kind of a feature."""
FeatureRole = Literal["input", "output", "derived"]
"""What a feature is to the subject; `derived` is made by the service from all inputs together."""

QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
"""Levels of `FeatureFacts.quantiles`."""

_KINDS: Mapping[int, FeatureKind] = {pb.FEATURE_KIND_CATEGORICAL: "categorical"}
_ROLES: Mapping[int, FeatureRole] = {pb.FEATURE_ROLE_OUTPUT: "output", pb.FEATURE_ROLE_DERIVED: "derived"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftEvidence:
    """Evidence that accumulates over windows."""

    log_value: float
    """Natural logarithm of the e-detector's value: an alarm is raised when it reaches `log_threshold`."""
    log_threshold: float
    """Natural logarithm of one over the budget of false alarms a year."""
    false_alarms_a_year: float
    """Expected false alarms a year at most."""

    @classmethod
    def of(cls, message: pb.Evidence) -> "DriftEvidence":
        """The value of a message."""
        return cls(
            log_value=message.log_value,
            log_threshold=message.log_threshold,
            false_alarms_a_year=message.false_alarms_a_year,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftOnset:
    """When a drift began."""

    window: int
    """Number of the window in which it began."""
    start_at: datetime | None
    """Start of that window; None where rows had no times."""

    @classmethod
    def of(cls, message: pb.Onset) -> "DriftOnset":
        """The value of a message."""
        return cls(window=message.window, start_at=moment(message, "start_time"))


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftWindow:
    """What was compared."""

    rows: int
    """Its rows."""
    start_at: datetime | None
    """First time of its rows; None where they had none."""
    end_at: datetime | None
    """Last time of them."""
    number: int
    """Number of the window since the reference was set, from 1; 0 where it is none of the subject's windows."""

    @classmethod
    def of(cls, message: pb.Window) -> "DriftWindow":
        """The value of a message."""
        return cls(
            rows=message.rows,
            start_at=moment(message, "start_time"),
            end_at=moment(message, "end_time"),
            number=message.number,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureFacts:
    """Facts of a feature's values in a reference or a window; None where they have none."""

    rows: int
    """Rows, nulls among them."""
    nulls: int
    """Nulls."""
    infinities: int
    """Infinite values."""
    mean: float | None
    """Mean of the finite values."""
    standard_deviation: float | None
    """Standard deviation of the finite values."""
    minimum: float | None
    """Least finite value."""
    maximum: float | None
    """Greatest finite value."""
    quantiles: NDArray[np.float64]
    """Values at `QUANTILES`, shape (9,); empty for categories."""
    categories: Mapping[str, int]
    """Rows of the most frequent categories, most frequent first."""
    unseen: int
    """Rows of categories that the reference does not have."""
    unseen_categories: Mapping[str, int]
    """Rows of the most frequent of those."""

    @classmethod
    def of(cls, message: pb.FeatureFacts) -> "FeatureFacts":
        """The value of a message."""
        return cls(
            rows=message.rows,
            nulls=message.nulls,
            infinities=message.infinities,
            mean=_optional(message, "mean"),
            standard_deviation=_optional(message, "standard_deviation"),
            minimum=_optional(message, "minimum"),
            maximum=_optional(message, "maximum"),
            quantiles=np.array(message.quantiles, dtype=np.float64),
            categories={one.category: one.rows for one in message.categories},
            unseen=message.unseen,
            unseen_categories={one.category: one.rows for one in message.unseen_categories},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftEffects:
    """How far a feature moved, in several measures; None where a measure is not for its kind."""

    kolmogorov_smirnov: float
    """Largest distance between the distribution functions, 0 to 1; of categories, the total variation distance."""
    population_stability: float
    """Population stability index over ten groups of equal reference mass, in nats."""
    jensen_shannon: float
    """Jensen-Shannon distance over the same groups, base 2, 0 to 1."""
    wasserstein: float | None
    """Wasserstein distance between the 0.1 % and 99.9 % quantiles, in the feature's units."""
    wasserstein_sd: float | None
    """The same in standard deviations of the reference."""
    mean_shift_sd: float | None
    """Shift of the mean in standard deviations of the reference."""
    spread_ratio: float | None
    """Ratio of the standard deviations, window to reference."""
    null_share: float
    """Share of nulls in the window less that in the reference."""
    unseen_share: float
    """Share of rows in the window whose category the reference does not have."""
    infinite_share: float
    """Share of infinite values in the window less that in the reference."""

    @classmethod
    def of(cls, message: pb.Effects) -> "DriftEffects":
        """The value of a message."""
        return cls(
            kolmogorov_smirnov=message.kolmogorov_smirnov,
            population_stability=message.population_stability,
            jensen_shannon=message.jensen_shannon,
            wasserstein=_optional(message, "wasserstein"),
            wasserstein_sd=_optional(message, "wasserstein_sd"),
            mean_shift_sd=_optional(message, "mean_shift_sd"),
            spread_ratio=_optional(message, "spread_ratio"),
            null_share=message.null_share,
            unseen_share=message.unseen_share,
            infinite_share=message.infinite_share,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureDrift:
    """How one feature moved.

    Attributes:
        name: of the feature.
        kind: numeric or categorical.
        role: what it is to the subject.
        importance: its weight.
        is_drifted: whether drift is called for it, at the report's rate of false discoveries.
        blame: share of the whole drift that it is to blame for, 0 to 1.
        severity: its level.
        severity_score: the same as a number, 0 to 1.
        effects: how far it moved.
        p_values: of single tests on this window, by name; small ones are no alarm by themselves.
        evidence: over windows; None where the window came with the question.
        onset: since when; None where drift is not called over windows.
        what: what moved, in words.
        reference: facts of the reference.
        window: facts of the window.
        plot_png: picture of both; empty unless it was wanted.
    """

    name: str
    kind: FeatureKind
    role: FeatureRole
    importance: float
    is_drifted: bool
    blame: float
    severity: Severity
    severity_score: float
    effects: DriftEffects
    p_values: Mapping[str, float]
    evidence: DriftEvidence | None
    onset: DriftOnset | None
    what: str
    reference: FeatureFacts
    window: FeatureFacts
    plot_png: bytes = field(default=b"", repr=False)

    @classmethod
    def of(cls, message: pb.FeatureDrift) -> "FeatureDrift":
        """The value of a message."""
        return cls(
            name=message.name,
            kind=kind_of(message.kind),
            role=role_of(message.role),
            importance=message.importance,
            is_drifted=message.is_drifted,
            blame=message.blame,
            severity=severity_of(message.severity),
            severity_score=message.severity_score,
            effects=DriftEffects.of(message.effects),
            p_values={test.name: test.p_value for test in message.tests},
            evidence=DriftEvidence.of(message.evidence) if message.HasField("evidence") else None,
            onset=DriftOnset.of(message.onset) if message.HasField("onset") else None,
            what=message.what,
            reference=FeatureFacts.of(message.reference),
            window=FeatureFacts.of(message.window),
            plot_png=message.plot_png,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JointTest:
    """One test of all features together.

    Attributes:
        name: `kolmogorov_smirnov_max`, `share_max`, `energy`, `nearness`, `second_moments`, `outputs`,
            `autoencoder_error` or `autoencoder_code`.
        is_present: False when it is not part of this report; `why` says why.
        why: why it is absent, with the way out.
        statistic: its statistic.
        p_value: not corrected for the other tests; None where evidence over windows alone judges it.
        evidence: over windows; None where the window came with the question.
        what: what it looks at, in words.
    """

    name: str
    is_present: bool
    why: str
    statistic: float
    p_value: float | None
    evidence: DriftEvidence | None
    what: str

    @classmethod
    def of(cls, message: pb.JointTest) -> "JointTest":
        """The value of a message."""
        return cls(
            name=message.name,
            is_present=message.is_present,
            why=message.why,
            statistic=message.statistic,
            p_value=_optional(message, "p_value"),
            evidence=DriftEvidence.of(message.evidence) if message.HasField("evidence") else None,
            what=message.what,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DriftReport:
    """A comparison of a window with a reference.

    Attributes:
        report_id: its id.
        subject: empty where the reference came with the question.
        reference_version: of the subject's reference; 0 likewise.
        made_at: when it was made.
        window: what was compared.
        reference_rows: rows of the reference.
        is_drift: whether drift is called, at the rate of false alarms that was asked for.
        severity: level overall.
        severity_score: the same as a number, 0 to 1.
        features: those to blame first.
        joint_tests: tests of all features together.
        evidence: over windows, of the subject as a whole; None where the window came with the question.
        p_value: chance, under no drift, of a window as far away; None where evidence over windows decides.
        onset: since when; None where drift is not called over windows.
        summary: one paragraph for a person.
        advice: what to do, most important first.
        notes: what a reader should know.
        row_errors: how unusual each row of the window is, shape (rows,), float32; None unless it was wanted.
        receipt: how it came about.
    """

    report_id: str
    subject: str
    reference_version: int
    made_at: datetime | None
    window: DriftWindow
    reference_rows: int
    is_drift: bool
    severity: Severity
    severity_score: float
    features: tuple[FeatureDrift, ...]
    joint_tests: tuple[JointTest, ...]
    evidence: DriftEvidence | None
    p_value: float | None
    onset: DriftOnset | None
    summary: str
    advice: tuple[str, ...]
    notes: tuple[str, ...]
    row_errors: NDArray[np.float32] | None = None
    receipt: Receipt = field(default_factory=lambda: Receipt(receipt_pb2.Receipt()))

    def __getitem__(self, name: str) -> FeatureDrift:
        """A feature by its name.

        Raises:
            KeyError: the report has no such feature.
        """
        for one in self.features:
            if one.name == name:
                return one
        raise KeyError(name)

    @property
    def drifted(self) -> tuple[FeatureDrift, ...]:
        """Features that drift is called for, those to blame first."""
        return tuple(one for one in self.features if one.is_drifted)

    @classmethod
    def of(
        cls,
        message: pb.DriftReport,
        receipt: receipt_pb2.Receipt | None = None,
        *,
        row_errors: NDArray[np.float32] | None = None,
    ) -> "DriftReport":
        """The value of a message."""
        return cls(
            report_id=message.report_id,
            subject=message.subject,
            reference_version=message.reference_version,
            made_at=moment(message, "made_time"),
            window=DriftWindow.of(message.window),
            reference_rows=message.reference_rows,
            is_drift=message.is_drift,
            severity=severity_of(message.severity),
            severity_score=message.severity_score,
            features=tuple(map(FeatureDrift.of, message.features)),
            joint_tests=tuple(map(JointTest.of, message.joint_tests)),
            evidence=DriftEvidence.of(message.evidence) if message.HasField("evidence") else None,
            p_value=_optional(message, "p_value"),
            onset=DriftOnset.of(message.onset) if message.HasField("onset") else None,
            summary=message.summary,
            advice=tuple(message.advice),
            notes=tuple(message.notes),
            row_errors=row_errors,
            receipt=Receipt(receipt if receipt is not None else receipt_pb2.Receipt()),
        )


def severity_of(level: int) -> Severity:
    """A level by its number in the contract; one that is not known is the mildest."""
    at = level - pb.SEVERITY_NONE
    return SEVERITIES[at] if 0 <= at < len(SEVERITIES) else "none"


def kind_of(kind: int) -> FeatureKind:
    """A kind by its number in the contract."""
    return _KINDS.get(kind, "numeric")


def role_of(role: int) -> FeatureRole:
    """A role by its number in the contract."""
    return _ROLES.get(role, "input")


def moment(message: Any, name: str) -> datetime | None:
    """A time of a message in UTC; None where it is unset."""
    if not message.HasField(name):
        return None
    found: Timestamp = getattr(message, name)
    return found.ToDatetime(UTC)


def _optional(message: Any, name: str) -> float | None:
    return float(getattr(message, name)) if message.HasField(name) else None
