"""Publishing: a reference becomes a version of the autoencoder, with the evidence of its export and its model card."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meshcast.observations import read_observations
from meshcast.runtime import Published, figures, publish, read_options
from meshcast.services.drift.card import CardText, render_card
from meshcast.services.drift.features import Encoding, matrix
from meshcast.services.drift.signature import AUTOENCODER

__all__ = ["train_file", "train_rows"]


def train_file(
    file: Path,
    repository: Path,
    *,
    options: Mapping[str, str],
    progress: Callable[[str, int, int], None] = lambda doing, done, total: None,
    text: CardText | None = None,
    version: int | None = None,
) -> Published:
    """Trains on a file of rows, exports, proves the export and installs it as the next version.

    Args:
        file: CSV or Parquet, as `meshcast.observations.read_observations` takes it.
        repository: root of the repository; made where it is missing.
        options: fields of `TrainSettings` as text.
        progress: told what is being done, how far, and of how much.
        text: what the card says beside the numbers.
        version: number of the new version; None takes the next one.

    Raises:
        InvalidInput: the file or an option breaks a rule, or there is too little to learn from.
        CorruptData: no back-end reproduces the trained model.
        ModuleNotFoundError: the extra `train` is not installed.
    """
    rows = read_observations(file)
    encoding = Encoding.of(rows)
    return train_rows(
        matrix(rows, encoding),
        repository,
        columns=encoding.columns,
        options=options,
        progress=progress,
        text=text,
        version=version,
    )


def train_rows(
    rows: NDArray[np.float32],
    repository: Path,
    *,
    columns: Sequence[str] = (),
    options: Mapping[str, str],
    progress: Callable[[str, int, int], None] = lambda doing, done, total: None,
    text: CardText | None = None,
    version: int | None = None,
) -> Published:
    """The same from rows (m, n), float32, as `features.matrix` gives them, whose columns have the names `columns`."""
    from meshcast.services.drift.train import Progress, TrainSettings, train  # torch comes with it

    def trained_so_far(at: Progress) -> None:
        progress("training", at.step, at.steps)

    settings = read_options(TrainSettings, options)
    progress("training", 0, 1)
    trained = train(rows, columns=columns, settings=settings, progress=trained_so_far)
    progress("exporting and proving", 0, 1)
    published = publish(
        AUTOENCODER,
        trained.module,
        recorded=trained.recorded,
        repository=repository,
        card=render_card(trained.metrics, text),
        metrics=figures(trained.metrics["test"], "test."),
        version=version,
    )
    progress("exporting and proving", 1, 1)
    return published
