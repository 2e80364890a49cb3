"""Training of the content model: posts with texts go in, a calibrated module with its scores comes out.

Rows are split by time: the model learns from the oldest, the next choose the epoch and calibrate, the rest only score.
The bag of n-grams is fitted first, as a convex problem; the network then learns beside what bags say of posts that they
were not fitted on, so that it learns what a bag misses.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from meshcast.contents import ContentRows
from meshcast.runtime import calibration
from meshcast.services.analyzer import features
from meshcast.services.analyzer.bag import Bags, BagWeights, fit_bag, out_of_fold
from meshcast.services.analyzer.baselines import answer_of_shares, tfidf_answers
from meshcast.services.analyzer.features import Tokenized
from meshcast.services.analyzer.model import OUTPUTS, ContentModel, plan_columns
from meshcast.services.analyzer.outcomes import outcomes_of
from meshcast.services.analyzer.parts import Part, judge, parts_of, split
from meshcast.services.analyzer.recipe import TrainSettings

__all__ = ["Progress", "TrainSettings", "Trained", "answers", "fit", "read", "train"]

Floats = NDArray[np.float32]
Positions = NDArray[np.int64]

RECORDED_ROWS = 256
"""Validation rows kept as real inputs for the parity gate of an export."""

_BUCKETS = (1 << 14, 1 << 20)
_BUCKETS_A_ROW = 8  # with fewer, n-grams that share a bucket cost accuracy; with more nothing is gained
_PENALTIES = (3.0, 6.0, 12.0)  # many rows need little, a few thousand much
_READ_ROWS = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a training stands.

    Attributes:
        doing: `reading texts`, `fitting n-grams` or `training`.
        done: units of it that are done.
        total: units of it there are; a training that stops early does fewer.
        validation_loss: of the epoch that ended, nats; None in between.
    """

    doing: str
    done: int
    total: int
    validation_loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """A trained content model.

    Attributes:
        module: calibrated, in eval mode; see `ContentModel`.
        recorded: real inputs of validation rows, by input name, for the parity gate of an export.
        metrics: data, split, recipe and scores; plain values that JSON can hold.
        parts: the training, the validation and the test part.
    """

    module: ContentModel
    recorded: dict[str, NDArray[Any]]
    metrics: dict[str, Any]
    parts: tuple[Part, Part, Part]


def train(
    rows: ContentRows, *, settings: TrainSettings | None = None, progress: Callable[[Progress], None] = lambda _: None
) -> Trained:
    """Trains, calibrates and scores a content model.

    Args:
        rows: posts with texts and settled outcomes, in any order.
        settings: the recipe; the defaults are that of the shipped model.
        progress: called every few batches and after each epoch.

    Raises:
        InvalidInput: too few posts, no usable history, one answer for all, or an empty part.
    """
    settings = settings or TrainSettings()
    started = time.monotonic()
    parts = parts_of(*split(outcomes_of(rows, settle_s=settings.settle_s), settings))
    learn, validation, test = parts
    tokenized = read(rows, progress)
    module, recipe = fit(tokenized, learn, validation, settings=settings, progress=progress)
    recipe["seconds"] = round(time.monotonic() - started, 1)
    named = zip(("train", "validation", "test"), parts, strict=True)
    metrics = {
        "data": {
            "channels": len(np.unique(rows.channel)),
            "posts": len(rows),
            "titled_share": float(np.mean([bool(title) for title in rows.contents.title])),
            "first_unix_s": int(min(part.published_unix_s.min() for part in parts)),
            "last_unix_s": int(max(part.published_unix_s.max() for part in parts)),
        },
        "split": {name: _span(part) for name, part in named},
        "recipe": recipe,
        "test": {"model": judge(answers(module, tokenized, test), test), "baselines": _baselines(rows, parts)},
    }
    picked = validation.row[np.linspace(0, len(validation) - 1, min(RECORDED_ROWS, len(validation))).astype(np.int64)]
    return Trained(module=module, recorded=features.padded(tokenized, picked), metrics=metrics, parts=parts)


def read(rows: ContentRows, progress: Callable[[Progress], None] = lambda _: None) -> Tokenized:
    """The contents of all rows as the graph reads them; told how far it is, since a million texts take minutes."""
    chunks = []
    for at in range(0, len(rows), _READ_ROWS):
        chunks.append(features.rows(rows.contents[at : at + _READ_ROWS]))
        progress(Progress(doing="reading texts", done=min(at + _READ_ROWS, len(rows)), total=len(rows)))
    return Tokenized.joined(chunks)


def fit(
    tokenized: Tokenized,
    learn: Part,
    validation: Part,
    *,
    settings: TrainSettings,
    progress: Callable[[Progress], None] = lambda _: None,
) -> tuple[ContentModel, dict[str, Any]]:
    """A calibrated module, and what a model card says of its recipe.

    Args:
        tokenized: contents that the parts point into.
        learn: rows that train.
        validation: rows that choose the epoch and calibrate; the bag that is kept is fitted on them too.
        settings: the recipe.
        progress: as `train`.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            data = _Data.of(tokenized, learn, validation, settings, progress)
            module, epochs, best = _fit_network(data, settings, progress)
            parameters = sum(weights.numel() for weights in module.parameters())
            module.reader.pack()
            _calibrate(module, data)
    finally:
        torch.set_num_threads(threads)
    recipe = {
        "parameters": parameters,
        "buckets": module.bag.buckets,
        "penalty": dict(zip(OUTPUTS, data.penalty, strict=True)),
        "network_counts": dict(zip(OUTPUTS, module.calibration[:, 1].tolist(), strict=True)),
        "epochs_run": epochs,
        "best_epoch": best,
        "settings": dataclasses.asdict(settings),
    }
    return module, recipe


@torch.no_grad()
def answers(module: ContentModel, tokenized: Tokenized, part: Part) -> Floats:
    """Probabilities of both questions for the rows of a part, (m, 2), by the whole graph."""
    module.eval()
    found = np.empty((len(part), len(OUTPUTS)), dtype=np.float32)
    for group in features.groups(tokenized.take(part.row), _READ_ROWS):
        outputs = module(*(torch.from_numpy(group.arrays[name]) for name in features.INPUTS))
        found[group.positions] = torch.stack(outputs, dim=1).numpy()
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Data:
    """What the network is trained on: training rows first, validation rows after them.

    Attributes:
        tokens: ids of the rows, not padded.
        bag: shape (n, 2), float32, log odds by bags that were not fitted on the row.
        plan: shape (n, `PLAN_COLUMNS`), float32.
        labels: shape (n, 2), float32, 0 or 1.
        ranks: shape (n,), float32.
        learn: number of training rows.
        weights: of the bag that is kept, fitted on all rows.
        penalty: of its squared weights, for either question.
    """

    tokens: Tokenized
    bag: Tensor
    plan: Tensor
    labels: Tensor
    ranks: Tensor
    learn: int
    weights: BagWeights
    penalty: tuple[float, float]

    @classmethod
    def of(
        cls,
        tokenized: Tokenized,
        learn: Part,
        validation: Part,
        settings: TrainSettings,
        progress: Callable[[Progress], None],
    ) -> "_Data":
        rows = tokenized.take(np.concatenate([learn.row, validation.row]))
        plan = plan_columns(torch.from_numpy(rows.extras))
        ranks = np.concatenate([learn.ranks, validation.ranks])
        labels = np.concatenate([learn.labels, validation.labels])
        when = np.concatenate([learn.published_unix_s, validation.published_unix_s])
        first = np.arange(len(rows)) < len(learn)
        buckets = settings.buckets or _buckets(len(learn))
        media = rows.extras[:, features.EXTRAS.index("has_media")] > 0
        bags = Bags(rows.grams, rows.gram_starts, plan.numpy(), media, first, buckets=buckets)
        targets = np.stack([ranks, ranks**3], axis=1)
        steps = settings.folds + 3

        def fitted(done: int) -> None:
            progress(Progress(doing="fitting n-grams", done=done + 1, total=steps))

        penalty = _penalties(bags, targets, first, labels, settings)
        fitted(0)
        unseen = out_of_fold(bags, targets, first, when, penalty=penalty, folds=settings.folds, fitted=fitted)
        solved, bias = fit_bag(bags, targets, np.ones(len(rows), dtype=np.bool_), penalty=penalty)
        fitted(steps - 1)
        lines = [calibration.confidence_line(unseen[:, k], labels[:, k]) for k in range(len(OUTPUTS))]
        slope, shift = np.array(lines, dtype=np.float32).T
        return cls(
            tokens=rows,
            bag=torch.from_numpy(unseen * slope + shift),
            plan=plan,
            labels=torch.from_numpy(labels.astype(np.float32)),
            ranks=torch.from_numpy(ranks),
            learn=len(learn),
            weights=bags.weights(solved * np.tile(slope, 2), bias * slope + shift),
            penalty=penalty,
        )

    def batches(self, rows: Positions, size: int, rng: np.random.Generator | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of like length, in random order where there is a generator: positions and padded tokens."""
        lengths = np.diff(self.tokens.token_starts)[rows]
        if rng is None:
            order = np.argsort(lengths, kind="stable")
        else:  # lengths are blurred, so that rows do not meet the same neighbours each time
            order = np.argsort(lengths * rng.uniform(0.8, 1.25, len(rows)), kind="stable")
        chunks = [rows[order[at : at + size]] for at in range(0, len(rows), size)]
        for k in range(len(chunks)) if rng is None else rng.permutation(len(chunks)):
            yield torch.from_numpy(chunks[k]), torch.from_numpy(self.tokens.token_matrix(chunks[k]))


def _penalties(
    bags: Bags, targets: Floats, first: NDArray[np.bool_], labels: NDArray[np.bool_], settings: TrainSettings
) -> tuple[float, float]:
    """Penalties of either question: those of the settings, or what ranks the validation rows best."""
    wanted = (settings.penalty_above, settings.penalty_viral)
    if all(wanted):
        return wanted
    solved, aucs = None, []
    for penalty in sorted(_PENALTIES, reverse=True):
        solved, bias = fit_bag(bags, targets, first, penalty=(penalty, penalty), start=solved)
        odds = bags.answers(solved, bias, ~first)
        pairs = zip(odds.T, labels[~first].T, strict=True)
        aucs.append([calibration.area_under_curve(*pair) for pair in pairs])
    best = np.argmax(np.nan_to_num(aucs), axis=0)
    above, viral = (sorted(_PENALTIES, reverse=True)[place] for place in best)
    return wanted[0] or above, wanted[1] or viral


def _fit_network(
    data: _Data, settings: TrainSettings, progress: Callable[[Progress], None]
) -> tuple[ContentModel, int, int]:
    """The averaged model of the best epoch, with the epochs run and which was best."""
    rng = np.random.default_rng(settings.seed)
    rows = np.arange(data.learn)
    module = ContentModel(buckets=len(data.weights.rarity) // 2, width=settings.width, dropout=settings.dropout)
    weights = data.weights
    module.bag.set_weights(
        *(torch.from_numpy(part) for part in (weights.rarity, weights.grams, weights.plan, weights.bias))
    )
    averaged = copy.deepcopy(module)
    batches = math.ceil(len(rows) / settings.batch_rows)
    epochs = max(settings.epochs, math.ceil(settings.steps_min / batches))
    optimiser = torch.optim.AdamW(module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=epochs * batches, pct_start=0.1
    )
    best_loss, best_epoch, best = math.inf, 0, copy.deepcopy(averaged.state_dict())
    step, epoch = 0, 0
    for epoch in range(1, epochs + 1):
        module.train()
        for at, tokens in data.batches(rows, settings.batch_rows, rng):
            kept = tokens * (torch.rand(tokens.shape) >= settings.token_dropout)
            correction, rank = module.correction(kept, data.bag[at], data.plan[at])
            loss = _loss(data.bag[at] + correction, data.labels[at]) + nn.functional.mse_loss(
                rank, data.ranks[at] - 0.5
            )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            step += 1
            _average(averaged, module, min(settings.averaging, (1 + step) / (10 + step)))
            if step % 20 == 0:
                progress(Progress(doing="training", done=step, total=epochs * batches))
        found = _calibrate(averaged, data)
        progress(Progress(doing="training", done=step, total=epochs * batches, validation_loss=found))
        if found < best_loss:
            best_loss, best_epoch, best = found, epoch, copy.deepcopy(averaged.state_dict())
        elif epoch - best_epoch >= settings.patience:
            break
    averaged.load_state_dict(best)
    return averaged.eval(), epoch, best_epoch


def _loss(odds: Tensor, labels: Tensor) -> Tensor:
    """Log loss of both questions together."""
    return 2 * nn.functional.binary_cross_entropy_with_logits(odds, labels)


@torch.no_grad()
def _calibrate(module: ContentModel, data: _Data) -> float:
    """Weighs bag and network against each other on the validation rows; returns the calibrated log loss there."""
    module.eval()
    rows = np.arange(data.learn, len(data.tokens))
    bag, labels = data.bag[data.learn :], data.labels[data.learn :]
    correction = torch.empty(len(rows), len(OUTPUTS))
    for at, tokens in data.batches(rows, _READ_ROWS, None):
        correction[at - data.learn] = module.correction(tokens, data.bag[at], data.plan[at])[0]
    columns = zip(bag.numpy().T, correction.numpy().T, labels.numpy().T > 0, strict=True)
    lines = torch.tensor([calibration.stacking_line(*column) for column in columns], dtype=torch.float32)
    module.set_calibration(lines)
    return float(_loss(bag * lines[:, 0] + correction * lines[:, 1] + lines[:, 2], labels))


@torch.no_grad()
def _average(averaged: nn.Module, module: nn.Module, decay: float) -> None:
    for kept, new in zip(averaged.parameters(), module.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)


def _buckets(rows: int) -> int:
    low, high = _BUCKETS
    return int(min(max(1 << (rows * _BUCKETS_A_ROW - 1).bit_length(), low), high))


def _baselines(rows: ContentRows, parts: tuple[Part, Part, Part]) -> dict[str, Any]:
    """Scores of plain answers on the test part, learnt from everything before it."""
    learn, validation, test = parts
    labels = np.concatenate([learn.labels, validation.labels])
    found = {"the same for all": judge(answer_of_shares(labels, len(test)), test)}
    if find_spec("sklearn") is not None:
        seen = rows.contents.take(np.concatenate([learn.row, validation.row]))
        stated = tfidf_answers(seen, labels, rows.contents.take(test.row))
        found["TF-IDF and logistic regression"] = judge(stated, test)
    return found


def _span(part: Part) -> dict[str, int]:
    return {
        "rows": len(part),
        "channels": len(np.unique(part.channel)),
        "first_unix_s": int(part.published_unix_s.min()),
        "last_unix_s": int(part.published_unix_s.max()),
    }
