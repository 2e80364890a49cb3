"""The models that ship, in every back-end, without a server: equal to torch, and what the repository says they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshcast.rpc import InvalidInput
from meshcast.runtime import Backend, Recorded, Repository, Session, SessionOptions, VersionPaths
from meshcast.runtime.candidates import gate, open_candidate
from meshcast.runtime.evidence import PROOF_ROWS


@pytest.fixture
def paths(case: Any, artefacts: Any, tmp_path: Path, suite: Any) -> VersionPaths:
    """The version that ships; of a service that ships none, one that was exported here."""
    return Repository(artefacts.repository(tmp_path, suite.FIRST)).paths(case.spec.name, suite.FIRST)


@pytest.fixture
def recorded(paths: VersionPaths) -> Recorded:
    return Recorded.load(paths.meta_dir / "recorded.npz")


@pytest.fixture
def session(case: Any, paths: VersionPaths, tmp_path: Path) -> Iterator[Session]:
    evidence = Repository(tmp_path).evidence(case.spec.name, int(paths.version_dir.name))
    backend = Backend.parse(case.backend)
    opened = open_candidate(backend, paths, evidence, case.signature, SessionOptions(runs_max=2))
    yield opened
    opened.close()


def test_a_shipped_model_agrees_with_torch_at_every_batch(case: Any, session: Session, recorded: Recorded) -> None:
    verdict = gate(session, case.signature, recorded, rows=PROOF_ROWS)
    assert verdict.accepted, verdict.refusal
    assert PROOF_ROWS == (1, 2, 7, 64)


def test_a_row_does_not_depend_on_its_batch(case: Any, session: Session, recorded: Recorded) -> None:
    whole = session.run(recorded.inputs)
    for rows in (*PROOF_ROWS[:-1], 33):
        inputs = {name: array[:rows] for name, array in recorded.inputs.items()}
        expected = {name: array[:rows] for name, array in whole.items()}
        assert case.difference(session.run(inputs), expected) <= case.signature.tolerance


def test_the_signature_refuses_what_the_graph_would_not_take(case: Any, recorded: Recorded) -> None:
    inputs = dict(recorded.inputs)
    assert case.signature.check(inputs) == len(next(iter(inputs.values())))
    for name, array in inputs.items():
        for wrong in (array[..., None], array.astype(np.complex64)):
            with pytest.raises(InvalidInput) as caught:
                case.signature.check({**inputs, name: wrong})
            assert caught.value.facts["tensor"] == name
    with pytest.raises(InvalidInput):
        case.signature.check({name: array[:0] for name, array in inputs.items()})


def test_the_version_holds_what_the_repository_promises(case: Any, paths: VersionPaths, tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    version = int(paths.version_dir.name)
    evidence = repository.evidence(case.spec.name, version)
    assert evidence.signature.same_tensors(case.signature)
    assert [path.name for path in paths.version_dir.iterdir()] == ["model.onnx"]
    for folder, names in ((paths.version_dir, ["model.onnx"]), (paths.meta_dir, ["openvino.xml", "openvino.bin"])):
        for name in names:
            evidence.verify(folder / name)
    assert repository.card(case.spec.name, version)
    assert repository.metrics(case.spec.name, version)
