"""GatewayService: composite answers, and the state of the mesh."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

from google.protobuf.message import Message

from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.api.gateway.v1 import gateway_pb2_grpc as pb_grpc
from meshcast.api.type.v1 import receipt_pb2
from meshcast.rpc import Deadline, InvalidInput, to_item

from .asking import Mesh
from .backends import Backend
from .exchange import TryFailed
from .fanout import Fanout
from .forwarding import Context, Metadata, callers_metadata, fail_as
from .mesh_health import MeshHealth
from .parts import BY_FIELD
from .receipts import receipt_of
from .relay import watch_again

_WATCH_INTERVAL_MS = (200, 60_000)  # as WatchMeshRequest documents it
_WATCH_INTERVAL_DEFAULT_MS = 5_000


class GatewayServicer(pb_grpc.GatewayServiceServicer):
    """Answers `meshcast.api.gateway.v1.GatewayService`.

    Args:
        mesh: the routes with their pipelines.
        draining: set when endless streams must end; wake `backends` after that.
        default_deadline_s: deadline of calls whose caller set none, in seconds.
        health: tells the state of the mesh.
    """

    def __init__(self, mesh: Mesh, *, draining: asyncio.Event, default_deadline_s: float, health: MeshHealth) -> None:
        self._backends = mesh.backends
        self._draining = draining
        self._default_deadline_s = default_deadline_s
        self._fanout = Fanout(mesh)
        self._health = health

    async def PredictComprehensive(  # type: ignore[override]  # writes, does not yield
        self, request: pb.PredictComprehensiveRequest, context: Context
    ) -> None:
        """Sends each part as it arrives, the summary last."""
        deadline = Deadline.of(context, default_s=self._default_deadline_s)
        budget = deadline.shrink(self._backends.settings.deadline_margin_ms / 1e3)
        metadata = callers_metadata(context, self._backends.own_metadata)
        answers: asyncio.Queue[pb.PredictComprehensiveResponse] = asyncio.Queue(maxsize=len(pb.Part.values()))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._fanout.answer(request, budget, metadata, answers.put), name="fanout")
            await context.send_initial_metadata(())  # while the parts are on their way: the first answer need not wait
            is_last = False
            while not is_last:
                answer = await answers.get()
                is_last = answer.HasField("summary")
                _say_deadline(answer.receipt, deadline)
                await context.write(answer)

    async def PredictComprehensiveStream(  # type: ignore[override]  # writes, does not yield
        self, request_iterator: AsyncIterator[pb.PredictComprehensiveStreamRequest], context: Context
    ) -> None:
        """Answers a stream of questions, a bounded number of them at a time."""
        questions_max = self._backends.settings.questions_max
        answers: asyncio.Queue[pb.PredictComprehensiveStreamResponse | None] = asyncio.Queue(maxsize=questions_max)
        slots = asyncio.Semaphore(questions_max)
        metadata = callers_metadata(context, self._backends.own_metadata)

        async def answer(question: pb.PredictComprehensiveStreamRequest) -> None:
            try:
                await self._question(question, context, metadata, answers)
            finally:
                slots.release()

        async def ask_all() -> None:
            async with asyncio.TaskGroup() as questions:
                await slots.acquire()
                async for question in request_iterator:
                    questions.create_task(answer(question), name=f"question:{question.sequence}")
                    await slots.acquire()  # before the next is read, so that a slow mesh slows the caller down
            await answers.put(None)

        async with asyncio.TaskGroup() as group:
            group.create_task(ask_all(), name="questions")
            while (response := await answers.get()) is not None:
                await context.write(response)

    async def RoutePrediction(self, request: pb.RoutePredictionRequest, context: Context) -> pb.RoutePredictionResponse:
        """Asks the one service that the question's kind names; fails as it fails."""
        field = request.WhichOneof("question")
        if field is None:
            raise InvalidInput(f"a question is required: set one of {', '.join(BY_FIELD)}", field="question")
        kind = BY_FIELD[field]
        asking = self._fanout.asking(kind)
        question: Message = getattr(request, field)
        metadata = callers_metadata(context, self._backends.own_metadata)
        exchange = asking.exchange(question.SerializeToString(), metadata, context.time_remaining())
        try:
            answer = await asking.answer(exchange)
        except TryFailed as failed:
            await fail_as(
                failed.error,
                context,
                backend=exchange.backend.name,
                endpoint=failed.endpoint,
                service=kind.service,
                retry_after_s=self._backends.settings.reconnect_s,
            )
        return kind.routed_answer(answer.response, receipt_of(exchange, answer))

    async def ListServices(self, request: pb.ListServicesRequest, context: Context) -> pb.ListServicesResponse:
        """Lists the route table."""
        started = time.perf_counter()
        entries = [self._entry(backend) for backend in self._backends.by_name.values()]
        return pb.ListServicesResponse(services=entries, receipt=_own_receipt(started))

    async def ReadMeshHealth(self, request: pb.ReadMeshHealthRequest, context: Context) -> pb.ReadMeshHealthResponse:
        """Reads the state of every service and replica."""
        started = time.perf_counter()
        return pb.ReadMeshHealthResponse(health=self._health.read(), receipt=_own_receipt(started))

    async def WatchMesh(self, request: pb.WatchMeshRequest, context: Context) -> AsyncIterator[pb.WatchMeshResponse]:
        """Sends the state at once, after every change, and at least every `interval_ms`."""
        low, high = _WATCH_INTERVAL_MS
        interval_ms = request.interval_ms or _WATCH_INTERVAL_DEFAULT_MS
        if not low <= interval_ms <= high:
            raise InvalidInput(
                f"interval_ms must be between {low} and {high}, or 0 for the default; is {interval_ms}",
                field="interval_ms",
            )
        async with aclosing(self._backends.changes(interval_ms / 1e3)) as changes:
            async for _ in changes:
                if self._draining.is_set():
                    raise watch_again()
                started = time.perf_counter()
                yield pb.WatchMeshResponse(health=self._health.read(), receipt=_own_receipt(started))

    async def _question(
        self,
        question: pb.PredictComprehensiveStreamRequest,
        context: Context,
        metadata: Metadata,
        answers: asyncio.Queue[pb.PredictComprehensiveStreamResponse | None],
    ) -> None:
        started = time.perf_counter()
        deadline = Deadline.of(context, default_s=self._default_deadline_s)

        async def put(response: pb.PredictComprehensiveResponse) -> None:
            _say_deadline(response.receipt, deadline)
            message = pb.PredictComprehensiveStreamResponse(sequence=question.sequence, response=response)
            message.receipt.CopyFrom(_own_receipt(started))
            await answers.put(message)

        try:
            await self._fanout.answer(question.request, deadline, metadata, put)
        except InvalidInput as error:
            # The stream goes on: the summary carries what is wrong with the question.
            await put(
                pb.PredictComprehensiveResponse(
                    status=to_item(error), summary=pb.ComprehensiveSummary(), receipt=_own_receipt(started)
                )
            )

    def _entry(self, backend: Backend) -> pb.ServiceEntry:
        methods: list[str] = []
        if backend.was_reached:
            for service in backend.settings.services:
                methods += self._backends.contracts.methods(service) or ()
        return pb.ServiceEntry(
            name=backend.name, grpc_services=backend.settings.services, methods=methods, endpoints=[*backend.replicas]
        )


def _own_receipt(started: float) -> receipt_pb2.Receipt:
    """Receipt of an answer for which no replica was asked."""
    elapsed_us = int((time.perf_counter() - started) * 1e6)
    return receipt_pb2.Receipt(gateway=receipt_pb2.GatewayReceipt(elapsed_us=elapsed_us))


def _say_deadline(receipt: receipt_pb2.Receipt, deadline: Deadline) -> None:
    receipt.deadline_ms = round(deadline.budget_s * 1e3)
    receipt.deadline_default = deadline.default
