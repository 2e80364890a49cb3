"""The DNS server, as a resolver asks it."""

from __future__ import annotations

import asyncio
import struct

from dns_server import DnsServer


async def ask(server: DnsServer, name: str, kind: int) -> bytes:
    """The answer to one question."""
    question = struct.pack("!6H", 77, 0x0100, 1, 0, 0, 0)
    question += b"".join(bytes((len(label),)) + label.encode() for label in name.split(".")) + b"\0"
    answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, address: object) -> None:
            answer.set_result(data)

    host, _, port = server.address.rpartition(":")
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Receiver, remote_addr=(host, int(port)))
    try:
        transport.sendto(question + struct.pack("!2H", kind, 1))
        return await asyncio.wait_for(answer, 5)
    finally:
        transport.close()


async def test_addresses_are_told_by_name() -> None:
    async with DnsServer({"a.test": ["127.0.0.1", "127.0.0.2"]}) as server:
        answer = await ask(server, "A.test", 1)
        number, flags, questions, answers, *_ = struct.unpack_from("!6H", answer)
        assert (number, flags & 0x800F, questions, answers) == (77, 0x8000, 1, 2)
        assert answer.endswith(bytes((127, 0, 0, 2)))
        server.records["a.test"] = []
        assert struct.unpack_from("!6H", await ask(server, "a.test", 1))[3] == 0
        assert struct.unpack_from("!6H", await ask(server, "a.test", 28))[1] & 0xF == 0  # no IPv6, but the name exists
        assert struct.unpack_from("!6H", await ask(server, "b.test", 1))[1] & 0xF == 3
        assert server.asked == 4
