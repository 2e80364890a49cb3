"""The forecaster's service: messages to arrays and back; models, batching and drains come from the runtime."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime
from typing import Any, Self

import grpc
import numpy as np
from numpy.typing import NDArray

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.api.forecaster.v1 import forecaster_pb2_grpc as pb_grpc
from meshcast.api.type.v1 import error_reason_pb2, receipt_pb2
from meshcast.rpc import CorruptData, Deadline, InvalidInput, MeshError, NotFound, prediction_id, to_item
from meshcast.runtime import LOW, ServiceContext, answer_in_order, plain_receipt, priority_class, receipt_of
from meshcast.runtime.preparing import ROWS_INLINE
from meshcast.runtime.requests import add_violations, refusal
from meshcast.runtime.turns import Turns
from meshcast.series import day_of, messages_from_days
from meshcast.services.forecaster.actuals import Forecasts, ForecastStore
from meshcast.services.forecaster.analysis import patterns_message
from meshcast.services.forecaster.answers import chunk_answer, evidence_messages, forecast
from meshcast.services.forecaster.features import HISTORY, HORIZON
from meshcast.services.forecaster.intervals import IntervalTracker, adapted
from meshcast.services.forecaster.patterns import analyze
from meshcast.services.forecaster.prepare import Prepared, preparer, violations_of
from meshcast.services.forecaster.questions import (
    Asked,
    actuals_question,
    asked_of,
    chunk_question,
    history_question,
    single_question,
)
from meshcast.services.forecaster.remarks import receipt_notes, remarks
from meshcast.services.forecaster.signature import LEVELS

__all__ = ["ForecasterServicer"]

Context = grpc.aio.ServicerContext[Any, Any]
Floats = NDArray[np.float32]

CHUNK_ROWS_MAX = 1024
"""Rows of a chunk at most: a fifth of a second of one core, and its answer fits into a message."""

CHUNKS_AT_ONCE = 4
"""Chunks of one stream under way: one runs, one waits, one is prepared, one is written."""


class ForecasterServicer(pb_grpc.ForecasterServiceServicer):
    """Answers `meshcast.api.forecaster.v1.ForecasterService`; use as `async with`."""

    def __init__(self, context: ServiceContext) -> None:
        self._mesh = context
        self._preparer = preparer(_today)
        self._store = ForecastStore(
            context.settings.state / "forecasts" / f"{context.model.name}.sqlite", registry=context.registry
        )
        self._keeps = context.settings.log_predictions
        self._turns = Turns(context.model.name, "analysis")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._store)
        await self._stack.enter_async_context(self._preparer)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._turns.close()
        await self._stack.aclose()

    async def ForecastGrowth(self, request: pb.ForecastGrowthRequest, context: Context) -> pb.ForecastGrowthResponse:
        """Forecasts one series."""
        with self._preparer.caller():
            return await self._single(request, self._deadline(context))

    async def ForecastGrowthStream(  # type: ignore[override]  # writes, does not yield
        self, request_iterator: AsyncIterator[pb.ForecastGrowthStreamRequest], context: Context
    ) -> None:
        """Forecasts chunks of series, a bounded number at once, and answers in their order."""

        async def answer(request: pb.ForecastGrowthStreamRequest) -> pb.ForecastGrowthStreamResponse:
            return await self._chunk(request, self._deadline(context))

        await answer_in_order(
            request_iterator, answer, context.write, window=CHUNKS_AT_ONCE, draining=self._mesh.draining
        )

    async def RecordActuals(self, request: pb.RecordActualsRequest, context: Context) -> pb.RecordActualsResponse:
        """Records what a series really did, and moves its intervals."""
        deadline = self._deadline(context)
        day, value = actuals_question(request, today=day_of(_today()))
        async with deadline.enforced(where="the recording"):
            recorded = await self._store.record_actuals(
                request.series, self._mesh.model.name, day, value, within_s=deadline.remaining_s()
            )
        receipt = plain_receipt(deadline)
        if not self._keeps:
            receipt.notes.append("forecasts are not kept here (log_predictions is false), so that none is compared")
        return pb.RecordActualsResponse(
            recorded=recorded.recorded,
            unchanged=recorded.unchanged,
            corrected=recorded.corrected,
            compared=recorded.compared,
            evidence=evidence_messages(recorded.evidence),
            receipt=receipt,
        )

    async def AnalyzeGrowthPatterns(
        self, request: pb.AnalyzeGrowthPatternsRequest, context: Context
    ) -> pb.AnalyzeGrowthPatternsResponse:
        """Finds trend, seasons, change points, phases and anomalies."""
        deadline = self._deadline(context)
        question = history_question(request, request.nonnegative)
        if violations := violations_of(question, day_of(_today())).get(0):
            raise refusal(violations)
        known = ~np.isnan(question.value)
        async with deadline.enforced(where="the analysis"):
            patterns = await self._turns.take(
                lambda _: analyze(question.day[known], question.value[known], nonnegative=request.nonnegative)
            )
        answer = patterns_message(patterns)
        answer.receipt.CopyFrom(plain_receipt(deadline))
        return answer

    async def ReadForecast(self, request: pb.ReadForecastRequest, context: Context) -> pb.ReadForecastResponse:
        """Reads a stored forecast back by its id, at any levels."""
        deadline = self._deadline(context)
        if not request.forecast_id:
            raise InvalidInput("forecast_id is required", field="forecast_id")
        asked = asked_of(request.levels, request.quantiles)
        async with deadline.enforced(where="the read"):
            stored = await self._store.read(request.forecast_id)
        if stored is None:
            raise NotFound(
                f"No forecast is stored under {request.forecast_id!r}.",
                reason=error_reason_pb2.ERROR_REASON_PREDICTION_UNKNOWN,
                prediction_id=request.forecast_id,
            )
        answer = pb.ReadForecastResponse(
            forecast_id=request.forecast_id,
            forecast=forecast(stored.quantiles, stored.first_day, asked, nonnegative=stored.nonnegative),
            series=stored.series,
            model_version=stored.model_version,
            backend=stored.backend,
            receipt=plain_receipt(deadline),
        )
        answer.predicted_time.FromMicroseconds(stored.predicted_unix_us)
        if stored.series:
            last_day = stored.first_day + len(stored.quantiles) - 1
            async with deadline.enforced(where="the read"):
                actuals = await self._store.actuals(stored.series, stored.first_day, last_day)
            answer.actuals.extend(messages_from_days(actuals.day, actuals.value))
        return answer

    async def ValidateSeries(self, request: pb.ValidateSeriesRequest, context: Context) -> pb.ValidateSeriesResponse:
        """Checks a request as ForecastGrowth would, and remarks on what is unusual."""
        answer = pb.ValidateSeriesResponse(receipt=plain_receipt(self._deadline(context)))
        try:
            question, _ = single_question(request.request)
        except InvalidInput as error:
            add_violations(answer.violations, ((one.field, one.description) for one in error.violations))
            return answer
        found = violations_of(question, day_of(_today())).get(0, [])
        try:
            self._mesh.model.describe(request.request.model_version)
        except MeshError as error:
            found.append(("model_version", error.message))
        add_violations(answer.violations, found)
        answer.valid = not answer.violations
        if answer.valid:
            add_violations(answer.remarks, remarks(question))
        return answer

    async def DescribeModel(self, request: pb.DescribeModelRequest, context: Context) -> pb.DescribeModelResponse:
        """Describes a loaded version of the model."""
        return pb.DescribeModelResponse(
            model=self._mesh.model.describe(request.model_version),
            history_days=HISTORY,
            horizon_days_max=HORIZON,
            quantile_levels=LEVELS,
            receipt=plain_receipt(self._deadline(context)),
        )

    def _deadline(self, context: Context) -> Deadline:
        return Deadline.of(context, default_s=self._mesh.default_deadline_s)

    async def _single(self, request: pb.ForecastGrowthRequest, deadline: Deadline) -> pb.ForecastGrowthResponse:
        question, asked = single_question(request)
        prepared = await self._preparer.prepare(question)
        if prepared.violations:
            raise refusal(prepared.violations[0])
        fans, receipt = await self._ask(
            prepared, asked, deadline, priority_class(request.priority), request.model_version
        )
        receipt.prediction_id = prediction_id(request.request_id)
        receipt.notes.extend(receipt_notes(prepared.inputs))
        names = [request.series] if request.series else []
        trackers = await self._trackers(names)
        answered = adapted(fans, trackers, question.nonnegative) if trackers else fans
        await self._keep(deadline, receipt, prepared.first_day, question.nonnegative, fans, answered, names)
        return pb.ForecastGrowthResponse(
            forecast=forecast(answered[0], int(prepared.first_day[0]), asked, nonnegative=request.nonnegative),
            evidence=evidence_messages(trackers[0].evidence()) if trackers and trackers[0] is not None else [],
            receipt=receipt,
        )

    async def _chunk(
        self, request: pb.ForecastGrowthStreamRequest, deadline: Deadline
    ) -> pb.ForecastGrowthStreamResponse:
        """The answer to one chunk; a fault of the chunk is in the answer, so that the stream goes on."""
        try:
            return await self._sound_chunk(request, deadline)
        except MeshError as error:
            return pb.ForecastGrowthStreamResponse(
                sequence=request.sequence,
                rows=len(request.history_start) // 4,
                status=to_item(error),
                receipt=plain_receipt(deadline),
            )

    async def _sound_chunk(
        self, request: pb.ForecastGrowthStreamRequest, deadline: Deadline
    ) -> pb.ForecastGrowthStreamResponse:
        question, asked = chunk_question(request, rows_max=CHUNK_ROWS_MAX)
        prepared = await self._preparer.prepare(question)
        priority = priority_class(request.priority, default=LOW)
        fans, receipt = await self._ask(prepared, asked, deadline, priority, request.model_version)
        rows, sound = len(question.start), prepared.sound
        receipt.prediction_id = prediction_id(request.request_id)
        if len(sound):
            receipt.notes.extend(receipt_notes(prepared.inputs))
        names = [request.series[row] for row in sound] if request.series else []
        nonnegative = question.nonnegative[sound]
        trackers = await self._trackers(names)

        def finish() -> tuple[Floats, pb.ForecastGrowthStreamResponse]:
            answered = adapted(fans, trackers, nonnegative) if trackers else fans
            return answered, chunk_answer(answered, prepared.first_day, nonnegative, sound, rows, asked)

        answered, answer = finish() if rows <= ROWS_INLINE else await self._preparer.aside(finish)
        answer.sequence = request.sequence
        for row, violations in sorted(prepared.violations.items()):
            answer.failed.add(row=row, status=to_item(refusal(violations)))
        answer.receipt.CopyFrom(receipt)
        if len(sound):
            whole = _Rows(sound, rows)
            await self._keep(
                deadline,
                receipt,
                whole.spread(prepared.first_day),
                question.nonnegative,
                whole.spread(fans),
                whole.spread(answered) if answered is not fans else None,
                list(request.series),
                # A row that failed leaves its own id free, for the question put right.
                ["" if row in prepared.violations else own for row, own in enumerate(request.row_request_ids)],
            )
        return answer

    async def _ask(
        self, prepared: Prepared, asked: Asked, deadline: Deadline, priority: int, version: int
    ) -> tuple[Floats, receipt_pb2.Receipt]:
        """The model's quantiles of the sound rows, (g, days, 9)."""
        if not len(prepared.sound):
            return np.empty((0, asked.horizon_days, len(LEVELS)), dtype=np.float32), plain_receipt(deadline)
        ran = await self._mesh.batcher.submit(
            prepared.inputs,
            rows=len(prepared.sound),
            deadline=deadline,
            priority=priority,
            door="typed",
            version=version,
        )
        fans = ran.outputs["quantiles"][:, : asked.horizon_days]
        if not np.isfinite(fans).all():
            raise CorruptData(
                f"Version {ran.facts.version} of {self._mesh.model.name} gave a forecast that is no number.",
                model=self._mesh.model.name,
                version=ran.facts.version,
                why="not finite",
            )
        return fans, receipt_of(ran.facts, deadline)

    async def _trackers(self, names: Sequence[str]) -> list[IntervalTracker | None]:
        """The trackers of the rows' series; none at all where the rows have no names."""
        return await self._store.trackers(names, self._mesh.model.name) if names else []

    async def _keep(
        self,
        deadline: Deadline,
        receipt: receipt_pb2.Receipt,
        first_day: NDArray[np.int64],
        nonnegative: NDArray[np.bool_],
        fans: Floats,
        answered: Floats | None,
        names: Sequence[str],
        row_request_ids: Sequence[str] = (),
    ) -> None:
        if not self._keeps:
            return
        async with deadline.enforced(where="the keeping"):
            await self._store.put(
                Forecasts(
                    prediction_id=receipt.prediction_id,
                    row_ids=tuple(own and prediction_id(own) for own in row_request_ids),
                    model=self._mesh.model.name,
                    model_version=receipt.model_version,
                    backend=receipt.backend,
                    predicted_unix_us=time.time_ns() // 1000,
                    series=names,
                    first_day=first_day,
                    nonnegative=nonnegative,
                    quantiles=fans,
                    answered=None if answered is fans else answered,
                )
            )


class _Rows:
    """Places what belongs to the sound rows of a chunk among all of its rows."""

    def __init__(self, sound: NDArray[np.int64], rows: int) -> None:
        self._sound, self._rows = sound, rows

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """`values` (g, ...) as (rows, ...): NaN, or 0 of whole numbers, where a row is not sound."""
        if len(self._sound) == self._rows:
            return values
        fill = np.nan if values.dtype.kind == "f" else 0
        whole = np.full((self._rows, *values.shape[1:]), fill, dtype=values.dtype)
        whole[self._sound] = values
        return whole


def _today() -> date:
    return datetime.now(UTC).date()
