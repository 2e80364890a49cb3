"""Fan-out: asks every part of a composite question at once, each within its deadline; a failure stays in its part."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import grpc.aio
import structlog

from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.api.predictor.v1 import predictor_pb2
from meshcast.api.type.v1 import receipt_pb2
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import Deadline, Internal, InvalidInput, MeshError, NotReady, current_call, from_rpc_error

from .backends import Backend, Backends
from .forwarding import Metadata, transport_failure
from .hop import Hop, ask, first_hop
from .merge import PART_NAMES, engagement_answer, failed_part, summary, wanted_parts

log = structlog.get_logger()

PREDICTOR_SERVICE = "meshcast.api.predictor.v1.PredictorService"
PREDICT_ENGAGEMENT = f"/{PREDICTOR_SERVICE}/PredictEngagement"

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

        async def send(part: pb.Part.ValueType) -> None:
            response = await self._part(part, request, deadline, metadata)
            await put(response)
            sent.append(response)

        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(send(part), name=f"part:{PART_NAMES[part]}")
        attempts = sum(response.receipt.gateway.attempts for response in sent)
        await put(summary(sent, elapsed_s=time.perf_counter() - started, attempts=attempts))

    def engagement_hop(self, remaining_s: float | None, metadata: Metadata) -> tuple[Backend, Hop]:
        """The route and the first try of a question to the predictor.

        Args:
            remaining_s: seconds left for it; None takes the route's default.
            metadata: of the caller, to be passed on.

        Raises:
            NotReady: the mesh has no predictor, or none can be reached.
            DeadlineExceeded: too little time is left.
        """
        backends = self._backends.by_service.get(PREDICTOR_SERVICE)
        if not backends:
            raise _not_here("engagement", PREDICTOR_SERVICE)
        backend = backends[0]
        hop = first_hop(
            backend,
            PREDICTOR_SERVICE,
            settings=self._backends.settings,
            remaining_s=remaining_s,
            default_s=backend.settings.default_deadline_s,
            metadata=metadata,
        )
        return backend, hop

    async def engagement(
        self, request: predictor_pb2.PredictEngagementRequest, backend: Backend, hop: Hop
    ) -> tuple[predictor_pb2.PredictEngagementResponse, receipt_pb2.Receipt]:
        """Asks the predictor; returns its answer and the gateway's receipt.

        Args:
            request: the question.
            backend: the route.
            hop: the first try.

        Raises:
            grpc.aio.AioRpcError: the predictor's failure.
        """
        started = time.perf_counter()
        encoded = request.SerializeToString()
        _, response = await ask(backend, hop, PREDICTOR_SERVICE, PREDICT_ENGAGEMENT, encoded, started)
        answer = predictor_pb2.PredictEngagementResponse.FromString(response)
        return answer, hop.receipt(time.perf_counter() - started)

    async def _part(
        self,
        part: pb.Part.ValueType,
        request: pb.PredictComprehensiveRequest,
        deadline: Deadline,
        metadata: Metadata,
    ) -> pb.PredictComprehensiveResponse:
        """One part, answered or with the status of its failure."""
        started = time.perf_counter()
        hop: Hop | None = None
        try:
            if part != pb.PART_ENGAGEMENT:
                raise _not_here(PART_NAMES[part], PART_NAMES[part])
            if not request.HasField("engagement"):
                raise InvalidInput("engagement is required for the part engagement", field="engagement")
            question = request.engagement
            if request.request_id and not question.request_id:
                question = predictor_pb2.PredictEngagementRequest()
                question.CopyFrom(request.engagement)
                question.request_id = request.request_id
            remaining_s = min(deadline.remaining_s(), self._backends.settings.part_deadline_s)
            backend, hop = self.engagement_hop(remaining_s, metadata)
            answer, receipt = await self._engagement_or_error(question, backend, hop)
            return engagement_answer(answer, receipt)
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

    async def _engagement_or_error(
        self, question: predictor_pb2.PredictEngagementRequest, backend: Backend, hop: Hop
    ) -> tuple[predictor_pb2.PredictEngagementResponse, receipt_pb2.Receipt]:
        """As `engagement`, but what fails it is the mesh's own error, and a peer's bug keeps its words to itself."""
        try:
            return await self.engagement(question, backend, hop)
        except grpc.aio.AioRpcError as failure:
            error = transport_failure(
                failure,
                backend=backend.name,
                endpoint=hop.replica.endpoint,
                service=PREDICTOR_SERVICE,
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
