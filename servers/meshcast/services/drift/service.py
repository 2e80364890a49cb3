"""The drift service: messages to tables and back; subjects, models, batching and drains are elsewhere."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any, Self, TypeVar

import grpc

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.api.drift.v1 import drift_pb2_grpc as pb_grpc
from meshcast.api.type.v1 import error_reason_pb2, receipt_pb2
from meshcast.observations import Observations
from meshcast.rpc import Deadline, MeshError, NotFound, Precondition, prediction_id, to_item
from meshcast.runtime import (
    LOW,
    ServiceContext,
    answer_in_order,
    plain_receipt,
    priority_class,
    receipt_of,
)
from meshcast.runtime.turns import Turns
from meshcast.services.drift.alarms import Judgement
from meshcast.services.drift.answers import chunk_answer, reference_message
from meshcast.services.drift.comparators import Comparators
from meshcast.services.drift.comparing import given_comparison, given_reference, require_columns
from meshcast.services.drift.comparison import Comparison, Reference, WatchOptions
from meshcast.services.drift.derived import Encoded
from meshcast.services.drift.encoder import VALUES_INLINE, Encoder, Ran
from meshcast.services.drift.loss_answers import COMPARATORS, loss_update
from meshcast.services.drift.loss_questions import performance_question
from meshcast.services.drift.questions import (
    DetectQuestion,
    chunk_question,
    detect_question,
    list_question,
    reference_question,
    severity_question,
    subject_question,
    watch_question,
)
from meshcast.services.drift.settings import DriftSettings
from meshcast.services.drift.shipped_subject import SHIPPED_SUBJECT, SHIPPED_VERSION, shipped_rows
from meshcast.services.drift.streams import Line, Place
from meshcast.services.drift.subjects import Subjects, Trained
from meshcast.services.drift.watched import FeatureOption
from meshcast.services.drift.watching import watch

__all__ = ["DriftServicer"]

Context = grpc.aio.ServicerContext[Any, Any]
Result = TypeVar("Result")

CHUNKS_AT_ONCE = 4
"""Chunks of one stream under way: one is written, one waits for the disk, one is counted, one is prepared."""

COMPARISON_S, REFERENCE_S = 10.0, 60.0
"""Budget at least of comparisons, and of references and losses, whose caller set none."""


class DriftServicer(pb_grpc.DriftServiceServicer):
    """Answers `meshcast.api.drift.v1.DriftService`; use as `async with`. Of rows that are observed the newest are kept."""

    def __init__(self, context: ServiceContext) -> None:
        self._mesh = context
        self._table: DriftSettings = context.table
        root = context.settings.state / "drift"
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rows")
        self._encoder = Encoder(
            context.model, self._pool, root / "autoencoders.json", default_deadline_s=context.default_deadline_s
        )
        self._comparing = Turns(context.model.name, "comparison")
        self._comparators = Comparators()
        self._subjects = Subjects(
            root,
            self,
            self._table,
            model=context.model.name,
            repository=context.settings.repository,
            registry=context.registry,
        )
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._subjects)
        await self._ship()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._comparing.close()
        await self._stack.aclose()
        self._pool.shutdown(wait=True)

    async def _ship(self) -> None:
        """Makes the shipped subject where it is not known yet."""
        try:
            await self._subjects.reference(SHIPPED_SUBJECT)
        except NotFound:
            shipped = await asyncio.to_thread(shipped_rows)
            await self._subjects.set_reference(
                SHIPPED_SUBJECT,
                shipped.observations,
                features={name: FeatureOption(role="output") for name in shipped.outputs},
                options=WatchOptions(
                    false_alarms_a_year=self._table.false_alarms_a_year,
                    window_rows=self._table.window_rows,
                    window_us=round(self._table.window_duration_s * 1e6),
                    trains_autoencoder=True,
                ),
                trained=Trained(SHIPPED_VERSION, shipped.encoding.to_json(), shipped.held_out),
            )

    # What the subjects ask

    def judge(self, comparison: Comparison, report_id: str, made_us: int) -> Judgement:
        """The report of a window at which the evidence reached the threshold, as `Hooks.judge`."""
        raise NotImplementedError

    async def encode(self, observations: Observations, reference: Reference) -> Encoded | None:
        """What the reference's autoencoder makes of rows, as `Hooks.encode`."""
        return await self._encoder.encode(observations, reference)

    async def serve(self, versions: Sequence[int]) -> None:
        """Has versions of the model loaded, as `Hooks.serve`."""
        await self._encoder.serve(versions)

    # References

    async def SetReference(self, request: pb.SetReferenceRequest, context: Context) -> pb.SetReferenceResponse:
        """Makes rows the reference of a subject."""
        deadline = self._deadline(context, REFERENCE_S)
        question = await self._aside(lambda: reference_question(request, self._table), request.ByteSize())
        async with deadline.enforced(where="the reference", advice="ask again: what was done is kept"):
            view = await self._subjects.set_reference(
                question.subject,
                question.source,
                features=question.features,
                options=question.options,
                request_id=request.request_id,
            )
        return pb.SetReferenceResponse(reference=reference_message(view), receipt=plain_receipt(deadline))

    # Observations

    async def ObserveStream(  # type: ignore[override]  # writes, does not yield
        self, request_iterator: AsyncIterator[pb.ObserveStreamRequest], context: Context
    ) -> None:
        """Counts chunks of rows, a bounded number under way at once, and answers in their order, once on disk."""
        line = Line()

        async def answer(request: pb.ObserveStreamRequest) -> pb.ObserveStreamResponse:
            return await self._chunk(request, self._deadline(context), line)

        await answer_in_order(
            request_iterator, answer, context.write, window=CHUNKS_AT_ONCE, draining=self._mesh.draining
        )

    async def _chunk(
        self, request: pb.ObserveStreamRequest, deadline: Deadline, line: Line
    ) -> pb.ObserveStreamResponse:
        """The answer to one chunk; a fault of the chunk is in the answer, so that the stream goes on."""
        try:
            async with line.place() as place:
                answer = await self._sound_chunk(request, deadline, place)
        except MeshError as error:
            answer = pb.ObserveStreamResponse(
                rows=max(0, request.observations.rows), status=to_item(error), receipt=plain_receipt(deadline)
            )
        answer.sequence = request.sequence
        return answer

    async def _sound_chunk(
        self, request: pb.ObserveStreamRequest, deadline: Deadline, place: Place
    ) -> pb.ObserveStreamResponse:
        question = await self._aside(lambda: chunk_question(request, self._table), request.ByteSize())
        rows, marks = question.observations, {"stream_id": request.stream_id, "sequence": request.sequence}
        if question.is_draft:
            await place.turn()
            answer = chunk_answer(await self._subjects.collect(question.subject, rows, **marks), None)
            answer.receipt.CopyFrom(plain_receipt(deadline))
            return answer
        priority = priority_class(request.priority, default=LOW)
        ran: Ran | None = None
        if request.wants_row_errors:
            reference = await self._subjects.reference(question.subject)
            require_columns(reference, rows)
            ran = await self._encoder.ask(
                rows, reference, version=request.model_version, deadline=deadline, priority=priority
            )
        elif request.model_version:
            self._mesh.model.require(request.model_version)
        self._encoder.of_call(deadline, priority, rows, ran)
        await place.turn()
        observed = await self._subjects.observe(question.subject, rows, **marks)
        answer = chunk_answer(observed, None if ran is None else ran.encoded.error)
        answer.receipt.CopyFrom(self._receipt(deadline, request.request_id, ran))
        return answer

    # Alarms

    async def WatchDrift(  # type: ignore[override]  # writes, does not yield
        self, request: pb.WatchDriftRequest, context: Context
    ) -> None:
        """Sends alarms: those after the cursor, then new ones as they are raised."""
        deadline, asked = self._deadline(context), watch_question(request)

        async def write(message: pb.WatchDriftResponse) -> None:
            message.receipt.MergeFrom(plain_receipt(deadline))
            await context.write(message)

        await watch(self._subjects, asked, write, draining=self._mesh.draining)

    # Descriptions

    async def DescribeModel(self, request: pb.DescribeModelRequest, context: Context) -> pb.DescribeModelResponse:
        """Describes the autoencoder that serves, and the subjects."""
        deadline, subject = self._deadline(context), subject_question(request.subject)
        answer = pb.DescribeModelResponse(
            model=self._mesh.model.describe(request.model_version), receipt=plain_receipt(deadline)
        )
        views = [await self._subjects.view(subject)] if subject else await self._subjects.views()
        answer.references.extend(reference_message(view, with_features=len(views) == 1) for view in views)
        return answer

    # What calls share

    def _deadline(self, context: Context, default_s: float = 0.0) -> Deadline:
        return Deadline.of(context, default_s=max(default_s, self._mesh.default_deadline_s))

    async def _aside(self, work: Callable[[], Result], size_bytes: int) -> Result:
        """What `work` on a message gives, done in a thread where the message is large."""
        if size_bytes <= VALUES_INLINE * 4:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _receipt(self, deadline: Deadline, request_id: str, ran: Ran | None) -> receipt_pb2.Receipt:
        """Of an answer that the autoencoder took part in, or did not."""
        if ran is None:
            return plain_receipt(deadline)
        receipt = receipt_of(ran.facts, deadline)
        receipt.prediction_id = prediction_id(request_id)
        return receipt
