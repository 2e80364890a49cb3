"""Publishing: a trained module becomes a version in a repository, with the evidence of its export and its card."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from meshcast.rpc.errors import InvalidInput
from meshcast.rpc.settings import load
from meshcast.runtime.repository import Repository
from meshcast.runtime.service import ModelSpec, ServiceSpec
from meshcast.runtime.signature import Arrays

if TYPE_CHECKING:
    from meshcast.runtime.export import Int8Plan

__all__ = ["Published", "dates_in_seconds", "figures", "publish", "read_options"]

Options = TypeVar("Options")


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


def publish(
    service: ServiceSpec | ModelSpec,
    module: Any,
    *,
    recorded: Arrays,
    repository: Path,
    card: str = "",
    metrics: Mapping[str, float] | None = None,
    version: int | None = None,
    int8: "Int8Plan | None" = None,
    keep_openvino: bool = True,
) -> Published:
    """Exports a trained torch module, proves the export and installs it as a version of a model.

    Args:
        service: whose model it is; of a service with several, the `ModelSpec` of the one.
        module: a `torch.nn.Module` that takes the signature's inputs in order and gives its outputs in order.
        recorded: real inputs by name, for the proof here and on every host that serves.
        repository: root of the repository; made where it is missing.
        card: the model card, in Markdown.
        metrics: figures measured on data that training never saw.
        version: number of the new version; None takes the next one, those that ship counted.
        int8: how an INT8 graph is made too; None: none is.
        keep_openvino: False to keep no f32 files of OpenVINO.

    Raises:
        InvalidInput: the recorded inputs are not the signature's.
        CorruptData: no back-end reproduces the module; nothing is installed.
        ModuleNotFoundError: the extra `train` is not installed, or, for an INT8 graph, `embed`.
    """
    from meshcast.runtime.export import export_model  # torch comes with it: not before somebody trains

    repository.mkdir(parents=True, exist_ok=True)
    with Repository(repository, shipped=service.shipped).install(
        service.name, service.signature, version=version
    ) as staged:
        report = export_model(
            module,
            service.signature,
            recorded=recorded,
            version_dir=staged.version_dir,
            meta_dir=staged.meta_dir,
            card=card,
            metrics=metrics,
            int8=int8,
            keep_openvino=keep_openvino,
        )
    refused = {proof.backend: proof.refusal for proof in report.evidence.proofs if not proof.accepted}
    return Published(version=staged.version, card=card, refused=refused)


def read_options(kind: type[Options], options: Mapping[str, str]) -> Options:
    """A trainer's settings, a dataclass whose fields all have defaults, from `--set NAME=VALUE` texts.

    Raises:
        InvalidInput: an option is unknown, of the wrong type, or refused by the dataclass; the message names it.
    """
    values = {f"MESHCAST_TRAIN_{name.upper()}": value for name, value in options.items()}
    settings: Options = load({"train": kind}, environ=values)["train"]
    return settings


def dates_in_seconds(options: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """Options of which some may be ISO 8601 times: `train_before` becomes `train_before_unix_s`; the others stay.

    Raises:
        InvalidInput: what should be a time is none.
    """
    return {
        **{name: value for name, value in options.items() if name not in names},
        **{f"{name}_unix_s": str(_unix_s(name, value)) for name, value in options.items() if name in names},
    }


def _unix_s(name: str, text: str) -> int:
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"{name} must be an ISO 8601 time, as in 2017-01-01, is {text!r}", field=name) from error
    return int((when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp())


def figures(tree: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The numbers of nested metrics under dotted names, as in `test.mae`; what is not finite is left out.

    Args:
        tree: metrics by name, nested as deep as they are.
        prefix: of every name, with its dot.
    """

    def walk(part: Mapping[str, Any], before: str) -> Iterator[tuple[str, float]]:
        for name, value in part.items():
            if isinstance(value, Mapping):
                yield from walk(value, f"{before}{name}.")
            elif isinstance(value, int | float) and math.isfinite(value):
                yield f"{before}{name}", float(value)

    return dict(walk(tree, prefix))
