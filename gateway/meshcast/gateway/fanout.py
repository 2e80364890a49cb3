"""Fan-out: asks every part of a composite question at once, each within its deadline; a failure stays in its part."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.api.type.v1 import receipt_pb2
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import Deadline, Internal, InvalidInput, MeshError, NotReady, current_call, from_rpc_error

from .asking import Asking, Mesh
from .exchange import Exchange, TryFailed
from .forwarding import Metadata, transport_failure
from .merge import failed_part, summary, wanted_parts
from .parts import BY_PART, PART_NAMES, Part, PartKind
from .receipts import receipt_of

log = structlog.get_logger()

Put = Callable[[pb.PredictComprehensiveResponse], Awaitable[None]]


class Fanout:
    """Answers composite questions from the routes, each part through the pipeline of its method.

    Args:
        mesh: the routes with their pipelines.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

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

    def asking(self, kind: PartKind) -> Asking:
        """The calls of a part's method.

        Raises:
            NotReady: the mesh has no such service.
        """
        try:
            return self._mesh.asking_of(kind.method)
        except LookupError as error:
            raise _not_here(kind.field, kind.service) from error

    async def _part(
        self, part: Part, request: pb.PredictComprehensiveRequest, deadline: Deadline, metadata: Metadata
    ) -> pb.PredictComprehensiveResponse:
        """One part, answered or with the status of its failure."""
        started = time.perf_counter()
        exchange: Exchange | None = None
        endpoint = ""
        error: MeshError
        try:
            kind = BY_PART.get(part)
            if kind is None:
                raise _not_here(PART_NAMES[part], PART_NAMES[part])
            asking = self.asking(kind)  # a service that is not here is said before a question that is not here
            question = kind.question(request)
            if question is None:
                raise InvalidInput(f"{kind.field} is required for the part {PART_NAMES[part]}", field=kind.field)
            remaining_s = min(deadline.remaining_s(), self._mesh.settings.part_s(part))
            exchange = asking.exchange(question.SerializeToString(), metadata, remaining_s)
            exchange.is_hasty = True  # the other parts are an answer
            answer = await asking.answer(exchange)
            return kind.answer(answer.response, receipt_of(exchange, answer))
        except TryFailed as failed:
            endpoint = failed.endpoint
            error = self._error_of(failed, exchange)
        except MeshError as failure:
            error = failure
        except Exception as bug:
            request_id = _request_id()
            log.error("bug in a part", part=PART_NAMES[part], request_id=request_id, exc_info=bug)
            error = Internal("internal error", request_id=request_id)
        if exchange is None:
            own = receipt_pb2.GatewayReceipt(elapsed_us=int((time.perf_counter() - started) * 1e6))
            return failed_part(part, error, receipt_pb2.Receipt(gateway=own))
        return failed_part(part, error, receipt_of(exchange, None, endpoint=endpoint))

    def _error_of(self, failed: TryFailed, exchange: Exchange | None) -> MeshError:
        """The mesh's own error for a replica's failure; a peer's bug keeps its words to itself."""
        assert exchange is not None
        backend = exchange.backend.name
        error = transport_failure(
            failed.error,
            backend=backend,
            endpoint=failed.endpoint,
            service=exchange.policy.service,
            retry_after_s=self._mesh.settings.reconnect_s,
        ) or from_rpc_error(failed.error)
        if isinstance(error, Internal):
            request_id = error.facts.get("request_id") or _request_id()
            log.error("bug in a peer", backend=backend, request_id=request_id, error=error.message)
            error = Internal("internal error", request_id=request_id)
        return error


def _request_id() -> str:
    call = current_call()
    return call.request_id if call else ""


def _not_here(part: str, service: str) -> NotReady:
    return NotReady(
        f"{part} is not part of this mesh",
        reason=ErrorReason.ERROR_REASON_BACKEND_UNREACHABLE,
        service=service,
    )
