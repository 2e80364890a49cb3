"""Fixtures of the HTTP door's tests: gateways with a door, and a client that sends exactly what a test says."""

from __future__ import annotations

import asyncio
import json
import struct
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from meshcast.rpc import Descriptions, RpcSettings, Server, ServingStatus

JSON = {"content-type": "application/json"}


@dataclass
class Reply:
    """An answer of HTTP.

    Attributes:
        status: its number.
        headers: names in lower case.
        body: whole.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Connection:
    """One connection of HTTP/1.1, on which a test writes and reads as it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._is_chunked = False

    async def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Sends a request."""
        given = {"host": "127.0.0.1", **(headers or {})}
        if body or method == "POST":
            given.setdefault("content-length", str(len(body)))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of an answer."""
        status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        self._is_chunked = headers.get("transfer-encoding") == "chunked"
        return int(status.split()[1]), headers

    async def piece(self) -> bytes:
        """The next chunk of an answer; empty at its end."""
        assert self._is_chunked
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def reply(self) -> Reply:
        """A whole answer."""
        status, headers = await self.head()
        if self._is_chunked:
            pieces = []
            while piece := await self.piece():
                pieces.append(piece)
            return Reply(status, headers, b"".join(pieces))
        return Reply(status, headers, await self.reader.readexactly(int(headers.get("content-length", "0"))))

    def close(self) -> None:
        """Leaves without a word."""
        self.writer.close()


class Client:
    """Asks a door.

    Args:
        address: `http://host:port`.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("http://").rpartition(":")
        self.host, self.port = host, int(port)

    @asynccontextmanager
    async def connected(self, **options: Any) -> AsyncIterator[Connection]:
        """A connection, which is closed when the block is left."""
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=1 << 25, **options)
        try:
            yield Connection(reader, writer)
        finally:
            writer.close()

    async def ask(
        self, method: str, path: str, body: bytes | Mapping[str, Any] = b"", headers: Mapping[str, str] | None = None
    ) -> Reply:
        """One request on a connection of its own; a mapping goes as JSON."""
        given = dict(headers or {})
        if not isinstance(body, bytes):
            body, given = json.dumps(body).encode(), JSON | given
        async with asyncio.timeout(20), self.connected() as connection:
            await connection.send(method, path, body, given)
            return await connection.reply()


def envelope(message: bytes, flags: int = 0) -> bytes:
    """A message of a stream, as Connect and gRPC-Web have it."""
    return struct.pack(">BI", flags, len(message)) + message


def envelopes(body: bytes) -> list[tuple[int, bytes]]:
    """(flags, message) of each envelope."""
    found = []
    while body:
        flags, size = struct.unpack(">BI", body[:5])
        found.append((flags, body[5 : 5 + size]))
        body = body[5 + size :]
    return found


@dataclass
class Door:
    """A gateway with a door."""

    gateway: Any
    client: Client

    async def ask(self, *arguments: Any, **options: Any) -> Reply:
        """As `Client.ask`."""
        return await self.client.ask(*arguments, **options)


OpenDoor = Callable[..., AbstractAsyncContextManager[Door]]


@pytest.fixture
def open_door(run_gateway: Any) -> OpenDoor:
    """Runs a gateway with a door: `async with open_door([address], **as_run_gateway) as door`."""

    @asynccontextmanager
    async def running(endpoints: Sequence[str] = (), **options: Any) -> AsyncIterator[Door]:
        async with run_gateway(endpoints, http_port=0, **options) as gateway:
            yield Door(gateway, Client(gateway.server.http_address))

    return running


@pytest.fixture
def serve_echo() -> Callable[..., AbstractAsyncContextManager[Server]]:
    """Serves `acme.EchoService`, whose contract only its reflection tells: `async with serve_echo() as server`."""

    @asynccontextmanager
    async def running() -> AsyncIterator[Server]:
        file = FileDescriptorProto(name="acme/echo.proto", package="acme", syntax="proto3")
        text = file.message_type.add(name="Text")
        text.field.add(name="text", number=1, type=9, label=1)
        text.field.add(name="weight", number=2, type=1, label=1)
        service = file.service.add(name="EchoService")
        service.method.add(name="Echo", input_type=".acme.Text", output_type=".acme.Text")
        service.method.add(name="Merge", input_type=".acme.Text", output_type=".acme.Text", client_streaming=True)
        descriptions = Descriptions()
        descriptions.add([file])

        async def echo(request: bytes, context: Any) -> bytes:
            if b"large" in request:  # as a field of 12 MiB
                return b"\x0a\x80\x80\x80\x06" + b"t" * (12 << 20)
            return b"\xff" if b"garbage" in request else request

        async def merge(requests: AsyncIterator[bytes], context: Any) -> bytes:
            return b"".join([request async for request in requests])  # the last of each field wins

        handlers: dict[str, Any] = {
            "Echo": grpc.unary_unary_rpc_method_handler(echo),
            "Merge": grpc.stream_unary_rpc_method_handler(merge),
        }
        server = Server(
            RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=1.0),
            service_names=["acme.EchoService"],
            generic_handlers=[grpc.method_handlers_generic_handler("acme.EchoService", handlers)],
            descriptions=descriptions,
        )
        async with server:
            for name in ("", "acme.EchoService"):
                server.health.set(name, ServingStatus.SERVING)
            yield server

    return running


@pytest.fixture
def wire() -> ModuleType:
    """`envelope` and `envelopes`."""
    return sys.modules[__name__]
