"""Routing: serves every routed gRPC service by passing encoded messages between the caller and a replica."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc.aio

from meshcast.rpc import FirstStatus, MeshError

from .backends import Backend, Backends, best
from .contracts import MethodContract, MethodKind
from .forwarding import Context, callers_metadata, fail_as, pass_head, pass_trailers
from .hop import Hop, ask, first_hop
from .relay import Pace, relay_both, relay_down, until
from .wire import read_string_field

_OURS = "meshcast.api."
_OIP = "inference.GRPCInferenceService"
# Open Inference Protocol: most requests name their model in field 1. The control calls name the repository there, and a
# call about the server names no model.
_MODEL_FIELDS = {f"/{_OIP}/RepositoryModelLoad": 2, f"/{_OIP}/RepositoryModelUnload": 2}
_MODELLESS = frozenset(f"/{_OIP}/{name}" for name in ("ServerLive", "ServerReady", "ServerMetadata"))
# Their answers are lists, so that those of all routes can be put end to end: protobuf adds repeated fields up on parse.
_LISTS = frozenset((f"/{_OIP}/RepositoryIndex",))
_ENDLESS = "Watch"  # what a stream's name begins with in our contracts if it goes on until somebody ends it


class RoutedServices(grpc.GenericRpcHandler):
    """Generic handler of every service in the route table; other services and unknown methods are left to others.

    A unary call that no replica has begun with (connection refused, draining) is tried on the next replica; nothing
    else is tried twice.

    Args:
        backends: the routes.

    Attributes:
        ending: to be set when the gateway drains: endless streams then end, and their callers may watch again.
    """

    def __init__(self, backends: Backends) -> None:
        self.ending = asyncio.Event()
        self._backends = backends
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
        self._revision = backends.contracts.revision

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """The handler of a routed method; None when the method is not routed."""
        if self._revision != self._backends.contracts.revision:
            self._revision = self._backends.contracts.revision
            self._handlers.clear()
        method: str = handler_call_details.method
        handler = self._handlers.get(method)
        return handler if handler is not None else self._make(method)

    def _make(self, method: str) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        service = method[1:].rpartition("/")[0]
        backends = self._backends.by_service.get(service)
        if backends is None:
            return None
        known = self._backends.contracts.methods(service)
        if known is None:
            # Nothing says what the method is. On the wire every kind is a stream both ways, and the backend itself
            # refuses what it does not serve. Not kept: callers choose the name.
            contract = MethodContract(method, MethodKind.BIDI_STREAM, service.startswith(_OURS))
            return RoutedMethod(self._backends, contract, backends, is_kept=False, ending=self.ending).handler()
        if method not in known:
            return None
        handler = RoutedMethod(self._backends, known[method], backends, is_kept=True, ending=self.ending).handler()
        self._handlers[method] = handler
        return handler


class RoutedMethod:
    """The relay of one method.

    Args:
        mesh: all routes.
        contract: of the method.
        backends: routes that serve it, in the order of the route table.
        is_kept: whether its calls are kept ready on the replicas.
        ending: set when endless streams must end.
    """

    def __init__(
        self,
        mesh: Backends,
        contract: MethodContract,
        backends: tuple[Backend, ...],
        *,
        is_kept: bool,
        ending: asyncio.Event,
    ) -> None:
        self._settings = mesh.settings
        self._own_metadata = mesh.own_metadata
        self._path = contract.path
        self._kind = contract.kind
        self._service = contract.path[1:].rpartition("/")[0]
        self._has_receipt = contract.has_receipt
        self._backends = backends
        self._is_kept = is_kept
        self._model_field = _MODEL_FIELDS.get(contract.path, 1)
        self._is_list = len(backends) > 1 and contract.path in _LISTS
        self._names_model = len(backends) > 1 and self._service == _OIP and contract.path not in _MODELLESS | _LISTS
        self._changes_models = contract.path in _MODEL_FIELDS
        is_endless = self._service.startswith(_OURS) and contract.path.rpartition("/")[2].startswith(_ENDLESS)
        self._ending = ending if is_endless else None

    def handler(self) -> grpc.RpcMethodHandler[bytes, bytes]:
        """grpc's handler over encoded messages."""
        match self._kind:
            case MethodKind.UNARY if self._is_list:
                return grpc.unary_unary_rpc_method_handler(self.unary_of_all)
            case MethodKind.UNARY:
                return grpc.unary_unary_rpc_method_handler(self.unary)
            case MethodKind.SERVER_STREAM:
                return grpc.unary_stream_rpc_method_handler(self.server_stream)
            case MethodKind.CLIENT_STREAM:
                return grpc.stream_unary_rpc_method_handler(self.client_stream)
            case MethodKind.BIDI_STREAM:
                return grpc.stream_stream_rpc_method_handler(self.bidi_stream)

    async def unary(self, request: bytes, context: Context) -> bytes:
        """One message each way."""
        started = time.perf_counter()
        backend = self._backend(request)
        hop = self._hop(backend, context, backend.settings.deadline_s(self._path))
        try:
            call, response = await ask(backend, hop, self._service, self._path, request, started)
        except grpc.aio.AioRpcError as error:
            await self._fail(error, context, backend, hop)
        await pass_head(call, context)
        await pass_trailers(call, context)
        if self._changes_models:
            hop.replica.ask_models()
        if self._has_receipt:
            elapsed_us = int((time.perf_counter() - started) * 1e6)
            return response + hop.replica.fragment(hop.attempts, hop.default_ms).encode(elapsed_us)
        return response

    async def unary_of_all(self, request: bytes, context: Context) -> bytes:
        """One message to every route, and their answers as one; one that fails leaves its part out, unless all do."""
        started = time.perf_counter()

        async def asked(backend: Backend) -> bytes | tuple[Hop, grpc.aio.AioRpcError] | MeshError:
            try:
                hop = self._hop(backend, context, backend.settings.deadline_s(self._path))
            except MeshError as error:
                return error
            try:
                return (await ask(backend, hop, self._service, self._path, request, started))[1]
            except grpc.aio.AioRpcError as error:
                return hop, error

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asked(one), name=f"list:{one.name}") for one in self._backends]
        ends = [task.result() for task in tasks]
        answers = [end for end in ends if isinstance(end, bytes)]
        if answers:
            return b"".join(answers)
        for backend, end in zip(self._backends, ends, strict=True):
            if isinstance(end, tuple):  # a route's own word before ours about one that cannot be reached
                await self._fail(end[1], context, backend, end[0])
        raise next(end for end in ends if isinstance(end, MeshError))

    async def server_stream(self, request: bytes, context: Context) -> None:
        """One message up, many down."""
        relay = self._stream(context, self._backend(request), context.write, request=request)
        await (relay if self._ending is None else until(self._ending, relay))

    async def client_stream(self, requests: Any, context: Context) -> bytes:
        """Many messages up, one down."""
        answers: list[bytes] = []

        async def keep(message: bytes) -> None:
            answers.append(message)

        await self._stream(context, self._backend(b""), keep, read=lambda: anext(requests, grpc.aio.EOF))
        if len(answers) != 1:
            raise ValueError(f"{self._path} answered {len(answers)} messages in place of one")
        return answers[0]

    async def bidi_stream(self, _requests: Any, context: Context) -> None:
        """Many messages both ways; also serves methods of unknown kind."""
        first: Any = None
        if self._names_model:
            first = await context.read()
        backend = self._backend(first or b"")
        await self._stream(context, backend, context.write, read=context.read, first=first)

    async def _stream(
        self,
        context: Context,
        backend: Backend,
        write: Callable[[bytes], Awaitable[None]],
        *,
        read: Callable[[], Awaitable[Any]] | None = None,
        request: bytes | None = None,
        first: Any = None,
    ) -> None:
        """Relays a call that streams.

        Args:
            context: of the caller's call.
            backend: that answers.
            write: takes the backend's messages.
            read: gives the caller's messages, then EOF; None where there is only one.
            request: the only message up; None where the caller streams.
            first: what was read of the caller's stream already; None when nothing was.
        """
        pace = Pace(time.perf_counter())
        hop = self._hop(backend, context, backend.settings.stream_s(self._path))
        replica, load, code = hop.replica, backend.load, "CANCELLED"
        fragment = replica.fragment(hop.attempts, hop.default_ms) if self._has_receipt else None
        if read is None:
            call = replica.unary_stream(self._path)(request, timeout=hop.timeout_s, metadata=hop.metadata)
        else:
            make = replica.stream if self._is_kept else replica.channel.stream_stream
            call = make(self._path)(timeout=hop.timeout_s, metadata=hop.metadata)
        status = FirstStatus(call)
        load.in_flight += 1
        replica.in_flight += 1
        try:
            if read is None:
                failure = await relay_down(call, context, write, status=status, fragment=fragment, pace=pace)
            else:
                failure = await relay_both(
                    call, context, read, write, status=status, fragment=fragment, pace=pace, first=first
                )
            if failure is not None:
                code = failure.code().name
                await self._fail(failure, context, backend, hop)
            code = "OK"
            await pass_trailers(call, context)
        finally:
            call.cancel()  # an abandoned call would never be collected
            load.in_flight -= 1
            replica.in_flight -= 1
            load.record(code)

    def _hop(self, backend: Backend, context: Context, default_s: float) -> Hop:
        return first_hop(
            backend,
            self._service,
            settings=self._settings,
            remaining_s=context.time_remaining(),
            default_s=default_s,
            metadata=callers_metadata(context, self._own_metadata),
        )

    async def _fail(self, error: grpc.aio.AioRpcError, context: Context, backend: Backend, hop: Hop) -> NoReturn:
        await fail_as(
            error,
            context,
            backend=backend.name,
            endpoint=hop.replica.endpoint,
            service=self._service,
            retry_after_s=self._settings.reconnect_s,
        )

    def _backend(self, request: bytes) -> Backend:
        """The route that answers: the only one, the one that has the request's model or at least its name, or the first
        in the best state."""
        backends = self._backends
        if len(backends) == 1:
            return backends[0]
        if self._names_model and request:
            model = read_string_field(request, self._model_field)
            for backend in backends:
                if backend.has_model(model):
                    return backend
            for backend in backends:
                if backend.name == model:  # not reached yet: its own failure says more than another's "unknown model"
                    return backend
        state = best(backend.state(self._service) for backend in backends)
        return next(backend for backend in backends if backend.state(self._service) == state)
