import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from meshcast.rpc import CorruptData, InvalidInput
from meshcast.runtime import Backend, Evidence, Recorded, Repository, SessionOptions, VersionPaths
from meshcast.runtime.candidates import gate, open_candidate
from meshcast.runtime.evidence import PROOF_ROWS, sha256
from meshcast.runtime.export import export_model
from meshcast.runtime.torch import open_session as open_torch


def test_the_evidence_names_every_candidate_with_its_errors(small: Any) -> None:
    evidence = Repository(small.root).evidence("small", 1)
    proofs = {proof.backend: proof for proof in evidence.proofs}
    for backend in ("onnxruntime/cpu/f32", "openvino/cpu/f32"):
        assert proofs[backend].accepted
        assert tuple(proofs[backend].errors) == PROOF_ROWS
        assert max(proofs[backend].errors.values()) <= evidence.signature.tolerance
    assert set(evidence.files) == {"model.onnx", "openvino.xml", "openvino.bin", "recorded.npz"}
    assert evidence.signature == small.signature
    assert evidence.versions["torch"].startswith("2.")


def test_openvino_at_its_default_precision_is_refused_by_its_real_name(small: Any) -> None:
    repository = Repository(small.root)
    evidence, paths = repository.evidence("small", 1), repository.paths("small", 1)
    backend = Backend(runtime="openvino", precision="default")
    session = open_candidate(backend, paths, evidence, small.signature, SessionOptions())
    try:
        precision = session.backend.rsplit("/", 1)[1]
        if precision == "f32":
            pytest.skip("this processor has no reduced precision that OpenVINO would pick")
        verdict = gate(session, small.signature, Recorded.load(paths.meta_dir / "recorded.npz"))
    finally:
        session.close()
    assert session.backend in ("openvino/cpu/bf16", "openvino/cpu/f16")
    assert not verdict.accepted
    assert verdict.refusal.startswith(f"runs at {precision}, which differs from torch by")
    assert verdict.parity_error is not None and verdict.parity_error > small.signature.tolerance
    assert verdict.refusal in {proof.refusal for proof in evidence.proofs}


def test_an_example_batch_of_one_freezes_the_batch_and_is_refused(small: Any, tmp_path: Path) -> None:
    with pytest.raises(CorruptData, match="its batch is frozen"):
        export_model(
            small.module(1),
            small.signature,
            recorded=small.inputs(64),
            version_dir=tmp_path / "version",
            meta_dir=tmp_path / "meta",
            example_rows=1,
        )
    evidence = Evidence.load(tmp_path / "meta" / "export.json")
    assert [proof.accepted for proof in evidence.proofs] == [False] * len(evidence.proofs)
    assert evidence.proofs[0].errors[1] <= small.signature.tolerance  # one row would have looked right
    assert evidence.proofs[0].errors[7] == float("inf")


def test_inputs_that_do_not_fit_are_refused_before_anything_is_written(small: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        export_model(
            small.module(1),
            small.signature,
            recorded={"history": np.zeros((3, 24, 8), np.float32)},
            version_dir=tmp_path / "version",
            meta_dir=tmp_path / "meta",
        )
    assert not list(tmp_path.iterdir())


def test_the_kept_outputs_are_those_of_torch(small: Any) -> None:
    recorded = Recorded.load(Repository(small.root).paths("small", 2).meta_dir / "recorded.npz")
    again = open_torch(small.module(2), small.signature).run(recorded.inputs)
    for name, array in recorded.outputs.items():
        assert np.array_equal(array, again[name])
    assert len(recorded.inputs["mask"]) == 64


def test_equal_architectures_have_equal_graphs_and_other_weights(small: Any) -> None:
    first, second = (Repository(small.root).evidence("small", version) for version in (1, 2))
    assert first.graph == second.graph
    assert first.files["model.onnx"] != second.files["model.onnx"]


def alter_one_weight(path: Path) -> None:
    """Changes the first weight of the largest tensor of an ONNX file."""
    model = onnx.load(path)
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] += 1.0
    tensor.raw_data = values.tobytes()
    onnx.save(model, path)


def adopt_sum(paths: VersionPaths, path: Path) -> None:
    """Makes the evidence agree with an altered file, as if the exporter had written it so."""
    target = paths.meta_dir / "export.json"
    document = json.loads(target.read_text())
    document["files"][path.name] = sha256(path)
    target.write_text(json.dumps(document))


@pytest.mark.parametrize("knows", [False, True])
def test_one_altered_weight_is_found_by_its_sum_and_by_the_parity_gate(
    small: Any, repository: Any, knows: bool
) -> None:
    paths = repository.paths("small", 1)
    onnx_path = paths.version_dir / "model.onnx"
    alter_one_weight(onnx_path)
    backend = Backend(runtime="onnxruntime")
    if not knows:
        with pytest.raises(CorruptData, match="sha256"):
            open_candidate(backend, paths, repository.evidence("small", 1), small.signature, SessionOptions())
        return
    adopt_sum(paths, onnx_path)
    session = open_candidate(backend, paths, repository.evidence("small", 1), small.signature, SessionOptions())
    verdict = gate(session, small.signature, Recorded.load(paths.meta_dir / "recorded.npz"))
    session.close()
    assert not verdict.accepted and "differs from torch by" in verdict.refusal
