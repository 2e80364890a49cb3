"""Training of the autoencoder: a reference's rows go in, a module with its scores and its parity inputs comes out.

Most rows train; a tenth of those chooses the epoch. `features.HELD_OUT_SHARE` of the rows are left alone: errors on
rows that were trained on are smaller than on new ones, so windows are compared with what was held out.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from meshcast.rpc.errors import InvalidInput
from meshcast.services.drift.features import learn_and_held_out
from meshcast.services.drift.model import CLIP, AutoEncoder
from meshcast.services.drift.signature import CODES, COLUMNS_MAX

__all__ = ["Progress", "TrainSettings", "Trained", "answers", "scaling", "train"]

Floats = NDArray[np.float32]

RECORDED_ROWS = 64
"""Held-out rows kept as real inputs for the parity gate of an export."""

_CHUNK_ROWS = 4_096
_GAIN_MIN = 1e-3
_VARIANCE_MIN = 0.05  # a column that nearly never moves would else count for everything
_SCALE_MAX = 1e30  # of float32, with room for a product
_NORMAL_SPANS = ((0.25, 0.75, 1.349), (0.05, 0.95, 3.290))  # width of these spans in standard deviations of a normal


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How an autoencoder is trained; the defaults are the recipe of the shipped one.

    Attributes:
        rows_min: fewest rows of the reference.
        hidden: width of the layer on either side of the code.
        epochs: most passes over the training rows.
        steps_max: most optimiser steps, so that training takes seconds.
        patience: epochs without a better validation error after which training stops.
        batch_rows: rows of a step.
        learning_rate: highest learning rate, of one cosine cycle.
        weight_decay: decoupled weight decay.
        noise: standard deviation of what is added to values while training, in theirs.
        blanks: share of values that are blanked while training.
        threads: torch threads.
        seed: of everything random, of what is held out too.
    """

    rows_min: int = 100
    hidden: int = 96
    epochs: int = 60
    steps_max: int = 3_000
    patience: int = 6
    batch_rows: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    noise: float = 0.1
    blanks: float = 0.05
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a training stands.

    Attributes:
        step: steps done.
        steps: planned steps; fewer are done where training stops early.
        validation_error: of the epoch that has just ended, as the graph's `error`; None in its middle.
    """

    step: int
    steps: int
    validation_error: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """A trained autoencoder.

    Attributes:
        module: in eval mode; see `AutoEncoder`.
        recorded: real inputs of held-out rows, by input name, for the parity gate of an export.
        metrics: data, recipe and scores; plain values that JSON can hold.
        held_out: shape (m,), int64, ascending: rows that were not trained on, as `features.learn_and_held_out` says.
    """

    module: AutoEncoder
    recorded: dict[str, Floats]
    metrics: dict[str, Any]
    held_out: NDArray[np.int64]


def train(
    rows: Floats,
    *,
    columns: Sequence[str] = (),
    settings: TrainSettings | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Trained:
    """Trains an autoencoder on a reference, and scores it on rows held out.

    Args:
        rows: shape (rows, n), float32, as `features.matrix` gives them; NaN is null.
        columns: their names, for the metrics; numbers where none are given.
        settings: the recipe.
        progress: called every few steps and after each epoch.

    Raises:
        InvalidInput: too few rows, too many columns, or none that varies.
    """
    settings = settings or TrainSettings()
    started = time.monotonic()
    count, width = rows.shape
    if count < settings.rows_min:
        raise InvalidInput(f"too few rows: training needs {settings.rows_min}, has {count}", field="rows")
    if not 1 <= width <= COLUMNS_MAX:
        raise InvalidInput(f"a row has 1 to {COLUMNS_MAX:,} columns, has {width:,}", field="columns")
    learn, held_out = learn_and_held_out(count, settings.seed)
    centre, scale, weight = scaling(rows[learn])
    if not (scale > 0).any():
        raise InvalidInput("no column varies: there is nothing to learn", field="rows")
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            module = AutoEncoder(width, settings.hidden)
            module.set_scaling(*(torch.from_numpy(part) for part in (centre, scale, weight)))
            module.set_lines(*_components(module, rows[learn]))
            plain, _ = answers(module, rows[held_out])
            module, fitted = _fit(module, rows[learn], settings, progress)
        error, code = answers(module, rows[held_out])
    finally:
        torch.set_num_threads(threads)
    names = [str(name) for name in columns] or [str(at) for at in range(width)]
    metrics = {
        "data": {
            "rows": count,
            "columns": width,
            "still": [name for name, one in zip(names, scale, strict=True) if one == 0],
            "null_share": float(np.isnan(rows).mean()),
        },
        "split": {"train": len(learn), "held_out": len(held_out)},
        "recipe": {
            "parameters": sum(weights.numel() for weights in module.parameters()),
            "numbers": int(module.used.sum()),
            **fitted,
            "seconds": round(time.monotonic() - started, 1),
            "settings": dataclasses.asdict(settings),
        },
        "test": {
            "error": float(error.mean()),
            "error_median": float(np.median(error)),
            "error_99": float(np.quantile(error, 0.99)),
            "error_of_components": float(plain.mean()),
            "code_variance": float(code.var(axis=0).mean()),
        },
    }
    picked = held_out[np.linspace(0, len(held_out) - 1, min(RECORDED_ROWS, len(held_out))).astype(np.int64)]
    return Trained(
        module=module, recorded={"row": np.ascontiguousarray(rows[picked])}, metrics=metrics, held_out=held_out
    )


def answers(module: AutoEncoder, rows: Floats) -> tuple[Floats, Floats]:
    """The graph's outputs for rows (m, n): `error` (m,) and `code` (m, 8)."""
    module.eval()
    with torch.no_grad():
        found = [module(chunk) for chunk in torch.split(torch.from_numpy(rows), _CHUNK_ROWS)]
    error, code = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return error, code


def scaling(rows: Floats) -> tuple[Floats, Floats, Floats]:
    """What standardises the columns of rows (m, n), outliers or not: centre, scale and weight, each (n,), float32.

    The centre is the median; the scale is one over a standard deviation by quartiles, or, of a column half of which is
    one value, by wider spans, at last by the values themselves, and 0 for a column that never varies. The weight is
    one over the variance of the values so scaled and clipped.
    """
    width = rows.shape[1]
    centre, scale, weight = np.zeros(width), np.zeros(width), np.zeros(width)
    for at in range(width):
        values = rows[:, at].astype(np.float64)
        finite = values[np.isfinite(values)]
        if not len(finite) or finite.min() == finite.max():
            centre[at] = finite[0] if len(finite) else 0.0
            continue
        centre[at] = np.median(finite)
        spans = [(np.quantile(finite, high) - np.quantile(finite, low)) / of for low, high, of in _NORMAL_SPANS]
        spread = next((span for span in spans if span > 0), finite.std())
        scale[at] = min(1 / spread, _SCALE_MAX)
        with np.errstate(over="ignore"):
            clipped = np.clip((values[~np.isnan(values)] - centre[at]) * scale[at], -CLIP, CLIP)
        weight[at] = 1 / max(float(clipped.var()), _VARIANCE_MIN)
    return centre.astype(np.float32), scale.astype(np.float32), weight.astype(np.float32)


def _fit(
    module: AutoEncoder, rows: Floats, settings: TrainSettings, progress: Callable[[Progress], None]
) -> tuple[AutoEncoder, dict[str, int]]:
    """The module of the best epoch, and how many epochs there were and which was best."""
    with torch.no_grad():
        scaled, present = module.scaled(torch.from_numpy(rows))
    weight = module.weight * present
    order = torch.randperm(len(rows))
    judges, learns = order[: max(1, len(rows) // 10)], order[max(1, len(rows) // 10) :]

    @torch.no_grad()
    def judged() -> float:
        return float(_error(module, scaled[judges], scaled[judges], weight[judges]))

    batches = math.ceil(len(learns) / settings.batch_rows)
    epochs = max(1, min(settings.epochs, settings.steps_max // batches))
    optimiser = torch.optim.AdamW(module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=epochs * batches, pct_start=0.1
    )
    best_epoch, best, step, epoch = 0, copy.deepcopy(module.state_dict()), 0, 0
    best_error = judged()
    for epoch in range(1, epochs + 1):
        module.train()
        for batch in torch.split(learns[torch.randperm(len(learns))], settings.batch_rows):
            x = scaled[batch]
            blurred = x + settings.noise * torch.randn_like(x)
            blurred = blurred * (torch.rand_like(x) >= settings.blanks)
            loss = _error(module, blurred, x, weight[batch])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            step += 1
            if step % 50 == 0:
                progress(Progress(step=step, steps=epochs * batches))
        error = judged()
        progress(Progress(step=step, steps=epochs * batches, validation_error=error))
        if error < best_error * (1 - _GAIN_MIN):
            best_error, best_epoch, best = error, epoch, copy.deepcopy(module.state_dict())
        elif epoch - best_epoch >= settings.patience:
            break
    module.load_state_dict(best)
    with torch.no_grad():
        module.set_code_scaling(module.encode(scaled))
    return module.eval(), {"epochs_run": epoch, "best_epoch": best_epoch}


def _error(module: AutoEncoder, seen: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    square = (module.decode(module.encode(seen)) - wanted) ** 2 * weight
    return (square.sum(dim=1) / weight.sum(dim=1).clamp(min=1e-6)).mean()


@torch.no_grad()
def _components(module: AutoEncoder, rows: Floats) -> tuple[Tensor, Tensor]:
    """Principal components of rows (m, n) as `set_lines` takes them: a third as many as columns, at most eight."""
    x, _ = module.scaled(torch.from_numpy(rows))
    mean = x.mean(dim=0)
    _, _, axes = torch.linalg.svd((x - mean) * module.weight.sqrt(), full_matrices=False)
    varying = int((module.scale > 0).sum())
    return axes[: min(CODES, max(1, round(varying / 3)))], mean
