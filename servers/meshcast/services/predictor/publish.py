"""Publishing: a posts file becomes a version in a repository, with the evidence of its export and its model card."""

from collections.abc import Callable, Mapping
from pathlib import Path

from meshcast.posts import read_posts
from meshcast.runtime import Published, dates_in_seconds, figures, publish, read_options
from meshcast.services.predictor import SERVICE
from meshcast.services.predictor.card import CardText, render_card

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
) -> Published:
    """Trains on a posts file, exports, proves the export and installs it as the next version.

    Args:
        file: posts file, as `meshcast.posts.read_posts` takes it.
        repository: root of the repository; made where it is missing.
        options: fields of `TrainSettings` as text; `train_before`, `validate_before` and `test_before` also as ISO 8601
            times.
        progress: told what is being done, how far, and of how much.
        text: what the card says beside the numbers.
        version: number of the new version; None takes the next one.

    Raises:
        InvalidInput: the file or an option breaks a rule, or there is too little to learn from.
        CorruptData: no back-end reproduces the trained model.
        ModuleNotFoundError: the extra `train` is not installed.
    """
    from meshcast.services.predictor.train import Progress, TrainSettings, train  # torch comes with it

    settings = read_options(TrainSettings, dates_in_seconds(options, _BEFORE))
    posts = read_posts(file)

    def trained_so_far(at: Progress) -> None:
        progress("training", (at.epoch - 1) * at.batches + at.batch, at.epochs * at.batches)

    progress("training", 0, 1)
    trained = train(posts, settings=settings, progress=trained_so_far)
    card = render_card(trained.metrics, text)
    progress("exporting and proving", 0, 1)
    published = publish(
        SERVICE,
        trained.module,
        recorded=trained.recorded,
        repository=repository,
        card=card,
        metrics=figures(trained.metrics["test"]["model"], "test."),
        version=version,
    )
    progress("exporting and proving", 1, 1)
    return published
