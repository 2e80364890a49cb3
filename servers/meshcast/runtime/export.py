"""Export of a torch model to ONNX and OpenVINO, with the parity gate and its evidence. Never imported when serving.

With `torch.py`, the only module of the runtime that imports torch.
"""

import contextlib
import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import structlog
import torch
from numpy.typing import NDArray

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc.errors import CorruptData, InvalidInput, MeshError
from meshcast.runtime import onnxruntime, openvino
from meshcast.runtime.candidates import Candidate, gate
from meshcast.runtime.evidence import (
    CARD,
    EVIDENCE,
    METRICS,
    ONNX,
    OPENVINO,
    OPENVINO_INT8,
    OPENVINO_INT8_WEIGHTS,
    OPENVINO_WEIGHTS,
    PROOF_ROWS,
    RECORDED,
    Evidence,
    Int8Proof,
    Proof,
    Recorded,
    sha256,
)
from meshcast.runtime.quantize import quantize_transformer
from meshcast.runtime.session import Backend, Session, SessionOptions, parity_error
from meshcast.runtime.signature import RAGGED, Arrays, Signature
from meshcast.runtime.torch import open_session as open_torch

__all__ = ["ExportReport", "Int8Plan", "export_model"]

log = structlog.get_logger()

# It warns of every operator of torchvision that it does without; no graph of ours has one.
_REGISTRATION = logging.getLogger("torch.onnx._internal.exporter._registration")

RECORDED_ROWS_MAX = max(PROOF_ROWS)  # the proofs need no more; the file is read at every load

_TAKE_PART = ("torch", "onnx", "onnxruntime", "openvino", "numpy")

INT8_BOUND = 1.5
"""How many times the error that an INT8 graph shows on the recorded rows here it may show on a host: other processors
round otherwise, and one without the instructions for it may overflow, which goes far beyond.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Plan:
    """How a model is quantised, and what its accuracy gate asks.

    Attributes:
        calibration: batches of real inputs that the quantisation sees.
        held_out: batches of real inputs that it does not see.
        judge: from the torch outputs and the INT8 outputs of `held_out` to figures by name and a refusal, which is
            empty where the figures are good enough.
        progress: told before the graph is quantised and before it is judged.
    """

    calibration: Sequence[Arrays]
    held_out: Sequence[Arrays]
    judge: Callable[[Sequence[Arrays], Sequence[Arrays]], tuple[Mapping[str, float], str]]
    progress: Callable[[str], None] = lambda doing: None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export gave.

    Attributes:
        evidence: what `export.json` holds.
        version_dir: where the ONNX file lies.
        meta_dir: where everything else lies.
    """

    evidence: Evidence
    version_dir: Path
    meta_dir: Path

    @property
    def accepted(self) -> tuple[str, ...]:
        """Back-ends that may serve the version."""
        return tuple(proof.backend for proof in self.evidence.proofs if proof.accepted)


def export_model(
    module: torch.nn.Module,
    signature: Signature,
    *,
    recorded: Mapping[str, NDArray[Any]],
    version_dir: Path,
    meta_dir: Path,
    card: str = "",
    metrics: Mapping[str, float] | None = None,
    example_rows: int = 2,
    int8: Int8Plan | None = None,
    keep_openvino: bool = True,
) -> ExportReport:
    """Writes a torch model as ONNX and OpenVINO IR, and proves both against it at batches of 1, 2, 7 and 64.

    Args:
        module: takes the signature's inputs in order, gives its outputs in order.
        signature: of the model, with the tolerance of the proof.
        recorded: real inputs by name; up to 64 of their rows are kept beside the version, with the torch outputs.
        version_dir: gets `model.onnx` and nothing else; is made where it is missing.
        meta_dir: gets `openvino.xml`, `openvino.bin`, `export.json`, `recorded.npz`, `card.md` and `metrics.json`.
        card: the model card, in Markdown.
        metrics: figures measured on data that training never saw.
        example_rows: rows of the example that the exporter traces; with 1 it freezes the batch, which the proof finds.
        int8: how an INT8 graph is made too, `openvino_int8.xml` and `.bin`; None: none is.
        keep_openvino: False to throw `openvino.xml` and `.bin` away when they are proved: where an INT8 graph serves,
            they would only lie there, as large as the ONNX file.

    Raises:
        InvalidInput: the recorded inputs are not the signature's.
        CorruptData: no back-end reproduces the torch model; the evidence is written all the same.
        ModuleNotFoundError: an INT8 graph is asked for and nncf is not installed.
    """
    rows = signature.check(recorded)
    recorded = signature.padded(recorded)
    pick = np.unique(np.linspace(0, rows - 1, min(rows, RECORDED_ROWS_MAX)).astype(np.int64))
    inputs = {name: np.ascontiguousarray(recorded[name][pick]) for name in signature.input_names}
    version_dir.mkdir(parents=True, exist_ok=True)
    meta_dir.mkdir(parents=True, exist_ok=True)
    oracle = open_torch(module, signature)
    kept = Recorded(inputs=inputs, outputs=oracle.run(inputs))
    _check_outputs(signature, kept)

    onnx_path = version_dir / ONNX
    _write_onnx(module, signature, inputs, onnx_path, example_rows)
    kept.save(meta_dir / RECORDED)
    (meta_dir / CARD).write_text(card, "utf-8")
    (meta_dir / METRICS).write_text(json.dumps(dict(metrics or {}), indent=2, sort_keys=True) + "\n", "utf-8")
    proofs = _proofs(onnx_path, meta_dir, signature, kept)
    if not keep_openvino:
        for name in (OPENVINO, OPENVINO_WEIGHTS):
            (meta_dir / name).unlink(missing_ok=True)
    evidence = Evidence(
        signature=signature,
        graph=_graph_sum(onnx_path),
        files={
            path.name: sha256(path)
            for path in (onnx_path, *(meta_dir / name for name in (OPENVINO, OPENVINO_WEIGHTS, RECORDED)))
            if path.exists()
        },
        proofs=proofs,
        versions={name: metadata.version(name) for name in (*_TAKE_PART, *(() if int8 is None else ("nncf",)))},
        exported_at=datetime.now(UTC).isoformat(timespec="seconds"),
        int8=None if int8 is None else _quantize(onnx_path, meta_dir, signature, kept, oracle, int8),
    )
    evidence.save(meta_dir / EVIDENCE)
    report = ExportReport(evidence=evidence, version_dir=version_dir, meta_dir=meta_dir)
    log.info(
        "exported",
        accepted=report.accepted,
        refused={proof.backend: proof.refusal for proof in proofs if proof.refusal},
    )
    if not report.accepted:
        why = "; ".join(f"{proof.backend}: {proof.refusal}" for proof in proofs)
        raise CorruptData(
            f"No back-end reproduces the torch model: {why}.",
            reason=error_reason_pb2.ERROR_REASON_ARTEFACT_CORRUPT,
            why=why[:500],
        )
    return report


def _write_onnx(
    module: torch.nn.Module, signature: Signature, inputs: Mapping[str, NDArray[Any]], path: Path, example_rows: int
) -> None:
    have = len(next(iter(inputs.values())))
    pick = [row % have for row in range(example_rows)]
    # Every ragged axis has another length in the example: the exporter takes equal ones for the same.
    lengths = tuple(
        min((3 + place) * spec.multiple_of, spec.length_max) for place, (spec, _) in enumerate(signature.ragged_axes)
    )
    arrays = signature.at_lengths({name: inputs[name][pick] for name in signature.input_names}, lengths)
    example = tuple(torch.from_numpy(arrays[name]) for name in signature.input_names)
    batch = torch.export.Dim("batch", min=1, max=4096)
    # The exporters warn about their own insides; a caller that turns warnings into errors must still get a file.
    with warnings.catch_warnings(), _errors_only(_REGISTRATION):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            example,
            str(path),
            dynamo=True,
            input_names=list(signature.input_names),
            output_names=list(signature.output_names),
            dynamic_shapes=tuple(
                {0: batch}
                | {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(spec.shape, 1) if size == RAGGED}
                for spec in signature.inputs
            ),
            external_data=False,
            verbose=False,
        )
    _strip(path)


@contextlib.contextmanager
def _errors_only(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _strip(path: Path) -> None:
    """Removes source paths and other notes of the exporting machine from an ONNX file."""
    model = onnx.load(path)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    del model.metadata_props[:], model.graph.metadata_props[:]
    onnx.save(model, path)


def _proofs(onnx_path: Path, meta_dir: Path, signature: Signature, recorded: Recorded) -> tuple[Proof, ...]:
    options = SessionOptions()
    xml = meta_dir / OPENVINO

    def open_onnx() -> Session:
        return onnxruntime.open_session(onnx_path, signature, Backend(runtime="onnxruntime"), options)

    def open_f32() -> Session:
        openvino.convert_onnx(onnx_path, xml)
        return openvino.open_session(xml, signature, Backend(runtime="openvino"), options)

    def open_default() -> Session:
        return openvino.open_session(xml, signature, Backend(runtime="openvino", precision="default"), options)

    proofs: list[Proof] = []
    for name, opening in (
        ("onnxruntime/cpu/f32", open_onnx),
        ("openvino/cpu/f32", open_f32),
        ("openvino/cpu/default", open_default),
    ):
        try:
            session = opening()
        except MeshError as error:
            proofs.append(Proof(backend=name, accepted=False, refusal=error.message, errors={}))
            continue
        try:
            if session.backend not in {proof.backend for proof in proofs}:  # the default may well be f32
                proofs.append(prove(session, signature, recorded))
        finally:
            session.close()
    return tuple(proofs)


def _quantize(
    onnx_path: Path, meta_dir: Path, signature: Signature, recorded: Recorded, oracle: Session, plan: Int8Plan
) -> Int8Proof:
    """Writes the INT8 graph, and how it did on inputs that it was not made with."""
    xml = meta_dir / OPENVINO_INT8
    plan.progress("quantising")
    quantize_transformer(onnx_path, xml, plan.calibration)
    plan.progress("judging")
    # f32 for what is left of it: recent CPUs would else run that at bf16.
    session = openvino.open_session(xml, signature, Backend(runtime="openvino"), SessionOptions())
    try:
        error = parity_error(session, signature, recorded.inputs, recorded.outputs, PROOF_ROWS)
        wanted = [oracle.run(batch) for batch in plan.held_out]
        figures, refusal = plan.judge(wanted, [session.run(batch) for batch in plan.held_out])
    finally:
        session.close()
    return Int8Proof(
        file=xml.name,
        digests={path.name: sha256(path) for path in (xml, meta_dir / OPENVINO_INT8_WEIGHTS)},
        accepted=not refusal,
        refusal=refusal,
        bound=INT8_BOUND * error,
        error=error,
        figures=figures,
    )


def prove(session: Session, signature: Signature, recorded: Recorded) -> Proof:
    """How a session does against the recorded torch outputs, at each batch size of `PROOF_ROWS`."""
    verdict: Candidate = gate(session, signature, recorded)
    errors: dict[int, float] = {}
    for rows in PROOF_ROWS:
        try:
            errors[rows] = parity_error(session, signature, recorded.inputs, recorded.outputs, (rows,))
        except Exception:  # a frozen batch: the verdict says it
            errors[rows] = float("inf")
    return Proof(backend=verdict.backend, accepted=verdict.accepted, refusal=verdict.refusal, errors=errors)


def _check_outputs(signature: Signature, recorded: Recorded) -> None:
    for spec in signature.outputs:
        array = recorded.outputs[spec.name]
        if array.dtype != spec.numpy_dtype or array.shape[1:] != spec.shape:
            raise InvalidInput(
                f"Output {spec.name} of the module is {array.dtype}{list(array.shape)}, "
                f"its signature says {spec.dtype}[rows, {', '.join(map(str, spec.shape))}].",
                field=spec.name,
            )


def _graph_sum(path: Path) -> str:
    """Sum of a graph's structure: operators, wiring, attributes and shapes, without the weights' values."""
    model = onnx.load(path)
    digest = hashlib.sha256()
    for tensor in model.graph.initializer:
        digest.update(f"{tensor.name} {list(tensor.dims)} {tensor.data_type}\n".encode())
    for node in model.graph.node:
        attributes = sorted((a for a in node.attribute if not a.HasField("t")), key=lambda a: a.name)
        digest.update(f"{node.op_type} {list(node.input)} {list(node.output)}\n".encode())
        for attribute in attributes:
            digest.update(attribute.SerializeToString(deterministic=True))
    return digest.hexdigest()
