"""Training of the predictor: posts go in, a calibrated module with its scores and its parity inputs comes out.

Rows are split by time: the model learns from the oldest, the next choose the epoch and calibrate, the rest only score.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from meshcast.posts import HistoryIndex, PostTable, settled_history
from meshcast.rpc.errors import InvalidInput
from meshcast.runtime import calibration
from meshcast.runtime.conformal import interval_coverage, interval_factors
from meshcast.runtime.timesplit import rows_needed, split_by_time
from meshcast.services.predictor import features
from meshcast.services.predictor.features import HISTORY_FEATURES, INPUTS, PLANNED_FEATURES, RECENT
from meshcast.services.predictor.model import LEVELS, EngagementModel

__all__ = ["Baselines", "Part", "Progress", "TrainSettings", "Trained", "judge", "scores", "split_rows", "train"]

Floats = NDArray[np.float32]

RECORDED_ROWS = 256
"""Validation rows kept as real inputs for the parity gate of an export."""

_LEVEL = HISTORY_FEATURES.index("log_engagement")
_MEDIAN = PLANNED_FEATURES.index("window_quantile_500")
_RECENT_MEDIAN = PLANNED_FEATURES.index("recent_median")
_RECENT_MEAN = PLANNED_FEATURES.index("recent_mean")
_COUNTS = ("views", "forwards", "replies", "reactions")
_CHUNK_ROWS = 4096
_GAIN_MIN = 1e-3  # a later epoch must be better by more than chance: on small validation parts later ones held worse
_CHANNEL_ROWS_MIN = 200  # fewer test rows leave a channel's coverage uncertain by more than 5 points


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How a predictor is trained; the defaults are the recipe of the shipped one.

    Attributes:
        train_before_unix_s: rows published before it train; None takes the first `train_share` of the rows.
        validate_before_unix_s: rows from there up to it validate; None takes the next `validate_share`.
        test_before_unix_s: rows up to it are the test part; None takes all that are left.
        train_share: share of rows that train, oldest first.
        validate_share: share of rows that choose the epoch and calibrate.
        rows_min: fewest training rows; the two other parts need a tenth of it.
        epochs: passes over the training rows; more where they are few, until `steps_min` steps are done.
        steps_min: fewest optimiser steps.
        patience: epochs without a better validation error after which training stops.
        batch_rows: rows of a step.
        learning_rate: highest learning rate, of one cosine cycle.
        weight_decay: decoupled weight decay.
        dropout: share of units left out.
        averaging: decay of the moving average of the weights, which is what is kept.
        count_dropout: share of training rows that see one count declared missing, so that it may be missing later.
        settle_s: age from which counts are settled, in seconds.
        threads: torch threads.
        seed: of everything random.
    """

    train_before_unix_s: int | None = None
    validate_before_unix_s: int | None = None
    test_before_unix_s: int | None = None
    train_share: float = 0.7
    validate_share: float = 0.12
    rows_min: int = 500
    epochs: int = 6
    steps_min: int = 1_500
    patience: int = 3
    batch_rows: int = 128
    learning_rate: float = 1.5e-3
    weight_decay: float = 1e-2
    dropout: float = 0.3
    averaging: float = 0.999
    count_dropout: float = 0.1
    settle_s: int = 86_400
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a training stands.

    Attributes:
        epoch: 1-based.
        epochs: planned epochs; fewer are run where training stops early.
        batch: batches done in this epoch.
        batches: batches of an epoch.
        loss: mean loss of this epoch so far.
        validation_mae: mean absolute error on the validation part, log1p units; None until the epoch is done.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    validation_mae: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Rows of one part of the split.

    Attributes:
        inputs: the graph's tensors, by name.
        target: shape (m,), float32, what the posts got, log1p(count).
        channel: shape (m,), int64, number of the row's channel.
        published_unix_s: shape (m,), int64.
        index: the posts and their histories as positions in the table.
    """

    inputs: dict[str, Floats]
    target: Floats
    channel: NDArray[np.int64]
    published_unix_s: NDArray[np.int64]
    index: HistoryIndex

    def __len__(self) -> int:
        return len(self.target)

    @property
    def recent_median(self) -> Floats:
        """Shape (m,), median of the last 20 settled posts, log1p(count)."""
        return self.inputs["planned"][:, _RECENT_MEDIAN]

    @property
    def window_median(self) -> Floats:
        """Shape (m,), median of up to 100 settled posts, log1p(count)."""
        return self.inputs["planned"][:, _MEDIAN]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """A trained predictor.

    Attributes:
        module: calibrated, in eval mode; see `EngagementModel`.
        recorded: real inputs of validation rows, by input name, for the parity gate of an export.
        metrics: data, split, recipe and scores beside the baselines; plain values that JSON can hold.
        test: the test part, for whoever wants to score something else on it.
        train: the training part.
    """

    module: EngagementModel
    recorded: dict[str, Floats]
    metrics: dict[str, Any]
    test: Part
    train: Part


def train(
    posts: PostTable, *, settings: TrainSettings | None = None, progress: Callable[[Progress], None] = lambda _: None
) -> Trained:
    """Trains, calibrates and scores a predictor.

    Args:
        posts: posts with settled counts, sorted by channel and time.
        settings: the recipe; the defaults are that of the shipped predictor.
        progress: called every few batches and after each epoch.

    Raises:
        InvalidInput: too few posts, no usable history, nothing to learn (engagement never varies), or an empty part.
    """
    settings = settings or TrainSettings()
    started = time.monotonic()
    learn, validation, test = split_rows(posts, settings)
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            rows = _with_missing_counts(posts, learn, settings)
            module, epochs, best = _fit(rows, validation, settings, progress)
        _calibrate(module, validation)
        judged = judge(module, test)
    finally:
        torch.set_num_threads(threads)
    metrics = {
        "data": _describe(posts),
        "split": {name: _span(part) for name, part in (("train", learn), ("validation", validation), ("test", test))},
        "recipe": {
            "parameters": sum(weights.numel() for weights in module.parameters()),
            "history_columns": len(HISTORY_FEATURES),
            "planned_columns": len(PLANNED_FEATURES),
            "epochs_run": epochs,
            "best_epoch": best,
            "seconds": round(time.monotonic() - started, 1),
            "settings": dataclasses.asdict(settings),
        },
        "test": {"model": judged, "baselines": Baselines(learn).scores(test)},
    }
    picked = np.linspace(0, len(validation) - 1, min(RECORDED_ROWS, len(validation))).astype(np.int64)
    recorded = {name: np.ascontiguousarray(validation.inputs[name][picked]) for name in INPUTS}
    return Trained(module=module, recorded=recorded, metrics=metrics, test=test, train=learn)


def split_rows(posts: PostTable, settings: TrainSettings) -> tuple[Part, Part, Part]:
    """The rows that a table gives, split by time into those that train, validate and test.

    Raises:
        InvalidInput: as `train`.
    """
    index = settled_history(posts, settle_s=settings.settle_s)
    target = features.log_engagement(posts)
    known = ~np.isnan(target[index.row])
    known &= features.usable_posts(posts, index.start, index.stop) >= features.POSTS_MIN
    index = HistoryIndex(row=index.row[known], start=index.start[known], stop=index.stop[known])
    if not len(index.row):
        raise InvalidInput(
            f"none of the {len(target)} posts has a usable history: {features.POSTS_MIN} posts of its channel that "
            f"are {settings.settle_s // 3600} h older, with at least one of forwards, replies and reactions known",
            field="posts",
        )
    needed = rows_needed(settings)
    if len(index.row) < needed:
        raise InvalidInput(
            f"too few posts: {len(index.row)} of {len(target)} have a usable history, training needs {needed}",
            field="posts",
        )
    if float(np.ptp(target[index.row])) == 0.0:
        raise InvalidInput("engagement is the same for every post, so there is nothing to learn", field="posts")

    masks = split_by_time(posts.published_unix_s[index.row], settings)
    channel = np.unique(posts.channel, return_inverse=True)[1].astype(np.int64)
    parts = [_part(posts, target, channel, index, np.flatnonzero(mask)) for mask in masks]
    return parts[0], parts[1], parts[2]


class Baselines:
    """Plain predictions that a model must beat, and the ridge regression of the residual to the median.

    Args:
        learn: the training part, for the ridge; it sees what the model sees of the plan and the last 20 levels.
    """

    def __init__(self, learn: Part) -> None:
        inputs = self.inputs(learn).astype(np.float64)
        self._mean = inputs.mean(axis=0)
        spread = inputs.std(axis=0)
        self._scale = np.where(spread > 1e-4, 1 / np.maximum(spread, 1e-4), 0.0)
        design = self._design(inputs)
        residual = (learn.target - learn.window_median).astype(np.float64)
        penalty = np.eye(design.shape[1])
        penalty[-1, -1] = 0.0
        self._weights = np.linalg.solve(design.T @ design + penalty, design.T @ residual)

    def predictions(self, part: Part) -> dict[str, Floats]:
        """Engagement by method, each (m,), log1p(count)."""
        ridge = part.window_median + self._design(self.inputs(part).astype(np.float64)) @ self._weights
        return {
            "last value": part.inputs["history"][:, -1, _LEVEL],
            "median of last 20": part.recent_median,
            "mean of last 20": part.inputs["planned"][:, _RECENT_MEAN],
            "median of last 100": part.window_median,
            "ridge on the residual": ridge.astype(np.float32),
        }

    def scores(self, part: Part) -> dict[str, dict[str, float | None]]:
        """The scores of each method."""
        return {name: scores(part, prediction) for name, prediction in self.predictions(part).items()}

    @staticmethod
    def inputs(part: Part) -> Floats:
        """What a model without a memory can use, (m, k): the plan, the summaries and the last 20 levels, relative."""
        planned = part.inputs["planned"].copy()
        levels = [
            k
            for k, name in enumerate(PLANNED_FEATURES)
            if name in ("recent_median", "recent_mean", "newest_mean", "window_mean") or name.startswith("window_quant")
        ]
        planned[:, levels] -= part.window_median[:, None]
        hour = planned[:, :1] * np.float32(math.tau / 24)
        last = part.inputs["history"][:, -RECENT:, _LEVEL] - part.window_median[:, None]
        return np.concatenate([planned, np.sin(hour), np.cos(hour), last], axis=1)

    def _design(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled = np.clip((inputs - self._mean) * self._scale, -6, 6)
        return np.concatenate([scaled, np.ones((len(scaled), 1))], axis=1)


def scores(part: Part, prediction: Floats, confidence: Floats | None = None) -> dict[str, float | None]:
    """Scores of a point prediction.

    Args:
        part: the rows.
        prediction: shape (m,), log1p(count).
        confidence: shape (m,), what ranks the rows for `auc`; the prediction's excess over the recent median when None.

    Returns:
        `mae` (log1p units), `spearman`, `spearman_within` (mean over channels of at least 20 rows) and `auc` of being
        above the recent median; None where a score does not exist, as the correlation with one answer for all.
    """
    above = part.target > part.recent_median
    excess = prediction - part.recent_median if confidence is None else confidence
    values = {
        "mae": float(np.abs(prediction - part.target).mean()),
        "spearman": calibration.rank_correlation(prediction, part.target),
        "spearman_within": calibration.rank_correlation_within(prediction, part.target, part.channel),
        "auc": calibration.area_under_curve(excess, above),
    }
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def judge(module: EngagementModel, part: Part) -> dict[str, Any]:
    """Scores of a calibrated module: those of `scores`, its coverage and the calibration error of its confidence.

    Args:
        module: as `Trained` has it.
        part: rows that it has not seen.

    Returns:
        The four scores, `ece`, `above_share`; `coverage` by level with the share of channels (of at least 200 rows)
        within 5 points of it; `channels_judged` and `channels_within_5_points_on_both`.
    """
    point, quantiles, confidence = _answers(module, part)
    above = part.target > part.recent_median
    judged: dict[str, Any] = dict(scores(part, point, confidence))
    judged["ece"] = calibration.expected_calibration_error(confidence, above)
    judged["above_share"] = float(above.mean())
    sizes = np.bincount(part.channel)
    large = np.flatnonzero(sizes >= _CHANNEL_ROWS_MIN)
    judged["coverage"] = {}
    near = np.ones(len(large), dtype=np.bool_)
    for name, level, low, high in (("80 %", 0.80, 1, 2), ("95 %", 0.95, 0, 3)):
        inside = interval_coverage(part.target, quantiles[:, low], quantiles[:, high])
        shares = np.array([inside[part.channel == channel].mean() for channel in large])
        close = np.abs(shares - level) <= 0.05
        near &= close
        judged["coverage"][name] = {
            "stated": level,
            "covered": float(inside.mean()),
            "mean_width": float((quantiles[:, high] - quantiles[:, low]).mean()),
            "channels_within_5_points": float(close.mean()) if len(large) else None,
        }
    judged["channels_judged"] = len(large)
    judged["channels_within_5_points_on_both"] = float(near.mean()) if len(large) else None
    return judged


def _part(
    posts: PostTable, target: Floats, channel: NDArray[np.int64], index: HistoryIndex, rows: NDArray[np.int64]
) -> Part:
    row, start, stop = index.row[rows], index.start[rows], index.stop[rows]
    return Part(
        inputs=_tensors(posts, row, start, stop),
        target=target[row],
        channel=channel[row],
        published_unix_s=posts.published_unix_s[row],
        index=HistoryIndex(row=row, start=start, stop=stop),
    )


def _tensors(
    posts: PostTable, row: NDArray[np.int64], start: NDArray[np.int64], stop: NDArray[np.int64]
) -> dict[str, Floats]:
    chunks = []
    for at in range(0, len(row), _CHUNK_ROWS):
        cut = slice(at, at + _CHUNK_ROWS)
        chunks.append(features.tensors(posts, posts.planned(row[cut]), start[cut], stop[cut]))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in INPUTS}


def _with_missing_counts(posts: PostTable, learn: Part, settings: TrainSettings) -> Part:
    """The training rows, some of them as they would look if their channel did not report one of the counts."""
    names = [name for name in _COUNTS if not np.isnan(getattr(posts, name)).all()]
    if not settings.count_dropout or len(names) < 2:
        return learn
    rng = np.random.default_rng(settings.seed)
    inputs = {name: column.copy() for name, column in learn.inputs.items()}
    target = learn.target.copy()
    fate = rng.random(len(learn)) / settings.count_dropout * len(names)
    for k, name in enumerate(names):
        unknown: Any = {name: np.full(len(posts.channel), np.nan, dtype=np.float32)}
        lacking = dataclasses.replace(posts, **unknown)
        level = features.log_engagement(lacking)
        rows = np.flatnonzero((fate >= k) & (fate < k + 1))
        index = learn.index
        usable = features.usable_posts(lacking, index.start[rows], index.stop[rows]) >= features.POSTS_MIN
        rows = rows[usable & ~np.isnan(level[index.row[rows]])]
        if len(rows):
            for key, column in _tensors(lacking, index.row[rows], index.start[rows], index.stop[rows]).items():
                inputs[key][rows] = column
            target[rows] = level[index.row[rows]]
    return dataclasses.replace(learn, inputs=inputs, target=target)


def _fit(
    learn: Part, validation: Part, settings: TrainSettings, progress: Callable[[Progress], None]
) -> tuple[EngagementModel, int, int]:
    """The averaged model of the best epoch, with the epochs run and which was best."""
    tensors = _as_tensors(learn)
    target = torch.from_numpy(learn.target)
    module = EngagementModel(dropout=settings.dropout)
    module.fit_scaling(*tensors)
    averaged = copy.deepcopy(module)
    batches = math.ceil(len(learn) / settings.batch_rows)
    epochs = max(settings.epochs, math.ceil(settings.steps_min / batches))
    optimiser = torch.optim.AdamW(module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=epochs * batches, pct_start=0.1
    )
    best_mae, best_epoch, best = math.inf, 0, copy.deepcopy(averaged.state_dict())
    step, epoch = 0, 0
    for epoch in range(1, epochs + 1):
        module.train()
        total = 0.0
        for batch, rows in enumerate(_chunks(torch.randperm(len(learn)), settings.batch_rows), start=1):
            loss = _loss(module, [column[rows] for column in tensors], target[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            step += 1
            _average(averaged, module, min(settings.averaging, (1 + step) / (10 + step)))
            total += float(loss.detach())
            if batch % 20 == 0:
                progress(Progress(epoch=epoch, epochs=epochs, batch=batch, batches=batches, loss=total / batch))
        mae = float(np.abs(_answers(averaged, validation)[0] - validation.target).mean())
        progress(
            Progress(
                epoch=epoch, epochs=epochs, batch=batches, batches=batches, loss=total / batches, validation_mae=mae
            )
        )
        if mae < best_mae * (1 - _GAIN_MIN):
            best_mae, best_epoch, best = mae, epoch, copy.deepcopy(averaged.state_dict())
        elif epoch - best_epoch >= settings.patience:
            break
    averaged.load_state_dict(best)
    return averaged.eval(), epoch, best_epoch


def _loss(module: EngagementModel, inputs: list[Tensor], target: Tensor) -> Tensor:
    """Of the middle (Huber), the four quantiles (pinball) and being above the recent median (log loss), together."""
    planned = inputs[-1]
    residual = (target - planned[:, _MEDIAN])[:, None]
    answer = module.residual(*inputs)
    levels = torch.tensor(LEVELS)
    miss = residual - answer.shift - answer.offsets()
    middle = nn.functional.smooth_l1_loss(answer.shift, residual, beta=0.5)
    quantiles = torch.maximum(levels * miss, (levels - 1) * miss).sum(dim=1).mean()
    above = (target > planned[:, _RECENT_MEDIAN]).float()
    confidence = nn.functional.binary_cross_entropy_with_logits(answer.logit, above)
    return middle + 0.5 * quantiles + 0.5 * confidence


@torch.no_grad()
def _average(averaged: nn.Module, module: nn.Module, decay: float) -> None:
    for kept, new in zip(averaged.parameters(), module.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)


def _as_tensors(part: Part) -> list[Tensor]:
    return [torch.from_numpy(part.inputs[name]) for name in INPUTS]


def _chunks(rows: Tensor, size: int) -> list[Tensor]:
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def _input_chunks(part: Part) -> list[tuple[Tensor, ...]]:
    return list(zip(*(_chunks(column, _CHUNK_ROWS) for column in _as_tensors(part)), strict=True))


@torch.no_grad()
def _answers(module: EngagementModel, part: Part) -> tuple[Floats, Floats, Floats]:
    module.eval()
    answers = [module(*chunk) for chunk in _input_chunks(part)]
    point, quantiles, confidence = (torch.cat(columns).numpy() for columns in zip(*answers, strict=True))
    return point, quantiles, confidence


@torch.no_grad()
def _calibrate(module: EngagementModel, validation: Part) -> None:
    answers = [module.residual(*chunk) for chunk in _input_chunks(validation)]
    shift = torch.cat([answer.shift for answer in answers]).numpy()
    offsets = torch.cat([answer.offsets() for answer in answers]).numpy()
    logits = torch.cat([answer.logit for answer in answers]).numpy()
    residual = validation.target - validation.window_median
    factors = interval_factors(residual - shift[:, 0], offsets, LEVELS)
    line = calibration.confidence_line(logits, validation.target > validation.recent_median)
    module.set_calibration(
        interval_factors=torch.tensor(factors, dtype=torch.float32), confidence_line=torch.tensor(line)
    )


def _describe(posts: PostTable) -> dict[str, Any]:
    return {
        "channels": len(np.unique(posts.channel)),
        "posts": len(posts.channel),
        "first_unix_s": int(posts.published_unix_s.min()),
        "last_unix_s": int(posts.published_unix_s.max()),
        "missing_share": {name: float(np.isnan(getattr(posts, name)).mean()) for name in _COUNTS},
    }


def _span(part: Part) -> dict[str, int]:
    return {
        "rows": len(part),
        "channels": len(np.unique(part.channel)),
        "first_unix_s": int(part.published_unix_s.min()),
        "last_unix_s": int(part.published_unix_s.max()),
    }
