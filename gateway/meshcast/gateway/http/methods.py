"""Methods as the HTTP door sees them: found by their paths, with messages between bytes and JSON.

They come from the contracts at hand or from what back-ends' reflection gave, so a new service needs nothing here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import Message

from meshcast.rpc import InvalidInput
from meshcast.rpc.call_messages import Unusable
from meshcast.rpc.status import message_too_large

from ..backends import Backends
from ..contracts import MethodContract
from .misread import misread

OFFLOAD_BYTES = 16 * 1024
"""Messages above it change their form in a thread: 16 KiB take about a millisecond."""


class Method:
    """One method of the mesh.

    Args:
        contract: kind and idempotency.
        descriptor: of the method.
        pool: where its types are.
        json_bytes_max: largest JSON text that is read.
    """

    def __init__(
        self,
        contract: MethodContract,
        descriptor: MethodDescriptor,
        pool: descriptor_pool.DescriptorPool,
        *,
        json_bytes_max: int,
    ) -> None:
        self.contract = contract
        self.path = contract.path
        self._request: type[Message] = message_factory.GetMessageClass(descriptor.input_type)
        self._response: type[Message] = message_factory.GetMessageClass(descriptor.output_type)
        self._pool = pool
        self._json_bytes_max = json_bytes_max

    async def from_json(self, text: bytes) -> bytes | Unusable:
        """A request in JSON as encoded message; what stands for one that cannot be read where it is none."""
        if len(text) > self._json_bytes_max:
            return Unusable(message_too_large(len(text), self._json_bytes_max, "gateway.http.json_bytes_max"))
        if len(text) > OFFLOAD_BYTES:
            return await asyncio.to_thread(self._read, text)
        return self._read(text)

    async def to_json(self, message: bytes) -> bytes:
        """An encoded answer as JSON.

        Raises:
            DecodeError: it is no message of the method's type; or TypeError, for types that nobody has told.
        """
        if len(message) > OFFLOAD_BYTES:
            return await asyncio.to_thread(self._write, message)
        return self._write(message)

    def _read(self, text: bytes) -> bytes | Unusable:
        message = self._request()
        try:
            if text.lstrip().startswith(b"["):  # the library takes [] for {}
                raise TypeError
            json_format.Parse(text.decode(), message, descriptor_pool=self._pool)
        except (json_format.ParseError, ValueError, TypeError, RecursionError):  # in the library's words
            found = misread(text, self._request, self._pool)
            subject = "the body" if found.field == "body" else found.field
            return Unusable(InvalidInput(f"{subject} {found.why}", field=found.field))
        return message.SerializeToString()

    def _write(self, encoded: bytes) -> bytes:
        told = json_format.MessageToDict(self._response.FromString(encoded), descriptor_pool=self._pool)
        if len(encoded) <= OFFLOAD_BYTES:
            return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
        # In pieces, so that other threads, the loop's above all, get their turn in between.
        return "".join(_ENCODER.iterencode(told)).encode()


class Methods:
    """All methods that the mesh routes, and those of the gateway's own services.

    Args:
        backends: the routes, with what is known of their contracts.
        own: full names of the gateway's own services.
        json_bytes_max: largest JSON text that is read.
    """

    def __init__(self, backends: Backends, *, own: tuple[str, ...], json_bytes_max: int) -> None:
        self._backends = backends
        self._own = own
        self._json_bytes_max = json_bytes_max
        self._known: dict[str, Method] = {}
        self._revision = backends.contracts.revision

    def find(self, path: str) -> Method | None:
        """The method of this path; None where nobody serves it, or nothing is known of its service yet."""
        if self._revision != self._backends.contracts.revision:
            self._revision = self._backends.contracts.revision
            self._known.clear()
        method = self._known.get(path)
        if method is None and self.serves(path):
            method = self._make(path)
            if method is not None:
                self._known[path] = method
        return method

    def serves(self, path: str) -> bool:
        """True when the path's service is routed, or the gateway's own."""
        service = path[1:].rpartition("/")[0]
        return service in self._own or service in self._backends.by_service

    def knows(self, service: str) -> bool:
        """True when something is known of a service's methods."""
        return self._backends.contracts.methods(service) is not None

    def __iter__(self) -> Iterator[MethodContract]:
        """The contracts of all methods that are known, by service and name."""
        for service in sorted({*self._own, *self._backends.by_service}):
            methods = self._backends.contracts.methods(service) or {}
            yield from (methods[path] for path in sorted(methods))

    def _make(self, path: str) -> Method | None:
        service, _, name = path[1:].rpartition("/")
        pool: Any = descriptor_pool.Default()  # the stubs leave FindServiceByName's methods out
        try:
            described = pool.FindServiceByName(service)
        except KeyError:
            pool = self._foreign(service)
            if pool is None:
                return None
            described = pool.FindServiceByName(service)
        method = described.methods_by_name.get(name)
        contract = (self._backends.contracts.methods(service) or {}).get(path)
        if method is None or contract is None:
            return None
        return Method(contract, method, pool, json_bytes_max=self._json_bytes_max)

    def _foreign(self, service: str) -> descriptor_pool.DescriptorPool | None:
        """The types of a service that only its back-end's reflection has told; None where it has not."""
        descriptions = self._backends.contracts.descriptions
        wanted = descriptions.file_of_symbol(service)
        if wanted is None:
            return None
        pool = descriptor_pool.DescriptorPool()
        added: set[str] = set()

        def add(name: str) -> None:
            encoded = descriptions.file(name)
            if name in added or encoded is None:
                return
            added.add(name)
            file = FileDescriptorProto.FromString(encoded)
            for imported in file.dependency:
                add(imported)
            pool.AddSerializedFile(encoded)

        try:
            add(wanted)
            pool.FindServiceByName(service)
        except (KeyError, TypeError):  # files of two releases that contradict each other
            return None
        return pool


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
