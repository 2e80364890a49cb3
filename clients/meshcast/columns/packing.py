"""Packing: arrays to and from the little-endian bytes of the contracts' columns."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.rpc.errors import InvalidInput

__all__ = [
    "column_bytes",
    "history_range",
    "pack_floats",
    "pack_positions",
    "unpack_column",
    "unpack_floats",
    "wrong_length",
]

Positions = NDArray[np.int64]

_VALUE = np.dtype("<f4")
_POSITION = np.dtype("<i4")


def column_bytes(values: NDArray[Any], kind: np.dtype[Any]) -> memoryview:
    """A column as the bytes that go over the wire: a view of its memory where that has the wire's type already."""
    if not len(values):
        return memoryview(b"")
    return np.ascontiguousarray(values.astype(kind, copy=False)).data.cast("B")


def pack_floats(values: NDArray[Any]) -> bytes:
    """An array as float32 little-endian bytes, in C order."""
    return values.astype(_VALUE, copy=False).tobytes()


def unpack_floats(data: bytes, shape: tuple[int, ...], field: str) -> NDArray[np.float32]:
    """Float32 little-endian bytes as a read-only array of a shape, without a copy.

    Raises:
        InvalidInput: the bytes are not of that many values.
    """
    return unpack_column(data, _VALUE, shape, field)


def unpack_column(data: bytes, kind: np.dtype[Any], shape: tuple[int, ...], field: str) -> NDArray[Any]:
    """Little-endian bytes as a read-only array of a kind and shape, without a copy.

    Raises:
        InvalidInput: the bytes are not of that many values.
    """
    size = kind.itemsize * int(np.prod(shape))
    if len(data) != size:
        raise wrong_length(field, len(data), size)
    return np.frombuffer(data, dtype=kind).reshape(shape)


def pack_positions(values: Positions) -> bytes:
    """Positions as int32 little-endian bytes."""
    return values.astype(_POSITION).tobytes()


def history_range(start: bytes, stop: bytes, rows: int) -> tuple[Positions, Positions]:
    """The rows' history ranges of a chunk, each of shape (rows,), int64; where they point is not checked.

    Raises:
        InvalidInput: one is not of `rows` values.
    """
    return (
        unpack_column(start, _POSITION, (rows,), "history_start").astype(np.int64),
        unpack_column(stop, _POSITION, (rows,), "history_stop").astype(np.int64),
    )


def wrong_length(field: str, given: int, wanted: int) -> InvalidInput:
    """The refusal of a column that is not of as many bytes as it should be."""
    return InvalidInput(f"{field} must be {wanted} bytes, is {given}", field=field)
