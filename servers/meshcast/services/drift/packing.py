"""Packed state: a JSON head and raw arrays in one blob with a checksum, so that stored state is read without pickle.

The form: 4 bytes of kind, uint32 length of the head, the head as UTF-8 JSON, the arrays' bytes end to end, and uint32
CRC-32 of all before it; integers and arrays are little-endian. The head lists name, dtype and shape of each array under
`arrays`, in order.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.rpc.errors import CorruptData

__all__ = ["pack", "unpack"]

_START = struct.Struct("<4sI")
_END = struct.Struct("<I")
_DTYPES = frozenset({"|u1", "|i1", "<u2", "<u4", "<u8", "<i4", "<i8", "<f4", "<f8", "|b1"})


def pack(kind: bytes, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """One blob of a head and arrays.

    Args:
        kind: 4 bytes that say what this is, and in which version of its form.
        head: anything that JSON can say; the key `arrays` is taken.
        arrays: by name, of plain numbers or truth values.
    """
    listed, parts = [], []
    for name, array in arrays.items():
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)
        listed.append([name, plain.dtype.str, list(plain.shape)])
        parts.append(plain.tobytes())
    text = json.dumps({**head, "arrays": listed}, separators=(",", ":"), ensure_ascii=False).encode()
    body = b"".join([_START.pack(kind, len(text)), text, *parts])
    return body + _END.pack(zlib.crc32(body))


def unpack(kind: bytes, data: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Head and arrays of a blob; the arrays are copies that may be written to.

    Raises:
        CorruptData: it is truncated, altered, or of another kind.
    """
    if len(data) < _START.size + _END.size:
        raise CorruptData(f"state of {len(data)} bytes is truncated")
    found, length = _START.unpack_from(data)
    if found != kind:
        raise CorruptData(f"this is no state of kind {kind!r} but {found!r}")
    body = memoryview(data)[: -_END.size]
    if _END.unpack_from(data, len(body))[0] != zlib.crc32(body):
        raise CorruptData("the state's checksum is wrong: it was truncated or altered")
    try:
        head = json.loads(bytes(body[_START.size : _START.size + length]))
        at, arrays = _START.size + length, {}
        for name, dtype, shape in head.pop("arrays"):
            if dtype not in _DTYPES:
                raise ValueError(f"no array is of {dtype!r}")
            count = int(np.prod(shape, dtype=np.int64))
            arrays[str(name)] = np.frombuffer(data, np.dtype(dtype), count, at).reshape(shape).copy()
            at += count * np.dtype(dtype).itemsize
        if at != len(body):
            raise ValueError(f"{len(body) - at} bytes are left over")
    except (ValueError, KeyError, TypeError, AttributeError) as wrong:
        raise CorruptData(f"the state cannot be read: {wrong}") from wrong
    return head, arrays
