"""Fields of requests: the rules that several questions share; what breaks one is named by its path."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from google.protobuf import duration_pb2, timestamp_pb2

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.observations import Observations, unpack_observations
from meshcast.rpc import Violation
from meshcast.runtime.requests import VIOLATIONS_MAX, refusal
from meshcast.services.drift.comparison import WatchOptions
from meshcast.services.drift.settings import FALSE_ALARMS_A_YEAR_MAX, WINDOW_ROWS_MAX, DriftSettings
from meshcast.services.drift.watched import FeatureOption

__all__ = [
    "IMPORTANCE_MAX",
    "RESERVED",
    "feature_options",
    "raise_for",
    "range_of",
    "shown",
    "subject_violations",
    "table_of",
    "watch_options",
]

IMPORTANCE_MAX = 1_000.0
"""Weight of a feature at most, of the contract."""

RESERVED = ("autoencoder.", "energy.")
"""How the names of columns begin that the service makes itself."""

NAME_SHOWN_MAX = 128
"""Characters of a name that a refusal repeats."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TIME_MIN_US, _TIME_MAX_US = -62_135_596_800_000_000, 253_402_300_799_999_999  # years 1 to 9999, as in a Timestamp
_DURATION_MAX_US = 315_576_000_000_000_000  # 10,000 years, as in a Duration
_ROLES: Mapping[int, Literal["input", "output"]] = {
    pb.FEATURE_ROLE_UNSPECIFIED: "input",
    pb.FEATURE_ROLE_INPUT: "input",
    pb.FEATURE_ROLE_OUTPUT: "output",
}


def raise_for(found: Sequence[Violation]) -> None:
    """Refuses a request that breaks rules, with the first 50 of them.

    Raises:
        InvalidInput: there are any.
    """
    if found:
        raise refusal(found[:VIOLATIONS_MAX])


def shown(name: str) -> str:
    """A name as a refusal repeats it."""
    return repr(name[:NAME_SHOWN_MAX])


def subject_violations(name: str, field: str = "subject") -> list[Violation]:
    """Breaches of the rule on the name of a subject or a draft."""
    if not name:
        return [Violation(field, "is required")]
    if not _NAME.fullmatch(name):
        return [Violation(field, "must be 1 to 64 letters, digits, `.`, `_` and `-`")]
    return []


def table_of(
    message: pb.Observations,
    path: str,
    found: list[Violation],
    *,
    rows_min: int,
    columns_max: int,
    rows_max: int | None = None,
) -> Observations:
    """The rows of a request; whole only where nothing was found.

    Args:
        message: the rows.
        path: of the message in its request.
        found: gets what breaks a rule.
        rows_min: rows at least.
        columns_max: columns at most, of the settings.
        rows_max: rows at most; None for no bound but the message's.
    """
    columns = len(message.numeric) + len(message.categorical)
    if message.rows < rows_min or (rows_max is not None and message.rows > rows_max):
        most = f"{rows_min} or more" if rows_max is None else f"{rows_min} to {rows_max}"
        found.append(Violation(f"{path}.rows", f"must be {most}, is {message.rows}"))
    if not 1 <= columns <= columns_max:
        wide = " (the setting features_max of the table [drift])" if columns else ""
        found.append(Violation(path, f"must have 1 to {columns_max} columns{wide}, has {columns}"))
        if columns > columns_max:
            return Observations(0, {}, {})
    broken: dict[str, str] = {}
    table = unpack_observations(message, broken, path)
    found += [Violation(field, rule) for field, rule in broken.items()]
    for kind in ("numeric", "categorical"):
        found += [
            Violation(f"{path}.{kind}[{at}].name", f"{column.name!r} begins like the columns that the service makes")
            for at, column in enumerate(getattr(message, kind))
            if column.name.startswith(RESERVED)
        ]
    if table.unix_us is not None and len(table.unix_us):
        wrong = (table.unix_us < _TIME_MIN_US) | (table.unix_us > _TIME_MAX_US)
        if wrong.any():
            at = int(wrong.argmax())
            rule = f"must be a time of the years 1 to 9999, is {table.unix_us[at]}"
            found.append(Violation(f"{path}.unix_us[{at}]", rule))
    return table


def feature_options(
    features: Sequence[pb.FeatureOptions], found: list[Violation], table: Observations | None
) -> dict[str, FeatureOption]:
    """What is wanted of features, by name; names are checked where the table is at hand."""
    wishes: dict[str, FeatureOption] = {}
    known = None if table is None else set(table.names)
    for at, feature in enumerate(features):
        path = f"features[{at}]"
        if not feature.name:
            found.append(Violation(f"{path}.name", "is required"))
        elif feature.name in wishes:
            found.append(Violation(f"{path}.name", f"{shown(feature.name)} is there twice; name each feature once"))
        elif known is not None and feature.name not in known:
            found.append(Violation(f"{path}.name", f"{shown(feature.name)} is no column of the rows"))
        importance = feature.importance if feature.HasField("importance") else 1.0
        if not 0 <= importance <= IMPORTANCE_MAX:
            found.append(Violation(f"{path}.importance", f"must be 0 to {IMPORTANCE_MAX:g}, is {importance:g}"))
        if feature.role not in _ROLES:
            found.append(Violation(f"{path}.role", f"is {feature.role}; callers set 1 (input) or 2 (output)"))
        wishes[feature.name] = FeatureOption(importance, _ROLES.get(feature.role, "input"))
    return wishes


def watch_options(options: pb.DriftOptions, settings: DriftSettings, found: list[Violation]) -> WatchOptions:
    """How a subject is to be watched; what the request leaves open is the server's setting."""
    rate = options.false_alarms_a_year if options.HasField("false_alarms_a_year") else settings.false_alarms_a_year
    if not 0 < rate <= FALSE_ALARMS_A_YEAR_MAX:
        rule = f"must be more than 0 and at most {FALSE_ALARMS_A_YEAR_MAX:g}, is {rate:g}"
        found.append(Violation("options.false_alarms_a_year", rule))
    rows = options.window_rows or settings.window_rows
    if not 1 <= rows <= WINDOW_ROWS_MAX:
        found.append(Violation("options.window_rows", f"must be 1 to {WINDOW_ROWS_MAX}, is {rows}"))
    duration_us: int | None = round(settings.window_duration_s * 1e6)
    if options.HasField("window_duration"):
        duration_us = _duration_us(options.window_duration)
    if duration_us is None or duration_us <= 0:
        found.append(Violation("options.window_duration", "must be a duration of more than 0"))
    return WatchOptions(
        false_alarms_a_year=rate,
        window_rows=rows,
        window_us=duration_us or 0,
        trains_autoencoder=(
            options.trains_autoencoder if options.HasField("trains_autoencoder") else settings.trains_autoencoder
        ),
    )


def range_of(span: pb.TimeRange, path: str, found: list[Violation]) -> tuple[int | None, int | None]:
    """Start and end of a span in microseconds; None where it is open."""
    ends: dict[str, int | None] = {"start_time": None, "end_time": None}
    for name in ends:
        if span.HasField(name):  # type: ignore[arg-type]  # one of its two fields
            ends[name] = _time_us(getattr(span, name))
            if ends[name] is None:
                found.append(Violation(f"{path}.{name}", "must be a time of the years 1 to 9999"))
    start_us, end_us = ends.values()
    if start_us is not None and end_us is not None and start_us >= end_us:
        found.append(Violation(f"{path}.end_time", "must be after start_time"))
    return start_us, end_us


def _time_us(time: timestamp_pb2.Timestamp) -> int | None:
    try:
        return int(time.ToMicroseconds())
    except ValueError:
        return None


def _duration_us(duration: duration_pb2.Duration) -> int | None:
    time_us = int(duration.ToMicroseconds())
    return time_us if abs(time_us) <= _DURATION_MAX_US else None
