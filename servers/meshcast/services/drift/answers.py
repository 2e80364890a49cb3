"""Answers out of values: subjects, what became of chunks, and alarms become the messages of the contract."""

from collections.abc import Mapping, Sequence

import numpy as np
from google.protobuf import timestamp_pb2

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.columns import pack_floats
from meshcast.services.drift.alarms import Alarm, AlarmKind, AlarmSource
from meshcast.services.drift.comparison import AutoencoderState, Reference, WatchOptions
from meshcast.services.drift.facts import feature_facts
from meshcast.services.drift.layout import Role
from meshcast.services.drift.signature import COLUMNS_MAX
from meshcast.services.drift.watched import Observed, View

__all__ = ["FEW_ROWS", "KINDS", "ROLES", "alarm_message", "chunk_answer", "reference_message", "timestamp"]

FEW_ROWS = 1_000
"""Rows of a reference below which a reader is told that small shifts stay hidden."""

ROLES: Mapping[Role, pb.FeatureRole.ValueType] = {
    "input": pb.FEATURE_ROLE_INPUT,
    "output": pb.FEATURE_ROLE_OUTPUT,
    "derived": pb.FEATURE_ROLE_DERIVED,
}
KINDS: Mapping[str, pb.FeatureKind.ValueType] = {
    "numeric": pb.FEATURE_KIND_NUMERIC,
    "categorical": pb.FEATURE_KIND_CATEGORICAL,
}
_ALARM_KINDS: Mapping[AlarmKind, pb.AlarmKind.ValueType] = {
    "raised": pb.ALARM_KIND_RAISED,
    "worsened": pb.ALARM_KIND_WORSENED,
    "resolved": pb.ALARM_KIND_RESOLVED,
}
_ALARM_SOURCES: Mapping[AlarmSource, pb.AlarmSource.ValueType] = {
    "data": pb.ALARM_SOURCE_DATA,
    "performance": pb.ALARM_SOURCE_PERFORMANCE,
}
_STATES: Mapping[AutoencoderState, pb.AutoencoderState.ValueType] = {
    "absent": pb.AUTOENCODER_STATE_ABSENT,
    "training": pb.AUTOENCODER_STATE_TRAINING,
    "ready": pb.AUTOENCODER_STATE_READY,
}


def timestamp(unix_us: int | None) -> timestamp_pb2.Timestamp | None:
    """A time of the contract from microseconds since 1970; None stays None."""
    if unix_us is None:
        return None
    time = timestamp_pb2.Timestamp()
    time.FromMicroseconds(unix_us)
    return time


def reference_message(view: View, *, with_features: bool = True) -> pb.ReferenceDescription:
    """A subject as it stands.

    Args:
        view: the subject.
        with_features: False where many subjects are described together.
    """
    reference = view.reference
    message = pb.ReferenceDescription(
        subject=reference.subject,
        version=reference.version,
        set_time=timestamp(reference.set_us),
        rows=reference.tally.rows,
        options=_options(reference.options),
        autoencoder=pb.Autoencoder(
            state=_STATES[reference.autoencoder.state],
            why=reference.autoencoder.why,
            model_version=reference.autoencoder.model_version,
        ),
        observed_rows=view.observed_rows,
        windows=view.windows,
        recent_rows=view.recent_rows,
        state_bytes=view.state_bytes,
        alarm=None if view.alarm is None else alarm_message(view.alarm),
        notes=_notes(reference),
    )
    if with_features:
        _add_features(message, view)
    return message


def chunk_answer(observed: Observed, row_errors: np.ndarray | None) -> pb.ObserveStreamResponse:
    """What became of a chunk; the caller adds its sequence and the receipt.

    Args:
        observed: the chunk, counted or collected.
        row_errors: shape (rows,), float32, the autoencoder's error of each row; None where nobody asked.
    """
    return pb.ObserveStreamResponse(
        rows=observed.rows,
        is_duplicate=observed.is_duplicate,
        reference_version=observed.reference_version,
        windows_closed=observed.windows_closed,
        alarms=map(alarm_message, observed.alarms),
        row_errors=b"" if row_errors is None else pack_floats(row_errors),
    )


def alarm_message(alarm: Alarm) -> pb.DriftAlarm:
    """An alarm."""
    message = pb.DriftAlarm(
        alarm_id=alarm.alarm_id,
        subject=alarm.subject,
        kind=_ALARM_KINDS[alarm.kind],
        source=_ALARM_SOURCES[alarm.source],
        raised_time=timestamp(alarm.raised_us),
        observed_time=timestamp(alarm.observed_us),
        severity=pb.Severity.ValueType(alarm.severity),
        blamed=[pb.Blamed(name=name, share=share) for name, share in alarm.blamed],
        report_id=alarm.report_id,
        text=alarm.text,
        position=alarm.position,
        reference_version=alarm.reference_version,
    )
    if alarm.onset_window is not None:
        message.onset.CopyFrom(pb.Onset(window=alarm.onset_window, start_time=timestamp(alarm.onset_us)))
    return message


def _options(options: WatchOptions) -> pb.DriftOptions:
    message = pb.DriftOptions(
        false_alarms_a_year=options.false_alarms_a_year,
        window_rows=options.window_rows,
        trains_autoencoder=options.trains_autoencoder,
    )
    message.window_duration.FromMicroseconds(options.window_us)
    return message


def _add_features(message: pb.ReferenceDescription, view: View) -> None:
    """The reference's own columns, and after them those that are derived of all of them."""
    reference, shifts = view.reference, view.smallest_shift_sd.tolist()
    for layout, tally in ((reference.layout, reference.tally), *((one.layout, one.tally) for one in view.derived)):
        is_derived = layout is not reference.layout
        for at, (feature, facts) in enumerate(zip(layout.features, feature_facts(layout, tally), strict=True)):
            message.features.add(
                name=feature.name,
                kind=KINDS[feature.kind],
                role=pb.FEATURE_ROLE_DERIVED if is_derived else ROLES[feature.role],
                importance=feature.importance,
                facts=facts,
                smallest_shift_sd=shifts[at] if not is_derived and np.isfinite(shifts[at]) else None,
            )


def _notes(reference: Reference) -> list[str]:
    """What a reader of a reference should know."""
    layout, tally = reference.layout, reference.tally
    notes = []
    if tally.rows < FEW_ROWS:
        notes.append(
            f"the reference has {tally.rows} rows: small shifts cannot be told from its own sampling error; "
            "smallest_shift_sd says for each feature what can be found"
        )
    nulls = [feature.name for feature, count in zip(layout.features, tally.nulls, strict=True) if count == tally.rows]
    if nulls:
        notes.append(f"{_listed(nulls)} of the reference: every value is null, so only values that are not will show")
    constant = [
        layout.names[at]
        for at in range(len(layout))
        if layout.ordered[at] and tally.extremes[at, 0] == tally.extremes[at, 1] and not tally.infinities[at]
    ]
    if constant:
        notes.append(f"{_listed(constant)} of the reference: constant, so any other value is a drift")
    if len(layout) > COLUMNS_MAX and reference.autoencoder.state != "absent":
        notes.append(f"the autoencoder looks at the first {COLUMNS_MAX} of {len(layout)} columns")
    return notes


def _listed(names: Sequence[str]) -> str:
    """The first names of some columns, and how many more there are."""
    shown = ", ".join(map(repr, names[:3]))
    return f"{len(names)} columns ({shown}, ...)" if len(names) > 3 else f"column {shown}"
