"""Publishing: a posts file becomes a version in a repository, with the evidence of its export and its model card."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from meshcast.posts import read_posts
from meshcast.rpc import InvalidInput, load
from meshcast.runtime import Repository
from meshcast.services.predictor import SERVICE
from meshcast.services.predictor.card import CardText, render_card

__all__ = ["Published", "train_file"]

_BEFORE = ("train_before", "validate_before", "test_before")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A version that was put into a repository.

    Attributes:
        version: its number.
        card: the model card, in Markdown.
        refused: back-ends that may not serve it, with the reason.
    """

    version: int
    card: str
    refused: Mapping[str, str]


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
    # torch comes with these two, and with nothing else in this module.
    from meshcast.runtime.export import export_model
    from meshcast.services.predictor.train import Progress, TrainSettings, train

    settings = _settings(TrainSettings, options)
    posts = read_posts(file)

    def trained_so_far(at: Progress) -> None:
        progress("training", (at.epoch - 1) * at.batches + at.batch, at.epochs * at.batches)

    progress("training", 0, 1)
    trained = train(posts, settings=settings, progress=trained_so_far)
    card = render_card(trained.metrics, text)
    progress("exporting and proving", 0, 1)
    repository.mkdir(parents=True, exist_ok=True)
    with Repository(repository, shipped=SERVICE.shipped).install(
        SERVICE.name, SERVICE.signature, version=version
    ) as staged:
        report = export_model(
            trained.module,
            SERVICE.signature,
            recorded=trained.recorded,
            version_dir=staged.version_dir,
            meta_dir=staged.meta_dir,
            card=card,
            metrics=dict(_figures(trained.metrics["test"]["model"], "test.")),
        )
    progress("exporting and proving", 1, 1)
    refused = {proof.backend: proof.refusal for proof in report.evidence.proofs if not proof.accepted}
    return Published(version=staged.version, card=card, refused=refused)


def _settings(kind: type[Any], options: Mapping[str, str]) -> Any:
    values: dict[str, str] = {}
    for name, value in options.items():
        if name in _BEFORE:
            name, value = f"{name}_unix_s", str(_unix_s(name, value))
        values[f"MESHCAST_TRAIN_{name.upper()}"] = value
    return load({"train": kind}, environ=values)["train"]


def _unix_s(name: str, text: str) -> int:
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"{name} must be an ISO 8601 time, as in 2017-01-01, is {text!r}", field=name) from error
    return int((when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp())


def _figures(tree: Mapping[str, Any], prefix: str) -> list[tuple[str, float]]:
    """The numbers of nested metrics under dotted names, as in `test.mae`; what is not finite is left out."""
    found: list[tuple[str, float]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found += _figures(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and math.isfinite(value):
            found.append((f"{prefix}{name}", float(value)))
    return found
