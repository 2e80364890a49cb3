"""Connect and gRPC-Web: the library's application over the door's calls, its endpoints made when they are asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import grpc.aio
from connectrpc.code import Code
from connectrpc.codec import Codec
from connectrpc.compression.gzip import GzipCompression
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.request import RequestContext
from connectrpc.server import ConnectASGIApplication, Endpoint

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import Cancelled, InvalidInput, MeshError, Overloaded, Unimplemented
from meshcast.rpc.call_messages import Unusable

from ..contracts import Idempotency, MethodKind
from ..forwarding import Metadata
from .calls import Calls
from .context import DoorContext
from .errors import CallFailed, masked
from .intake import Intake
from .metadata import to_headers
from .methods import Method, Methods
from .settings import HttpSettings

Context: TypeAlias = RequestContext[Any, Any]

_call: ContextVar[DoorContext] = ContextVar("http_call")  # the library hands no value of ours through
_intake: ContextVar[Intake] = ContextVar("http_intake")

_KINDS = {
    MethodKind.UNARY: StreamType.UNARY,
    MethodKind.CLIENT_STREAM: StreamType.CLIENT_STREAM,
    MethodKind.SERVER_STREAM: StreamType.SERVER_STREAM,
    MethodKind.BIDI_STREAM: StreamType.BIDI_STREAM,
}
_LEVELS = {
    Idempotency.UNKNOWN: IdempotencyLevel.UNKNOWN,
    Idempotency.IDEMPOTENT: IdempotencyLevel.IDEMPOTENT,
    Idempotency.NO_SIDE_EFFECTS: IdempotencyLevel.NO_SIDE_EFFECTS,
}


class JsonText(bytes):
    """A request that came as JSON, not parsed yet; its answer is to be JSON as well."""


class _ProtoCodec(Codec[bytes, Any]):
    """Passes encoded messages as they are."""

    def name(self) -> str:
        return "proto"

    def encode(self, message: bytes) -> bytes:
        return message

    def decode(self, data: bytes | bytearray, message_class: type[Any]) -> Any:
        return bytes(data)


class _JsonCodec(Codec[bytes, Any]):
    """Marks a text as JSON: only the method knows its type, and a large one is parsed in a thread."""

    def name(self) -> str:
        return "json"

    def encode(self, message: bytes) -> bytes:
        return message

    def decode(self, data: bytes | bytearray, message_class: type[Any]) -> Any:
        return JsonText(data)


class _Gzip(GzipCompression):
    """gzip whose plain bytes count as held."""

    def decompress(self, data: bytes | bytearray | memoryview, read_max_bytes: int | None = None) -> bytes:
        plain = super().decompress(data, read_max_bytes)
        _intake.get().hold(len(plain))
        return plain


class ConnectDoor(ConnectASGIApplication[None]):
    """ASGI application for Connect and gRPC-Web over all methods that the mesh routes.

    Args:
        methods: of the mesh.
        calls: runs them.
        settings: of the door.
    """

    def __init__(self, methods: Methods, calls: Calls, settings: HttpSettings) -> None:
        endpoints = _Endpoints(methods, calls)
        super().__init__(
            service=None,
            endpoints=lambda _: endpoints,
            read_max_bytes=settings.body_bytes_max,
            compressions=(_Gzip(),),
            codecs=(_ProtoCodec(), _JsonCodec()),
        )

    async def answer(self, scope: Any, context: DoorContext, intake: Intake, send: Any) -> None:
        """Answers one request.

        Args:
            scope: ASGI's; its headers hold no deadline.
            context: of the call.
            intake: of the request.
            send: ASGI's.
        """
        _call.set(context)  # the request's task ends with it
        _intake.set(intake)
        await self(scope, intake, send)

    @property
    def path(self) -> str:
        """Where it is mounted."""
        return "/"


class _Endpoints(Mapping[str, Any]):
    """The library's table of endpoints, filled as paths are asked for."""

    def __init__(self, methods: Methods, calls: Calls) -> None:
        self._methods = methods
        self._calls = calls
        self._made: dict[str, tuple[Method, Any]] = {}

    def __getitem__(self, path: str) -> Any:
        method = self._methods.find(path)
        if method is None:
            raise KeyError(path)
        kept = self._made.get(path)
        if kept is None or kept[0] is not method:
            kept = self._made[path] = (method, _endpoint(method, self._calls))
        return kept[1]

    def __iter__(self) -> Iterator[str]:
        return (contract.path for contract in self._methods)

    def __len__(self) -> int:
        return sum(1 for _ in self._methods)


def _endpoint(method: Method, calls: Calls) -> Any:
    service, _, name = method.path[1:].rpartition("/")
    info: MethodInfo[Any, Any] = MethodInfo(
        name=name,
        service_name=service,
        input=bytes,
        output=bytes,
        idempotency_level=_LEVELS[method.contract.idempotency],
        stream_type=_KINDS[method.contract.kind],
    )
    answers = _Answers(method, calls)
    match method.contract.kind:
        case MethodKind.UNARY:
            return Endpoint.unary(info, answers.unary)
        case MethodKind.CLIENT_STREAM:
            return Endpoint.client_stream(info, answers.client_stream)
        case MethodKind.SERVER_STREAM:
            return Endpoint.server_stream(info, answers.server_stream)
        case MethodKind.BIDI_STREAM:
            return Endpoint.bidi_stream(info, answers.bidi_stream)


class _Answers:
    """The four kinds of one method, as the library calls them."""

    def __init__(self, method: Method, calls: Calls) -> None:
        self._method = method
        self._calls = calls

    async def unary(self, request: bytes, context: Context) -> bytes:
        with self._told(context) as ours:
            answer = await self._calls.unary(self._method.path, await self._read(request), ours)
            return await self._written(answer, type(request) is JsonText)

    async def client_stream(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        is_json = False

        async def read() -> Any:
            nonlocal is_json
            try:
                request = await anext(requests, None)
            except ConnectError as error:
                raise _of_library(error) from error
            if request is None:
                return grpc.aio.EOF
            is_json = type(request) is JsonText
            return await self._read(request)

        with self._told(context) as ours:
            answer = await self._calls.client_stream(self._method.path, read, ours)
            return await self._written(answer, is_json)

    async def server_stream(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        with self._told(context) as ours:
            message = await self._read(request)
            async with aclosing(self._calls.server_stream(self._method.path, message, ours)) as answers:
                async for answer in answers:
                    _tell_head(ours, context)
                    yield await self._written(answer, type(request) is JsonText)

    async def bidi_stream(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        raise CallFailed.of(both_ways(self._method.path))
        yield b""  # makes it the generator that the library wants

    async def _read(self, request: bytes) -> bytes | Unusable:
        return await self._method.from_json(request) if type(request) is JsonText else request

    async def _written(self, answer: bytes, is_json: bool) -> bytes:
        return await self._method.to_json(answer) if is_json else answer

    @contextmanager
    def _told(self, context: Context) -> Iterator[DoorContext]:
        """The call's context, whose head and trailers the library gets, however the call ends; bugs are masked, as the
        library would tell their words."""
        ours = _call.get()
        trailers: Metadata = ()
        try:
            yield ours
            trailers = ours.trailers
        except CallFailed as failure:
            trailers = failure.trailers
            if failure.retry_after_s is not None:
                context.response_headers.add("retry-after", str(failure.retry_after_s))
            raise
        except ConnectError:
            raise
        except Exception as error:
            raise masked(error, self._method.path) from error
        finally:
            _tell_head(ours, context)
            for key, value in to_headers(trailers):
                context.response_trailers.add(key, value)


def both_ways(path: str) -> Unimplemented:
    """The refusal of a method that streams both ways, which HTTP/1.1 has no way for."""
    return Unimplemented(
        f"{path} streams both ways, which HTTP/1.1 cannot: ask the gateway's gRPC port, or use the method beside it",
        reason=ErrorReason.ERROR_REASON_FEATURE_MISSING,
        feature="streams both ways over HTTP",
    )


def _tell_head(ours: DoorContext, context: Context) -> None:
    head, ours.head = ours.head, ()
    for key, value in to_headers(head):
        context.response_headers.add(key, value)


def _of_library(error: ConnectError) -> MeshError:
    """What the library says of a caller's stream, in the mesh's own words."""
    if error.code is Code.CANCELED:
        return Cancelled("the caller has left the stream")
    if error.code is Code.RESOURCE_EXHAUSTED:
        return Overloaded(error.message, reason=ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE)
    return InvalidInput(f"the stream of requests cannot be read: {error.message}", field="body")
