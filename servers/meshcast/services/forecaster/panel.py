"""Panels of daily series and the windows cut from them: histories, with what came after them.

Nothing here knows a model: what trains, scores or measures cuts its windows by these rules.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.services.forecaster import features
from meshcast.services.forecaster.features import DAYS_BACK, DAYS_MIN, HORIZON

__all__ = ["Panel", "Windows", "blocks", "plain_forecasts", "season_scale", "tensors_of", "windows_of"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Panel:
    """Daily series without gaps in their days, one after the other.

    Attributes:
        value: shape (n,), float32, NaN where a day has no value.
        start: shape (s,), position of each series' first day.
        stop: shape (s,), end of it (exclusive).
        learn_stop: shape (s,), end of the days that train.
        validate_stop: shape (s,), end of those that choose and calibrate; the rest tests.
        first_day: shape (s,), days since 1970-01-01 of each series' first day.
        nonnegative: shape (s,), True where it is declared never to fall below 0.
        source: shape (s,), number of the set that it comes from; sets count alike in training.
    """

    value: Floats
    start: Ints
    stop: Ints
    learn_stop: Ints
    validate_stop: Ints
    first_day: Ints
    nonnegative: NDArray[np.bool_]
    source: Ints

    def __len__(self) -> int:
        return len(self.start)

    @classmethod
    def of(
        cls,
        series: Iterable[tuple[int, NDArray[Any]]],
        *,
        train_share: float = 0.75,
        validate_share: float = 0.125,
        cuts: tuple[int, int] | None = None,
        nonnegative: bool | None = None,
        source: int = 0,
    ) -> "Panel":
        """A panel of whole series.

        Args:
            series: first day and values, one a day, NaN where missing.
            train_share: share of each that trains.
            validate_share: share that validates.
            cuts: days since 1970-01-01 at which training and validation end, instead of the shares.
            nonnegative: declared for all; None declares those that never fell below 0.
            source: number of the set.
        """
        given = list(series)
        size = np.array([len(values) for _, values in given], dtype=np.int64)
        stop = np.cumsum(size)
        start = stop - size
        first_day = np.array([day for day, _ in given], dtype=np.int64)
        if cuts is None:
            learn, validate = (size * train_share).astype(np.int64), (size * (train_share + validate_share)).astype(int)
        else:
            learn, validate = (np.clip(cut - first_day, 0, size) for cut in cuts)
        never_below = np.array([not (values < 0).any() for _, values in given])
        return cls(
            value=np.concatenate([values for _, values in given]).astype(np.float32),
            start=start,
            stop=stop,
            learn_stop=start + learn,
            validate_stop=start + validate,
            first_day=first_day,
            nonnegative=never_below if nonnegative is None else np.full(len(given), nonnegative),
            source=np.full(len(given), source, dtype=np.int64),
        )

    @classmethod
    def joined(cls, panels: Iterable["Panel"]) -> "Panel":
        """Several panels as one; their sources stay apart if their numbers do."""
        parts = list(panels)
        before = np.cumsum([0] + [len(part.value) for part in parts])
        columns: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            moved = field.name in ("start", "stop", "learn_stop", "validate_stop")
            columns[field.name] = np.concatenate(
                [
                    getattr(part, field.name) + (at if moved else 0) if moved else getattr(part, field.name)
                    for part, at in zip(parts, before, strict=False)
                ]
            )
        return cls(**columns)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Windows:
    """Histories with what came after them.

    Attributes:
        inputs: the graph's tensors, by name.
        target: shape (m, 90), float32, in the unit of the series, NaN where unknown.
        series: shape (m,), number of the series in its panel.
        scale: shape (m,), float64, mean absolute difference to a week before within the history: what MASE divides by.
    """

    inputs: dict[str, Floats]
    target: Floats
    series: Ints
    scale: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.series)

    def take(self, rows: Ints) -> "Windows":
        """The windows at the given positions."""
        return Windows(
            inputs={name: column[rows] for name, column in self.inputs.items()},
            target=self.target[rows],
            series=self.series[rows],
            scale=self.scale[rows],
        )


def windows_of(
    panel: Panel, part: str, *, rng: np.random.Generator | None = None, windows_max: int | None = None
) -> Windows:
    """Windows of a part of the split, every 14 days from its first day on, each series' last full two weeks included.

    Args:
        panel: the series.
        part: `validation` or `test`.
        rng: picks among too many; None keeps the first ones.
        windows_max: most windows; None keeps all.

    Returns:
        Windows whose history has at least 14 values and whose next 14 days have one.
    """
    begin = panel.learn_stop if part == "validation" else panel.validate_stop
    end = panel.validate_stop if part == "validation" else panel.stop
    series, origins = [], []
    for k in range(len(panel)):
        at = np.arange(int(end[k]) - DAYS_MIN, int(max(begin[k], panel.start[k] + DAYS_MIN)) - 1, -DAYS_MIN)
        series.append(np.full(len(at), k))
        origins.append(at)
    row, origin = np.concatenate(series).astype(np.int64), np.concatenate(origins).astype(np.int64)
    if windows_max is not None and len(row) > windows_max:
        # sets count alike, whatever their size
        share = 1.0 / np.bincount(panel.source[row])[panel.source[row]]
        rng = rng or np.random.default_rng(0)
        pick = np.sort(rng.choice(len(row), windows_max, replace=False, p=share / share.sum()))
        row, origin = row[pick], origin[pick]
    block = blocks(panel, row, origin, end[row])
    inputs = tensors_of(block, panel.first_day[row] + origin - panel.start[row], panel.nonnegative[row])
    scale = np.array([season_scale(panel.value[panel.start[k] : at]) for k, at in zip(row, origin, strict=True)])
    known = (inputs["mask"].sum(axis=1) >= DAYS_MIN) & (~np.isnan(block[:, DAYS_BACK : DAYS_BACK + DAYS_MIN])).any(
        axis=1
    )
    return Windows(inputs=inputs, target=block[:, DAYS_BACK:], series=row, scale=scale).take(np.flatnonzero(known))


def season_scale(values: NDArray[Any], *, period: int = 7) -> float:
    """Mean absolute difference to a season before, over all of a history; NaN where there is no such pair.

    Source: Hyndman, Koehler, Another look at measures of forecast accuracy (2006).
    """
    gaps = np.abs(values[period:].astype(np.float64) - values[:-period])
    return float(np.nanmean(gaps)) if (~np.isnan(gaps)).any() else float("nan")


def plain_forecasts(windows: Windows, *, days: int = 14) -> dict[str, NDArray[np.float64]]:
    """Forecasts by rule: the last week again, and the mean of each weekday over four weeks; (m, days) each."""
    values = np.where(windows.inputs["mask"] > 0, windows.inputs["history"], np.nan).astype(np.float64)
    weeks = values.reshape(len(values), -1, 7)
    last = weeks[:, 0]
    for k in range(1, weeks.shape[1]):
        last = np.where(np.isnan(weeks[:, k]), last, weeks[:, k])
    recent = weeks[:, -4:]
    count = (~np.isnan(recent)).sum(axis=1)
    mean = np.where(count > 0, np.nansum(recent, axis=1) / np.maximum(count, 1), last)
    level = np.nansum(values, axis=1) / np.maximum((~np.isnan(values)).sum(axis=1), 1)
    place = np.arange(days) % 7
    return {
        name: np.where(np.isnan(week), level[:, None], week)[:, place]
        for name, week in (("seasonal naive", last), ("weekday mean of 4 weeks", mean))
    }


def blocks(panel: Panel, series: Ints, origin: Ints, stop: Ints) -> Floats:
    """The 393 days before each origin and the 90 from it on, (m, 483); NaN outside the series and from `stop` on."""
    at = origin[:, None] + np.arange(-DAYS_BACK, HORIZON)
    outside = (at < panel.start[series][:, None]) | (at >= stop[:, None])
    block: Floats = panel.value[np.clip(at, 0, len(panel.value) - 1)]
    block[outside] = np.nan
    return block


def tensors_of(block: Floats, first_day: Ints, nonnegative: NDArray[np.bool_]) -> dict[str, Floats]:
    """The graph's inputs of blocks, by the function that serving calls."""
    rows = len(block)
    day = (first_day[:, None] + np.arange(-DAYS_BACK, 0)).reshape(-1)
    stop = (np.arange(rows) + 1) * DAYS_BACK
    return features.tensors(
        day, np.ascontiguousarray(block[:, :DAYS_BACK]).reshape(-1), stop - DAYS_BACK, stop, first_day, nonnegative
    )
