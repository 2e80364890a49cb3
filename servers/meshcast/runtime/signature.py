"""Signature of a model: the names, dtypes and shapes that go in and come out, and how far a back-end may stray."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc.errors import InvalidInput

__all__ = ["DTYPES", "Arrays", "Signature", "TensorSpec"]

Arrays = Mapping[str, NDArray[Any]]
"""Tensors by name; the first dimension of each is the row."""

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
"""Open Inference Protocol datatypes that a graph of ours may use, with their numpy dtypes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One tensor of a graph.

    Attributes:
        name: name in the graph.
        dtype: Open Inference Protocol datatype, a key of `DTYPES`, as in `FP32`.
        shape: dimensions after the batch dimension.
        description: what it holds, with units.
        takes_nonfinite: True for an input in which NaN or infinity mean something; elsewhere they are refused.
    """

    name: str
    dtype: str = "FP32"
    shape: tuple[int, ...] = ()
    description: str = ""
    takes_nonfinite: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InvalidInput(f"Tensor {self.name}: {self.dtype!r} is none of {', '.join(DTYPES)}.", field="dtype")

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The numpy dtype of the elements."""
        return DTYPES[self.dtype]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "description": self.description,
            "takes_nonfinite": self.takes_nonfinite,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TensorSpec":
        """The spec that `to_dict` wrote."""
        return cls(
            name=str(values["name"]),
            dtype=str(values["dtype"]),
            shape=tuple(int(size) for size in values["shape"]),
            description=str(values.get("description", "")),
            takes_nonfinite=bool(values.get("takes_nonfinite", False)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a model takes and gives; every version of a model has the same one.

    Attributes:
        inputs: inputs in the graph's order.
        outputs: outputs in the graph's order.
        tolerance: largest difference to the torch outputs that a back-end may show: absolute, in the outputs' units,
            or, where the signature is `relative`, as a share of the largest value of the same row and output.
        rows_max: most rows of one run; larger requests are split.
        tolerance_reduced: the same for reduced precision (bf16) where a setting allows it; None: it never serves.
        relative: True for a model whose outputs scale with its inputs, so that no absolute difference fits them all.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tolerance: float = 1e-5
    rows_max: int = 256
    tolerance_reduced: float | None = None
    relative: bool = False

    def check(self, arrays: Arrays, *, model: str = "") -> int:
        """Number of rows of `arrays`, which hold exactly the inputs with their dtypes, shapes and finite values.

        Args:
            arrays: the inputs by name.
            model: name of the model, for the error.

        Raises:
            InvalidInput: TENSOR_MISMATCH; the first tensor at fault is named, with what was given and what is asked.
        """
        rows = -1
        for spec in self.inputs:
            array = arrays.get(spec.name)
            if array is None:
                raise _mismatch(model, spec.name, f"is missing; the model takes {', '.join(self.input_names)}")
            if array.dtype != spec.numpy_dtype:
                raise _mismatch(
                    model, spec.name, f"is {array.dtype}, the model takes {spec.dtype} ({spec.numpy_dtype})"
                )
            if array.ndim != 1 + len(spec.shape) or array.shape[1:] != spec.shape:
                wanted = ["rows", *map(str, spec.shape)]
                raise _mismatch(
                    model, spec.name, f"has shape {list(array.shape)}, the model takes [{', '.join(wanted)}]"
                )
            if rows < 0:
                rows = array.shape[0]
            elif array.shape[0] != rows:
                raise _mismatch(model, spec.name, f"has {array.shape[0]} rows, {self.inputs[0].name} has {rows}")
            if array.dtype.kind == "f" and not spec.takes_nonfinite and not np.isfinite(array).all():
                place = np.argwhere(~np.isfinite(array))[0].tolist()
                raise _mismatch(model, spec.name, f"holds {array[tuple(place)]} at {place}; values must be finite")
        if len(arrays) != len(self.inputs):
            unknown = sorted(set(arrays) - set(self.input_names))[0]
            raise _mismatch(model, unknown, f"is not an input; the model takes {', '.join(self.input_names)}")
        if rows < 1:
            raise _mismatch(model, self.inputs[0].name, "has no rows")
        return rows

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs in the graph's order."""
        return tuple(spec.name for spec in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs in the graph's order."""
        return tuple(spec.name for spec in self.outputs)

    def same_tensors(self, other: "Signature") -> bool:
        """True when both take and give the same names, dtypes and shapes."""

        def tensors(signature: Signature) -> list[tuple[str, str, tuple[int, ...]]]:
            return [(spec.name, spec.dtype, spec.shape) for spec in (*signature.inputs, *signature.outputs)]

        return len(self.inputs) == len(other.inputs) and tensors(self) == tensors(other)

    def example(self, rows: int) -> dict[str, NDArray[Any]]:
        """Inputs of `rows` rows of ones, for a first run where nothing recorded is at hand."""
        return {spec.name: np.ones((rows, *spec.shape), dtype=spec.numpy_dtype) for spec in self.inputs}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "inputs": [spec.to_dict() for spec in self.inputs],
            "outputs": [spec.to_dict() for spec in self.outputs],
            "tolerance": self.tolerance,
            "rows_max": self.rows_max,
            "tolerance_reduced": self.tolerance_reduced,
            "relative": self.relative,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Signature":
        """The signature that `to_dict` wrote."""
        reduced = values.get("tolerance_reduced")
        return cls(
            inputs=tuple(TensorSpec.from_dict(spec) for spec in values["inputs"]),
            outputs=tuple(TensorSpec.from_dict(spec) for spec in values["outputs"]),
            tolerance=float(values["tolerance"]),
            rows_max=int(values["rows_max"]),
            tolerance_reduced=None if reduced is None else float(reduced),
            relative=bool(values.get("relative", False)),  # evidence of before it existed
        )


def _mismatch(model: str, tensor: str, what: str) -> InvalidInput:
    return InvalidInput(
        f"Tensor {tensor} {what}.",
        violations=[(tensor, what)],
        reason=error_reason_pb2.ERROR_REASON_TENSOR_MISMATCH,
        model=model,
        tensor=tensor,
    )
