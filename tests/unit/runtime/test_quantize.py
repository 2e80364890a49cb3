from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from meshcast.rpc import CorruptData
from meshcast.runtime import Arrays, Evidence, Signature, TensorSpec
from meshcast.runtime.evidence import Int8Proof
from meshcast.runtime.export import INT8_BOUND, Int8Plan, export_model
from meshcast.runtime.quantize import quantize_transformer

SIGNATURE = Signature(
    inputs=(TensorSpec(name="steps", shape=(-1, 32), length_max=32),), outputs=(TensorSpec(name="mean", shape=(32,)),)
)


class Attends(torch.nn.Module):
    """One attention head and a projection, over steps of which those that are all zero are padding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query_key_value = torch.nn.Linear(32, 96)
        self.out = torch.nn.Linear(32, 32)

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        mask = (steps.abs().sum(dim=2) > 0).to(steps.dtype)
        query, key, value = self.query_key_value(steps).chunk(3, dim=2)
        weights = torch.softmax(query @ key.transpose(1, 2) + (1 - mask)[:, None, :] * -1e4, dim=2)
        told: torch.Tensor = self.out(weights @ value) * mask[:, :, None]
        return told.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1.0)


def batch(seed: int, rows: int = 4, length: int = 8) -> dict[str, np.ndarray]:
    return {"steps": np.random.default_rng(seed).normal(size=(rows, length, 32)).astype(np.float32)}


def export(folder: Path, refusal: str, keep_openvino: bool) -> tuple[Evidence, list[str]]:
    told: list[str] = []

    def judge(wanted: Sequence[Arrays], given: Sequence[Arrays]) -> tuple[Mapping[str, float], str]:
        apart = max(float(np.abs(a["mean"] - b["mean"]).max()) for a, b in zip(wanted, given, strict=True))
        return {"apart": apart}, refusal

    plan = Int8Plan(
        calibration=[batch(seed) for seed in range(20)],
        held_out=[batch(seed) for seed in range(20, 24)],
        judge=judge,
        progress=told.append,
    )
    report = export_model(
        Attends(),
        SIGNATURE,
        recorded=batch(99, rows=20),
        version_dir=folder / "version",
        meta_dir=folder / "meta",
        int8=plan,
        keep_openvino=keep_openvino,
    )
    return report.evidence, told


@pytest.mark.slow
def test_an_int8_graph_is_proved_beside_the_others_and_kept_with_its_figures(tmp_path: Path) -> None:
    evidence, told = export(tmp_path, refusal="", keep_openvino=False)
    int8 = evidence.int8
    assert int8 is not None and int8.accepted and told == ["quantising", "judging"]
    assert 0 < int8.error and int8.bound == INT8_BOUND * int8.error
    assert 0 < int8.figures["apart"] < 0.1
    assert set(int8.digests) == {"openvino_int8.xml", "openvino_int8.bin"}
    for name in int8.digests:
        evidence.verify(tmp_path / "meta" / name)
    assert Evidence.load(tmp_path / "meta" / "export.json") == evidence
    assert "nncf" in evidence.versions
    assert set(evidence.files) == {"model.onnx", "recorded.npz"}
    assert not (tmp_path / "meta" / "openvino.bin").exists()
    assert str(tmp_path) not in (tmp_path / "meta" / "openvino_int8.xml").read_text("utf-8")


@pytest.mark.slow
def test_a_judge_that_says_no_leaves_its_reason_and_the_f32_graphs(tmp_path: Path) -> None:
    evidence, _ = export(tmp_path, refusal="too far apart", keep_openvino=True)
    assert evidence.int8 is not None and not evidence.int8.accepted
    assert evidence.int8.refusal == "too far apart"
    assert {"model.onnx", "openvino.xml", "openvino.bin"} <= set(evidence.files)


@pytest.mark.slow
def test_a_file_that_is_no_graph_cannot_be_quantised(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(b"nothing")
    with pytest.raises(CorruptData, match=r"model\.onnx cannot be"):
        quantize_transformer(source, tmp_path / "int8.xml", [batch(0)])


def test_an_altered_int8_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "openvino_int8.bin"
    path.write_bytes(b"other")
    proof = Int8Proof(
        file="openvino_int8.xml",
        digests={"openvino_int8.bin": "0" * 64},
        accepted=True,
        bound=0.1,
        error=0.05,
        figures={},
    )
    evidence = Evidence(
        signature=SIGNATURE, graph="", files={}, proofs=(), versions={}, exported_at="2026-01-01T00:00:00", int8=proof
    )
    with pytest.raises(CorruptData, match=r"openvino_int8\.bin cannot be loaded: its sha256 is"):
        evidence.verify(path)
    assert Int8Proof.from_dict(proof.to_dict()) == proof
