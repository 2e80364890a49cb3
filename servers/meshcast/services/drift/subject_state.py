"""State of a subject on disk: the pieces that it is written in, each no more often than it changes."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from meshcast.rpc.errors import CorruptData
from meshcast.services.drift.alarms import Standing
from meshcast.services.drift.buckets import Buckets
from meshcast.services.drift.changes import Changes
from meshcast.services.drift.comparison import GROUP_WEIGHTS, Autoencoder, GroupName, Reference, WatchOptions
from meshcast.services.drift.derived import DerivedReference
from meshcast.services.drift.energy import EnergySample
from meshcast.services.drift.groups import group_from_bytes, group_to_bytes
from meshcast.services.drift.packed_rows import rows_from_bytes, rows_to_bytes
from meshcast.services.drift.packing import pack, unpack
from meshcast.services.drift.recent import RecentRows
from meshcast.services.drift.subject import Closed, Subject
from meshcast.services.drift.windows import WindowClock

__all__ = ["REFERENCE", "TRAINING", "save_autoencoder", "save_observed", "save_reference", "subject_from_parts"]

REFERENCE = "reference"
"""The piece that every subject has."""

TRAINING = "training"
"""The piece that holds rows for an autoencoder, until it is trained."""

_AUTOENCODER, _STATE, _BUCKETS = "autoencoder", "state", "buckets"
_GROUP, _CLOSED, _RECENT, _ENERGY = "group.", "closed.", "recent.", "energy sample"
_REFERENCE_KIND, _STATE_KIND = b"DRF1", b"DSU1"


def save_reference(subject: Subject, changes: Changes) -> None:
    """Writes what never changes until the reference is replaced, in place of all that was kept of the subject."""
    name, reference = subject.reference.subject, subject.reference
    changes.forget(name)
    head = {"version": reference.version, "set_us": reference.set_us, "options": asdict(reference.options)}
    parts = {
        "columns": group_to_bytes(reference.layout, reference.tally),
        "sample": rows_to_bytes(reference.sample),
    }
    changes.parts[name, REFERENCE] = pack(_REFERENCE_KIND, head, _arrays(parts))
    if subject.energy is not None:
        changes.parts[name, _ENERGY] = subject.energy.to_bytes()
    for group in subject.groups.values():
        if group.name != "features":
            changes.parts[name, _GROUP + group.name] = group_to_bytes(group.layout, group.reference)
        changes.parts[name, _CLOSED + group.name] = group.closed_to_bytes()
    save_autoencoder(subject, changes)
    save_observed(subject, changes, has_closed=False)


def save_autoencoder(subject: Subject, changes: Changes) -> None:
    """Writes what became of the autoencoder."""
    name = subject.reference.subject
    changes.parts[name, _AUTOENCODER] = json.dumps(asdict(subject.reference.autoencoder)).encode()
    group = subject.groups.get("autoencoder")
    if group is not None:
        changes.parts[name, _GROUP + group.name] = group_to_bytes(group.layout, group.reference)
        changes.parts[name, _CLOSED + group.name] = group.closed_to_bytes()


def save_observed(subject: Subject, changes: Changes, *, has_closed: bool) -> None:
    """Writes what rows change.

    Args:
        subject: whose alarms have their ids.
        changes: gets the pieces, the fresh alarms and the fresh reports.
        has_closed: whether a window has closed since this was last called.
    """
    name = subject.reference.subject
    closed = subject.closed
    head = {
        "clock": [getattr(subject.clock, field) for field in WindowClock.__dataclass_fields__],
        "windows": subject.windows,
        "observed_rows": subject.observed_rows,
        "span": subject.span,
        "closed": None
        if closed is None
        else [closed.number, closed.rows, closed.span, closed.ends_at, _finite(closed.log_value)],
        "streams": list(subject.streams.items()),
        "standing": subject.standing.to_facts(),
        "recent": subject.recent.count,
    }
    arrays: dict[str, Any] = _arrays({group.name: group.open_to_bytes() for group in subject.groups.values()})
    arrays["window_starts"] = np.array(list(subject.window_starts.items()), dtype=np.int64).reshape(-1, 2)
    changes.parts[name, _STATE] = pack(_STATE_KIND, head, arrays)
    changes.parts[name, _BUCKETS] = subject.buckets.to_bytes()
    for (level, start_us), data in subject.buckets.changes().items():
        changes.buckets[name, level, start_us] = data
    for slot, rows in subject.recent.changes():
        changes.parts[name, f"{_RECENT}{slot}"] = rows
    if has_closed:
        for group in subject.groups.values():
            changes.parts[name, _CLOSED + group.name] = group.closed_to_bytes()
    changes.alarms += subject.fresh_alarms
    changes.reports += subject.fresh_reports
    subject.fresh_alarms, subject.fresh_reports = [], []


def subject_from_parts(name: str, parts: Mapping[str, bytes], buckets: Mapping[tuple[int, int], bytes]) -> Subject:
    """The subject that the pieces were written of.

    Raises:
        CorruptData: a piece is missing or damaged, or does not go with the others.
    """
    try:
        return _subject(name, parts, buckets)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise CorruptData(f"the pieces of the subject {name!r} cannot be read: {error!r}") from error


def _subject(name: str, parts: Mapping[str, bytes], buckets: Mapping[tuple[int, int], bytes]) -> Subject:
    head, arrays = unpack(_REFERENCE_KIND, parts[REFERENCE])
    layout, tally = group_from_bytes(arrays["columns"].tobytes())
    reference = Reference(
        subject=name,
        version=int(head["version"]),
        set_us=int(head["set_us"]),
        layout=layout,
        tally=tally,
        sample=rows_from_bytes(arrays["sample"].tobytes()),
        options=WatchOptions(**head["options"]),
        autoencoder=Autoencoder(**json.loads(parts[_AUTOENCODER])),
    )
    derived: dict[GroupName, DerivedReference] = {
        group: DerivedReference(*group_from_bytes(parts[_GROUP + group]))
        for group in GROUP_WEIGHTS
        if _GROUP + group in parts
    }
    energy = EnergySample.from_bytes(parts[_ENERGY]) if _ENERGY in parts else None
    subject = Subject(reference, energy=energy, derived=derived)
    head, arrays = unpack(_STATE_KIND, parts[_STATE])
    for group in subject.groups.values():
        group.restore(parts[_CLOSED + group.name], arrays[group.name].tobytes())
    subject.clock = WindowClock(*head["clock"])
    subject.windows, subject.observed_rows = int(head["windows"]), int(head["observed_rows"])
    subject.span = _span(head["span"])
    if head["closed"] is not None:
        number, rows, span, ends_at, log_value = head["closed"]
        subject.closed = Closed(number, rows, _span(span), ends_at, -np.inf if log_value is None else log_value)
    subject.streams = OrderedDict((str(stream), int(sequence)) for stream, sequence in head["streams"])
    subject.standing = Standing.from_facts(head["standing"])
    subject.window_starts = dict(arrays["window_starts"].tolist())
    slots = {int(part[len(_RECENT) :]): data for part, data in parts.items() if part.startswith(_RECENT)}
    subject.recent = RecentRows.restored(int(head["recent"]), slots)
    subject.buckets = Buckets.from_parts(layout, parts[_BUCKETS], buckets)
    return subject


def _arrays(parts: Mapping[str, bytes]) -> dict[str, Any]:
    return {name: np.frombuffer(data, np.uint8) for name, data in parts.items()}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _span(pair: Any) -> tuple[int, int] | None:
    return None if pair is None else (int(pair[0]), int(pair[1]))
