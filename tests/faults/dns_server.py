"""DNS server: answers A questions from a table that a test changes, over UDP, so that discovery is tested as it is."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

_HEADER = struct.Struct("!6H")
_A, _IN = 1, 1
_RESPONSE, _NAME_ERROR = 0x8400, 3  # an authoritative answer; RFC 1035, 4.1.1


class DnsServer(asyncio.DatagramProtocol):
    """Answers questions for IPv4 addresses; other questions about a known name get an empty answer.

    Use it as an async context manager.

    Attributes:
        records: addresses by name, without the last dot; change them at any time. Unknown names do not exist.
        asked: questions so far.
    """

    def __init__(self, records: Mapping[str, Sequence[str]]) -> None:
        self.records = {name: list(addresses) for name, addresses in records.items()}
        self.asked = 0
        self._transport: asyncio.DatagramTransport | None = None

    @property
    def address(self) -> str:
        """`host:port`, once it is entered."""
        assert self._transport is not None
        host, port = self._transport.get_extra_info("sockname")
        return f"{host}:{port}"

    async def __aenter__(self) -> Self:
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, ("127.0.0.1", 0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._transport is not None
        self._transport.close()

    def connection_made(self, transport: Any) -> None:
        """Keeps the socket."""
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        """Answers one question."""
        self.asked += 1
        if self._transport is not None:
            self._transport.sendto(self._answer(data), address)

    def _answer(self, data: bytes) -> bytes:
        number, flags, *_ = _HEADER.unpack_from(data)
        labels, position = [], _HEADER.size
        while size := data[position]:
            labels.append(data[position + 1 : position + 1 + size].decode())
            position += 1 + size
        question = data[_HEADER.size : position + 5]
        kind, _ = struct.unpack_from("!2H", data, position + 1)
        addresses = self.records.get(".".join(labels).lower())
        answers = [socket.inet_aton(one) for one in addresses or ()] if kind == _A else []
        code = _NAME_ERROR if addresses is None else 0
        head = _HEADER.pack(number, _RESPONSE | (flags & 0x0100) | code, 1, len(answers), 0, 0)
        # Each answer names the question by its place, holds for no time, and is 4 bytes.
        return head + question + b"".join(struct.pack("!3HIH", 0xC00C, _A, _IN, 0, 4) + one for one in answers)
