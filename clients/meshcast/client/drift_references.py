"""References of the drift service as values: what a subject is held against, and where it stands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.api.type.v1 import receipt_pb2
from meshcast.client.drift_answers import DriftAlarm
from meshcast.client.drift_questions import DriftOptions
from meshcast.client.drift_reports import FeatureFacts, FeatureKind, FeatureRole, kind_of, moment, role_of
from meshcast.client.receipts import Receipt

AutoencoderState = Literal["absent", "training", "ready"]
"""What became of a subject's autoencoder."""

_STATES: Mapping[int, AutoencoderState] = {
    pb.AUTOENCODER_STATE_TRAINING: "training",
    pb.AUTOENCODER_STATE_READY: "ready",
}


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


def _feature(message: pb.ReferenceFeature) -> ReferenceFeature:
    return ReferenceFeature(
        name=message.name,
        kind=kind_of(message.kind),
        role=role_of(message.role),
        importance=message.importance,
        facts=FeatureFacts.of(message.facts),
        smallest_shift_sd=message.smallest_shift_sd if message.HasField("smallest_shift_sd") else None,
    )
