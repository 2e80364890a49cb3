"""Training of the ranker on a file of offers that were shown: `meshcast train ranker clicks.csv`."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from acme_ranker import SERVICE
from acme_ranker.features import COLUMNS, tensors, violations
from acme_ranker.model import ClickModel
from meshcast.rpc import InvalidInput
from meshcast.runtime import Published, publish, read_options

__all__ = ["TrainSettings", "train_file"]

ROWS_MIN = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How to train; each may be given as `--set NAME=VALUE`.

    Attributes:
        steps: steps of the optimiser, each over all training rows.
        seed: of the first weights.
    """

    steps: int = 200
    seed: int = 0


def train_file(
    file: Path,
    repository: Path,
    *,
    options: Mapping[str, str],
    progress: Callable[[str, int, int], None] = lambda doing, done, total: None,
) -> Published:
    """Trains, exports, proves the export and installs it as the next version.

    Args:
        file: CSV with the columns `price`, `rating`, `age_days` and `clicked` (0 or 1), oldest rows first.
        repository: root of the repository.
        options: fields of `TrainSettings` as text.
        progress: told what is being done, how far, and of how much.

    Raises:
        InvalidInput: the file or an option breaks a rule, or there is too little to learn from.
    """
    settings = read_options(TrainSettings, options)
    offers, clicked = read_clicks(file)
    offer, click = torch.from_numpy(tensors(offers)["offer"]), torch.from_numpy(clicked)
    known = len(offer) * 4 // 5  # the newest fifth is the test
    torch.manual_seed(settings.seed)
    model = ClickModel()
    model.fit_scaling(offer[:known])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=1e-4)
    loss = nn.BCEWithLogitsLoss()
    for step in range(settings.steps):
        progress("training", step, settings.steps)
        optimiser.zero_grad()
        loss(model.logit(offer[:known]), click[:known]).backward()
        optimiser.step()
    with torch.no_grad():
        ours = float(loss(model.logit(offer[known:]), click[known:]))
        rate = torch.logit(click[:known].mean(), eps=1e-6)
        plain = float(loss(rate.expand(len(offer) - known), click[known:]))
    card = (
        "# Ranker\n\n"
        f"Trained on {known} offers; log loss on the {len(offer) - known} that followed: **{ours:.4f}**, "
        f"of always saying the click rate: {plain:.4f}.\n"
    )
    progress("exporting and proving", 0, 1)
    published = publish(
        SERVICE,
        model,
        recorded=tensors(offers),
        repository=repository,
        card=card,
        metrics={"test.log_loss": ours, "test.log_loss.rate": plain},
    )
    progress("exporting and proving", 1, 1)
    return published


def read_clicks(file: Path) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Offers, (n, 3), and whether each was clicked, (n,).

    Raises:
        InvalidInput: a row is wrong, or there are fewer than 100.
    """
    rows = []
    with file.open(encoding="utf-8", newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines), start=2):
            try:
                rows.append([float(row[column]) for column in (*COLUMNS, "clicked")])
            except (KeyError, TypeError, ValueError) as error:
                why = f"needs numbers in {', '.join(COLUMNS)} and clicked"
                raise InvalidInput(f"{file.name}, line {number} {why}", field="file") from error
            if rows[-1][-1] not in (0, 1):
                raise InvalidInput(f"{file.name}, line {number}: clicked must be 0 or 1", field="file")
    if len(rows) < ROWS_MIN:
        raise InvalidInput(f"{file.name} has {len(rows)} rows, at least {ROWS_MIN} are needed", field="file")
    table = np.array(rows)
    for at, column, reason in violations(table[:, :-1]):
        raise InvalidInput(f"{file.name}, line {at + 2}: {column} {reason}", field="file")
    return table[:, :-1], table[:, -1].astype(np.float32)
