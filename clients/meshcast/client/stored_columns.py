"""Stored columns: what a sink is given of each row of an answer, failed rows included."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meshcast.client.answers import EngagementChunk
from meshcast.client.chunk_answers import ChunkAnswer
from meshcast.client.forecasts import ForecastChunk
from meshcast.client.judgements import ContentChunk
from meshcast.sinks import Column

__all__ = ["content_columns", "engagement_columns", "forecast_columns", "status_columns"]

Stored = dict[str, Column]


def status_columns(answer: ChunkAnswer, first_row: int) -> Stored:
    """What every row has: its number, how it was answered, by which version, and the id to read it back by.

    Args:
        answer: of a chunk of n rows.
        first_row: number of its first row, from 0.

    Returns:
        `row` int; `status` text, `OK` or the error's code, as in `INVALID_ARGUMENT`; `error` text, empty where there is
        none; `model_version` int; `prediction_id` text, empty where the row failed.
    """
    n = len(answer)
    status, error = ["OK"] * n, [""] * n
    ids = [answer.row_id(row) for row in range(n)]
    for place, failure in answer.failed.items():
        status[place], error[place], ids[place] = failure.code.name, failure.message, ""
    return {
        "row": np.arange(first_row, first_row + n, dtype=np.int64),
        "status": status,
        "error": error,
        "model_version": np.full(n, answer.receipt.model_version, dtype=np.int64),
        "prediction_id": ids,
    }


def engagement_columns(answer: EngagementChunk, first_row: int) -> Stored:
    """Predictions of posts as they are stored, a row a post; in log1p units, NaN where a row failed.

    Returns:
        Those of `status_columns`; `post` int, the post's position in its table; `log_engagement`; `lower_80_log` and
        `upper_80_log`, and so for each level; `confidence`; `recent_median_log`, all float32.
    """
    stored = status_columns(answer, first_row)
    stored["post"] = answer.rows
    stored["log_engagement"] = answer.log_engagement
    for level, lower, upper in zip(answer.levels, answer.lower_log, answer.upper_log, strict=True):
        stored[f"lower_{_percent(level)}_log"] = lower
        stored[f"upper_{_percent(level)}_log"] = upper
    stored["confidence"] = answer.confidence
    stored["recent_median_log"] = answer.recent_median_log
    return stored


def content_columns(answer: ContentChunk, first_row: int) -> Stored:
    """Judgements of texts as they are stored, a row a text; NaN where a row failed.

    Returns:
        Those of `status_columns`; `above_median` and `viral`, float32; `characters_read` int.
    """
    stored = status_columns(answer, first_row)
    stored["above_median"] = answer.above_median
    stored["viral"] = answer.viral
    stored["characters_read"] = answer.characters_read
    return stored


def forecast_columns(answer: ForecastChunk, first_row: int, series: Sequence[str]) -> Stored:
    """Forecasts as they are stored, a row a series and day; a row that failed stands once, without a date.

    Args:
        answer: of a chunk of n rows.
        first_row: number of its first row, from 0.
        series: names of the rows' series.

    Returns:
        Those of `status_columns`, of which `row` repeats day by day; `series` text; `date` text, ISO 8601; `median`;
        `lower_80` and `upper_80`, and so for each level; `quantile_10`, and so for each quantile, all float32.
    """
    n, days = answer.median.shape
    is_ok = answer.is_ok
    picked = np.repeat(np.arange(n), np.where(is_ok, days, 1))
    day = np.concatenate([np.arange(days) if ok else np.zeros(1, dtype=np.int64) for ok in is_ok.tolist()])
    stored: Stored = {name: _picked(column, picked) for name, column in status_columns(answer, first_row).items()}
    stored["series"] = [series[row] for row in picked.tolist()]
    dates = (answer.first_day[picked] + day).astype("datetime64[D]").astype(np.str_).tolist()
    stored["date"] = [date if ok else "" for date, ok in zip(dates, is_ok[picked].tolist(), strict=True)]
    stored["median"] = answer.median[picked, day]
    for level, lower, upper in zip(answer.levels, answer.lower, answer.upper, strict=True):
        stored[f"lower_{_percent(level)}"] = lower[picked, day]
        stored[f"upper_{_percent(level)}"] = upper[picked, day]
    for level, values in zip(answer.quantile_levels, answer.quantiles, strict=True):
        stored[f"quantile_{_percent(level)}"] = values[picked, day]
    return stored


def _picked(column: Column, rows: NDArray[np.int64]) -> Column:
    return column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows.tolist()]


def _percent(level: float) -> str:
    """A level as in column names: 80 of 0.8, 99.5 of 0.995."""
    return f"{100 * level:.6g}"
