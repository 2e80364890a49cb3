"""The predictor's service: messages to arrays and back; models, batching and storing come from the runtime."""

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import numpy as np

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.predictor.v1 import predictor_pb2_grpc as pb_grpc
from meshcast.api.type.v1 import error_reason_pb2, receipt_pb2
from meshcast.rpc import Deadline, InvalidInput, MeshError, NotFound, prediction_id, to_item
from meshcast.runtime import (
    LOW,
    Record,
    ServiceContext,
    answer_in_order,
    plain_receipt,
    priority_class,
    receipt_of,
)
from meshcast.runtime.requests import add_violations, refusal
from meshcast.services.predictor.answers import COLUMNS, answer_columns, chunk_answer, prediction
from meshcast.services.predictor.features import HISTORY_FEATURES, PLANNED_FEATURES, STEPS
from meshcast.services.predictor.prepare import Prepared, Question, preparer, violations_of
from meshcast.services.predictor.questions import chunk_question, single_question

COUNTED = ("forwards", "replies", "reactions")
"""Counts whose sum is the engagement."""

Context = grpc.aio.ServicerContext[Any, Any]

CHUNK_ROWS_MAX = 8192
"""Rows of a chunk at most: a quarter of a second of one core, so that a stream cannot hold a run slot for longer."""

CHUNKS_AT_ONCE = 4
"""Chunks of one stream under way: one runs, one waits, one is prepared, one is written."""


class PredictorServicer(pb_grpc.PredictorServiceServicer):
    """Answers `meshcast.api.predictor.v1.PredictorService`; use as `async with`."""

    def __init__(self, context: ServiceContext) -> None:
        self._mesh = context
        self._preparer = preparer()

    async def __aenter__(self) -> "PredictorServicer":
        await self._preparer.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._preparer.__aexit__(*error)

    async def PredictEngagement(
        self, request: pb.PredictEngagementRequest, context: Context
    ) -> pb.PredictEngagementResponse:
        """Predicts one planned post."""
        with self._preparer.caller():
            return await self._single(request, Deadline.of(context, default_s=self._mesh.default_deadline_s))

    async def PredictEngagementStream(  # type: ignore[override]  # writes, does not yield
        self, request_iterator: AsyncIterator[pb.PredictEngagementStreamRequest], context: Context
    ) -> None:
        """Predicts chunks of rows, a bounded number at once, and answers in their order."""

        async def answer(request: pb.PredictEngagementStreamRequest) -> pb.PredictEngagementStreamResponse:
            return await self._chunk(request, Deadline.of(context, default_s=self._mesh.default_deadline_s))

        await answer_in_order(
            request_iterator, answer, context.write, window=CHUNKS_AT_ONCE, draining=self._mesh.draining
        )

    async def ReadPrediction(self, request: pb.ReadPredictionRequest, context: Context) -> pb.ReadPredictionResponse:
        """Reads a stored prediction back by its id."""
        deadline = Deadline.of(context, default_s=self._mesh.default_deadline_s)
        if not request.prediction_id:
            raise InvalidInput("prediction_id is required", field="prediction_id")
        stored = await self._mesh.log.read(request.prediction_id)
        if stored is None or np.isnan(stored.values).all():  # a row that failed was answered, but not with a prediction
            raise NotFound(
                f"No prediction is stored under {request.prediction_id!r}.",
                reason=error_reason_pb2.ERROR_REASON_PREDICTION_UNKNOWN,
                prediction_id=request.prediction_id,
            )
        columns = {name: stored.values[at : at + 1] for at, name in enumerate(COLUMNS)}
        answer = pb.ReadPredictionResponse(
            prediction_id=request.prediction_id,
            prediction=prediction(columns, 0),
            channel=stored.channel,
            model_version=stored.model_version,
            backend=stored.backend,
            receipt=plain_receipt(deadline),
        )
        answer.published_time.FromSeconds(stored.published_unix_s)
        answer.predicted_time.FromMicroseconds(stored.predicted_unix_us)
        return answer

    async def ValidateFeatures(
        self, request: pb.ValidateFeaturesRequest, context: Context
    ) -> pb.ValidateFeaturesResponse:
        """Checks a request as PredictEngagement would, and remarks on what is unusual."""
        answer = pb.ValidateFeaturesResponse(
            receipt=plain_receipt(Deadline.of(context, default_s=self._mesh.default_deadline_s))
        )
        try:
            question = single_question(request.request)
        except InvalidInput as error:
            add_violations(
                answer.violations, ((violation.field, violation.description) for violation in error.violations)
            )
            return answer
        add_violations(answer.violations, violations_of(question).get(0, []))
        answer.valid = not answer.violations
        add_violations(answer.remarks, _remarks(question))
        return answer

    async def DescribeModel(self, request: pb.DescribeModelRequest, context: Context) -> pb.DescribeModelResponse:
        """Describes a loaded version of the model."""
        deadline = Deadline.of(context, default_s=self._mesh.default_deadline_s)
        return pb.DescribeModelResponse(
            model=self._mesh.model.describe(request.model_version),
            history_features=HISTORY_FEATURES,
            planned_features=PLANNED_FEATURES,
            receipt=plain_receipt(deadline),
        )

    async def _single(self, request: pb.PredictEngagementRequest, deadline: Deadline) -> pb.PredictEngagementResponse:
        question = single_question(request)
        prepared = await self._preparer.prepare(question)
        if prepared.violations:
            raise refusal(prepared.violations[0])
        priority = priority_class(request.priority)
        columns, receipt = await self._answer(prepared, 1, deadline, priority, request.model_version)
        receipt.prediction_id = prediction_id(request.request_id)
        receipt.notes.extend(_missing_notes(question))
        await self._store(receipt, columns, question, request.channel)
        return pb.PredictEngagementResponse(prediction=prediction(columns, 0), receipt=receipt)

    async def _chunk(
        self, request: pb.PredictEngagementStreamRequest, deadline: Deadline
    ) -> pb.PredictEngagementStreamResponse:
        """The answer to one chunk; a fault of the chunk is in the answer, so that the stream goes on."""
        try:
            question = chunk_question(request, rows_max=CHUNK_ROWS_MAX)
            prepared = await self._preparer.prepare(question)
            rows, priority = len(question.start), priority_class(request.priority, default=LOW)
            columns, receipt = await self._answer(prepared, rows, deadline, priority, request.model_version)
        except MeshError as error:
            return pb.PredictEngagementStreamResponse(
                sequence=request.sequence, rows=max(0, request.planned.posts), status=to_item(error)
            )
        receipt.prediction_id = prediction_id(request.request_id)
        receipt.notes.extend(_missing_notes(question))
        answer = chunk_answer(columns, rows)
        answer.sequence = request.sequence
        for row, violations in sorted(prepared.violations.items()):
            answer.failed.add(row=row, status=to_item(refusal(violations)))
        answer.receipt.CopyFrom(receipt)
        if len(prepared.sound):
            # A row that failed leaves its own id free, for the question put right.
            own = ["" if row in prepared.violations else one for row, one in enumerate(request.row_request_ids)]
            await self._store(receipt, columns, question, request.channel, own)
        return answer

    async def _answer(
        self, prepared: Prepared, rows: int, deadline: Deadline, priority: int, version: int
    ) -> tuple[dict[str, Any], receipt_pb2.Receipt]:
        if not len(prepared.sound):
            nothing = {"log_engagement": prepared.recent_median, "confidence": prepared.recent_median}
            nothing["quantiles"] = np.empty((0, 4), dtype=np.float32)
            return answer_columns(nothing, prepared.recent_median, prepared.sound, rows), plain_receipt(deadline)
        ran = await self._mesh.batcher.submit(
            prepared.inputs,
            rows=len(prepared.sound),
            deadline=deadline,
            priority=priority,
            door="typed",
            version=version,
        )
        columns = answer_columns(ran.outputs, prepared.recent_median, prepared.sound, rows)
        return columns, receipt_of(ran.facts, deadline)

    async def _store(
        self,
        receipt: receipt_pb2.Receipt,
        columns: dict[str, Any],
        question: Question,
        channel: str,
        row_request_ids: Sequence[str] = (),
    ) -> None:
        await self._mesh.log.put(
            Record(
                prediction_id=receipt.prediction_id,
                row_ids=tuple(own and prediction_id(own) for own in row_request_ids),
                model=self._mesh.model.name,
                model_version=receipt.model_version,
                backend=receipt.backend,
                channel=channel,
                predicted_unix_us=time.time_ns() // 1000,
                published_unix_s=question.planned.published_unix_s,
                columns=COLUMNS,
                values=np.stack([columns[name] for name in COLUMNS], axis=1),
            )
        )


def _missing_notes(question: Question) -> list[str]:
    """Counts that the sum had to leave out, for the receipt."""
    missing = [name for name in COUNTED if bool(np.isnan(getattr(question.posts, name)).any())]
    return [f"{name} missing: left out of the sum where unknown, not counted as zero" for name in missing]


def _remarks(question: Question) -> list[tuple[str, str]]:
    """Legal but unusual things about a single question."""
    posts, size = question.posts, len(question.posts)
    whole = question.naming.range(0)
    remarks = []
    for name in ("views", *COUNTED):
        missing = int(np.isnan(getattr(posts, name)).sum())
        if missing:
            remarks.append((whole, f"{name} is unknown for {missing} of {size} posts; it is left out, not zero"))
    if 0 < size < STEPS:
        remarks.append((whole, f"has {size} posts; the model looks at the last {STEPS} one by one"))
    times = np.append(posts.published_unix_s, question.planned.published_unix_s)
    if size and (gap_days := int(np.diff(times).max()) // 86_400) > 30:
        remarks.append((whole, f"has a gap of {gap_days} days between two posts"))
    return remarks
