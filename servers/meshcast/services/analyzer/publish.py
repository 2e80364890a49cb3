"""Publishing: a file of posts with texts becomes a version in a repository, with its evidence and its model card."""

from collections.abc import Callable, Mapping
from pathlib import Path

from meshcast.contents import read_contents
from meshcast.runtime import Published, dates_in_seconds, figures, publish, read_options
from meshcast.services.analyzer import SERVICE
from meshcast.services.analyzer.card import CardText, render_card

__all__ = ["train_file"]

_BEFORE = ("train_before", "validate_before", "test_before")


def train_file(
    file: Path,
    repository: Path,
    *,
    options: Mapping[str, str],
    progress: Callable[[str, int, int], None] = lambda doing, done, total: None,
    text: CardText | None = None,
    version: int | None = None,
    encoding: str = "utf-8-sig",
    replace_invalid: bool = False,
) -> Published:
    """Trains on a file of posts with texts, exports, proves the export and installs it as the next version.

    Args:
        file: file of contents, as `meshcast.contents.read_contents` takes it; it needs times, and outcomes or counts.
        repository: root of the repository; made where it is missing.
        options: fields of `TrainSettings` as text; `train_before`, `validate_before` and `test_before` also as ISO 8601
            times.
        progress: told what is being done, how far, and of how much.
        text: what the card says beside the numbers.
        version: number of the new version; None takes the next one.
        encoding: as in `read_contents`.
        replace_invalid: as in `read_contents`.

    Raises:
        InvalidInput: the file or an option breaks a rule, or there is too little to learn from.
        CorruptData: no back-end reproduces the trained model.
        ModuleNotFoundError: the extra `train` is not installed.
    """
    from meshcast.services.analyzer.train import Progress, TrainSettings, train  # torch comes with it

    settings = read_options(TrainSettings, dates_in_seconds(options, _BEFORE))
    rows = read_contents(file, encoding=encoding, replace_invalid=replace_invalid)

    def trained_so_far(at: Progress) -> None:
        progress(at.doing, at.done, at.total)

    progress("reading texts", 0, 1)
    trained = train(rows, settings=settings, progress=trained_so_far)
    progress("exporting and proving", 0, 1)
    published = publish(
        SERVICE,
        trained.module,
        recorded=trained.recorded,
        repository=repository,
        card=render_card(trained.metrics, text),
        metrics=figures(trained.metrics["test"]["model"], "test."),
        version=version,
    )
    progress("exporting and proving", 1, 1)
    return published
