"""Training of the forecaster: daily series go in, a calibrated module with its scores and its parity inputs comes out.

Every series is split by time: the model learns from its oldest days, the next calibrate, the rest only score. Windows
are drawn at random from the training days and from made-up series, and disturbed in ways that real ones are: days
missing, short histories, other levels and trends.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from meshcast.rpc.errors import InvalidInput
from meshcast.runtime.conformal import interval_coverage, interval_factors
from meshcast.services.forecaster import features, synthetic
from meshcast.services.forecaster.features import DAYS_BACK, DAYS_MIN, HISTORY, HORIZON, INPUTS
from meshcast.services.forecaster.model import MEDIAN, ForecastModel
from meshcast.services.forecaster.signature import LEVELS

__all__ = [
    "Panel",
    "Progress",
    "TrainSettings",
    "Trained",
    "Windows",
    "calibrate",
    "fit",
    "judge",
    "plain_forecasts",
    "quantiles_of",
    "season_scale",
    "test_windows",
    "train",
]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Batch = tuple[tuple[Tensor, ...], Tensor]
"""The graph's inputs and what came, (B, horizon) in the unit of the series, NaN where unknown."""

RECORDED_ROWS = 64
"""Validation windows kept as real inputs for the parity gate of an export."""

WEIGHTS = Path(__file__).parent / "weights.npz"
"""Weights that ship, as named arrays: where a training on a user's file starts."""

_SPAN = DAYS_BACK + HORIZON
_CHUNK_ROWS = 512
_MISS_MAX = 15.0  # spreads; one freak day must not outweigh all others of a batch
_KNOTS = (0, 2, 6, 13, 29, 59, 89)  # days of the horizon that calibration is measured around
# Intervals that hold on validation days hold less often on later ones: by 1.8 points of 80, 90 and 95 % on the 17 sets
# that hold neither Chicago nor births by state. Half of it goes on either side, less where the tail is thinner.
_MARGIN, _MARGIN_SHARE = 0.009, 0.35
_SIDES = [j for j in range(len(LEVELS)) if j != MEDIAN]
_ASKED = [
    level - math.copysign(min(_MARGIN, _MARGIN_SHARE * min(level, 1 - level)), 0.5 - level)
    for level in (LEVELS[j] for j in _SIDES)
]
_SYNTHETIC_DAYS = 620
_SYNTHETIC_POOL = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How a forecaster is trained; the defaults are those for a user's file, which starts from the weights that ship.

    Attributes:
        train_share: share of each series' days that train, oldest first.
        validate_share: share that chooses the step and calibrates.
        days_min: fewest days from its first to its last value that a series must span to take part.
        steps: optimiser steps.
        batch_rows: windows of a step.
        ahead: days of the horizon that a step decodes, drawn anew each time; more than half of them within two weeks.
        synthetic_share: share of made-up windows.
        learning_rate: highest learning rate, of one cosine cycle.
        weight_decay: decoupled weight decay.
        dropout: share of units left out.
        averaging: decay of the moving average of the weights, which is what is kept.
        checks: times that validation is looked at.
        calibration_windows: most windows that the intervals are calibrated on.
        test_windows: most windows that score.
        nonnegative: True declares every series non-negative, False none; None those that never fell below 0.
        from_scratch: True ignores the weights that ship.
        threads: torch threads.
        seed: of everything random.
    """

    train_share: float = 0.75
    validate_share: float = 0.125
    days_min: int = 112
    steps: int = 600
    batch_rows: int = 128
    ahead: int = 16
    synthetic_share: float = 0.5
    learning_rate: float = 4e-4
    weight_decay: float = 1e-2
    dropout: float = 0.1
    averaging: float = 0.995
    checks: int = 6
    calibration_windows: int = 3_000
    test_windows: int = 2_000
    nonnegative: bool | None = None
    from_scratch: bool = False
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a training stands.

    Attributes:
        step: optimiser steps done.
        steps: planned.
        loss: mean loss since the last report.
        validation: loss on the validation windows; None between checks.
    """

    step: int
    steps: int
    loss: float
    validation: float | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """A trained forecaster.

    Attributes:
        module: calibrated, in eval mode.
        recorded: real inputs, by name, for the parity gate of an export.
        metrics: data, split, recipe and scores beside the baselines; plain values that JSON can hold.
    """

    module: ForecastModel
    recorded: dict[str, Floats]
    metrics: dict[str, Any]


def train(
    panel: Panel,
    *,
    settings: TrainSettings | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    start: Mapping[str, NDArray[Any]] | None = None,
) -> Trained:
    """Trains, calibrates and scores a forecaster.

    Args:
        panel: the series, with their split.
        settings: the recipe.
        progress: called every few steps.
        start: weights to start from, by name; None starts from those that ship, if there are any.

    Raises:
        InvalidInput: too few days to learn from, or nothing to learn (every series is constant).
    """
    settings = settings or TrainSettings()
    started = time.monotonic()
    _check(panel, settings)
    rng = np.random.default_rng(settings.seed)
    validation = test_windows(panel, "validation", rng=rng, windows_max=settings.calibration_windows)
    if not len(validation):
        raise InvalidInput(
            f"too few values: nowhere in the validation part do {DAYS_MIN} values of the 16 weeks before a day stand "
            "before one that is known",
            field="series",
        )
    held = test_windows(panel, "test", rng=rng, windows_max=settings.test_windows)
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            module = ForecastModel(dropout=settings.dropout)
            begun = None if settings.from_scratch else (shipped_weights() if start is None else start)
            if begun is not None:
                set_weights(module, begun)
            module, best = fit(
                module,
                Sampler(panel, rng, settings),
                _batches(validation),
                settings=settings,
                progress=progress,
                keep_start=begun is not None,
            )
        made_up = _made_up(rng, max(400 - len(validation), len(validation) // 4))
        calibrate(module, [validation, test_windows(made_up, "test", rng=rng, windows_max=len(made_up))])
        judged = judge(module, held)
    finally:
        torch.set_num_threads(threads)
    metrics = {
        "data": _describe(panel),
        "split": {
            "training_days": int((panel.learn_stop - panel.start).sum()),
            "validation_windows": len(validation),
            "test_windows": len(held),
        },
        "recipe": {
            "parameters": sum(weights.numel() for weights in module.parameters()),
            "started_from_shipped": begun is not None,
            "best_step": best,
            "seconds": round(time.monotonic() - started, 1),
            "settings": dataclasses.asdict(settings),
        },
        "test": judged,
    }
    pick = np.linspace(0, len(validation) - 1, min(RECORDED_ROWS, len(validation))).astype(np.int64)
    recorded = {name: np.ascontiguousarray(validation.inputs[name][pick]) for name in INPUTS}
    return Trained(module=module, recorded=recorded, metrics=metrics)


def fit(
    module: ForecastModel,
    sample: Callable[[int], Batch],
    validation: list[Batch],
    *,
    settings: TrainSettings,
    progress: Callable[[Progress], None] = lambda _: None,
    keep_start: bool = False,
) -> tuple[ForecastModel, int]:
    """Trains a module by pinball loss in units of each series' spread.

    Args:
        module: to be trained; of any period and horizon.
        sample: gives a batch of that many rows.
        validation: batches that choose the step; empty keeps the last.
        settings: steps, batch, rates, seed.
        progress: called every 20 steps and at each check.
        keep_start: True lets the weights it came with win.

    Returns:
        The averaged module of the best check, in eval mode, and its step.
    """
    rng = np.random.default_rng(settings.seed + 1)
    averaged = copy.deepcopy(module).eval()
    optimiser = torch.optim.AdamW(module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=settings.learning_rate, total_steps=settings.steps + 1, pct_start=0.1
    )
    best, best_step, best_state = math.inf, 0, copy.deepcopy(averaged.state_dict())
    if keep_start and validation:
        best = _loss_on(averaged, validation)
    every = max(settings.steps // max(settings.checks, 1), 1)
    recent: list[float] = []
    for step in range(1, settings.steps + 1):
        module.train()
        inputs, target = sample(settings.batch_rows)
        ahead = _ahead(rng, module.horizon, settings.ahead)
        loss = _loss(module, inputs, target, ahead)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        _average(averaged, module, min(settings.averaging, step / (step + 10)))
        recent.append(float(loss.detach()))
        if step % every == 0 or step == settings.steps:
            value = _loss_on(averaged, validation) if validation else 0.0
            if value < best or not validation:
                best, best_step, best_state = value, step, copy.deepcopy(averaged.state_dict())
            progress(Progress(step=step, steps=settings.steps, loss=float(np.mean(recent)), validation=value))
            recent = []
        elif step % 20 == 0:
            progress(Progress(step=step, steps=settings.steps, loss=float(np.mean(recent))))
    averaged.load_state_dict(best_state)
    return averaged.eval(), best_step


class Sampler:
    """Draws training windows, made-up ones among them, and disturbs them.

    Args:
        panel: the series; only their training days are drawn from.
        rng: source of chance.
        settings: share of made-up windows.
    """

    def __init__(self, panel: Panel, rng: np.random.Generator, settings: TrainSettings) -> None:
        self._panel, self._rng = panel, rng
        self._synthetic_share = settings.synthetic_share
        usable = panel.learn_stop - panel.start > 2 * DAYS_MIN
        length = np.where(usable, panel.learn_stop - panel.start, 0).astype(np.float64)
        weight = np.zeros(len(panel))
        for source in np.unique(panel.source):
            mine = panel.source == source
            # a set of many series counts more than one of few, but far from in proportion
            own = np.sqrt(np.minimum(length[mine], 2_000.0))
            if own.sum() > 0:
                weight[mine] = own / own.sum() * (mine & usable).sum() ** 0.45
        self._weight = weight / weight.sum()
        self._made_up = _made_up(rng, _SYNTHETIC_POOL) if settings.synthetic_share > 0 else None
        self._drawn = 0

    def __call__(self, rows: int) -> Batch:
        """A batch of that many windows."""
        rng = self._rng
        made_up = 0
        parts: list[tuple[Floats, Ints, NDArray[np.bool_]]] = []
        if self._made_up is not None:
            made_up = int(rng.binomial(rows, self._synthetic_share))
            self._drawn += made_up
            if self._drawn > 4 * _SYNTHETIC_POOL:
                self._made_up, self._drawn = _made_up(rng, _SYNTHETIC_POOL), 0
            if made_up:
                parts.append(self._draw(self._made_up, rng.integers(0, len(self._made_up), made_up)))
        if rows > made_up:
            parts.append(self._draw(self._panel, rng.choice(len(self._panel), rows - made_up, p=self._weight)))
        block, day, flag = (np.concatenate(column) for column in zip(*parts, strict=True))
        block, day, flag = _disturbed(rng, block, day, flag)
        inputs = _tensors_of(block, day, flag)
        return tuple(torch.from_numpy(inputs[name]) for name in INPUTS), torch.from_numpy(block[:, DAYS_BACK:])

    def _draw(self, panel: Panel, series: Ints) -> tuple[Floats, Ints, NDArray[np.bool_]]:
        low, high = panel.start[series] + DAYS_MIN, panel.learn_stop[series] - 1
        # half of the windows see all of the horizon, where the series is long enough
        full = np.maximum(high - HORIZON + 1, low)
        high = np.where(self._rng.random(len(series)) < 0.7, full, high)
        origin = low + (self._rng.random(len(series)) * (high - low + 1)).astype(np.int64)
        block = _blocks(panel, series, origin, panel.learn_stop[series])
        return block, panel.first_day[series] + origin - panel.start[series], panel.nonnegative[series]


def test_windows(
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
    block = _blocks(panel, row, origin, end[row])
    inputs = _tensors_of(block, panel.first_day[row] + origin - panel.start[row], panel.nonnegative[row])
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


def quantiles_of(module: ForecastModel, inputs: Mapping[str, Floats]) -> Floats:
    """The module's answers, (m, horizon, 9), in chunks."""
    columns = [torch.from_numpy(inputs[name]) for name in INPUTS]
    rows = len(columns[0])
    if not rows:
        return np.zeros((0, module.horizon, len(LEVELS)), np.float32)
    with torch.no_grad():
        parts = [module(*(c[at : at + _CHUNK_ROWS] for c in columns)).numpy() for at in range(0, rows, _CHUNK_ROWS)]
    return np.concatenate(parts)


def judge(module: ForecastModel, windows: Windows, *, days: int = 14) -> dict[str, Any]:
    """Scores of a module beside forecasts by rule.

    Args:
        module: as `Trained` has it.
        windows: that it has not seen.
        days: days ahead that count.

    Returns:
        `mase` by method (season 7, each window's mean over the days, then the mean over windows) and, by interval,
        `covered` and `width` (mean over known days, divided by the window's scale).
    """
    quantiles = quantiles_of(module, windows.inputs)[:, :days].astype(np.float64)
    target = windows.target[:, :days].astype(np.float64)
    use = np.isfinite(windows.scale) & (windows.scale > 0)
    scale = np.where(use, windows.scale, 1.0)[:, None]
    forecasts = {"model": quantiles[:, :, MEDIAN], **plain_forecasts(windows, days=days)}
    found: dict[str, Any] = {"windows": int(use.sum()), "mase": {}, "coverage": {}}
    for name, forecast in forecasts.items():
        errors = np.abs(forecast - target) / scale
        known = ~np.isnan(errors)
        each = np.where(known, errors, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        found["mase"][name] = float(each[use].mean()) if use.any() else None
    known = ~np.isnan(target)
    for name, stated, low, high in (("80 %", 0.80, 2, 6), ("90 %", 0.90, 1, 7), ("95 %", 0.95, 0, 8)):
        inside = interval_coverage(target, quantiles[:, :, low], quantiles[:, :, high])
        width = ((quantiles[:, :, high] - quantiles[:, :, low]) / scale)[use]
        found["coverage"][name] = {
            "stated": stated,
            "covered": float(inside[known].mean()) if known.any() else None,
            "width": float(width[known[use]].mean()) if known[use].any() else None,
            "width_median": float(np.median(width[known[use]])) if known[use].any() else None,
        }
    return found


@torch.no_grad()
def calibrate(module: ForecastModel, parts: Iterable[Windows]) -> None:
    """Stretches the module's intervals until they hold on windows that training did not see.

    One-sided conformal quantiles of miss over distance from the median, by level, around a few days of the horizon and
    straight in between.

    Source: Romano, Patterson, Candes, Conformalized Quantile Regression (NeurIPS 2019), with normalised scores.
    """
    misses, offsets = [], []
    for windows in parts:
        columns = [torch.from_numpy(windows.inputs[name]) for name in INPUTS]
        for at in range(0, len(windows), _CHUNK_ROWS):
            inputs = tuple(column[at : at + _CHUNK_ROWS] for column in columns)
            target = torch.from_numpy(windows.target[at : at + _CHUNK_ROWS])
            middle, distance, units = module.scaled(inputs)
            misses.append(module.rescaled(target, units, inputs[-1]) - middle)
            offsets.append(distance)
    module.set_factors(factors_of(torch.cat(misses).numpy(), torch.cat(offsets).numpy()))


def factors_of(misses: Floats, offsets: Floats, *, knots: tuple[int, ...] = _KNOTS) -> Tensor:
    """Factors of the distances, (horizon, 9), from misses (m, horizon) and distances (m, horizon, 9)."""
    horizon = misses.shape[1]
    found = np.ones((len(knots), len(LEVELS)))
    edges = [0, *((low + high + 1) // 2 for low, high in pairwise(knots)), horizon]
    for k, (low, high) in enumerate(pairwise(edges)):
        miss, offset = misses[:, low:high].reshape(-1), offsets[:, low:high].reshape(-1, len(LEVELS))
        known = ~np.isnan(miss)
        if int(known.sum()) < 100:
            found[k] = found[max(k - 1, 0)]
            continue
        found[k, _SIDES] = interval_factors(miss[known], offset[known][:, _SIDES], _ASKED)
    every = [np.interp(np.arange(horizon), knots, found[:, j]) for j in range(len(LEVELS))]
    return torch.tensor(np.stack(every, axis=1), dtype=torch.float32)


def shipped_weights() -> dict[str, NDArray[Any]] | None:
    """The weights that ship, by name; None where there are none."""
    if not WEIGHTS.is_file():
        return None
    with np.load(WEIGHTS, allow_pickle=False) as kept:
        return dict(kept)


def set_weights(module: nn.Module, weights: Mapping[str, NDArray[Any]]) -> None:
    """Loads weights that `weights_of` gave."""
    module.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})


def weights_of(module: nn.Module) -> dict[str, NDArray[Any]]:
    """The weights and factors of a module, by name, as float32 arrays."""
    return {name: value.numpy() for name, value in module.state_dict().items()}


def _check(panel: Panel, settings: TrainSettings) -> None:
    length = panel.stop - panel.start
    if not (length >= settings.days_min).any():
        raise InvalidInput(
            f"too short: no series spans {settings.days_min} days, the longest {int(length.max(initial=0))}",
            field="series",
        )
    if not (panel.learn_stop - panel.start > 2 * DAYS_MIN).any():
        raise InvalidInput(f"too short: no series has more than {2 * DAYS_MIN} days that train", field="series")
    if not any(np.nanstd(panel.value[a:b]) > 0 for a, b in zip(panel.start, panel.stop, strict=True) if b - a >= 2):
        raise InvalidInput("every series is constant, so there is nothing to learn", field="series")


def _made_up(rng: np.random.Generator, series: int) -> Panel:
    """Made-up series whose windows all end well inside them; the last 90 days test."""
    counts = int(series * 0.85)
    day = rng.integers(10_000, 20_000, series)
    drawn = [
        synthetic.draw_counts(rng, counts, _SYNTHETIC_DAYS, day[:counts]),
        synthetic.draw_signed(rng, series - counts, _SYNTHETIC_DAYS, day[counts:]),
    ]
    size = np.full(series, _SYNTHETIC_DAYS, dtype=np.int64)
    stop = np.cumsum(size)
    return Panel(
        value=np.concatenate(drawn).astype(np.float32).reshape(-1),
        start=stop - size,
        stop=stop,
        learn_stop=stop,
        validate_stop=stop - HORIZON,
        first_day=day,
        nonnegative=np.arange(series) < counts,
        source=np.zeros(series, dtype=np.int64),
    )


def _blocks(panel: Panel, series: Ints, origin: Ints, stop: Ints) -> Floats:
    """The 393 days before each origin and the 90 from it on, (m, 483); NaN outside the series and from `stop` on."""
    at = origin[:, None] + np.arange(-DAYS_BACK, HORIZON)
    outside = (at < panel.start[series][:, None]) | (at >= stop[:, None])
    block: Floats = panel.value[np.clip(at, 0, len(panel.value) - 1)]
    block[outside] = np.nan
    return block


def _tensors_of(block: Floats, first_day: Ints, nonnegative: NDArray[np.bool_]) -> dict[str, Floats]:
    """The graph's inputs of blocks, by the function that serving calls."""
    rows = len(block)
    day = (first_day[:, None] + np.arange(-DAYS_BACK, 0)).reshape(-1)
    stop = (np.arange(rows) + 1) * DAYS_BACK
    return features.tensors(
        day, np.ascontiguousarray(block[:, :DAYS_BACK]).reshape(-1), stop - DAYS_BACK, stop, first_day, nonnegative
    )


def _disturbed(
    rng: np.random.Generator, block: Floats, day: Ints, flag: NDArray[np.bool_]
) -> tuple[Floats, Ints, NDArray[np.bool_]]:
    """Windows as they might have been: mixed, tilted, bent, shorter, with days missing, not declared non-negative."""
    rows = len(block)

    def some(share: float) -> NDArray[np.bool_]:
        return np.asarray(rng.random(rows) < share)

    with np.errstate(invalid="ignore", over="ignore"):
        size = np.nansum(np.abs(block), axis=1) / np.maximum((~np.isnan(block)).sum(axis=1), 1)
        block = block / np.where(size > 0, size, 1.0).astype(np.float32)[:, None]
        mixed = flag & some(0.15)
        other = rng.permutation(rows)
        mixed &= flag[other]
        share = rng.uniform(0.2, 0.8, (rows, 1)).astype(np.float32)
        both = share * block + (1 - share) * block[other]
        block = np.where(mixed[:, None] & ~np.isnan(both), both, block)
        bent = flag & some(0.2)
        power = np.where(bent, rng.uniform(0.5, 1.6, rows), 1.0).astype(np.float32)
        raised = np.asarray(np.maximum(block, 0.0) ** power[:, None], dtype=np.float32)
        block = np.where(flag[:, None], raised, block)
        tilt = np.where(flag & some(0.25), rng.normal(0, 0.3, rows), 0.0)
        block = block * np.exp(tilt[:, None] * np.arange(-DAYS_BACK, HORIZON) / 90).astype(np.float32)
        rough = np.where(flag & some(0.15), rng.uniform(0, 0.4, rows), 0.0)
        block = block * np.exp(rough[:, None] * rng.normal(size=block.shape)).astype(np.float32)
        turned = ~flag & some(0.5)
        block = np.where(turned[:, None], -block, block)
        moved = ~flag & some(0.3)
        block = block + np.where(moved, rng.normal(0, 2, rows), 0.0)[:, None].astype(np.float32)
    flag = flag & ~some(0.12)
    day = np.where(some(0.2), day + rng.integers(0, 3_650, rows), day)
    past = block[:, :DAYS_BACK]
    short = np.where(some(0.35), np.exp(rng.uniform(math.log(DAYS_MIN), math.log(DAYS_BACK), rows)), DAYS_BACK)
    ago = np.arange(DAYS_BACK, 0, -1)
    gone = ago > short[:, None]
    rate = np.where(some(0.15), rng.uniform(0, 0.5, rows), 0.0)
    gone |= rng.random(past.shape) < rate[:, None]
    gap = np.where(some(0.08), rng.integers(1, 60, rows), 0)
    gap_at = rng.integers(1, HISTORY, rows)
    gone |= (ago >= gap_at[:, None]) & (ago < (gap_at + gap)[:, None])
    enough = (~gone & ~np.isnan(past))[:, -HISTORY:].sum(axis=1) >= DAYS_MIN // 2
    past[gone & enough[:, None]] = np.nan
    return block, day, flag


def _ahead(rng: np.random.Generator, horizon: int, count: int) -> Tensor:
    """Days of the horizon to decode, ascending; more than half of them within the first two weeks."""
    near = min(14, horizon)
    if horizon <= count:
        return torch.arange(horizon)
    first = rng.choice(near, min(near, (count * 5) // 8), replace=False)
    rest = rng.choice(np.arange(near, horizon), min(count - len(first), horizon - near), replace=False)
    return torch.from_numpy(np.sort(np.concatenate([first, rest])).astype(np.int64))


def _loss(module: ForecastModel, inputs: tuple[Tensor, ...], target: Tensor, ahead: Tensor) -> Tensor:
    """Pinball loss of the nine quantiles, the median's counted thrice, in spreads."""
    middle, offsets, units = module.scaled(inputs, ahead=ahead)
    wanted = module.rescaled(target[:, ahead], units, inputs[-1])
    known = ~torch.isnan(wanted)
    miss = (
        torch.where(known, wanted - middle, torch.zeros_like(middle)).clamp(-_MISS_MAX, _MISS_MAX)[:, :, None] - offsets
    )
    levels = torch.tensor(LEVELS)
    weights = torch.ones(len(LEVELS))
    weights[MEDIAN] = 3.0
    pinball = torch.maximum(levels * miss, (levels - 1) * miss) * weights
    return (pinball.sum(dim=2) * known).sum() / known.sum().clamp(min=1)


@torch.no_grad()
def _loss_on(module: ForecastModel, batches: list[Batch]) -> float:
    ahead = torch.arange(min(28, module.horizon))
    values = [float(_loss(module, inputs, target, ahead)) * len(target) for inputs, target in batches]
    return sum(values) / sum(len(target) for _, target in batches)


@torch.no_grad()
def _average(averaged: nn.Module, module: nn.Module, decay: float) -> None:
    for kept, new in zip(averaged.parameters(), module.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)


def _batches(windows: Windows) -> list[Batch]:
    columns = [torch.from_numpy(windows.inputs[name]) for name in INPUTS]
    target = torch.from_numpy(windows.target)
    return [
        (tuple(column[at : at + _CHUNK_ROWS] for column in columns), target[at : at + _CHUNK_ROWS])
        for at in range(0, len(windows), _CHUNK_ROWS)
    ]


def _describe(panel: Panel) -> dict[str, Any]:
    return {
        "series": len(panel),
        "days": len(panel.value),
        "first_day": int(panel.first_day.min()),
        "last_day": int((panel.first_day + panel.stop - panel.start).max()) - 1,
        "missing_share": float(np.isnan(panel.value).mean()),
    }
