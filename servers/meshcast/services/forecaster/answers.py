"""Answers out of arrays: the quantiles that the graph gave become the messages of the contract."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.series import day_texts
from meshcast.services.forecaster.intervals import Evidence, central_levels, quantiles_at
from meshcast.services.forecaster.questions import Asked
from meshcast.services.forecaster.signature import LEVELS

Floats = NDArray[np.float32]

MEDIAN = LEVELS.index(0.5)
"""Column of the point forecast."""


def forecast(fan: Floats, first_day: int, asked: Asked, *, nonnegative: bool) -> pb.Forecast:
    """One forecast as a message.

    Args:
        fan: shape (days, 9), quantiles at `LEVELS`.
        first_day: days since 1970-01-01.
        asked: levels that are wanted.
        nonnegative: whether the series cannot be negative.
    """
    lower, upper, wanted = _read(fan[None], asked, np.array([nonnegative]))
    answer = pb.Forecast(first_date=day_texts(np.array([first_day]))[0], median=fan[:, MEDIAN].tolist())
    for at, level in enumerate(asked.levels):
        answer.intervals.add(level=level, lower=lower[at, 0].tolist(), upper=upper[at, 0].tolist())
    for at, level in enumerate(asked.quantiles):
        answer.quantiles.add(level=level, values=wanted[at, 0].tolist())
    return answer


def chunk_answer(
    fans: Floats,
    first_day: NDArray[np.int64],
    nonnegative: NDArray[np.bool_],
    sound: NDArray[np.int64],
    rows: int,
    asked: Asked,
) -> pb.ForecastGrowthStreamResponse:
    """The forecasts of a chunk as a message of packed columns; rows that are not sound hold NaN.

    Args:
        fans: shape (g, days, 9), quantiles of the sound rows at `LEVELS`.
        first_day: shape (g,), days since 1970-01-01.
        nonnegative: shape (g,), whether the series cannot be negative.
        sound: positions of those rows, (g,).
        rows: rows of the chunk.
        asked: levels that are wanted.
    """
    lower, upper, wanted = _read(fans, asked, nonnegative)
    days = np.zeros(rows, dtype="<i4")
    days[sound] = first_day

    def packed(columns: Floats) -> bytes:
        if len(sound) == rows:
            return np.ascontiguousarray(columns, dtype="<f4").tobytes()
        whole = np.full((*columns.shape[:-2], rows, columns.shape[-1]), np.nan, dtype="<f4")
        whole[..., sound, :] = columns
        return whole.tobytes()

    return pb.ForecastGrowthStreamResponse(
        rows=rows,
        horizon_days=asked.horizon_days,
        first_day=days.tobytes(),
        median=packed(fans[:, :, MEDIAN]),
        levels=asked.levels,
        lower=packed(lower),
        upper=packed(upper),
        quantile_levels=asked.quantiles,
        quantiles=packed(wanted),
    )


def evidence_messages(found: Sequence[Evidence]) -> list[pb.IntervalEvidence]:
    """How the intervals of a series have held, as messages."""
    return [
        pb.IntervalEvidence(
            level=one.level, compared=one.compared, coverage=one.coverage, width_factor=one.width_factor
        )
        for one in found
    ]


def _read(fans: Floats, asked: Asked, nonnegative: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """Lower and upper ends (levels, g, days) and quantiles (quantiles, g, days) off the fans (g, days, 9)."""
    wanted = [*central_levels(asked.levels), *asked.quantiles]
    read = np.moveaxis(quantiles_at(fans, wanted, nonnegative), -1, 0)
    count = len(asked.levels)
    return read[:count], read[count : 2 * count], read[2 * count :]
