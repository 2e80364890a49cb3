"""Varint: protobuf's base-128 numbers, for the few bytes of messages that are read and written without a parse.

Source: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

__all__ = ["read_varint", "varint"]


def varint(value: int) -> bytes:
    """Encodes a number of 0 or more."""
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Reads the number at a position; returns it and the position behind it.

    Raises:
        IndexError: the bytes end within it.
        ValueError: it has more than ten bytes.
    """
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("varint of more than ten bytes")
