"""Evidence of an export: which back-ends reproduce the torch model, by how much, and the sums of the files."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.runtime.session import artefact_corrupt
from meshcast.runtime.signature import Arrays, Signature

__all__ = [
    "EVIDENCE",
    "ONNX",
    "OPENVINO",
    "OPENVINO_INT8",
    "OPENVINO_INT8_WEIGHTS",
    "OPENVINO_WEIGHTS",
    "PROOF_ROWS",
    "RECORDED",
    "Evidence",
    "Int8Proof",
    "Proof",
    "Recorded",
    "sha256",
]

PROOF_ROWS = (1, 2, 7, 64)
"""Batch sizes at which a graph is proved: an example batch that was frozen shows at one of them."""

ONNX, OPENVINO, OPENVINO_WEIGHTS = "model.onnx", "openvino.xml", "openvino.bin"
OPENVINO_INT8, OPENVINO_INT8_WEIGHTS = "openvino_int8.xml", "openvino_int8.bin"
EVIDENCE, RECORDED = "export.json", "recorded.npz"
CARD, METRICS = "card.md", "metrics.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """How one back-end did when the version was exported.

    Attributes:
        backend: runtime, device and real precision.
        accepted: True when every error is within its tolerance.
        refusal: why not; empty when accepted.
        errors: largest absolute difference to torch by batch size; empty when it did not run.
    """

    backend: str
    accepted: bool
    refusal: str = ""
    errors: Mapping[int, float]

    @property
    def error(self) -> float | None:
        """The largest of the errors; None when it did not run."""
        return max(self.errors.values(), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Proof:
    """How the INT8 graph did at its accuracy gate, and how far it may stray on a host that serves it.

    Attributes:
        file: name of the OpenVINO file, in the version's folder of metadata.
        digests: sha256 by file name, of that file and of its weights.
        accepted: True when every figure is within the gate.
        refusal: why not; empty when accepted.
        bound: largest difference to the recorded torch outputs that a host may see, measured as the signature does.
        error: the largest that was seen when the graph was made.
        figures: what the gate measured on texts or rows that the quantisation did not see, by name.
    """

    file: str
    digests: Mapping[str, str]
    accepted: bool
    refusal: str = ""
    bound: float
    error: float
    figures: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "file": self.file,
            "digests": dict(self.digests),
            "accepted": self.accepted,
            "refusal": self.refusal,
            "bound": self.bound,
            "error": self.error,
            "figures": dict(self.figures),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Int8Proof":
        """The proof that `to_dict` wrote."""
        return cls(
            file=str(values["file"]),
            digests={str(name): str(value) for name, value in values["digests"].items()},
            accepted=bool(values["accepted"]),
            refusal=str(values["refusal"]),
            bound=float(values["bound"]),
            error=float(values["error"]),
            figures={str(name): float(value) for name, value in values["figures"].items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Real inputs with their torch outputs, kept beside a version so that it can be proved again without torch."""

    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]

    def save(self, path: Path) -> None:
        """Writes an `.npz` file."""
        arrays: dict[str, Any] = {f"input.{name}": array for name, array in self.inputs.items()}
        arrays |= {f"output.{name}": array for name, array in self.outputs.items()}
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Recorded":
        """What `save` wrote.

        Raises:
            CorruptData: the file is missing, truncated or something else.
        """
        try:
            # Opened here: numpy leaves its own file open when the archive is damaged.
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except Exception as error:  # zipfile, numpy and the system raise unrelated classes
            raise artefact_corrupt(path, f"{type(error).__name__}") from error
        return cls(inputs=_under("input.", arrays), outputs=_under("output.", arrays))


def _under(prefix: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The content of `export.json`.

    Attributes:
        signature: of the model.
        graph: sum of the graph's structure, its weights left out; equal graphs are equally fast.
        files: sha256 by file name.
        proofs: how each back-end did at the export.
        versions: of the libraries that took part.
        exported_at: ISO 8601, UTC.
        int8: how the INT8 graph did; None where there is none.
    """

    signature: Signature
    graph: str
    files: Mapping[str, str]
    proofs: tuple[Proof, ...]
    versions: Mapping[str, str]
    exported_at: str
    int8: Int8Proof | None = None

    def verify(self, path: Path) -> None:
        """Checks a file against its sum.

        Raises:
            CorruptData: the file is missing, altered or truncated, or not named here.
        """
        digests = {**self.files, **({} if self.int8 is None else self.int8.digests)}
        wanted = digests.get(path.name)
        if wanted is None:
            raise artefact_corrupt(path, f"{EVIDENCE} does not name it")
        try:
            found = sha256(path)
        except OSError as error:
            raise artefact_corrupt(path, error.strerror or "it cannot be read") from error
        if found != wanted:
            raise artefact_corrupt(path, f"its sha256 is {found[:12]}, {EVIDENCE} says {wanted[:12]}")

    def save(self, path: Path) -> None:
        """Writes the JSON file."""
        document: dict[str, Any] = {
            "format": 1,
            "signature": self.signature.to_dict(),
            "graph": self.graph,
            "files": dict(self.files),
            "tolerance": self.signature.tolerance,
            "candidates": [
                {
                    "backend": proof.backend,
                    "accepted": proof.accepted,
                    "refusal": proof.refusal,
                    "errors": {str(rows): error for rows, error in proof.errors.items()},
                }
                for proof in self.proofs
            ],
            "versions": dict(self.versions),
            "exported_at": self.exported_at,
        }
        if self.int8 is not None:
            document["int8"] = self.int8.to_dict()
        path.write_text(json.dumps(document, indent=2, allow_nan=True) + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path) -> "Evidence":
        """What `save` wrote.

        Raises:
            CorruptData: the file is missing, truncated or something else.
        """
        try:
            document = json.loads(path.read_text("utf-8"))
            return cls(
                signature=Signature.from_dict(document["signature"]),
                graph=str(document["graph"]),
                files={str(name): str(value) for name, value in document["files"].items()},
                proofs=tuple(
                    Proof(
                        backend=str(proof["backend"]),
                        accepted=bool(proof["accepted"]),
                        refusal=str(proof["refusal"]),
                        errors={int(rows): float(error) for rows, error in proof["errors"].items()},
                    )
                    for proof in document["candidates"]
                ),
                versions={str(name): str(value) for name, value in document["versions"].items()},
                exported_at=str(document["exported_at"]),
                int8=Int8Proof.from_dict(document["int8"]) if document.get("int8") else None,
            )
        except OSError as error:
            raise artefact_corrupt(path, error.strerror or "it cannot be read") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise artefact_corrupt(path, f"{type(error).__name__}: {error}") from error


def sha256(path: Path) -> str:
    """Sum of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
