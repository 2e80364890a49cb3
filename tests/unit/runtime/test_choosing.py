"""Which back-ends compete for a version, and what an INT8 graph must show before it serves."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshcast.rpc import CorruptData
from meshcast.runtime import Chooser, Model, Repository, RuntimeSettings, SessionOptions, VersionPaths
from meshcast.runtime.choosing import SMALL_BYTES_MAX
from meshcast.runtime.evidence import OPENVINO, OPENVINO_INT8, OPENVINO_INT8_WEIGHTS, OPENVINO_WEIGHTS, sha256

INT8 = "openvino/cpu/int8"


def with_int8(repository: Repository, *, bound: float = 1e-3, accepted: bool = True, keep_f32: bool = True) -> Any:
    """The version with a second graph, which the evidence takes for an INT8 one; it computes the same as the first."""
    paths = repository.paths("small", 1)
    names = ((OPENVINO, OPENVINO_INT8), (OPENVINO_WEIGHTS, OPENVINO_INT8_WEIGHTS))
    for name, other in names:
        shutil.copy(paths.meta_dir / name, paths.meta_dir / other)
    document = json.loads((paths.meta_dir / "export.json").read_text())
    document["int8"] = {
        "file": OPENVINO_INT8,
        "digests": {other: sha256(paths.meta_dir / other) for _, other in names},
        "accepted": accepted,
        "refusal": "" if accepted else "cosine_mean is 0.9",
        "bound": bound,
        "error": bound / 2,
        "figures": {"cosine_mean": 0.999},
    }
    if not keep_f32:
        for name, _ in names:
            (paths.meta_dir / name).unlink()
            del document["files"][name]
    (paths.meta_dir / "export.json").write_text(json.dumps(document))
    return paths


def chooser(tmp_path: Path, **options: Any) -> Chooser:
    return Chooser(options=SessionOptions(), budget_s=0.05, cache_dir=tmp_path / "cache", **options)


def choose(made: Chooser, paths: VersionPaths, signature: Any) -> dict[str, Any]:
    """Candidates by back-end, the one that serves first."""
    choice = made.choose(paths, signature)
    try:
        return {candidate.backend: candidate for candidate in choice.candidates}
    finally:
        choice.session.close()


def test_an_accepted_int8_graph_competes_under_its_own_name(small: Any, repository: Any, tmp_path: Path) -> None:
    paths = with_int8(repository)
    found = choose(chooser(tmp_path), paths, small.signature)
    assert set(found) == {"onnxruntime/cpu/f32", "openvino/cpu/f32", INT8}
    assert found[INT8].accepted and found[INT8].rows_per_s
    again = choose(chooser(tmp_path), paths, small.signature)  # by the speeds that were kept
    assert next(iter(again)) == max(found, key=lambda name: found[name].rows_per_s)
    only = choose(chooser(tmp_path, asked=INT8), paths, small.signature)
    assert next(iter(only)) == INT8


def test_a_setting_or_its_own_gate_keeps_an_int8_graph_out(small: Any, repository: Any, tmp_path: Path) -> None:
    found = choose(chooser(tmp_path, allow_int8=False), with_int8(repository), small.signature)
    assert INT8 not in found
    found = choose(chooser(tmp_path), with_int8(repository, accepted=False), small.signature)
    assert INT8 not in found or not found[INT8].accepted
    with pytest.raises(CorruptData, match="does not allow"):
        choose(chooser(tmp_path, asked=INT8), repository.paths("small", 1), small.signature)


def test_an_int8_graph_that_strays_further_here_than_its_bound_is_refused(
    small: Any, repository: Any, tmp_path: Path
) -> None:
    paths = with_int8(repository, bound=1e-12)
    found = choose(chooser(tmp_path), paths, small.signature)
    assert not found[INT8].accepted and "more than 1e-12" in found[INT8].refusal
    assert found["openvino/cpu/f32"].accepted


def test_an_altered_int8_graph_is_refused_by_its_sum(small: Any, repository: Any, tmp_path: Path) -> None:
    paths = with_int8(repository)
    weights = paths.meta_dir / OPENVINO_INT8_WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    found = choose(chooser(tmp_path), paths, small.signature)
    assert not found[INT8].accepted and "sha256" in found[INT8].refusal


def test_a_graph_that_was_not_kept_does_not_compete_and_speeds_are_kept_all_the_same(
    small: Any, repository: Any, tmp_path: Path
) -> None:
    paths = with_int8(repository, keep_f32=False)
    found = choose(chooser(tmp_path), paths, small.signature)
    assert set(found) == {"onnxruntime/cpu/f32", INT8}
    assert len(list((tmp_path / "cache").glob("speeds-*.json"))) == 1


def test_back_ends_of_a_large_version_are_opened_one_at_a_time(small: Any, repository: Any, tmp_path: Path) -> None:
    paths = with_int8(repository)
    (paths.meta_dir / "weights").write_bytes(b"")
    with (paths.meta_dir / "weights").open("r+b") as file:
        file.truncate(SMALL_BYTES_MAX + 1)  # a hole: it takes no room
    found = choose(chooser(tmp_path), paths, small.signature)
    assert {name for name, candidate in found.items() if candidate.accepted} == set(found)
    rates = [candidate.rows_per_s or 0.0 for candidate in found.values()]
    assert all(rates) and rates == sorted(rates, reverse=True)
    again = choose(chooser(tmp_path), paths, small.signature)
    assert next(iter(again)) == next(iter(found))


def test_a_swap_keeps_int8_where_the_new_version_has_it_and_goes_on_without_where_not(
    small: Any, repository: Any, tmp_path: Path
) -> None:
    paths = with_int8(repository)
    made = chooser(tmp_path)
    asked = replace(made.choose(paths, small.signature).asked, runtime="openvino", precision="int8")
    kept = made.choose(paths, small.signature, keep=asked)
    assert kept.session.backend == INT8
    kept.session.close()
    plain = repository.paths("small", repository.add(2))
    other = made.choose(plain, small.signature, keep=asked)
    assert other.session.backend.endswith("/f32")
    other.session.close()


async def test_a_description_tells_the_tolerance_of_the_back_end_that_serves(
    small: Any, repository: Any, settings: RuntimeSettings
) -> None:
    with_int8(repository, bound=2e-3)
    for backend, bound in ((INT8, 2e-3), ("openvino/cpu/f32", small.signature.tolerance)):
        chosen = replace(settings, backend=backend)
        async with Model(name="small", signature=small.signature, repository=repository, settings=chosen) as model:
            await model.load()
            assert model.describe().backend == backend and model.describe().tolerance == bound
