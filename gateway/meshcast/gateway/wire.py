"""Wire format: the few bytes of protobuf that the gateway reads and writes itself, so that it parses no message.

A receipt fragment is appended to an encoded response; protobuf merges it into field 15 when the caller parses it all.
Source: https://protobuf.dev/programming-guides/encoding (last-one-wins and merging of embedded messages).
"""

from __future__ import annotations

from collections.abc import Iterable

from meshcast.rpc.varint import read_varint, varint

_VARINT, _BYTES = 0, 2  # of the wire types; 1 and 5 are eight and four bytes

# Receipt.gateway and the `receipt` of every response are both field 15, length-delimited.
_FIELD_15 = bytes([15 << 3 | _BYTES])
_ATTEMPTS, _HEDGED, _DEGRADED, _FROM_CACHE = b"\x08", b"\x10\x01", b"\x18\x01", b"\x20\x01"
_ENDPOINT, _ELAPSED_US, _FALLBACK = b"\x2a", b"\x30", b"\x38"
_DEADLINE_MS, _DEADLINE_DEFAULT, _NOTES = b"\x60", b"\x68", b"\x72"


class ReceiptFragment:
    """Encoder of the gateway's part of a receipt, as bytes to append to an encoded response.

    All but the elapsed time is constant for a replica, so a message costs one varint and one concatenation.
    """

    __slots__ = ("_heads",)

    def __init__(
        self,
        *,
        endpoint: str = "",
        attempts: int = 1,
        default_deadline_ms: int = 0,
        deadline_ms: int = 0,
        hedged: bool = False,
        from_cache: bool = False,
        fallback: int = 0,
        notes: Iterable[str] = (),
    ) -> None:
        """Prepares the constant bytes.

        Args:
            endpoint: replica that answers, as `host:port`; empty when none was asked.
            attempts: calls made to replicas for the answer.
            default_deadline_ms: the route's deadline in milliseconds where the caller set none; 0 where it set one.
            deadline_ms: the caller's own in milliseconds, where no replica has written it; 0 leaves what stands there.
            hedged: whether a second replica was asked before the first had answered.
            from_cache: whether the answer came from the cache.
            fallback: what stands in for the answer, as a number of `Fallback`; other than 0 says that it is degraded.
            notes: remarks, added to those of the service.
        """
        name = endpoint.encode()
        gateway = b"".join(
            (
                _ATTEMPTS + varint(attempts) if attempts else b"",
                _HEDGED if hedged else b"",
                _DEGRADED + _FALLBACK + varint(fallback) if fallback else b"",
                _FROM_CACHE if from_cache else b"",
                _ENDPOINT + varint(len(name)) + name if name else b"",
                _ELAPSED_US,
            )
        )
        told = b""
        if default_deadline_ms:
            told = _DEADLINE_MS + varint(default_deadline_ms) + _DEADLINE_DEFAULT + b"\x01"
        elif deadline_ms:
            told = _DEADLINE_MS + varint(deadline_ms) + _DEADLINE_DEFAULT + b"\x00"
        for note in notes:
            text = note.encode()
            told += _NOTES + varint(len(text)) + text
        heads = []
        for size in range(11):  # a varint has 1 to 10 bytes
            inner = told + _FIELD_15 + varint(len(gateway) + size) + gateway
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
    try:
        return read_bytes_field(message, number).decode()
    except UnicodeDecodeError:
        return ""


def read_bytes_field(message: bytes, number: int) -> bytes:
    """Reads one field of bytes, text or a message of an encoded message; empty when it is absent or malformed.

    Args:
        message: the encoded message.
        number: the field's number. The first occurrence counts, as serialisers write it once.
    """
    found = _find(message, number, _BYTES)
    if found is None:
        return b""
    _, position = read_varint(message, found[0])
    _, position = read_varint(message, position)
    return message[position : found[1]]


def read_varint_field(message: bytes, number: int) -> int:
    """Reads one field of an encoded message that is a bool, an enum or an integer of 0 or more; 0 when it is absent or
    malformed.

    Args:
        message: the encoded message.
        number: the field's number. The first occurrence counts, as serialisers write it once.
    """
    found = _find(message, number, _VARINT)
    if found is None:
        return 0
    _, position = read_varint(message, found[0])
    return read_varint(message, position)[0]


def without_string_field(message: bytes, number: int) -> bytes:
    """An encoded message without one of its string fields; the message itself when it has none or is malformed.

    Args:
        message: the encoded message.
        number: the field's number. The first occurrence is left out, as serialisers write it once.
    """
    found = _find(message, number, _BYTES)
    return message if found is None else message[: found[0]] + message[found[1] :]


def with_varint_field(message: bytes, number: int, value: int) -> bytes:
    """An encoded message in which an integer field has a value of 0 or more: the last one that is written wins.

    Args:
        message: the encoded message.
        number: the field's number.
        value: the new value.
    """
    return message + varint(number << 3 | _VARINT) + varint(value)


def with_string_field(message: bytes, number: int, text: str) -> bytes:
    """An encoded message in which a text field has a value: the last one that is written wins.

    Args:
        message: the encoded message.
        number: the field's number.
        text: the new value.
    """
    encoded = text.encode()
    return message + varint(number << 3 | _BYTES) + varint(len(encoded)) + encoded


def _find(message: bytes, number: int, kind: int) -> tuple[int, int] | None:
    """Where the first occurrence of a field begins, with its tag, and ends; None when it is absent or malformed."""
    position, end = 0, len(message)
    try:
        while position < end:
            begin = position
            tag, position = read_varint(message, position)
            match tag & 7:
                case 0:
                    _, position = read_varint(message, position)
                case 1:
                    position += 8
                case 2:
                    size, position = read_varint(message, position)
                    position += size
                case 5:
                    position += 4
                case _:
                    return None
            if position > end:
                return None
            if tag >> 3 == number:
                return (begin, position) if tag & 7 == kind else None
    except (IndexError, ValueError):
        pass
    return None
