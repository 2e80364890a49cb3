"""`meshcast export`: one version out of the repository, for another host, for Triton or for OpenVINO Model Server."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from meshcast.cli.mesh_plan import installed_services
from meshcast.cli.problem import Problem
from meshcast.cli.settings import repository_folder

if TYPE_CHECKING:
    from meshcast.runtime import Evidence

__all__ = ["back_ends", "export"]


def export(
    model: str, *, out: Path, version: int, repository: Path | None, config: Path | None, state_dir: Path | None
) -> None:
    """Copies a version into a folder in Triton's layout, after its files were held against its evidence.

    Args:
        model: name in the repository.
        out: folder that gets `models/` and `meta/`.
        version: number; 0 takes the highest.
        repository: where the version is; None takes the settings', and what ships with the services after it.
        config: as in `read_settings`.
        state_dir: as in `state_folder`.

    Raises:
        Problem: `out` holds the version already.
        NotFound: there is no such model or version.
        CorruptData: its files are not those that were exported.
    """
    from meshcast.runtime import Repository

    roots = [repository or repository_folder(state_dir, config)]
    if repository is None:
        specs = [entry.load() for entry in installed_services().values()]
        roots += [spec.shipped for spec in specs if spec.shipped is not None]
    sources = [Repository(root) for root in roots]
    source = next((one for one in sources if one.versions(model)), sources[0])
    number = version or max(source.versions(model), default=1)
    evidence = source.evidence(model, number)
    paths = source.paths(model, number)
    for name in (*evidence.files, *(evidence.int8.digests if evidence.int8 is not None else ())):
        lies_in = paths.version_dir if (paths.version_dir / name).exists() else paths.meta_dir
        evidence.verify(lies_in / name)
    version_dir, meta_dir = out / "models" / model / str(number), out / "meta" / model / str(number)
    if version_dir.exists():
        raise Problem(f"{version_dir} is there already", way_out="give another --out, or remove it")
    shutil.copytree(paths.meta_dir, meta_dir, dirs_exist_ok=True)
    version_dir.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(paths.version_dir.parent / "config.pbtxt", version_dir.parent / "config.pbtxt")
    shutil.copytree(paths.version_dir, version_dir)

    console = Console()
    console.print(back_ends(evidence))
    console.print(
        f"[green]exported[/] {model} version {number}, exported first at {evidence.exported_at}", highlight=False
    )
    console.print(f"{out / 'models'} is a model repository as Triton takes it", highlight=False)


def back_ends(evidence: "Evidence") -> Table:
    """A table of the back-ends that a version was proved with."""
    table = Table("back-end", "may serve", "largest error against torch", title_justify="left")
    keeps_openvino = "openvino.xml" in evidence.files  # it was proved all the same
    rows = [
        (proof.backend, proof.accepted, proof.refusal, proof.error)
        for proof in evidence.proofs
        if keeps_openvino or not proof.backend.startswith("openvino")
    ]
    if evidence.int8 is not None:
        int8 = evidence.int8
        rows.append(("openvino/cpu/int8", int8.accepted, int8.refusal, int8.error))
    for backend, accepted, refusal, error in rows:
        may_serve = "[green]yes[/]" if accepted else f"[red]no[/]: {refusal}"
        table.add_row(backend, may_serve, "-" if error is None else f"{error:.1e}")
    return table
