"""The forecaster's baseline: each weekday as it was over the last four weeks, as sure as that rule has been so far."""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.baselines.quantiles import future_quantiles
from meshcast.rpc.errors import InvalidInput
from meshcast.series import (
    DAYS_MAX,
    NAME_CHARACTERS_MAX,
    day_of,
    day_texts,
    days_from_columns,
    days_from_messages,
    series_violations,
)

__all__ = ["BASELINES", "MODEL", "WeekdayForecast", "forecast_growth"]

MODEL = "baseline/forecaster"
"""What the receipt names in place of a model."""

WEEKS = 4
"""Weeks whose values of a weekday are its forecast, by their median."""

DAYS = 52 * 7
"""Newest days on which the rule is tried for its errors."""

ERRORS_MIN = 7
"""Fewest errors from which intervals are drawn."""

_ID_CHARACTERS_MAX = 128  # of the contract, as what follows
_HORIZON_DEFAULT, _HORIZON_MAX = 30, 90
_LEVELS_DEFAULT, _LEVELS_MAX, _LEVEL_HIGHEST = (0.8, 0.95), 16, 0.99
_QUANTILES_MAX, _QUANTILE_LOWEST, _QUANTILE_HIGHEST = 32, 0.005, 0.995

Days = NDArray[np.int64]
Floats = NDArray[np.float64]


def forecast_growth(request: bytes) -> bytes | None:
    """The baseline of a series' forecast.

    Args:
        request: an encoded `ForecastGrowthRequest`.

    Returns:
        An encoded `ForecastGrowthResponse`; None where the service would refuse the request, where it asks for a
        version of the model, or where too few days lie a week apart to know how sure the rule is.
    """
    asked = pb.ForecastGrowthRequest()
    try:
        asked.ParseFromString(request)
        day, value = _series(asked)
    except (DecodeError, InvalidInput):
        return None
    if not len(day) or asked.model_version or not _is_sound(asked, day, value):
        return None
    rule = WeekdayForecast(day, value)
    if not rule.errors:
        return None
    horizon = asked.horizon_days or _HORIZON_DEFAULT
    response = pb.ForecastGrowthResponse(forecast=_forecast(rule, asked, horizon))
    response.receipt.model = MODEL
    weeks = "week" if rule.weeks == 1 else f"{rule.weeks} weeks"
    response.receipt.notes.append(
        f"statistical baseline: each weekday's median of the last {weeks}; the intervals rest on {rule.errors} past "
        "errors of that rule and do not adapt to recorded values"
    )
    return response.SerializeToString()


class WeekdayForecast:
    """Forecasts of a daily series by the medians of its weekdays, and the errors that such forecasts made before.

    Args:
        day: shape (n,), int64, ascending days since 1970-01-01.
        value: shape (n,), float64, NaN where unknown.

    Attributes:
        first_day: the first day ahead.
        weeks: weeks behind a forecast, at most 4.
        errors: past errors of the forecasts up to a week ahead; 0 where they are too few to say anything.
    """

    def __init__(self, day: Days, value: Floats) -> None:
        self.first_day = int(day[-1]) + 1
        span = min(int(day[-1] - day[0]) + 1, DAYS + 7 * (WEEKS + _HORIZON_MAX // 7 + 1))
        self._last = np.full(span, np.nan)
        recent = day > day[-1] - span
        self._last[day[recent] - (day[-1] - span + 1)] = value[recent]
        self.weeks = max(1, min(WEEKS, span // 7 - 1))
        self._sizes: dict[int, Floats] = {}
        self.errors = len(self._errors(1))

    def median(self, horizon: int) -> Floats:
        """The forecasts, (horizon,), from the day after the last one on."""
        known = self._last[~np.isnan(self._last)]
        week = np.full(7, np.median(known[-7 * self.weeks :]))  # of a weekday of which nothing is known lately
        for ahead in range(7):
            of_weekday = self._last[len(self._last) - 7 + ahead :: -7][: 2 * WEEKS]
            lately = of_weekday[~np.isnan(of_weekday)][: self.weeks]
            if len(lately):
                week[ahead] = np.median(lately)
        return np.resize(week, horizon)

    def halves(self, level: float, horizon: int) -> Floats:
        """Half the width of the central interval of a level for each day, (horizon,)."""
        weeks = np.arange(horizon) // 7 + 1
        by_weeks = [future_quantiles(self._errors(ahead), [level], least=0.0) for ahead in range(1, int(weeks[-1]) + 1)]
        return np.concatenate(by_weeks)[weeks - 1]

    def _errors(self, ahead: int) -> Floats:
        """Sizes of the errors that the rule made so many weeks ahead; where it made too few, those of fewer weeks grown
        with the root of time, as errors of a series without memory of its level do."""
        known = self._sizes.get(ahead)
        if known is not None:
            return known
        weeks = max(1, min(self.weeks, len(self._last) // 7 - ahead))
        at = np.arange(max(7 * (ahead + weeks - 1), len(self._last) - DAYS), len(self._last))
        before = self._last[at - 7 * ahead - 7 * np.arange(weeks)[:, None]]
        there = ~np.isnan(before).all(axis=0) & ~np.isnan(self._last[at])
        sizes: Floats
        if np.count_nonzero(there) >= ERRORS_MIN:
            sizes = np.abs(self._last[at[there]] - np.nanmedian(before[:, there], axis=0))
        else:
            sizes = self._errors(ahead - 1) * math.sqrt(ahead / (ahead - 1)) if ahead > 1 else np.empty(0)
        self._sizes[ahead] = sizes
        return sizes


def _series(asked: pb.ForecastGrowthRequest) -> tuple[Days, Floats]:
    """The days of either form; none where neither or both are given, or too many.

    Raises:
        InvalidInput: a date is none, or columns differ in length.
    """
    is_one_form = bool(asked.history) != asked.HasField("history_columns")
    if not is_one_form or max(len(asked.history), asked.history_columns.days) > DAYS_MAX:
        return np.empty(0, dtype=np.int64), np.empty(0)
    if asked.history:
        return days_from_messages(asked.history)
    return days_from_columns(asked.history_columns)


def _is_sound(asked: pb.ForecastGrowthRequest, day: Days, value: Floats) -> bool:
    """Whether the service would take the request."""
    if len(asked.request_id) > _ID_CHARACTERS_MAX or len(asked.series) > NAME_CHARACTERS_MAX:
        return False
    if not 0 <= asked.horizon_days <= _HORIZON_MAX:
        return False
    if len(asked.levels) > _LEVELS_MAX or len(asked.quantiles) > _QUANTILES_MAX:
        return False
    if not all(0 < level <= _LEVEL_HIGHEST for level in asked.levels):  # NaN is none
        return False
    if not all(_QUANTILE_LOWEST <= level <= _QUANTILE_HIGHEST for level in asked.quantiles):
        return False
    return not series_violations(
        day,
        value,
        np.array([0], dtype=np.int64),
        np.array([len(day)], dtype=np.int64),
        np.array([asked.nonnegative]),
        today=day_of(datetime.now(UTC).date()),
    )


def _forecast(rule: WeekdayForecast, asked: pb.ForecastGrowthRequest, horizon: int) -> pb.Forecast:
    median = rule.median(horizon)

    def told(values: Floats) -> Sequence[float]:
        found: list[float] = (np.maximum(values, 0.0) if asked.nonnegative else values).tolist()
        return found

    forecast = pb.Forecast(first_date=day_texts(np.array([rule.first_day]))[0], median=told(median))
    for level in sorted(set(asked.levels)) or (() if asked.quantiles else _LEVELS_DEFAULT):
        half = rule.halves(level, horizon)
        forecast.intervals.add(level=level, lower=told(median - half), upper=told(median + half))
    for level in sorted(set(asked.quantiles)):
        half = rule.halves(abs(2 * level - 1), horizon)
        forecast.quantiles.add(level=level, values=told(median + math.copysign(1.0, level - 0.5) * half))
    return forecast


BASELINES: Mapping[str, Callable[[bytes], bytes | None]] = {
    "/meshcast.api.forecaster.v1.ForecasterService/ForecastGrowth": forecast_growth
}
"""By the path of the method that each stands in for."""
