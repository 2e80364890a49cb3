"""Questions out of requests: messages become columns, and nothing is computed yet."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.rpc import Violation
from meshcast.runtime.requests import NAME_CHARACTERS_MAX, VIOLATIONS_MAX, chunk_violations, name_violations, refusal
from meshcast.series import DAYS_MAX, days_from_columns, days_from_messages, history_range, series_violations
from meshcast.services.forecaster.features import HORIZON

HORIZON_DEFAULT = 30
"""Days that are forecast where the request says 0."""

LEVELS_DEFAULT = (0.8, 0.95)
"""Levels of the intervals where the request names neither levels nor quantiles."""

LEVELS_MAX, QUANTILES_MAX = 16, 32
ANSWER_BYTES_MAX = 15 * 2**20
"""Bytes of the columns of a chunk's answer at most: a message takes 16 MiB, and statuses want room."""

LEVEL_HIGHEST = 0.99
QUANTILE_LOWEST, QUANTILE_HIGHEST = 0.005, 0.995


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """How a form of request calls its fields, so that a violation names what the caller wrote.

    Attributes:
        day: names a day's field, from its position in the table and the column (`day` or `value`).
        history: names a row's history as a whole.
    """

    day: Callable[[int, str], str]
    history: Callable[[int], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request wants to be told of each forecast.

    Attributes:
        horizon_days: 1 to 90.
        levels: of the central intervals, ascending.
        quantiles: ascending.
    """

    horizon_days: int
    levels: tuple[float, ...]
    quantiles: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Rows as the caller sent them.

    Attributes:
        day: shape (n,), int64, days since 1970-01-01.
        value: shape (n,), float64, NaN where unknown.
        start: shape (m,), int64, first day of each row's history, a position.
        stop: shape (m,), int64, its end, exclusive.
        nonnegative: shape (m,), True where the series cannot be negative.
        naming: how the request calls its fields.
    """

    day: NDArray[np.int64]
    value: NDArray[np.float64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    nonnegative: NDArray[np.bool_]
    naming: Naming


CHUNK = Naming(day=lambda at, column: f"history.{column}[{at}]", history=lambda row: f"history_start[{row}]")


def single_question(request: pb.ForecastGrowthRequest) -> tuple[Question, Asked]:
    """The one row of a unary request.

    Raises:
        InvalidInput: a required field is missing, both forms of history are given, a date is none, columns differ in
            length, or the horizon or a level is out of its range.
    """
    violations = name_violations(request.request_id, request.series, field="series")
    violations += _asked_violations(request.horizon_days, request.levels, request.quantiles)
    return history_question(request, request.nonnegative, violations), _asked(request)


def history_question(
    request: pb.ForecastGrowthRequest | pb.AnalyzeGrowthPatternsRequest,
    nonnegative: bool,
    violations: Sequence[Violation] = (),
) -> Question:
    """The one series that a request gives in either form.

    Args:
        request: with `history` or `history_columns`.
        nonnegative: whether the series cannot be negative.
        violations: found in the request before.

    Raises:
        InvalidInput: there are violations, both or neither form of history are given, a date is none, or columns
            differ in length.
    """
    day, value, naming = _given_days(
        request, "history", "history_columns", way_out="; give the newest of them", violations=violations
    )
    return Question(
        day=day,
        value=value,
        start=np.array([0], dtype=np.int64),
        stop=np.array([len(day)], dtype=np.int64),
        nonnegative=np.array([nonnegative]),
        naming=naming,
    )


def chunk_question(request: pb.ForecastGrowthStreamRequest, *, rows_max: int) -> tuple[Question, Asked]:
    """The rows of a chunk.

    Raises:
        InvalidInput: columns differ in length, the chunk is empty or larger than `rows_max`, or what is one a row does
            not match the rows.
    """
    rows = len(request.history_start) // 4
    violations = name_violations(request.request_id, "", field="")
    violations += chunk_violations(rows, request.row_request_ids, rows_max=rows_max, field="history_start")
    asked = _asked_violations(request.horizon_days, request.levels, request.quantiles)
    violations += asked or _size_violations(rows, _asked(request))
    if request.series and len(request.series) != rows:
        violations.append(Violation("series", f"needs none or one a row ({rows}), has {len(request.series)}"))
    violations += [
        Violation(f"series[{row}]", f"has {len(name)} characters, at most {NAME_CHARACTERS_MAX}")
        for row, name in enumerate(request.series)
        if len(name) > NAME_CHARACTERS_MAX
    ][:VIOLATIONS_MAX]
    if len(request.nonnegative) not in (0, 1, rows):
        violations.append(
            Violation("nonnegative", f"needs none, one, or one a row ({rows}), has {len(request.nonnegative)}")
        )
    if violations:
        raise refusal(violations)
    day, value = days_from_columns(request.history, field="history")
    start, stop = history_range(request.history_start, request.history_stop, rows)
    nonnegative = np.zeros(rows, dtype=np.bool_)
    nonnegative[:] = list(request.nonnegative) or False
    question = Question(day=day, value=value, start=start, stop=stop, nonnegative=nonnegative, naming=CHUNK)
    return question, _asked(request)


def actuals_question(request: pb.RecordActualsRequest, *, today: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Days and values that are to be recorded, each (n,), the days ascending and every value finite.

    Args:
        request: of either form.
        today: days since 1970-01-01, UTC.

    Raises:
        InvalidInput: the series has no name, both or neither form is given, or a day or a value breaks its rule.
    """
    violations = name_violations(request.request_id, request.series, field="series")
    if not request.series:
        violations.append(Violation("series", "is required; actual values belong to the forecasts of the same name"))
    day, value, naming = _given_days(request, "actuals", "actual_columns", way_out=" a call", violations=violations)
    found = series_violations(
        day,
        value,
        np.array([0], dtype=np.int64),
        np.array([len(day)], dtype=np.int64),
        np.array([False]),
        today=today,
        day_field=naming.day,
        history_field=naming.history,
        is_history=False,
    ).get(0, [])
    unknown = np.flatnonzero(np.isnan(value))
    if len(unknown):
        found.append((naming.day(int(unknown[0]), "value"), "has no value; leave out the days that are not known yet"))
    if found:
        raise refusal(found)
    return day, value


def asked_of(levels: Sequence[float], quantiles: Sequence[float]) -> Asked:
    """What a read of a stored forecast wants to be told.

    Raises:
        InvalidInput: a level is out of its range, or there are too many.
    """
    if violations := _asked_violations(0, levels, quantiles):
        raise refusal(violations)
    return Asked(
        horizon_days=HORIZON,
        levels=_levels(levels, quantiles),
        quantiles=tuple(sorted(set(quantiles))),
    )


def _given_days(
    request: Any, field: str, columns_field: str, *, way_out: str, violations: Sequence[Violation]
) -> tuple[NDArray[np.int64], NDArray[np.float64], Naming]:
    """The days that a request gives in either form, and how it calls them; refused with what was found before."""
    messages, columns = getattr(request, field), getattr(request, columns_field)
    found = list(violations)
    if bool(messages) == request.HasField(columns_field):
        both = f"and {columns_field} are both given: give one of them"
        found.append(Violation(field, both if messages else f"is missing: give it or {columns_field}"))
    if (days := max(len(messages), columns.days)) > DAYS_MAX:
        found.append(Violation(field if messages else columns_field, f"has {days} days, at most {DAYS_MAX}{way_out}"))
    if found:
        raise refusal(found)
    if messages:
        naming = Naming(
            day=lambda at, column: f"{field}[{at}].{'date' if column == 'day' else column}", history=lambda row: field
        )
        return *days_from_messages(messages, field=field), naming
    naming = Naming(day=lambda at, column: f"{columns_field}.{column}[{at}]", history=lambda row: columns_field)
    return *days_from_columns(columns, field=columns_field), naming


def _asked(request: pb.ForecastGrowthRequest | pb.ForecastGrowthStreamRequest) -> Asked:
    return Asked(
        horizon_days=request.horizon_days or HORIZON_DEFAULT,
        levels=_levels(request.levels, request.quantiles),
        quantiles=tuple(sorted(set(request.quantiles))),
    )


def _size_violations(rows: int, asked: Asked) -> list[Violation]:
    """Why the answer to a chunk would not fit into a message; none where it does."""
    row_bytes = 4 * asked.horizon_days * (1 + 2 * len(asked.levels) + len(asked.quantiles))
    if rows * row_bytes <= ANSWER_BYTES_MAX:
        return []
    return [
        Violation(
            "history_start",
            f"{rows} rows of {row_bytes} bytes each do not fit into an answer; send at most "
            f"{ANSWER_BYTES_MAX // row_bytes} rows of these levels and this horizon in a chunk",
        )
    ]


def _levels(levels: Sequence[float], quantiles: Sequence[float]) -> tuple[float, ...]:
    return tuple(sorted(set(levels))) or (() if quantiles else LEVELS_DEFAULT)


def _asked_violations(horizon_days: int, levels: Sequence[float], quantiles: Sequence[float]) -> list[Violation]:
    found = []
    if not 0 <= horizon_days <= HORIZON:
        found.append(Violation("horizon_days", f"is {horizon_days}; a forecast has 1 to {HORIZON} days"))
    if len(levels) > LEVELS_MAX:
        found.append(Violation("levels", f"has {len(levels)} levels, at most {LEVELS_MAX}"))
    if len(quantiles) > QUANTILES_MAX:
        found.append(Violation("quantiles", f"has {len(quantiles)} quantiles, at most {QUANTILES_MAX}"))
    for at, level in enumerate(levels[:LEVELS_MAX]):
        if not (math.isfinite(level) and 0 < level <= LEVEL_HIGHEST):
            found.append(Violation(f"levels[{at}]", f"is {level}; a level is above 0 and at most {LEVEL_HIGHEST}"))
    for at, level in enumerate(quantiles[:QUANTILES_MAX]):
        if not (math.isfinite(level) and QUANTILE_LOWEST <= level <= QUANTILE_HIGHEST):
            found.append(
                Violation(f"quantiles[{at}]", f"is {level}; a quantile is from {QUANTILE_LOWEST} to {QUANTILE_HIGHEST}")
            )
    return found
