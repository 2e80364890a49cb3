"""Wire format: the few bytes of protobuf that the gateway reads and writes itself, so that it parses no message.

A receipt fragment is appended to an encoded response; protobuf merges it into field 15 when the caller parses it all.
Source: https://protobuf.dev/programming-guides/encoding (last-one-wins and merging of embedded messages).
"""

from __future__ import annotations

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Receipt.gateway and the `receipt` of every response are both field 15, length-delimited.
_FIELD_15 = bytes([15 << 3 | _BYTES])
_ATTEMPTS, _ENDPOINT, _ELAPSED_US = b"\x08", b"\x2a", b"\x30"
_DEADLINE_MS, _DEADLINE_DEFAULT = b"\x60", b"\x68"


def varint(value: int) -> bytes:
    """Encodes a number of 0 or more as protobuf's base-128 varint."""
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


class ReceiptFragment:
    """Encoder of the gateway's part of a receipt, as bytes to append to an encoded response.

    All but the elapsed time is constant for a replica, so a message costs one varint and one concatenation.
    """

    __slots__ = ("_heads",)

    def __init__(self, *, endpoint: str, attempts: int = 1, default_deadline_ms: int = 0) -> None:
        """Prepares the constant bytes.

        Args:
            endpoint: replica that answers, as `host:port`.
            attempts: calls made to replicas for the answer.
            default_deadline_ms: the route's deadline in milliseconds where the caller set none; 0 where it set one.
        """
        name = endpoint.encode()
        gateway = _ATTEMPTS + varint(attempts) + _ENDPOINT + varint(len(name)) + name + _ELAPSED_US
        deadline = b""
        if default_deadline_ms:
            deadline = _DEADLINE_MS + varint(default_deadline_ms) + _DEADLINE_DEFAULT + b"\x01"
        heads = []
        for size in range(11):  # a varint has 1 to 10 bytes
            inner = deadline + _FIELD_15 + varint(len(gateway) + size) + gateway
            heads.append(_FIELD_15 + varint(len(inner) + size) + inner)
        self._heads = tuple(heads)

    def encode(self, elapsed_us: int) -> bytes:
        """The fragment for an answer that took `elapsed_us` microseconds in the gateway and behind it."""
        elapsed = varint(elapsed_us)
        return self._heads[len(elapsed)] + elapsed


def read_string_field(message: bytes, number: int) -> str:
    """Reads one string field of an encoded message, without parsing the rest; empty when it is absent or malformed.

    Args:
        message: the encoded message.
        number: the field's number. The first occurrence counts, as serialisers write it once.
    """
    position, end = 0, len(message)
    try:
        while position < end:
            tag, position = _read_varint(message, position)
            kind = tag & 7
            if kind == _BYTES:
                size, position = _read_varint(message, position)
                if position + size > end:
                    return ""
                if tag >> 3 == number:
                    return message[position : position + size].decode()
                position += size
            elif kind == _VARINT:
                _, position = _read_varint(message, position)
            elif kind == _FIXED64:
                position += 8
            elif kind == _FIXED32:
                position += 4
            else:
                return ""
    except (IndexError, UnicodeDecodeError, ValueError):
        return ""
    return ""


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("varint of more than ten bytes")
