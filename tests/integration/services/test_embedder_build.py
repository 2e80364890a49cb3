"""What a build leaves behind. The embedder is built once for all tests; see `embedder_repository`."""

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meshcast.runtime import Backend, Repository, Session, SessionOptions
from meshcast.runtime.candidates import open_candidate
from meshcast.services.analyzer.embedder import EMBEDDER, SIGNATURE
from meshcast.services.analyzer.embedder.accuracy import compare, judge
from meshcast.services.analyzer.embedder.build import build, built_version
from meshcast.services.analyzer.embedder.texts import held_out_texts
from meshcast.services.analyzer.embedder.tokens import group, tokenize

INT8_BYTES_MAX = 25_000_000


def open_backend(root: Path, backend: str) -> Session:
    repository, version = Repository(root), built_version(root)
    assert version is not None
    evidence, paths = repository.evidence(EMBEDDER.name, version), repository.paths(EMBEDDER.name, version)
    return open_candidate(Backend.parse(backend), paths, evidence, SIGNATURE, SessionOptions())


def embed(session: Session, texts: list[str]) -> NDArray[np.float32]:
    found = np.zeros((len(texts), 384), np.float32)
    for rows in group(tokenize(texts).tokens):
        found[rows.positions] = session.run(rows.arrays)["embedding"]
    return found


def test_the_version_holds_the_f32_graph_the_int8_graph_and_their_evidence(embedder_repository: Path) -> None:
    repository, version = Repository(embedder_repository), built_version(embedder_repository)
    assert version is not None
    paths, evidence = repository.paths("embedder", version), repository.evidence("embedder", version)
    assert [path.name for path in paths.version_dir.iterdir()] == ["model.onnx"]
    assert not (paths.meta_dir / "openvino.bin").exists()
    int8 = evidence.int8
    assert int8 is not None and int8.accepted and int8.error <= int8.bound
    assert sum((paths.meta_dir / name).stat().st_size for name in int8.digests) <= INT8_BYTES_MAX
    for name in int8.digests:
        evidence.verify(paths.meta_dir / name)
    assert int8.figures["cosine_mean"] >= 0.99
    assert "Not for" in repository.card("embedder", version)


def test_int8_gives_what_f32_gives_at_any_length(embedder_repository: Path) -> None:
    texts = held_out_texts()
    int8, f32 = (open_backend(embedder_repository, name) for name in ("openvino/cpu/int8", "onnxruntime/cpu/f32"))
    try:
        wanted, given = embed(f32, texts), embed(int8, texts)
    finally:
        int8.close()
        f32.close()
    assert judge(wanted, given)[1] == ""
    assert compare(wanted, given)["texts"] == len(texts)
    np.testing.assert_allclose(np.linalg.norm(given, axis=1), 1.0, atol=1e-4)


def test_texts_that_mean_the_same_lie_near_each_other(embedder_repository: Path) -> None:
    texts = ["How do I change my password?", "I forgot my login, can I reset it?", "The cake needs an hour in the oven"]
    session = open_backend(embedder_repository, "openvino/cpu/int8")
    try:
        found = embed(session, texts)
    finally:
        session.close()
    assert found[0] @ found[1] > 0.4 > found[0] @ found[2] + 0.2


def test_a_second_build_does_nothing_and_needs_no_network(embedder_repository: Path) -> None:
    assert build(embedder_repository, wheel=Path("never-opened.whl")) is None


def test_a_version_whose_evidence_is_damaged_does_not_count(embedder_repository: Path, tmp_path: Path) -> None:
    for version in Repository(embedder_repository).versions("embedder"):
        for kind in ("models", "meta"):
            folder = tmp_path / kind / "embedder" / str(version)
            shutil.copytree(
                embedder_repository / kind / "embedder" / str(version),
                folder,
                ignore=shutil.ignore_patterns("*.onnx", "*.bin"),
            )
    assert built_version(tmp_path) is not None
    for path in tmp_path.glob("meta/embedder/*/export.json"):
        path.write_text("{")
    assert built_version(tmp_path) is None
