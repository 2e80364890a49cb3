"""Tensors of the Open Inference Protocol: raw and typed contents to numpy and back, by datatype.

A shape on the wire is a claim: nothing is reserved, multiplied or viewed by it before its elements have been counted.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.api.oip.v2 import grpc_service_pb2 as pb
from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc.errors import InvalidInput
from meshcast.runtime.signature import DTYPES

__all__ = ["CONTENTS", "from_contents", "from_raw", "mismatch", "to_raw"]

BYTES = "BYTES"

CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""Field of `InferTensorContents` by datatype. FP16 has none: it travels raw only."""

_LITTLE = {name: dtype.newbyteorder("<") for name, dtype in DTYPES.items()}
_RANK_MAX = 32  # numpy's own bound is 64
_ELEMENTS_MAX = 1 << 40  # far past any message; keeps numpy's own size arithmetic from overflowing
_LENGTH = struct.Struct("<I")


def from_raw(datatype: str, shape: Sequence[int], raw: bytes, *, model: str = "", tensor: str = "") -> NDArray[Any]:
    """A tensor from raw contents: little-endian, row by row; a view of `raw` wherever one is possible, read-only.

    Args:
        datatype: a key of `DTYPES`, or `BYTES`; its elements come as an object array of `bytes`.
        shape: as the request states it.
        raw: the elements.
        model: for the error.
        tensor: for the error.

    Raises:
        InvalidInput: TENSOR_MISMATCH; the datatype is unknown, the shape impossible, or the elements are not as many.
    """
    elements = _count(shape, model, tensor)
    if datatype == BYTES:
        return _strings(_split(raw, elements, model, tensor), shape)
    dtype = _LITTLE.get(datatype)
    if dtype is None:
        raise _unknown(datatype, model, tensor)
    if len(raw) != elements * dtype.itemsize:
        what = f"has {len(raw)} bytes of raw contents; {datatype} of shape {list(shape)} takes"
        raise mismatch(model, tensor, f"{what} {elements * dtype.itemsize}")
    if datatype == "BOOL":  # any other byte would be a value that is neither true nor false
        flags = np.frombuffer(raw, dtype=np.uint8)
        if flags.size and flags.max() > 1:
            raise mismatch(model, tensor, "is BOOL and has bytes other than 0 and 1")
        return flags.view(np.bool_).reshape(shape)
    return np.frombuffer(raw, dtype=dtype).astype(DTYPES[datatype], copy=False).reshape(shape)


def from_contents(
    datatype: str, shape: Sequence[int], contents: pb.InferTensorContents, *, model: str = "", tensor: str = ""
) -> NDArray[Any]:
    """A tensor from typed contents.

    Args:
        datatype: a key of `CONTENTS`.
        shape: as the request states it.
        contents: the elements, in the one field that fits the datatype.
        model: for the error.
        tensor: for the error.

    Raises:
        InvalidInput: TENSOR_MISMATCH; as `from_raw`, or an element does not fit the datatype.
    """
    elements = _count(shape, model, tensor)
    field = CONTENTS.get(datatype)
    if field is None:
        if datatype in DTYPES:
            raise mismatch(model, tensor, f"is {datatype}, which has no typed contents; send raw_input_contents")
        raise _unknown(datatype, model, tensor)
    values = getattr(contents, field)
    if len(values) != elements:
        what = f"has {len(values)} elements in contents.{field}; {datatype} of shape {list(shape)} takes {elements}"
        raise mismatch(model, tensor, what)
    if datatype == BYTES:
        return _strings(list(values), shape)
    dtype = DTYPES[datatype]
    wide = np.array(values)
    if dtype.kind in "iu" and elements:
        bounds = np.iinfo(dtype)
        if wide.min() < bounds.min or wide.max() > bounds.max:
            raise mismatch(model, tensor, f"has an element outside of {datatype} ({bounds.min} to {bounds.max})")
    return wide.astype(dtype, copy=False).reshape(shape)


def to_raw(array: NDArray[Any], datatype: str) -> bytes:
    """Raw contents of a tensor: little-endian, row by row; a BYTES element after its length as four bytes."""
    if datatype == BYTES:
        elements = [element if isinstance(element, bytes) else str(element).encode() for element in array.ravel()]
        return b"".join(part for element in elements for part in (_LENGTH.pack(len(element)), element))
    return np.ascontiguousarray(array, dtype=_LITTLE[datatype]).tobytes()


def mismatch(model: str, tensor: str, what: str) -> InvalidInput:
    """The error for a tensor that is not as it should be; `what` goes on after the tensor's name."""
    return InvalidInput(
        f"Tensor {tensor[:128]} {what}.",
        violations=[(tensor[:128], what)],
        reason=error_reason_pb2.ERROR_REASON_TENSOR_MISMATCH,
        model=model[:128],
        tensor=tensor[:128],
    )


def _count(shape: Sequence[int], model: str, tensor: str) -> int:
    """Elements that a shape claims, as a Python integer, which does not overflow."""
    if len(shape) > _RANK_MAX:
        raise mismatch(model, tensor, f"has {len(shape)} dimensions, at most {_RANK_MAX} are possible")
    if any(size < 0 for size in shape):
        raise mismatch(model, tensor, f"has a negative dimension in its shape {list(shape)}")
    if math.prod(size for size in shape if size) > _ELEMENTS_MAX:
        raise mismatch(model, tensor, f"claims more elements than a message can hold: shape {list(shape)}")
    return math.prod(shape)


def _split(raw: bytes, elements: int, model: str, tensor: str) -> list[bytes]:
    if len(raw) < elements * _LENGTH.size:
        raise mismatch(model, tensor, f"has {len(raw)} bytes of raw contents, too few for {elements} elements of BYTES")
    found: list[bytes] = []
    at = 0
    while at < len(raw):
        start = at + _LENGTH.size
        if len(found) == elements or start > len(raw):
            raise mismatch(model, tensor, f"has raw contents past the {elements} elements that its shape claims")
        at = start + _LENGTH.unpack_from(raw, start - _LENGTH.size)[0]
        if at > len(raw):
            raise mismatch(model, tensor, f"has an element of BYTES whose length goes past the contents ({len(raw)})")
        found.append(raw[start:at])
    if len(found) != elements:
        raise mismatch(model, tensor, f"has {len(found)} elements of BYTES, its shape claims {elements}")
    return found


def _strings(elements: list[bytes], shape: Sequence[int]) -> NDArray[Any]:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(tuple(shape))


def _unknown(datatype: str, model: str, tensor: str) -> InvalidInput:
    return mismatch(model, tensor, f"has the datatype {datatype[:32]!r}; known: {', '.join((*DTYPES, BYTES))}")
