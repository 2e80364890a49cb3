"""Questions out of requests: messages become tables and plain values, and every field at fault is named at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.observations import Observations
from meshcast.rpc import Violation
from meshcast.runtime.requests import ID_CHARACTERS_MAX, name_violations
from meshcast.services.drift.comparison import WatchOptions
from meshcast.services.drift.fields import (
    feature_options,
    raise_for,
    range_of,
    shown,
    subject_violations,
    table_of,
    watch_options,
)
from meshcast.services.drift.history import ReportFilter
from meshcast.services.drift.settings import DriftSettings
from meshcast.services.drift.watched import FeatureOption

__all__ = [
    "CHUNK_ROWS_MAX",
    "PLOT_OF_WORST",
    "ChunkQuestion",
    "DetectQuestion",
    "ListQuestion",
    "ReferenceQuestion",
    "SeverityQuestion",
    "WatchQuestion",
    "chunk_question",
    "detect_question",
    "list_question",
    "reference_question",
    "severity_question",
    "subject_question",
    "watch_question",
]

REFERENCE_ROWS_MIN = 2
"""Rows of a reference at least, of the contract."""

CHUNK_ROWS_MAX = 65_536
"""Rows of a chunk at most, of the contract."""

PLOTS_MAX = 16
"""Features whose plot one call may want, of the contract."""

PLOT_OF_WORST = "*"
"""Stands for the features to blame first in the list of plots."""

CHANCE_DEFAULT, CHANCE_MIN, CHANCE_MAX = 0.01, 0.0001, 0.5
"""Chance of calling drift where there is none, of the contract."""

PAGE_DEFAULT, PAGE_MAX = 50, 200
INTERVAL_DEFAULT_MS, INTERVAL_MIN_MS, INTERVAL_MAX_MS = 10_000, 200, 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceQuestion:
    """A reference to be set.

    Attributes:
        subject: its name.
        source: the rows; or the name of the draft that holds them; or how many of the newest observed rows at most.
        features: options by the feature's name.
        options: how the subject is watched.
    """

    subject: str
    source: Observations | str | int
    features: Mapping[str, FeatureOption]
    options: WatchOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkQuestion:
    """A chunk of rows.

    Attributes:
        subject: its name, or that of the draft.
        is_draft: True where the rows are collected for a reference.
        observations: the rows.
        wants_row_errors: True for the autoencoder's error of each row.
    """

    subject: str
    is_draft: bool
    observations: Observations
    wants_row_errors: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectQuestion:
    """What is to be compared with what.

    Attributes:
        subject: whose reference it is; empty where the reference is here.
        reference: the rows to compare with; None where there is a subject.
        window: where the rows to compare come from.
        observations: those rows, for `given`; None otherwise.
        start_us: first time of `range`, microseconds since 1970; None: from the first observation.
        end_us: its end, exclusive; None: until the last.
        features: options by the feature's name, only with `reference`.
        chance: of calling drift where there is none.
        features_max: features of the report at most; 0 for all.
        plots: features whose plots are wanted; `*` for those to blame first.
    """

    subject: str
    reference: Observations | None
    window: Literal["last", "given", "range", "all"]
    observations: Observations | None
    start_us: int | None
    end_us: int | None
    features: Mapping[str, FeatureOption]
    chance: float
    features_max: int
    plots: tuple[str, ...]


class SeverityQuestion(NamedTuple):
    """Which report, and the importances in place of its own, by feature."""

    report_id: str
    subject: str
    importances: Mapping[str, float]


class ListQuestion(NamedTuple):
    """Which reports, rows of the page, its token (empty: the first page), and whether they are wanted whole."""

    which: ReportFilter
    page_size: int
    page_token: str
    full: bool


class WatchQuestion(NamedTuple):
    """Whose alarms (empty: all), after which one (-1: none but new ones), and the longest silence in seconds."""

    subject: str
    cursor: int
    interval_s: float


def reference_question(request: pb.SetReferenceRequest, settings: DriftSettings) -> ReferenceQuestion:
    """The reference that a request sets.

    Raises:
        InvalidInput: a field breaks its rule, the rows have no or too many columns, or a feature is none of them.
    """
    found = name_violations(request.request_id) + subject_violations(request.subject)
    source: Observations | str | int = 0
    match request.WhichOneof("source"):
        case "observations":
            source = table_of(
                request.observations,
                "observations",
                found,
                rows_min=REFERENCE_ROWS_MIN,
                columns_max=settings.features_max,
            )
        case "draft":
            source = request.draft
            found += subject_violations(source, "draft")
        case "recent_rows":
            source = request.recent_rows
            if source < REFERENCE_ROWS_MIN:
                found.append(Violation("recent_rows", f"must be {REFERENCE_ROWS_MIN} or more, is {source}"))
        case _:
            found.append(Violation("source", "is required: observations, draft or recent_rows"))
    features = feature_options(request.features, found, source if isinstance(source, Observations) else None)
    options = watch_options(request.options, settings, found)
    raise_for(found)
    return ReferenceQuestion(
        subject=request.subject,
        source=source,
        features=features,
        options=options,
    )


def chunk_question(request: pb.ObserveStreamRequest, settings: DriftSettings) -> ChunkQuestion:
    """The rows of a chunk.

    Raises:
        InvalidInput: a field breaks its rule, or the chunk has no rows, too many, or no columns.
    """
    found = name_violations(request.request_id) + subject_violations(request.subject)
    if request.purpose not in pb.Purpose.values():
        found.append(Violation("purpose", f"is {request.purpose}; known are 1 (window) and 2 (reference)"))
    if len(request.stream_id) > ID_CHARACTERS_MAX:
        found.append(Violation("stream_id", f"has {len(request.stream_id)} characters, at most {ID_CHARACTERS_MAX}"))
    is_draft = request.purpose == pb.PURPOSE_REFERENCE
    if is_draft and request.wants_row_errors:
        found.append(Violation("wants_row_errors", "rows of a draft have no reference yet to be unusual against"))
    if request.HasField("observations"):
        observations = table_of(
            request.observations,
            "observations",
            found,
            rows_min=1,
            rows_max=CHUNK_ROWS_MAX,
            columns_max=settings.features_max,
        )
    else:
        found.append(Violation("observations", "is required"))
    raise_for(found)
    return ChunkQuestion(
        subject=request.subject,
        is_draft=is_draft,
        observations=observations,
        wants_row_errors=request.wants_row_errors,
    )


def detect_question(request: pb.DetectDataDriftRequest, settings: DriftSettings) -> DetectQuestion:
    """What a request compares with what.

    Raises:
        InvalidInput: a field breaks its rule; a reference in the request has no window beside it or other columns than
            it; or something is wanted that the other fields rule out.
    """
    found = name_violations(request.request_id)
    against, reference, observations = request.WhichOneof("against"), None, None
    if against is None:
        found.append(Violation("against", "is required: subject or reference"))
    elif against == "subject":
        found += subject_violations(request.subject)
    else:
        reference = table_of(
            request.reference, "reference", found, rows_min=REFERENCE_ROWS_MIN, columns_max=settings.features_max
        )
    kind: Literal["last", "given", "range", "all"] = "last"
    start_us = end_us = None
    match request.WhichOneof("window"):
        case "observations":
            kind = "given"
            observations = table_of(
                request.observations, "observations", found, rows_min=1, columns_max=settings.features_max
            )
        case "range":
            kind = "range"
            start_us, end_us = range_of(request.range, "range", found)
        case "all":
            kind = "all"
    if against == "reference" and kind != "given":
        found.append(Violation("observations", "is required beside `reference`: nothing else is known of it"))
    if against == "subject" and request.features:
        found.append(Violation("features", "go with `reference`; those of a subject are set by SetReference"))
    features = feature_options(request.features, found, reference) if against == "reference" else {}
    chance = request.false_alarm_chance if request.HasField("false_alarm_chance") else CHANCE_DEFAULT
    if not CHANCE_MIN <= chance <= CHANCE_MAX:
        found.append(Violation("false_alarm_chance", f"must be {CHANCE_MIN:g} to {CHANCE_MAX:g}, is {chance:g}"))
    if request.features_max < 0:
        found.append(Violation("features_max", f"is {request.features_max}; 0 for all, or how many are wanted"))
    found += _plot_violations(request.plots, reference if reference is not None else observations)
    if request.wants_row_errors and (against == "reference" or kind != "given"):
        found.append(Violation("wants_row_errors", "needs `subject` and `observations`: only their rows have errors"))
    raise_for(found)
    return DetectQuestion(
        subject=request.subject,
        reference=reference,
        window=kind,
        observations=observations,
        start_us=start_us,
        end_us=end_us,
        features=features,
        chance=chance,
        features_max=request.features_max,
        plots=tuple(dict.fromkeys(request.plots)),
    )


def severity_question(request: pb.AnalyzeDriftSeverityRequest) -> SeverityQuestion:
    """The report that a request asks about.

    Raises:
        InvalidInput: neither report nor subject is named, or a field breaks its rule.
    """
    found: list[Violation] = []
    if len(request.report_id) > ID_CHARACTERS_MAX:
        found.append(Violation("report_id", f"has {len(request.report_id)} characters, at most {ID_CHARACTERS_MAX}"))
    if request.subject:
        found += subject_violations(request.subject)
    elif not request.report_id:
        found.append(Violation("report_id", "is required where no subject is named"))
    features = feature_options(request.features, found, None)
    raise_for(found)
    importances = {name: wish.importance for name, wish in features.items()}
    return SeverityQuestion(request.report_id, request.subject, importances)


def list_question(request: pb.ListDriftReportsRequest) -> ListQuestion:
    """The reports that a request lists.

    Raises:
        InvalidInput: a field breaks its rule; whether the token is one, the store says.
    """
    found = subject_violations(request.subject) if request.subject else []
    if request.severity_min not in pb.Severity.values():
        found.append(Violation("severity_min", f"is {request.severity_min}; known are 1 (none) to 5 (critical)"))
    start_us, end_us = range_of(request.range, "range", found)
    if not 0 <= request.page_size <= PAGE_MAX:
        found.append(Violation("page_size", f"must be 1 to {PAGE_MAX}, or 0 for {PAGE_DEFAULT}"))
    raise_for(found)
    which = ReportFilter(
        subject=request.subject,
        severity_min=request.severity_min,
        drift_only=request.drift_only,
        start_us=start_us,
        end_us=end_us,
    )
    return ListQuestion(which, request.page_size or PAGE_DEFAULT, request.page_token, request.full)


def watch_question(request: pb.WatchDriftRequest) -> WatchQuestion:
    """The alarms that a request watches.

    Raises:
        InvalidInput: a field breaks its rule.
    """
    found = subject_violations(request.subject) if request.subject else []
    if request.cursor < -1:
        found.append(Violation("cursor", f"is {request.cursor}; an alarm's id, 0 for all or -1 for new ones"))
    interval_ms = request.interval_ms or INTERVAL_DEFAULT_MS
    if not INTERVAL_MIN_MS <= interval_ms <= INTERVAL_MAX_MS:
        found.append(Violation("interval_ms", f"must be {INTERVAL_MIN_MS} to {INTERVAL_MAX_MS}, is {interval_ms}"))
    raise_for(found)
    return WatchQuestion(request.subject, request.cursor, interval_ms / 1e3)


def subject_question(subject: str) -> str:
    """The name of a subject that a request may name, or nothing.

    Raises:
        InvalidInput: it is no name.
    """
    if subject:
        raise_for(subject_violations(subject))
    return subject


def _plot_violations(plots: Sequence[str], table: Observations | None) -> list[Violation]:
    if len(plots) > PLOTS_MAX:
        return [Violation("plots", f"names {len(plots)} features, at most {PLOTS_MAX}")]
    known = None if table is None else {*table.names, PLOT_OF_WORST}
    return [
        Violation(
            f"plots[{at}]",
            f"{shown(name)} is no feature; `{PLOT_OF_WORST}` stands for those to blame first",
        )
        for at, name in enumerate(plots)
        if not name or (known is not None and name not in known)
    ]
