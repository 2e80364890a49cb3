"""Calls to the drift service: references, observed rows, comparisons, losses, reports and alarms."""

import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from datetime import datetime
from typing import Any

from numpy.typing import NDArray

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.client.calls import STREAM_TIMEOUT_S, WINDOW, Calls, Progress, answer_to, stream_answers
from meshcast.client.drift_answers import ObservedChunk, unpacked_errors
from meshcast.client.drift_losses import PerformanceDrift
from meshcast.client.drift_questions import (
    CHUNK_ROWS,
    CHUNK_ROWS_MAX,
    DETECTORS,
    REQUEST_BYTES,
    DriftOptions,
    LossDetector,
    ObservationChunks,
    RowsLike,
    check_subject,
    feature_options,
    losses_f32,
    observations_of,
    packed,
    time_range,
)
from meshcast.client.drift_references import Reference
from meshcast.client.drift_reports import DriftReport
from meshcast.client.priority import PRIORITIES, Priority
from meshcast.client.stream import Call, Chunk
from meshcast.observations import Observations, pack_observations
from meshcast.rpc import DeadlineExceeded, InvalidInput, MeshError, NotReady, Overloaded

Rows = RowsLike | Iterable[RowsLike] | AsyncIterable[RowsLike]
"""Rows at once, or any number of them part by part."""

REPORT_TIMEOUT_S = 60.0
"""Deadline of calls that work on many rows at once when none is given, in seconds."""


class DriftCalls(Calls):
    """What a client asks the drift service."""

    async def set_reference(
        self,
        subject: str,
        rows: Rows | None = None,
        *,
        draft: str | None = None,
        recent_rows: int | None = None,
        importances: Mapping[str, float] | None = None,
        outputs: Collection[str] = (),
        options: DriftOptions | None = None,
        progress: Progress | None = None,
        request_id: str | None = None,
        timeout_s: float = STREAM_TIMEOUT_S,
    ) -> Reference:
        """Makes rows the reference of a subject, in place of the one that it had.

        Rows that are too many for one message, and those that come part by part, go as a stream of chunks first.

        ```python
        file = open_observations("loans.csv")  # its `kinds` are those in which later files are read
        reference = await mesh.set_reference("loans", file.read(), importances={"income": 3})
        print(reference.rows, [feature.smallest_shift_sd for feature in reference.features])
        ```

        Args:
            subject: name of 1 to 64 letters, digits, `.`, `_` and `-`.
            rows: at least 2 and at most 1,000,000 of them. Exactly one of this, `draft` and `recent_rows` is given.
            draft: name of rows that were sent by `observe(..., is_reference=True)`, which are used up.
            recent_rows: the newest rows that the subject observed, at most so many.
            importances: weights of features, 0 to 1,000; 1 where none is given.
            outputs: features that a model answers, not what it is asked with.
            options: how the subject is watched.
            progress: told after each chunk.
            request_id: at most 128 characters; the same request again is answered as before.
            timeout_s: deadline of the whole, in seconds.

        Raises:
            InvalidInput: a rule of the contract is broken; the fields are named.
            MeshError: as the server raised it.
        """
        check_subject(subject)
        if [rows is None, draft is None, recent_rows is None].count(False) != 1:
            raise InvalidInput("exactly one of rows, draft and recent_rows must be given", field="rows")
        ends_at = time.monotonic() + timeout_s
        request = pb.SetReferenceRequest(
            request_id=request_id or self._ids.next(),
            subject=subject,
            features=feature_options(importances, outputs),
            options=(options or DriftOptions()).message(),
        )
        small = None if rows is None else _small(rows)
        if rows is None:
            if draft is not None:
                request.draft = draft
            if recent_rows is not None:
                request.recent_rows = recent_rows
        elif small is not None:
            request.observations.CopyFrom(small)
        else:
            request.draft = f"draft-{self._ids.next()}"
            sent = self.observe(request.draft, rows, is_reference=True, progress=progress, timeout_s=timeout_s)
            try:
                async with aclosing(sent) as answers:
                    async for _ in answers:
                        pass
            except MeshError as error:
                if "stream_id" in error.facts and isinstance(error.__cause__, MeshError):
                    raise error.__cause__ from None  # the draft is of this call alone: nobody could go on with it
                raise
        call = self._open.drift.SetReference(request, timeout=max(1e-3, ends_at - time.monotonic()))
        response = await answer_to(call)
        return Reference.of(response.reference, response.receipt)

    async def observe(
        self,
        subject: str,
        rows: Rows,
        *,
        stream_id: str | None = None,
        is_reference: bool = False,
        wants_row_errors: bool = False,
        wants_refused: bool = False,
        chunk_rows: int = CHUNK_ROWS,
        window: int = WINDOW,
        progress: Progress | None = None,
        request_id: str | None = None,
        version: int = 0,
        priority: Priority = "low",
        timeout_s: float = STREAM_TIMEOUT_S,
    ) -> AsyncGenerator[ObservedChunk, None]:
        """Sends rows that a subject observed, chunk by chunk, in order; an iterable is read as fast as it is answered.

        A chunk is answered once its effect is on disk. A stream that breaks is opened again and goes on where it was,
        and no row is counted twice. A chunk that is refused ends the stream with its error, so that no row is lost
        silently. Where the caller may stop early, close the generator (`contextlib.aclosing`).

        ```python
        async for chunk in mesh.observe("loans", read_observations("today.csv", kinds=last_year.kinds)):
            for alarm in chunk.alarms:
                print(alarm.text)
        ```

        Args:
            subject: whose rows they are; of a reference, any name of a draft.
            rows: a table, or parts of one, as `ObservationFile.chunks` gives them.
            stream_id: the same when a stream is taken up again from its beginning by another process: chunks that were
                counted are not counted again, provided that the rows are cut alike. None: one is made.
            is_reference: collect the rows for a reference instead of watching them.
            wants_row_errors: say how unusual each row is.
            wants_refused: hand refused chunks over, with their `error`, and go on behind them instead of raising it.
            chunk_rows: rows of a chunk at most, up to 65,536; a chunk also ends where its message would be too large.
            window: chunks in flight at most.
            progress: told after each chunk.
            request_id: prefix of the chunks' request ids.
            version: version of the autoencoder for the row errors; 0 for the subject's own.
            priority: which rows go first at the autoencoder.
            timeout_s: deadline of the whole stream, in seconds.

        Raises:
            InvalidInput: an argument breaks a rule, or rows cannot be sent at all; those before are answered first.
            MeshError: a chunk was refused, as `NotFound` where the subject has no reference; up to `window` chunks
                behind it may have been counted. Or the stream failed for good. Where it can be taken up again later,
                the message says how, and the facts have the `stream_id` and the `rows` that were answered.
        """
        check_subject(subject)
        for name, value, most in (("chunk_rows", chunk_rows, CHUNK_ROWS_MAX), ("window", window, 256)):
            if not 1 <= value <= most:
                raise InvalidInput(f"{name} must be from 1 to {most}, is {value}", field=name)
        prefix = request_id or self._ids.next()
        chunks = ObservationChunks(
            subject,
            chunk_rows,
            prefix=prefix,
            stream_id=stream_id or prefix,
            purpose=pb.PURPOSE_REFERENCE if is_reference else pb.PURPOSE_WINDOW,
            wants_row_errors=wants_row_errors,
            model_version=version,
            priority=PRIORITIES[priority],
        )
        answers = stream_answers(
            self._open_observations,
            _chunks(chunks, rows),
            ObservedChunk.of,
            window=window,
            timeout_s=timeout_s,
            progress=progress,
            rows_total=len(rows) if isinstance(rows, Observations) else None,
        )
        answered = 0
        try:
            async with aclosing(answers):
                async for answer in answers:
                    if answer.error is not None and not wants_refused:
                        raise answer.error
                    answered += len(answer)
                    yield answer
        except (NotReady, Overloaded, DeadlineExceeded) as error:
            raise _to_be_taken_up(error, stream_id or prefix, answered) from error

    async def detect_data_drift(
        self,
        rows: RowsLike | None = None,
        *,
        subject: str | None = None,
        reference: RowsLike | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        everything: bool = False,
        importances: Mapping[str, float] | None = None,
        outputs: Collection[str] = (),
        false_alarm_chance: float | None = None,
        features_max: int = 0,
        plots: Sequence[str] = (),
        wants_row_errors: bool = False,
        keeps: bool = False,
        request_id: str | None = None,
        version: int = 0,
        priority: Priority = "normal",
        timeout_s: float = REPORT_TIMEOUT_S,
    ) -> DriftReport:
        """Compares a window with a reference and reports what moved.

        ```python
        report = await mesh.detect_data_drift(today, reference=last_year)
        print(report.summary)
        for feature in report.drifted:
            print(feature.name, feature.blame, feature.what)
        ```

        Args:
            rows: the window. None: what the subject observed from `start` until `end`, or `everything`; without those,
                its last closed window.
            subject: compare with its reference.
            reference: compare with these rows, of which nothing is kept; exactly one of the two is given.
            start: of a span of time, to the bucket: minutes of the last hour, hours of the last day, days of the last
                30.
            end: of the same.
            everything: all that the subject has observed since its reference was set.
            importances: weights of features, 0 to 1,000; only with `reference`.
            outputs: features that a model answers; only with `reference`.
            false_alarm_chance: of calling drift where there is none, .0001 to .5, for rows that are given or a span of
                time; None: .01.
            features_max: features in the report at most, those to blame first; 0: all.
            plots: features whose picture is wanted, at most 16; `*` for the four to blame first.
            wants_row_errors: say how unusual each of `rows` is.
            keeps: keep the report, so that `list_drift_reports` lists it.
            request_id: the report's id follows from it.
            version: version of the autoencoder that must answer; 0 for the subject's own.
            priority: which rows go first at the autoencoder.
            timeout_s: deadline in seconds.

        Raises:
            InvalidInput: a rule of the contract is broken, or rows are too many for one message; the way out is named.
            MeshError: as the server raised it.
        """
        if (subject is None) == (reference is None):
            raise InvalidInput("exactly one of subject and reference must be given", field="against")
        is_span = start is not None or end is not None
        if [rows is not None, is_span, everything].count(True) > 1:
            raise InvalidInput("at most one of rows, a span of time and everything may be given", field="window")
        request = pb.DetectDataDriftRequest(
            request_id=request_id or self._ids.next(),
            features=feature_options(importances, outputs),
            false_alarm_chance=false_alarm_chance,
            features_max=features_max,
            plots=[plots] if isinstance(plots, str) else plots,
            wants_row_errors=wants_row_errors,
            keeps=keeps,
            model_version=version,
            priority=PRIORITIES[priority],
        )
        if subject is not None:
            request.subject = subject
        if reference is not None:
            request.reference.CopyFrom(packed(reference, "reference"))
        if rows is not None:
            request.observations.CopyFrom(packed(rows, "rows", left=REQUEST_BYTES - request.ByteSize()))
        elif is_span:
            request.range.CopyFrom(time_range(start, end))
        elif everything:
            request.all.SetInParent()
        response = await answer_to(self._open.drift.DetectDataDrift(request, timeout=timeout_s))
        errors = unpacked_errors(response.row_errors, request.observations.rows)
        return DriftReport.of(response.report, response.receipt, row_errors=errors)

    async def detect_performance_drift(
        self,
        losses: Sequence[float] | NDArray[Any],
        *,
        subject: str = "",
        metric: str = "",
        loss_max: float = 1.0,
        baseline: float | None = None,
        warm_up: int = 0,
        losses_to_false_alarm: float = 0.0,
        comparators: Collection[LossDetector] = (),
        resets: bool = False,
        request_id: str | None = None,
        timeout_s: float = REPORT_TIMEOUT_S,
    ) -> PerformanceDrift:
        """Watches losses, such as errors of predictions, for a rise.

        Args:
            losses: oldest first, 0 to `loss_max`, at most 262,144; 1 and 0 for wrong and right. None at all with a
                subject: where it stands.
            subject: remember losses from call to call under `metric`; without one nothing is kept.
            metric: name of the loss.
            loss_max: largest loss that can be.
            baseline: mean loss while all is well; None: learnt from the first `warm_up` losses.
            warm_up: losses that the baseline is learnt from, 100 to 100,000; 0: 2,000.
            losses_to_false_alarm: mean number of losses to a false alarm at least, 100 to 1e9; 0: 100,000.
            comparators: detectors to run beside.
            resets: forget baseline and evidence first.
            request_id: losses that were counted under it are not counted again.
            timeout_s: deadline in seconds.

        Raises:
            InvalidInput: a rule of the contract is broken; the fields are named.
        """
        for name in comparators:
            if name not in DETECTORS:
                raise InvalidInput(f"comparators must be of {', '.join(DETECTORS)}, is {name!r}", field="comparators")
        request = pb.DetectPerformanceDriftRequest(
            request_id=request_id or self._ids.next(),
            subject=subject,
            metric=metric,
            losses_f32=losses_f32(losses),
            loss_max=loss_max,
            baseline=baseline,
            warm_up=warm_up,
            losses_to_false_alarm=losses_to_false_alarm,
            comparators=[DETECTORS[name] for name in comparators],
            resets=resets,
        )
        return PerformanceDrift.of(await answer_to(self._open.drift.DetectPerformanceDrift(request, timeout=timeout_s)))

    def _open_observations(self, timeout_s: float) -> Call:
        return self._open.streaming_drift.ObserveStream(timeout=timeout_s)


def _to_be_taken_up(error: MeshError, stream_id: str, answered: int) -> MeshError:
    """The failure of a stream of rows, with the way to go on."""
    facts: dict[str, str | int | float] = {**error.facts, "stream_id": stream_id, "rows": answered}
    told = type(error)(
        f"{error.message}; {answered:,} rows were answered: give the same rows again with stream_id={stream_id!r}, and "
        "none is counted twice",
        reason=error.reason,
        **facts,
    )
    told.retry_after_s = error.retry_after_s
    return told


def _small(rows: Rows) -> pb.Observations | None:
    """Rows as a message where they are given at once and fit one call."""
    if isinstance(rows, AsyncIterable | Iterator) or not _is_table(rows):
        return None
    table = observations_of(rows)  # type: ignore[arg-type]  # as _is_table has seen
    if sum(values.nbytes for values in table.numeric.values()) > REQUEST_BYTES:
        return None
    message = pack_observations(table)
    return message if message.ByteSize() <= REQUEST_BYTES else None


def _is_table(rows: Rows) -> bool:
    return isinstance(rows, Observations | Mapping) or hasattr(rows, "columns")


def _chunks(chunks: ObservationChunks, rows: Rows) -> Iterator[Chunk] | AsyncIterator[Chunk]:
    if isinstance(rows, AsyncIterable):
        return _from_async(chunks, rows)
    if _is_table(rows):
        return chunks.of(rows)  # type: ignore[arg-type]  # as _is_table has seen
    if not isinstance(rows, Iterable):
        return chunks.of(rows)  # it says what it wants
    return (chunk for part in rows for chunk in chunks.of(part))  # type: ignore[arg-type]  # what is left


async def _from_async(chunks: ObservationChunks, parts: AsyncIterable[RowsLike]) -> AsyncIterator[Chunk]:
    async for part in parts:
        for chunk in chunks.of(part):
            yield chunk
