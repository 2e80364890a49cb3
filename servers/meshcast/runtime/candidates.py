"""Candidates: the ways to run a version on a host, each opened, held against torch, and warmed."""

import importlib.util
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc.errors import Precondition
from meshcast.runtime.evidence import (
    ONNX,
    OPENVINO,
    OPENVINO_INT8,
    OPENVINO_INT8_WEIGHTS,
    OPENVINO_WEIGHTS,
    PROOF_ROWS,
    Evidence,
    Recorded,
)
from meshcast.runtime.session import Backend, Session, SessionOptions, parity_error
from meshcast.runtime.signature import Lengths, Signature

__all__ = ["Candidate", "VersionPaths", "gate", "open_candidate", "tolerance", "warm"]

WARM_S = 3.0
"""Most seconds to warm the shapes of a ragged model; those that are left cost their first run 5 to 10 ms more each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionPaths:
    """Where one version lies: Triton's folder, and what is beside it."""

    version_dir: Path
    meta_dir: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to run a version on this host, and how it did.

    Attributes:
        backend: runtime, device and real precision.
        accepted: True when it may serve.
        refusal: why it may not; empty when accepted.
        parity_error: largest absolute difference to the recorded torch outputs; None when it could not run.
        rows_per_s: rows per second, geometric mean over the batch sizes that decide; None when not measured.
    """

    backend: str
    accepted: bool
    refusal: str = ""
    parity_error: float | None = None
    rows_per_s: float | None = None


def tolerance(signature: Signature, backend: str, evidence: Evidence | None = None) -> float | None:
    """Largest parity error that a back-end may show; None: its precision never serves this model.

    Args:
        signature: of the model.
        backend: runtime, device and real precision.
        evidence: of the version; what an INT8 graph may show stands there, since its accuracy was gated with it.
    """
    if backend.endswith("/int8"):
        proof = None if evidence is None else evidence.int8
        return proof.bound if proof is not None and proof.accepted else None
    return signature.tolerance if backend.endswith("/f32") else signature.tolerance_reduced


def open_candidate(
    backend: Backend, paths: VersionPaths, evidence: Evidence, signature: Signature, options: SessionOptions
) -> Session:
    """Opens a version in a back-end, its files checked against their sums first.

    Raises:
        CorruptData: a file is missing, altered or not loadable.
        Precondition: EXTRA_MISSING, the runtime is not installed.
    """
    if backend.runtime not in ("onnxruntime", "openvino") or importlib.util.find_spec(backend.runtime) is None:
        raise Precondition(
            f"{backend.runtime} is not installed here: pip install 'meshcast[servers]'",
            reason=error_reason_pb2.ERROR_REASON_EXTRA_MISSING,
            extra="servers",
            command="pip install 'meshcast[servers]'",
        )
    if backend.runtime == "onnxruntime":
        from meshcast.runtime import onnxruntime

        path = paths.version_dir / ONNX
        evidence.verify(path)
        return onnxruntime.open_session(path, signature, backend, options)

    from meshcast.runtime import openvino

    is_int8 = backend.precision == "int8"
    path = paths.meta_dir / (OPENVINO_INT8 if is_int8 else OPENVINO)
    evidence.verify(path)
    evidence.verify(paths.meta_dir / (OPENVINO_INT8_WEIGHTS if is_int8 else OPENVINO_WEIGHTS))
    return openvino.open_session(path, signature, backend, options)


def gate(
    session: Session,
    signature: Signature,
    recorded: Recorded,
    *,
    rows: Sequence[int] = PROOF_ROWS,
    evidence: Evidence | None = None,
) -> Candidate:
    """The parity gate: the session's outputs against the recorded torch outputs, at every batch size of `rows`.

    Args:
        session: the session under test.
        signature: of the model.
        recorded: rows with their torch outputs.
        rows: batch sizes; ragged rows are proved at several lengths, each as far as a run takes so many of them.
        evidence: of the version, for the bound of an INT8 graph.
    """
    bound = tolerance(signature, session.backend, evidence)
    worst = 0.0
    for size in rows:
        try:
            error = parity_error(session, signature, recorded.inputs, recorded.outputs, (size,))
        except Exception as failure:  # whatever a library raises on a graph that does not fit
            frozen = f" but not at {rows[0]}: its batch is frozen" if size != rows[0] else ""
            lines = [line for line in str(failure).splitlines() if not line.startswith("Exception from")] or [""]
            why = f"fails at a batch of {size}{frozen}: {lines[0][:160]}"
            return Candidate(backend=session.backend, accepted=False, refusal=why)
        worst = max(worst, error)
        if bound is not None and not error <= bound:
            why = f"differs from torch by {error:.2g} at a batch of {size}, more than {bound:.2g}"
            return Candidate(backend=session.backend, accepted=False, refusal=why, parity_error=worst)
    if bound is None:
        precision = session.backend.rsplit("/", 1)[-1]
        why = (
            f"runs at {precision}, which differs from torch by {worst:.2g}, more than {signature.tolerance:.2g}"
            if worst > signature.tolerance
            else f"runs at {precision}, which this model does not allow"
        )
        return Candidate(backend=session.backend, accepted=False, refusal=why, parity_error=worst)
    return Candidate(backend=session.backend, accepted=True, parity_error=worst)


def warm(session: Session, signature: Signature, recorded: Recorded, *, rows_max: int) -> Iterator[int]:
    """Warms every shape that will run, a step each, so that the caller can pace it; yields the rows.

    Of ragged rows the lengths that were recorded most come first, and after `WARM_S` of work nothing more is warmed.
    """
    inputs = recorded.inputs or signature.example(1)
    have = len(next(iter(inputs.values())))
    spent_s = 0.0
    for lengths in _warm_lengths(session, signature, recorded):
        for size in session.buckets(signature.rows_at(lengths, rows_max)):
            began = time.monotonic()
            pick = [row % have for row in range(size)]
            batch = {name: inputs[name][pick] for name in signature.input_names}
            session.warm(signature.at_lengths(batch, lengths) if lengths else batch)
            spent_s += time.monotonic() - began
            yield size
            if lengths and spent_s > WARM_S:
                return


def _warm_lengths(session: Session, signature: Signature, recorded: Recorded) -> Sequence[Lengths]:
    every = signature.all_lengths()
    if not session.is_shaped or not recorded.inputs or not signature.is_ragged:
        return every[:1]
    seen = Counter(map(tuple, signature.own_lengths(recorded.inputs).tolist()))
    return sorted(every, key=lambda lengths: -seen[lengths])
