"""One suite over every service that ships a model and every back-end that may run it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from meshcast.rpc import InvalidInput
from meshcast.runtime import (
    Backend,
    Recorded,
    Repository,
    ServiceSpec,
    Session,
    SessionOptions,
    VersionPaths,
    find_service,
    find_services,
)
from meshcast.runtime.candidates import gate, open_candidate
from meshcast.runtime.evidence import PROOF_ROWS
from meshcast.runtime.onnxruntime import has_cuda
from meshcast.runtime.session import parity_error

BACKENDS = (
    "onnxruntime/cpu/f32",
    "openvino/cpu/f32",
    pytest.param(
        "onnxruntime/cuda/f32",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not has_cuda(), reason="no NVIDIA GPU with onnxruntime's CUDA provider"),
        ],
    ),
)


def shipped() -> list[ServiceSpec]:
    specs = [find_service(name) for name in find_services()]
    return [spec for spec in specs if spec.shipped is not None and Repository(spec.shipped).versions(spec.name)]


SERVICES = [pytest.param(spec, id=spec.name) for spec in shipped()]


@pytest.fixture(params=SERVICES)
def spec(request: pytest.FixtureRequest) -> ServiceSpec:
    found: ServiceSpec = request.param
    return found


@pytest.fixture
def paths(spec: ServiceSpec) -> VersionPaths:
    assert spec.shipped is not None
    repository = Repository(spec.shipped)
    return repository.paths(spec.name, repository.versions(spec.name)[-1])


@pytest.fixture(params=BACKENDS)
def session(request: pytest.FixtureRequest, spec: ServiceSpec, paths: VersionPaths) -> Iterator[Session]:
    assert spec.shipped is not None
    evidence = Repository(spec.shipped).evidence(spec.name, int(paths.version_dir.name))
    opened = open_candidate(Backend.parse(request.param), paths, evidence, spec.signature, SessionOptions(runs_max=2))
    yield opened
    opened.close()


def recorded(paths: VersionPaths) -> Recorded:
    return Recorded.load(paths.meta_dir / "recorded.npz")


def test_a_shipped_model_agrees_with_torch(session: Session, spec: ServiceSpec, paths: VersionPaths) -> None:
    verdict = gate(session, spec.signature, recorded(paths))
    assert verdict.accepted, verdict.refusal


def test_a_row_does_not_depend_on_its_batch(session: Session, spec: ServiceSpec, paths: VersionPaths) -> None:
    inputs = recorded(paths).inputs
    whole = session.run(inputs)
    for rows in (*PROOF_ROWS[:-1], 33):
        part = session.run({name: array[:rows] for name, array in inputs.items()})
        for name, array in part.items():
            assert array.shape == whole[name][:rows].shape
            assert np.abs(array - whole[name][:rows]).max() <= 1e-5


def test_every_back_end_gives_what_the_others_give(spec: ServiceSpec, paths: VersionPaths, session: Session) -> None:
    kept = recorded(paths)
    assert parity_error(session, spec.signature, kept.inputs, kept.outputs, PROOF_ROWS) <= spec.signature.tolerance


def test_the_signature_refuses_what_the_graph_would_not_take(spec: ServiceSpec, paths: VersionPaths) -> None:
    inputs = dict(recorded(paths).inputs)
    assert spec.signature.check(inputs) == len(next(iter(inputs.values())))
    first = spec.signature.input_names[0]
    for wrong in (inputs[first][:, :-1], inputs[first].astype(np.float64), inputs[first][:0]):
        with pytest.raises(InvalidInput):
            spec.signature.check({**inputs, first: wrong})


def test_the_version_holds_what_the_repository_promises(spec: ServiceSpec, paths: VersionPaths) -> None:
    assert spec.shipped is not None
    repository = Repository(spec.shipped)
    version = int(paths.version_dir.name)
    evidence = repository.evidence(spec.name, version)
    assert evidence.signature.same_tensors(spec.signature)
    assert [path.name for path in paths.version_dir.iterdir()] == ["model.onnx"]
    for folder, names in ((paths.version_dir, ["model.onnx"]), (paths.meta_dir, ["openvino.xml", "openvino.bin"])):
        for name in names:
            evidence.verify(Path(folder) / name)
    assert repository.card(spec.name, version)
    assert repository.metrics(spec.name, version)
