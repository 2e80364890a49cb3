"""Fan-out: asks every part of a composite question at once, each within its deadline; a failure stays in its part."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import grpc.aio
import structlog
from google.protobuf.message import Message

from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.api.type.v1 import receipt_pb2
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import Deadline, Internal, InvalidInput, MeshError, NotReady, current_call, from_rpc_error

from .backends import Backend, Backends
from .forwarding import Metadata, transport_failure
from .hop import Hop, ask, first_hop
from .merge import failed_part, summary, wanted_parts
from .parts import BY_PART, PART_NAMES, Part, PartKind

log = structlog.get_logger()

Put = Callable[[pb.PredictComprehensiveResponse], Awaitable[None]]


class Fanout:
    """Answers composite questions from the routes.

    Args:
        backends: the routes.
    """

    def __init__(self, backends: Backends) -> None:
        self._backends = backends

    async def answer(
        self, request: pb.PredictComprehensiveRequest, deadline: Deadline, metadata: Metadata, put: Put
    ) -> None:
        """Puts each part as it arrives, then the summary.

        Args:
            request: the question.
            deadline: of the whole call.
            metadata: of the caller, to be passed on.
            put: takes the messages; called by one task a part, so it must allow that.

        Raises:
            InvalidInput: the question names a part that does not exist.
        """
        started = time.perf_counter()
        parts = wanted_parts(request)
        sent: list[pb.PredictComprehensiveResponse] = []

        async def send(part: Part) -> None:
            response = await self._part(part, request, deadline, metadata)
            await put(response)
            sent.append(response)

        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(send(part), name=f"part:{PART_NAMES[part]}")
        attempts = sum(response.receipt.gateway.attempts for response in sent)
        await put(summary(sent, elapsed_s=time.perf_counter() - started, attempts=attempts))

    def hop(self, kind: PartKind, remaining_s: float | None, metadata: Metadata) -> tuple[Backend, Hop]:
        """The route and the first try of a question to the service of a part.

        Args:
            kind: the part.
            remaining_s: seconds left for it; None takes the route's default.
            metadata: of the caller, to be passed on.

        Raises:
            NotReady: the mesh has no such service, or none can be reached.
            DeadlineExceeded: too little time is left.
        """
        backend = self._backend(kind)
        hop = first_hop(
            backend,
            kind.service,
            settings=self._backends.settings,
            remaining_s=remaining_s,
            default_s=backend.settings.deadline_s(kind.method),
            metadata=metadata,
        )
        return backend, hop

    async def ask(
        self, kind: PartKind, question: Message, backend: Backend, hop: Hop
    ) -> tuple[bytes, receipt_pb2.Receipt]:
        """Asks the service of a part; returns its encoded answer and the gateway's receipt.

        Args:
            kind: the part.
            question: of the type that the part's method takes.
            backend: the route.
            hop: the first try.

        Raises:
            grpc.aio.AioRpcError: the service's failure.
        """
        started = time.perf_counter()
        encoded = question.SerializeToString()
        _, response = await ask(backend, hop, kind.service, kind.method, encoded, started)
        return response, hop.receipt(time.perf_counter() - started)

    def _backend(self, kind: PartKind) -> Backend:
        """The route of the part's service.

        Raises:
            NotReady: the mesh has none.
        """
        backends = self._backends.by_service.get(kind.service)
        if not backends:
            raise _not_here(kind.field, kind.service)
        return backends[0]

    async def _part(
        self, part: Part, request: pb.PredictComprehensiveRequest, deadline: Deadline, metadata: Metadata
    ) -> pb.PredictComprehensiveResponse:
        """One part, answered or with the status of its failure."""
        started = time.perf_counter()
        hop: Hop | None = None
        try:
            kind = BY_PART.get(part)
            if kind is None:
                raise _not_here(PART_NAMES[part], PART_NAMES[part])
            self._backend(kind)  # a service that is not here is said before a question that is not here
            question = kind.question(request)
            if question is None:
                raise InvalidInput(f"{kind.field} is required for the part {PART_NAMES[part]}", field=kind.field)
            remaining_s = min(deadline.remaining_s(), self._backends.settings.part_deadline_s)
            backend, hop = self.hop(kind, remaining_s, metadata)
            return kind.answer(*await self._ask_or_error(kind, question, backend, hop))
        except MeshError as failure:
            error = failure
        except Exception as bug:
            request_id = _request_id()
            log.error("bug in a part", part=PART_NAMES[part], request_id=request_id, exc_info=bug)
            error = Internal("internal error", request_id=request_id)
        elapsed_s = time.perf_counter() - started
        if hop is None:
            own = receipt_pb2.GatewayReceipt(elapsed_us=int(elapsed_s * 1e6))
            return failed_part(part, error, receipt_pb2.Receipt(gateway=own))
        return failed_part(part, error, hop.receipt(elapsed_s))

    async def _ask_or_error(
        self, kind: PartKind, question: Message, backend: Backend, hop: Hop
    ) -> tuple[bytes, receipt_pb2.Receipt]:
        """As `ask`, but what fails it is the mesh's own error, and a peer's bug keeps its words to itself."""
        try:
            return await self.ask(kind, question, backend, hop)
        except grpc.aio.AioRpcError as failure:
            error = transport_failure(
                failure,
                backend=backend.name,
                endpoint=hop.replica.endpoint,
                service=kind.service,
                retry_after_s=self._backends.settings.reconnect_s,
            ) or from_rpc_error(failure)
            if isinstance(error, Internal):
                request_id = error.facts.get("request_id") or _request_id()
                log.error("bug in a peer", backend=backend.name, request_id=request_id, error=error.message)
                error = Internal("internal error", request_id=request_id)
            raise error from failure


def _request_id() -> str:
    call = current_call()
    return call.request_id if call else ""


def _not_here(part: str, service: str) -> NotReady:
    return NotReady(
        f"{part} is not part of this mesh",
        reason=ErrorReason.ERROR_REASON_BACKEND_UNREACHABLE,
        service=service,
    )
