"""Signature of a model: the names, dtypes and shapes that go in and come out, and how far a back-end may stray."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc.errors import InvalidInput

__all__ = ["DTYPES", "RAGGED", "Arrays", "Lengths", "Signature", "TensorSpec"]

Arrays = Mapping[str, NDArray[Any]]
"""Tensors by name; the first dimension of each is the row."""

Lengths = tuple[int, ...]
"""Padded lengths of a batch's ragged axes, in the order of the inputs; empty where no axis is ragged."""

RAGGED = -1
"""A size that differs from call to call, in `TensorSpec.shape`."""

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
        shape: dimensions after the batch dimension; -1 in an input is a ragged axis, a length of its own that differs
            from call to call. Zeros at its end are padding by contract: they must not change any output.
        description: what it holds, with units.
        takes_nonfinite: True for an input in which NaN or infinity mean something; elsewhere they are refused.
        value_max: largest value of an integer input whose least is 0, as of an index into a table: one beyond it would
            fail the run, and with it the rows of other callers; None: any value.
        multiple_of: ragged axes are padded with zeros to a multiple of it, so that rows of near lengths run together
            (see `Signature.lengths`).
        length_max: longest ragged axis, itself such a multiple; 0 where none is ragged.
    """

    name: str
    dtype: str = "FP32"
    shape: tuple[int, ...] = ()
    description: str = ""
    takes_nonfinite: bool = False
    value_max: int | None = None
    multiple_of: int = 1
    length_max: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InvalidInput(f"Tensor {self.name}: {self.dtype!r} is none of {', '.join(DTYPES)}.", field="dtype")
        if any(size < 0 and size != RAGGED for size in self.shape):
            raise InvalidInput(f"Tensor {self.name}: a size is 0 or more, or -1, not {self.shape}.", field="shape")
        if self.multiple_of < 1 or self.length_max % self.multiple_of or self.is_ragged != (self.length_max > 0):
            raise InvalidInput(
                f"Tensor {self.name}: length_max is a multiple of multiple_of where an axis is ragged, else 0.",
                field="length_max",
            )

    @property
    def is_ragged(self) -> bool:
        """True when an axis has another length from call to call."""
        return RAGGED in self.shape

    @property
    def shape_text(self) -> str:
        """The shape that is asked for, as an error says it: `[rows, 0 to 256]`."""
        sizes = (f"0 to {self.length_max}" if size == RAGGED else str(size) for size in self.shape)
        return f"[{', '.join(('rows', *sizes))}]"

    def takes(self, shape: Sequence[int]) -> bool:
        """True for the shape of a tensor, rows first, that the model takes."""
        return len(shape) == 1 + len(self.shape) and all(
            size == wanted or (wanted == RAGGED and 0 <= size <= self.length_max)
            for size, wanted in zip(shape[1:], self.shape, strict=True)
        )

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
            **({} if self.value_max is None else {"value_max": self.value_max}),
            **({"multiple_of": self.multiple_of, "length_max": self.length_max} if self.is_ragged else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TensorSpec":
        """The spec that `to_dict` wrote."""
        value_max = values.get("value_max")
        return cls(
            name=str(values["name"]),
            dtype=str(values["dtype"]),
            shape=tuple(int(size) for size in values["shape"]),
            description=str(values.get("description", "")),
            takes_nonfinite=bool(values.get("takes_nonfinite", False)),
            value_max=None if value_max is None else int(value_max),
            multiple_of=int(values.get("multiple_of", 1)),
            length_max=int(values.get("length_max", 0)),
        )


@cache
def quarter_steps(size_max: int) -> tuple[int, ...]:
    """1 to 8, then steps of a quarter of the power of two, up to `size_max`: sizes that little is padded to."""
    sizes = {*range(1, 9), size_max}
    power = 8
    while power < size_max:
        sizes.update(power + power * quarter // 4 for quarter in range(1, 5))
        power *= 2
    return tuple(sorted(size for size in sizes if size <= size_max))


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
        cells_max: most rows times the longest ragged axis of one run, so that its memory is bounded; None: `rows_max`
            alone bounds it.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tolerance: float = 1e-5
    rows_max: int = 256
    tolerance_reduced: float | None = None
    relative: bool = False
    cells_max: int | None = None

    def __post_init__(self) -> None:
        for spec in self.outputs:
            if spec.is_ragged:
                raise InvalidInput(f"Output {spec.name} is ragged; only inputs may be.", field="shape")
        if self.cells_max is not None and self.cells_max < 1:
            raise InvalidInput("cells_max must be 1 or more.", field="cells_max")

    def check(self, arrays: Arrays, *, model: str = "") -> int:
        """Number of rows of `arrays`, which hold exactly the inputs with their dtypes, shapes and possible values.

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
            if array.shape[1:] != spec.shape and not spec.takes(array.shape):
                raise _mismatch(model, spec.name, f"has shape {list(array.shape)}, the model takes {spec.shape_text}")
            if rows < 0:
                rows = array.shape[0]
            elif array.shape[0] != rows:
                raise _mismatch(model, spec.name, f"has {array.shape[0]} rows, {self.inputs[0].name} has {rows}")
            if array.dtype.kind == "f" and not spec.takes_nonfinite and not np.isfinite(array).all():
                place = np.argwhere(~np.isfinite(array))[0].tolist()
                raise _mismatch(model, spec.name, f"holds {array[tuple(place)]} at {place}; values must be finite")
            if spec.value_max is not None and array.size and not 0 <= array.min() <= array.max() <= spec.value_max:
                place = np.argwhere((array < 0) | (array > spec.value_max))[0].tolist()
                raise _mismatch(
                    model, spec.name, f"holds {array[tuple(place)]} at {place}; values are 0 to {spec.value_max}"
                )
        if len(arrays) != len(self.inputs):
            unknown = sorted(set(arrays) - set(self.input_names))[0]
            raise _mismatch(model, unknown, f"is not an input; the model takes {', '.join(self.input_names)}")
        if rows < 1:
            raise _mismatch(model, self.inputs[0].name, "has no rows")
        return rows

    @property
    def is_ragged(self) -> bool:
        """True when an input has a ragged axis."""
        return any(spec.is_ragged for spec in self.inputs)

    @property
    def ragged_axes(self) -> tuple[tuple[TensorSpec, int], ...]:
        """The ragged axes in order: the input, and the dimension of its arrays, counted from 1 after the rows."""
        return tuple((spec, axis) for spec in self.inputs for axis, size in enumerate(spec.shape, 1) if size == RAGGED)

    def lengths(self, arrays: Arrays) -> Lengths:
        """The lengths that the ragged axes of inputs are padded to; only rows of the same lengths run together.

        All axes get as many multiples as the one that needs most, none more than its longest; so two axes make no more
        shapes than one. Up to eight the multiples are counted one by one, then by quarters of a power of two.

        Args:
            arrays: inputs that fit the signature, padded or not.
        """
        axes = self.ragged_axes
        units = max(-(-arrays[spec.name].shape[axis] // spec.multiple_of) for spec, axis in axes) if axes else 0
        steps = self._unit_steps
        units = steps[bisect_left(steps, units)] if axes else 0
        return tuple(min(units * spec.multiple_of, spec.length_max) for spec, _ in axes)

    def padded_lengths(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same for many rows, each by itself.

        Args:
            lengths: of the rows' ragged axes; shape (rows, axes).
        """
        axes = self.ragged_axes
        multiples = np.array([spec.multiple_of for spec, _ in axes], dtype=np.int64)
        longest = np.array([spec.length_max for spec, _ in axes], dtype=np.int64)
        units = (-(-lengths // multiples)).max(axis=1, initial=0)
        steps = np.array(self._unit_steps, dtype=np.int64)
        padded: NDArray[np.int64] = steps[np.searchsorted(steps, units)][:, None] * multiples
        return np.minimum(padded, longest)

    @property
    def _unit_steps(self) -> tuple[int, ...]:
        return quarter_steps(max((spec.length_max // spec.multiple_of for spec, _ in self.ragged_axes), default=0))

    def padded(self, arrays: Arrays) -> Arrays:
        """The inputs, their ragged axes padded with zeros to their multiples; the very arrays where nothing is missing.

        Args:
            arrays: inputs that fit the signature.
        """
        return self.at_lengths(arrays, self.lengths(arrays))

    def at_lengths(self, arrays: Arrays, lengths: Lengths) -> Arrays:
        """The inputs, their ragged axes padded with zeros, or cut, to the lengths.

        Args:
            arrays: inputs by name.
            lengths: as `lengths` gives them.
        """
        rest = iter(lengths)
        found: dict[str, NDArray[Any]] = {}
        for spec in self.inputs:
            array = arrays[spec.name]
            wanted = (len(array), *(next(rest) if size == RAGGED else size for size in spec.shape))
            if array.shape != wanted:
                common = tuple(slice(min(have, size)) for have, size in zip(array.shape, wanted, strict=True))
                whole = np.zeros(wanted, dtype=array.dtype)
                whole[common] = array[common]
                array = whole
            found[spec.name] = array
        return found

    def own_lengths(self, arrays: Arrays) -> NDArray[np.int64]:
        """The padded lengths that each row needs by itself, up to its last value that is not zero; (rows, axes)."""
        rows = len(next(iter(arrays.values())))
        columns = [np.empty((rows, 0), dtype=np.int64)]
        for spec, axis in self.ragged_axes:
            array = arrays[spec.name]
            holds = (array != 0).any(axis=tuple(other for other in range(1, array.ndim) if other != axis))
            last = np.where(holds, np.arange(1, holds.shape[1] + 1), 0).max(axis=1, initial=0)
            columns.append(last[:, None])
        return self.padded_lengths(np.concatenate(columns, axis=1))

    def rows_at(self, lengths: Lengths, rows_max: int | None = None) -> int:
        """Most rows of one run at these lengths.

        Args:
            lengths: of the ragged axes; empty where there are none.
            rows_max: bound of the device; the signature's when None. `cells_max` grows with it where it is larger.
        """
        rows = self.rows_max if rows_max is None else rows_max
        if self.cells_max is None or not lengths:
            return rows
        cells = self.cells_max * max(1, rows // self.rows_max)
        return max(1, min(rows, cells // max(lengths)))

    def all_lengths(self) -> tuple[Lengths, ...]:
        """Every padded lengths that there are, the shortest first; one of no axes where none is ragged."""
        axes = self.ragged_axes
        if not axes:
            return ((),)
        return tuple(
            tuple(min(units * spec.multiple_of, spec.length_max) for spec, _ in axes) for units in self._unit_steps
        )

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs in the graph's order."""
        return tuple(spec.name for spec in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs in the graph's order."""
        return tuple(spec.name for spec in self.outputs)

    def same_tensors(self, other: "Signature") -> bool:
        """True when both take and give the same names, dtypes, shapes and longest ragged axes."""

        def tensors(signature: Signature) -> list[tuple[str, str, tuple[int, ...], int]]:
            specs = (*signature.inputs, *signature.outputs)
            return [(spec.name, spec.dtype, spec.shape, spec.length_max) for spec in specs]

        return len(self.inputs) == len(other.inputs) and tensors(self) == tensors(other)

    def example(self, rows: int) -> dict[str, NDArray[Any]]:
        """Inputs of `rows` rows of ones, for a first run where nothing recorded is at hand; ragged axes are short."""
        return {
            spec.name: np.ones(
                (rows, *(spec.multiple_of if size == RAGGED else size for size in spec.shape)), dtype=spec.numpy_dtype
            )
            for spec in self.inputs
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "inputs": [spec.to_dict() for spec in self.inputs],
            "outputs": [spec.to_dict() for spec in self.outputs],
            "tolerance": self.tolerance,
            "rows_max": self.rows_max,
            "tolerance_reduced": self.tolerance_reduced,
            "relative": self.relative,
            **({} if self.cells_max is None else {"cells_max": self.cells_max}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Signature":
        """The signature that `to_dict` wrote."""
        reduced, cells_max = values.get("tolerance_reduced"), values.get("cells_max")
        return cls(
            inputs=tuple(TensorSpec.from_dict(spec) for spec in values["inputs"]),
            outputs=tuple(TensorSpec.from_dict(spec) for spec in values["outputs"]),
            tolerance=float(values["tolerance"]),
            rows_max=int(values["rows_max"]),
            tolerance_reduced=None if reduced is None else float(reduced),
            relative=bool(values.get("relative", False)),  # evidence of before it existed
            cells_max=None if cells_max is None else int(cells_max),
        )


def _mismatch(model: str, tensor: str, what: str) -> InvalidInput:
    return InvalidInput(
        f"Tensor {tensor} {what}.",
        violations=[(tensor, what)],
        reason=error_reason_pb2.ERROR_REASON_TENSOR_MISMATCH,
        model=model,
        tensor=tensor,
    )
