"""Numbered: what is known of a method whose chunks are numbered: where number and refusal stand, the usual silences."""

from __future__ import annotations

from meshcast.api.type.v1 import status_pb2
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import MeshError, NotReady, Overloaded, from_item
from meshcast.rpc.varint import varint

from .contracts import MethodContract
from .wire import read_bytes_field, read_varint_field

_USUAL_DECAY = 0.01  # of the longest usual silence, with each answer
_REFUSAL_BYTES_MAX = 4_096  # an answer with a status has no columns; a longer one is looked at no further


class Silences:
    """The longest usual silence of a method's replicas while they hold chunks; shared by its streams."""

    __slots__ = ("longest_s",)

    def __init__(self) -> None:
        self.longest_s = 0.0

    def record(self, seconds: float) -> None:
        """Takes a silence that an answer has ended."""
        self.longest_s = max(seconds, self.longest_s * (1 - _USUAL_DECAY))


class Numbered:
    """What must be known of a method whose chunks are numbered; made once a method.

    Args:
        contract: of the method, which has `sequence_fields`.
    """

    __slots__ = ("_asked", "_told", "has_receipt", "path", "service", "silences", "status_field")

    def __init__(self, contract: MethodContract) -> None:
        assert contract.sequence_fields is not None
        self.path = contract.path
        self.service = contract.path[1:].rpartition("/")[0]
        self.has_receipt = contract.has_receipt
        self.status_field = contract.status_field
        self.silences = Silences()
        asked, told = contract.sequence_fields
        self._asked = asked, varint(asked << 3)
        self._told = told, varint(told << 3)

    def asked(self, request: bytes) -> int:
        """The number of a chunk."""
        return _number(request, *self._asked)

    def told(self, response: bytes) -> int:
        """The number of the chunk that is answered."""
        return _number(response, *self._told)

    def refusal(self, response: bytes) -> MeshError | None:
        """Why a chunk was refused that may be asked elsewhere: a full queue, a model or a version that is not loaded;
        else None."""
        if self.status_field is None or len(response) > _REFUSAL_BYTES_MAX:
            return None
        encoded = read_bytes_field(response, self.status_field)
        if not encoded:
            return None
        status = status_pb2.Status.FromString(encoded)
        if not status.code:
            return None
        error = from_item(status)
        if error.reason == ErrorReason.ERROR_REASON_VERSION_UNKNOWN:
            return error
        return error if isinstance(error, NotReady | Overloaded) and error.is_retryable else None


def _number(message: bytes, field: int, tag: bytes) -> int:
    """An integer field, which serialisers write first, as it has the lowest number."""
    if len(message) > 3 and message[0] == tag[0] and len(tag) == 1:
        low, high = message[1], message[2]
        if low < 0x80:
            return low
        if high < 0x80:
            return low & 0x7F | high << 7
        if (top := message[3]) < 0x80:
            return low & 0x7F | (high & 0x7F) << 7 | top << 14
    return read_varint_field(message, field)
