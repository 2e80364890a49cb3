"""Publishing: a series file becomes a version in a repository, with the evidence of its export and its model card."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from meshcast.rpc import InvalidInput
from meshcast.runtime import Published, figures, publish, read_options
from meshcast.series import SeriesTable, read_series
from meshcast.services.forecaster import SERVICE
from meshcast.services.forecaster.card import CardText, render_card
from meshcast.services.forecaster.panel import Panel

if TYPE_CHECKING:
    from meshcast.services.forecaster.train import Trained, TrainSettings

__all__ = ["install", "panel_of", "train_file"]


def train_file(
    file: Path,
    repository: Path,
    *,
    options: Mapping[str, str],
    progress: Callable[[str, int, int], None] = lambda doing, done, total: None,
    text: CardText | None = None,
    version: int | None = None,
) -> Published:
    """Trains on a series file, exports, proves the export and installs it as the next version.

    Training starts from the weights that ship and mixes the user's series with made-up ones, so that one series of a
    few months is enough to begin with.

    Args:
        file: series file, as `meshcast.series.read_series` takes it.
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
    from meshcast.services.forecaster.train import Progress, TrainSettings, train  # torch comes with it

    settings = read_options(TrainSettings, options)
    table = read_series(file, today=datetime.now(UTC).date(), nonnegative=bool(settings.nonnegative))

    def trained_so_far(at: Progress) -> None:
        progress("training", at.step, at.steps)

    progress("training", 0, 1)
    trained = train(panel_of(table, settings), settings=settings, progress=trained_so_far)
    return install(trained, repository, progress=progress, text=text, version=version)


def install(
    trained: "Trained",
    repository: Path,
    *,
    progress: Callable[[str, int, int], None] = lambda doing, done, total: None,
    text: CardText | None = None,
    version: int | None = None,
) -> Published:
    """Exports what was trained, proves the export and installs it. Arguments and errors as `train_file`."""
    progress("exporting and proving", 0, 1)
    published = publish(
        SERVICE,
        trained.module,
        recorded=trained.recorded,
        repository=repository,
        card=render_card(trained.metrics, text),
        metrics=figures(trained.metrics["test"], "test."),
        version=version,
    )
    progress("exporting and proving", 1, 1)
    return published


def panel_of(table: SeriesTable, settings: "TrainSettings") -> Panel:
    """The series of a table with their split; those that span too few days are left out.

    Raises:
        InvalidInput: none is long enough.
    """
    series = []
    longest = 0
    for _, start, stop in table.ranges():
        day = table.day[start:stop]
        span = int(day[-1] - day[0]) + 1 if len(day) else 0
        longest = max(longest, span)
        if span >= settings.days_min:
            values = np.full(span, np.nan)
            values[day - day[0]] = table.value[start:stop]
            series.append((int(day[0]), values))
    if not series:
        raise InvalidInput(
            f"too short: training needs a series of {settings.days_min} days from its first to its last value, the "
            f"longest spans {longest}",
            field="series",
        )
    return Panel.of(
        series,
        train_share=settings.train_share,
        validate_share=settings.validate_share,
        nonnegative=settings.nonnegative,
    )
