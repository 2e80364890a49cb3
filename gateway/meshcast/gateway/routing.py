"""Routing: serves every routed gRPC service by passing encoded messages between the caller and a replica."""

from __future__ import annotations

import asyncio

import grpc.aio

from meshcast.rpc import MeshError

from .asking import Asking, Mesh
from .backends import Backend, best
from .contracts import MethodContract, MethodKind
from .exchange import TryFailed
from .forwarding import Context, callers_metadata
from .routed_stream import RoutedStream
from .wire import read_string_field

_OURS = "meshcast.api."
_OIP = "inference.GRPCInferenceService"
# Open Inference Protocol: most requests name their model in field 1. The control calls name the repository there, and a
# call about the server names no model.
_MODEL_FIELDS = {f"/{_OIP}/RepositoryModelLoad": 2, f"/{_OIP}/RepositoryModelUnload": 2}
_MODELLESS = frozenset(f"/{_OIP}/{name}" for name in ("ServerLive", "ServerReady", "ServerMetadata"))
# Their answers are lists, so that those of all routes can be put end to end: protobuf adds repeated fields up on parse.
_LISTS = frozenset((f"/{_OIP}/RepositoryIndex",))


class RoutedServices(grpc.GenericRpcHandler):
    """Generic handler of every service in the route table; other services and unknown methods are left to others.

    A unary call goes through the pipeline of its method; for streams see `RoutedStream`.

    Args:
        mesh: the routes with their pipelines.

    Attributes:
        ending: to be set when the gateway drains: endless streams then end, and their callers may watch again.
    """

    def __init__(self, mesh: Mesh) -> None:
        backends = mesh.backends
        self.ending = asyncio.Event()
        self._mesh = mesh
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
            return RoutedMethod(self._mesh, contract, backends, is_kept=False, ending=self.ending).handler()
        if method not in known:
            return None
        handler = RoutedMethod(self._mesh, known[method], backends, is_kept=True, ending=self.ending).handler()
        self._handlers[method] = handler
        return handler


class RoutedMethod:
    """The relay of one method.

    Args:
        mesh: the routes with their pipelines.
        contract: of the method.
        backends: routes that serve it, in the order of the route table.
        is_kept: whether its calls are kept ready on the replicas.
        ending: set when endless streams must end.
    """

    def __init__(
        self,
        mesh: Mesh,
        contract: MethodContract,
        backends: tuple[Backend, ...],
        *,
        is_kept: bool,
        ending: asyncio.Event,
    ) -> None:
        self._own_metadata = mesh.backends.own_metadata
        self._receipts = mesh.receipts
        self._path = contract.path
        self._kind = contract.kind
        self._service = contract.path[1:].rpartition("/")[0]
        self._has_receipt = contract.has_receipt
        self._backends = backends
        self._askings: dict[Backend, Asking] = {}
        if contract.kind is MethodKind.UNARY:
            self._askings = {backend: mesh.asking(contract, backend) for backend in backends}
        self._model_field = _MODEL_FIELDS.get(contract.path, 1)
        self._is_list = len(backends) > 1 and contract.path in _LISTS
        self._names_model = len(backends) > 1 and self._service == _OIP and contract.path not in _MODELLESS | _LISTS
        self._changes_models = contract.path in _MODEL_FIELDS
        self._streams = RoutedStream(
            mesh.backends, contract, self._backend, is_kept=is_kept, needs_first=self._names_model, ending=ending
        )

    def handler(self) -> grpc.RpcMethodHandler[bytes, bytes]:
        """grpc's handler over encoded messages."""
        match self._kind:
            case MethodKind.UNARY if self._is_list:
                return grpc.unary_unary_rpc_method_handler(self.unary_of_all)
            case MethodKind.UNARY:
                return grpc.unary_unary_rpc_method_handler(self.unary)
            case _:
                return self._streams.handler()

    async def unary(self, request: bytes, context: Context) -> bytes:
        """One message each way."""
        backend = self._backend(request)
        asking = self._askings[backend]
        metadata = callers_metadata(context, self._own_metadata)
        exchange = asking.exchange(request, metadata, context.time_remaining())
        try:
            answer = await asking.answer(exchange)
        except TryFailed as failed:
            await self._streams.fail(failed.error, context, backend, failed.endpoint)
        if answer.head:
            await context.send_initial_metadata(answer.head)
        if answer.trailers:
            context.set_trailing_metadata(answer.trailers)
        if self._changes_models and answer.endpoint in backend.replicas:
            backend.replicas[answer.endpoint].ask_models()
        return self._receipts.appended(exchange, answer) if self._has_receipt else answer.response

    async def unary_of_all(self, request: bytes, context: Context) -> bytes:
        """One message to every route, and their answers as one; one that fails leaves its part out, unless all do."""
        metadata = callers_metadata(context, self._own_metadata)
        remaining_s = context.time_remaining()

        async def asked(backend: Backend) -> bytes | TryFailed | MeshError:
            asking = self._askings[backend]
            try:
                exchange = asking.exchange(request, metadata, remaining_s)
                exchange.is_hasty = True  # the other routes are an answer
                return (await asking.answer(exchange)).response
            except (TryFailed, MeshError) as error:
                return error

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asked(one), name=f"list:{one.name}") for one in self._backends]
        ends = [task.result() for task in tasks]
        answers = [end for end in ends if isinstance(end, bytes)]
        if answers:
            return b"".join(answers)
        for backend, end in zip(self._backends, ends, strict=True):
            if isinstance(end, TryFailed):  # a route's own word before ours about one that cannot be reached
                await self._streams.fail(end.error, context, backend, end.endpoint)
        raise next(end for end in ends if isinstance(end, MeshError))

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
