"""Example of the forecaster's questions: a made-up growing series, as one forecast or as a chunk of rolling origins."""

import numpy as np
from numpy.typing import NDArray

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.columns import pack_positions, unpack_floats
from meshcast.runtime import ExampleCall, ServiceExample
from meshcast.series import pack_days
from meshcast.services.forecaster.features import HORIZON, tensors
from meshcast.services.forecaster.questions import Question, chunk_question, single_question
from meshcast.services.forecaster.service import CHUNK_ROWS_MAX
from meshcast.services.forecaster.signature import LEVELS

__all__ = ["EXAMPLE"]

_HISTORY = 420  # days: past the ones of last year that a forecast looks at
_FIRST_DAY = 15_000

Floats = NDArray[np.float32]


def _series(days: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Days and values of a series that grows, with a weekly season, noise and a day in fifty missing."""
    rng = np.random.default_rng(seed)
    at = np.arange(days)
    level = rng.lognormal(5, 1) * np.exp(rng.normal(0.001, 0.001) * at)
    value = level * (1 + 0.3 * np.sin(2 * np.pi * (at / 7 + rng.random()))) * rng.lognormal(0, 0.1, days)
    value[rng.random(days) < 0.02] = np.nan
    value[-1] = level[-1]
    return _FIRST_DAY + at, np.round(value)


def _request(rows: int, seed: int) -> pb.ForecastGrowthRequest:
    """The 90 days after a series of 420; `rows` is 1."""
    return pb.ForecastGrowthRequest(
        history_columns=pack_days(*_series(_HISTORY, seed)), horizon_days=HORIZON, quantiles=LEVELS, nonnegative=True
    )


def _chunk(rows: int, seed: int) -> pb.ForecastGrowthStreamRequest:
    """Forecasts of one series from so many days, one after the other."""
    day, value = _series(_HISTORY + rows - 1, seed)
    start = np.arange(rows)
    return pb.ForecastGrowthStreamRequest(
        history=pack_days(day, value),
        history_start=pack_positions(start),
        history_stop=pack_positions(start + _HISTORY),
        horizon_days=HORIZON,
        quantiles=LEVELS,
        nonnegative=[True],
    )


def _tensors_of(question: Question) -> dict[str, Floats]:
    first_day = question.day[question.stop - 1] + 1
    return tensors(question.day, question.value, question.start, question.stop, first_day, question.nonnegative)


def _outputs(answer: pb.ForecastGrowthResponse) -> dict[str, Floats]:
    columns = [quantile.values for quantile in answer.forecast.quantiles]
    return {"quantiles": np.array(columns, dtype=np.float32).T[None]}


def _chunk_outputs(answer: pb.ForecastGrowthStreamResponse) -> dict[str, Floats]:
    shape = (len(LEVELS), answer.rows, answer.horizon_days)
    return {"quantiles": np.moveaxis(unpack_floats(answer.quantiles, shape, "quantiles"), 0, -1)}


def _bad() -> pb.ForecastGrowthRequest:
    request = _request(1, 0)
    request.horizon_days = HORIZON + 1
    return request


def _bad_chunk() -> pb.ForecastGrowthStreamRequest:
    request = _chunk(2, 0)
    request.horizon_days = HORIZON + 1
    return request


EXAMPLE = ServiceExample(
    single=ExampleCall(
        method="ForecastGrowth",
        request=_request,
        tensors=lambda request: _tensors_of(single_question(request)[0]),
        outputs=_outputs,
        bad=_bad,
        bad_field="horizon_days",
    ),
    stream=ExampleCall(
        method="ForecastGrowthStream",
        request=_chunk,
        tensors=lambda request: _tensors_of(chunk_question(request, rows_max=CHUNK_ROWS_MAX)[0]),
        outputs=_chunk_outputs,
        bad=_bad_chunk,
        bad_field="horizon_days",
        rows_max=CHUNK_ROWS_MAX,
    ),
)
