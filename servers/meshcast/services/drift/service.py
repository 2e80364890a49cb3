"""The drift service: messages to tables and back; subjects, models, batching and drains are elsewhere."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Self, TypeVar

import grpc
import structlog

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.api.drift.v1 import drift_pb2_grpc as pb_grpc
from meshcast.api.type.v1 import receipt_pb2
from meshcast.columns import pack_floats
from meshcast.observations import Observations
from meshcast.rpc import CorruptData, Deadline, InvalidInput, MeshError, NotFound, prediction_id, to_item
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
from meshcast.services.drift.comparing import require_columns
from meshcast.services.drift.comparison import Comparison, Reference
from meshcast.services.drift.derived import Encoded
from meshcast.services.drift.encoder import VALUES_INLINE, Encoder, Ran
from meshcast.services.drift.finding import Finder
from meshcast.services.drift.loss_answers import COMPARATORS, loss_update
from meshcast.services.drift.loss_questions import performance_question
from meshcast.services.drift.plots import need_matplotlib
from meshcast.services.drift.questions import (
    chunk_question,
    detect_question,
    list_question,
    reference_question,
    severity_question,
    subject_question,
    watch_question,
)
from meshcast.services.drift.report_answers import listed_report, stored
from meshcast.services.drift.reporting import Reporter, judged
from meshcast.services.drift.settings import DriftSettings
from meshcast.services.drift.severity_answers import read_report, severity_answer
from meshcast.services.drift.shipped_subject import SHIPPED_SUBJECT, SHIPPED_VERSION, set_shipped
from meshcast.services.drift.streams import Hold, Line, Place
from meshcast.services.drift.subjects import StoredReport, Subjects
from meshcast.services.drift.watched import LossUpdate
from meshcast.services.drift.watching import watch

__all__ = ["DriftServicer"]

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]
Result = TypeVar("Result")

CHUNKS_AT_ONCE, CHUNK_BYTES_AT_ONCE = 32, 24 << 20
"""Chunks of one stream under way, and their bytes: those that wait for the disk share a transaction, so that the more
there are of small ones, the faster they go."""

STREAMED_AT_ONCE, STREAMED_BYTES_AT_ONCE = 128, 32 << 20
"""Chunks of all streams under way, half of the calls that may wait, and their bytes: streams wait for each other."""

PAGE_BYTES_MAX = 2 << 20
"""Bytes of whole reports after which a page ends: a stock client takes 4 MiB, and one may have a third of that."""

LISTED_AT_ONCE = 16
"""Stored reports that a list looks at in one go: one of 1,024 features takes half a megabyte."""

LONG_S = 60.0
"""Budget at least of references and losses whose caller set none."""


class DriftServicer(pb_grpc.DriftServiceServicer):
    """Answers `meshcast.api.drift.v1.DriftService`; use as `async with`."""

    def __init__(self, context: ServiceContext) -> None:
        self._mesh = context
        self._table: DriftSettings = context.table
        root = context.settings.state / "drift"
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rows")
        self._encoder = Encoder(
            context.model, self._pool, root / "autoencoders.json", default_deadline_s=context.default_deadline_s
        )
        self._comparing = Turns(context.model.name, "comparison")
        self._reporter = Reporter()
        self._comparators = Comparators()
        self._subjects = Subjects(
            root,
            self,
            self._table,
            model=context.model.name,
            repository=context.settings.repository,
            registry=context.registry,
        )
        self._finder = Finder(self._subjects, self._encoder, self._table, self._reference)
        self._streamed, self._hold = asyncio.Semaphore(STREAMED_AT_ONCE), Hold(STREAMED_BYTES_AT_ONCE)
        self._shipping, self._is_shipped = asyncio.Lock(), False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._subjects)
        try:
            await self._ship()
        except MeshError as error:  # as where all subjects that may be are there: those are watched all the same
            log.error("the shipped subject is missing", subject=SHIPPED_SUBJECT, why=error.message)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._comparing.close()
        await self._stack.aclose()
        self._pool.shutdown(wait=True)

    async def _ship(self) -> None:
        """Makes the shipped subject where it is not known yet, once a version of the autoencoder serves."""
        async with self._shipping:
            if self._is_shipped or not self._mesh.model.is_ready:
                return
            try:
                await self._subjects.reference(SHIPPED_SUBJECT)
            except (NotFound, CorruptData):  # a damaged one is made anew, too
                version = SHIPPED_VERSION if SHIPPED_VERSION in self._mesh.model.versions else self._mesh.model.live
                await set_shipped(self._subjects, self._table, version)
            self._is_shipped = True

    async def _reference(self, subject: str) -> Reference:
        """The reference of a subject, the shipped one included; as `Subjects.reference`."""
        if subject == SHIPPED_SUBJECT and not self._is_shipped:
            await self._ship()
        return await self._subjects.reference(subject)

    # What the subjects ask

    def judge(self, comparison: Comparison, report_id: str, made_us: int) -> Judgement:
        """The report of a window at which the evidence reached the threshold, as `Hooks.judge`."""
        return judged(comparison, report_id, made_us)

    async def encode(self, observations: Observations, reference: Reference) -> Encoded | None:
        """What the reference's autoencoder makes of rows, as `Hooks.encode`."""
        return await self._encoder.encode(observations, reference)

    async def serve(self, versions: Sequence[int]) -> None:
        """Has versions of the model loaded, as `Hooks.serve`."""
        await self._encoder.serve(versions)

    # References

    async def SetReference(self, request: pb.SetReferenceRequest, context: Context) -> pb.SetReferenceResponse:
        """Makes rows the reference of a subject."""
        deadline = self._deadline(context, LONG_S)
        question = await self._aside(lambda: reference_question(request, self._table), request.ByteSize())
        async with deadline.enforced(where="the reference", advice="ask again: what was done is kept"):
            view = await self._subjects.set_reference(
                question.subject,
                question.source,
                features=question.features,
                options=question.options,
                request_id=request.request_id,
            )
        reference = reference_message(view)
        if isinstance(question.source, int) and reference.rows < question.source:
            reference.notes.append(
                f"the newest {reference.rows:,} rows are the reference: "
                f"no more are held of the {question.source:,} that were asked for"
            )
        return pb.SetReferenceResponse(reference=reference, receipt=plain_receipt(deadline))

    # Observations

    async def ObserveStream(  # type: ignore[override]  # writes, does not yield
        self, request_iterator: AsyncIterator[pb.ObserveStreamRequest], context: Context
    ) -> None:
        """Counts chunks of rows, a bounded number under way at once, and answers in their order, once on disk."""
        line, hold = Line(), Hold(CHUNK_BYTES_AT_ONCE, self._hold)

        async def answer(request: pb.ObserveStreamRequest) -> pb.ObserveStreamResponse:
            try:
                return await self._chunk(request, context, line)
            finally:
                hold.done(request.ByteSize())

        try:
            await answer_in_order(
                hold.items(request_iterator),
                answer,
                context.write,
                window=CHUNKS_AT_ONCE,
                draining=self._mesh.draining,
            )
        finally:
            hold.close()

    async def _chunk(self, request: pb.ObserveStreamRequest, context: Context, line: Line) -> pb.ObserveStreamResponse:
        """The answer to one chunk; a fault of the chunk is in the answer, so that the stream goes on."""
        stream = (request.subject, str(request.purpose), request.stream_id)
        try:
            async with line.place() as place:
                try:
                    async with self._streamed:
                        answer = await self._sound_chunk(
                            request,
                            self._deadline(context),
                            place,
                            lambda: place.require_none_refused(stream, request.sequence),
                        )
                except Exception as error:
                    if request.stream_id:
                        place.refuse(stream, request.sequence, error)
                    raise
        except MeshError as error:
            answer = pb.ObserveStreamResponse(
                rows=max(0, request.observations.rows),
                status=to_item(error),
                receipt=plain_receipt(self._deadline(context)),
            )
        answer.sequence = request.sequence
        return answer

    async def _sound_chunk(
        self, request: pb.ObserveStreamRequest, deadline: Deadline, place: Place, check: Callable[[], None]
    ) -> pb.ObserveStreamResponse:
        question = await self._aside(lambda: chunk_question(request, self._table), request.ByteSize())
        rows = question.observations
        if question.is_draft:
            await place.turn()
            collected = await self._subjects.collect(
                question.subject, rows, stream_id=request.stream_id, sequence=request.sequence, check=check
            )
            answer = chunk_answer(collected, None)
            answer.receipt.CopyFrom(plain_receipt(deadline))
            return answer
        priority = priority_class(request.priority, default=LOW)
        ran: Ran | None = None
        if request.wants_row_errors:
            self._mesh.model.require(request.model_version)
            reference = await self._reference(question.subject)
            require_columns(reference, rows)
            ran = await self._encoder.ask(
                rows, reference, version=request.model_version, deadline=deadline, priority=priority
            )
        elif request.model_version:
            self._mesh.model.require(request.model_version)
        if question.subject == SHIPPED_SUBJECT and not self._is_shipped:
            await self._ship()
        self._encoder.of_call(deadline, priority, rows, ran)
        await place.turn()
        observed = await self._subjects.observe(
            question.subject, rows, stream_id=request.stream_id, sequence=request.sequence, check=check
        )
        answer = chunk_answer(observed, None if ran is None else ran.encoded.error)
        answer.receipt.CopyFrom(self._receipt(deadline, request.request_id, ran))
        return answer

    # Reports

    async def DetectDataDrift(self, request: pb.DetectDataDriftRequest, context: Context) -> pb.DetectDataDriftResponse:
        """Compares a window with a reference."""
        deadline = self._deadline(context)
        question = await self._aside(lambda: detect_question(request, self._table), request.ByteSize())
        if question.plots:
            need_matplotlib()
        if request.model_version or request.wants_row_errors:
            self._mesh.model.require(request.model_version)
        report_id, made_us = prediction_id(request.request_id), time.time_ns() // 1000
        async with deadline.enforced(where="the comparison", advice="send fewer rows or set a longer deadline"):
            asked = await self._finder.find(question, request, deadline)
            found = await self._comparing.take(
                lambda is_over: self._reporter.report(asked.compare(), question, report_id, made_us, asked.view)
            )
            if request.keeps and question.subject:
                await self._subjects.keep_report(stored(found.kept))
        ran = asked.ran
        receipt = plain_receipt(deadline) if ran is None else receipt_of(ran.facts, deadline)
        receipt.prediction_id = report_id
        return pb.DetectDataDriftResponse(
            report=found.answered,
            row_errors=b"" if ran is None else pack_floats(ran.encoded.error),
            receipt=receipt,
        )

    async def AnalyzeDriftSeverity(
        self, request: pb.AnalyzeDriftSeverityRequest, context: Context
    ) -> pb.AnalyzeDriftSeverityResponse:
        """Says how bad a report's drift is under the caller's importances."""
        deadline, asked = self._deadline(context), severity_question(request)
        if asked.report_id:
            kept = await self._subjects.report(asked.report_id)
            if asked.subject and kept.subject != asked.subject:
                raise InvalidInput(f"report {asked.report_id} is of {kept.subject}", field="subject")
        else:
            kept = await self._subjects.newest_report(asked.subject)
        answer = await self._comparing.take(
            lambda is_over: severity_answer(read_report(kept.message), asked.importances)
        )
        answer.receipt.CopyFrom(plain_receipt(deadline))
        return answer

    async def ListDriftReports(
        self, request: pb.ListDriftReportsRequest, context: Context
    ) -> pb.ListDriftReportsResponse:
        """Lists stored reports, newest first."""
        deadline, asked = self._deadline(context), list_question(request)
        answer = pb.ListDriftReportsResponse(receipt=plain_receipt(deadline))
        token, size = asked.page_token, 0
        # Reports may be large: whole ones are taken one by one, as many as fit into a message.
        at_once = 1 if asked.full else LISTED_AT_ONCE
        while len(answer.reports) < asked.page_size and size < PAGE_BYTES_MAX:
            wanted = min(at_once, asked.page_size - len(answer.reports))
            page = await self._subjects.reports(asked.which, page_size=wanted, page_token=token)
            read = sum(len(report.message) for report in page.reports)
            listed = await self._aside(partial(_listed, page.reports, asked.full), read)
            answer.reports.extend(listed)
            size += read if asked.full else 0
            token = page.next_page_token
            if not token:
                break
        answer.next_page_token = token
        return answer

    # Losses

    async def DetectPerformanceDrift(
        self, request: pb.DetectPerformanceDriftRequest, context: Context
    ) -> pb.DetectPerformanceDriftResponse:
        """Watches losses for a rise."""
        deadline = self._deadline(context, LONG_S)
        question = await self._aside(lambda: performance_question(request), request.ByteSize())
        async with deadline.enforced(where="the losses", advice="send fewer losses or set a longer deadline"):
            names = [COMPARATORS[detector] for detector in question.comparators]
            found: dict[str, list[int]] = {}
            if names and len(question.losses):
                found = await self._comparators.alarms(question.losses / question.loss_max, names)

            def update(state: bytes | None) -> LossUpdate:
                return loss_update(question, state, found, time.time_ns() // 1000)

            if question.subject:
                answered = await self._subjects.losses(
                    question.subject,
                    question.metric,
                    update,
                    request_id=request.request_id,
                    digest=question.digest,
                )
            else:
                answered = (await self._comparing.take(lambda is_over: update(None))).answer
        answer = pb.DetectPerformanceDriftResponse.FromString(answered)
        answer.receipt.CopyFrom(plain_receipt(deadline))
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


def _listed(reports: Sequence[StoredReport], full: bool) -> list[pb.DriftReport]:
    """Stored reports, whole or as a list tells them."""
    whole = [read_report(report.message) for report in reports]
    return whole if full else list(map(listed_report, whole))
