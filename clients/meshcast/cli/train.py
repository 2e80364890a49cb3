"""`meshcast train`: hands a file to a service's trainer and shows how it goes."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.markdown import Markdown

from meshcast.cli.analyze_input import Encoding, as_input
from meshcast.cli.mesh_plan import installed_services
from meshcast.cli.problem import ExitCode, Problem, pip_line
from meshcast.cli.settings import log_to_stderr, repository_folder, state_folder
from meshcast.cli.steps import steps
from meshcast.rpc import InvalidInput

__all__ = ["as_typed", "train"]


class _Published(Protocol):
    @property
    def version(self) -> int: ...

    @property
    def card(self) -> str: ...

    @property
    def refused(self) -> Mapping[str, str]: ...


def train(
    service: str,
    file: Path,
    *,
    options: Sequence[str],
    encoding: Encoding,
    repository: Path | None,
    config: Path | None,
    state_dir: Path | None,
) -> None:
    """Trains, exports and installs the next version of a service's model, and prints its card.

    Args:
        service: as in `predictor`.
        file: what it learns from.
        options: of the trainer, each `name=value`.
        encoding: of the file's bytes, for trainers that read texts.
        repository: where the version goes; None takes the settings'.
        config: as in `read_settings`.
        state_dir: as in `state_folder`.

    Raises:
        Problem: there is no such file or service, the service has no trainer or one that reads no other encoding, or
            the extra `train` is not installed.
        MeshError: the file or an option breaks a rule, or no back-end reproduces the model.
    """
    if not file.exists():  # before anything else: torch, which may be missing, is a large download
        raise Problem(f"{file}: there is no such file")
    log_to_stderr()
    trainer = _trainer(service)
    root = repository or repository_folder(state_dir, config)
    pairs = dict(_pair(word) for word in options)
    reading = _reading(service, trainer, encoding)
    console = Console()
    with steps(console) as progressed:
        try:
            published: _Published = trainer(file, root, options=pairs, progress=progressed, **reading)
        except InvalidInput as error:
            if _reads_texts(trainer) and "byte" in error.facts:
                raise as_input(error) from error
            raise as_typed(error, pairs) from error
    console.print(Markdown(published.card))
    for backend, why in published.refused.items():
        console.print(f"[yellow]refused[/] {backend}: {why}", highlight=False)
    console.print(f"[green]installed[/] {service} version {published.version} in {root}", highlight=False)
    if state_folder(state_dir, config).running() is not None:
        console.print(f"`meshcast models load {service}` brings it into service", style="cyan", highlight=False)


def _trainer(service: str) -> Callable[..., Any]:
    found = installed_services()
    if service not in found:
        raise Problem(
            f"no model service {service!r} is installed", way_out=f"installed are: {', '.join(sorted(found)) or 'none'}"
        )
    if find_spec("torch") is None:
        raise Problem(
            "training needs torch, which is not installed", exit_code=ExitCode.EXTRA_MISSING, way_out=pip_line("train")
        )
    named: str | None = getattr(found[service].load(), "train", None)
    if named is None:
        raise Problem(f"{service} has no trainer")
    module, _, function = named.partition(":")
    trainer: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return trainer


def _reading(service: str, trainer: Callable[..., Any], encoding: Encoding) -> Mapping[str, Any]:
    """What the trainer is told of the file's bytes; nothing where they are UTF-8, as every trainer takes them."""
    if encoding == Encoding():
        return {}
    if not _reads_texts(trainer):
        raise Problem(f"--encoding and --replace-invalid are for files of texts; {service} reads UTF-8 alone")
    return {"encoding": encoding.codec, "replace_invalid": encoding.replace_invalid}


def _reads_texts(trainer: Callable[..., Any]) -> bool:
    """Whether the trainer can be told of other encodings than UTF-8."""
    return "encoding" in inspect.signature(trainer).parameters


def as_typed(error: InvalidInput, options: Mapping[str, str]) -> Exception:
    """An error about a trainer's setting in the words that were typed; any other error as it is.

    Args:
        error: of the trainer, which reads its settings as if they were variables.
        options: by name, as they were typed.
    """
    for name in options:
        source = f"MESHCAST_TRAIN_{name.upper()}: "
        if error.message.startswith(source):
            said = error.message.removeprefix(source)
            said = said.replace(f"unknown key train.{name.lower()};", "there is no such setting;")
            return Problem(f"--set {name}: {said.removeprefix(f'train.{name.lower()} ')}")
    return error


def _pair(word: str) -> tuple[str, str]:
    name, separator, value = word.partition("=")
    if not separator or not name:
        raise Problem(f"--set {word!r} is not NAME=VALUE", way_out="as in --set epochs=10")
    return name.strip(), value.strip()
