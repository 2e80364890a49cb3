"""Chunks: rows of questions put into the stream's messages, with the posts that they share sent once."""

from bisect import bisect_right
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.client.answers import EngagementChunk, EngagementPrediction
from meshcast.client.coalesce import LaneKey
from meshcast.client.priority import PRIORITIES, Priority
from meshcast.client.questions import (
    Histories,
    History,
    PlanValues,
    Question,
    RequestIds,
    checked_plan,
)
from meshcast.client.stream import Chunk
from meshcast.columns import pack_positions, share_ranges
from meshcast.posts import HistoryIndex, PackedPosts, PostTable, join_posts, pack_planned
from meshcast.rpc import InvalidInput, MeshError


def chunk_request(
    planned: pb.PlannedPostColumns, histories: Sequence[History], **rest: Any
) -> pb.PredictEngagementStreamRequest:
    """A chunk of rows whose histories may come from several tables; posts that rows share are sent once.

    Args:
        planned: the rows.
        histories: one a row.
        rest: further fields of the message.
    """
    packings: list[PackedPosts] = []
    bases: list[int] = []
    base_of: dict[int, int] = {}
    starts: list[int] = []
    stops: list[int] = []
    end = 0
    for history in histories:
        packed, start, stop = history.span()
        base = base_of.get(id(packed))
        if base is None:
            base = base_of[id(packed)] = end
            packings.append(packed)
            bases.append(base)
            end += packed.posts + 1  # a gap, so that ranges of two tables never join
        starts.append(base + start)
        stops.append(base + stop)
    first, last = np.array(starts, dtype=np.int64), np.array(stops, dtype=np.int64)
    cover_start, cover_stop, shift = share_ranges(first, last)
    ranges: list[tuple[PackedPosts, int, int]] = []
    for a, b in zip(cover_start.tolist(), cover_stop.tolist(), strict=True):
        table = bisect_right(bases, a) - 1
        ranges.append((packings[table], a - bases[table], b - bases[table]))
    return pb.PredictEngagementStreamRequest(
        planned=planned,
        history=join_posts(ranges),
        history_start=pack_positions(first + shift),
        history_stop=pack_positions(last + shift),
        **rest,
    )


def table_chunk_request(
    planned: pb.PlannedPostColumns,
    packed: PackedPosts,
    start: NDArray[np.int64],
    stop: NDArray[np.int64],
    **rest: Any,
) -> pb.PredictEngagementStreamRequest:
    """A chunk of rows whose histories are ranges of one table, without any work a row."""
    cover_start, cover_stop, shift = share_ranges(start, stop)
    ranges = [(packed, a, b) for a, b in zip(cover_start.tolist(), cover_stop.tolist(), strict=True)]
    return pb.PredictEngagementStreamRequest(
        planned=planned,
        history=join_posts(ranges),
        history_start=pack_positions(start + shift),
        history_stop=pack_positions(stop + shift),
        **rest,
    )


def planned_columns(values: Sequence[PlanValues]) -> pb.PlannedPostColumns:
    """Plans, each as `PlannedPost.values` gives it, as columns."""
    columns = np.array(values, dtype=np.float64).T
    packed = [column.tobytes() for column in columns.astype("<f4")]
    return pb.PlannedPostColumns(
        posts=len(values),
        published_unix_s=columns[0].astype("<i8").tobytes(),
        hour_of_day=packed[1],
        day_of_week=packed[2],
        content_length=packed[3],
        has_media=packed[4],
    )


class GatheredQuestions:
    """How single questions to the predictor travel together: plans with their histories."""

    def request(
        self,
        items: Sequence[tuple[PlanValues, History]],
        key: LaneKey,
        *,
        sequence: int,
        request_id: str,
        row_request_ids: list[str],
    ) -> pb.PredictEngagementStreamRequest:
        """Questions as the message of a chunk."""
        version, priority, channel = key
        return chunk_request(
            planned_columns([plan for plan, _ in items]),
            [history for _, history in items],
            sequence=sequence,
            request_id=request_id,
            row_request_ids=row_request_ids,
            model_version=version,
            priority=PRIORITIES[priority],
            channel=channel,
        )

    def answers(
        self, response: pb.PredictEngagementStreamResponse, items: Sequence[Any], row_request_ids: tuple[str, ...]
    ) -> list[EngagementPrediction | MeshError]:
        """Answers of a chunk, one a question in its order."""
        return EngagementChunk.of(response, np.arange(len(items)), response.sequence, row_request_ids).predictions()


class QuestionChunks:
    """Builds chunks of questions."""

    def __init__(
        self, histories: Histories, ids: RequestIds, chunk_rows: int, version: int, priority: Priority
    ) -> None:
        self._histories = histories
        self._ids = ids
        self._chunk_rows = chunk_rows
        self._version = version
        self._priority = PRIORITIES[priority]
        self._prefix = ids.next()
        self._sequence = 0
        self._row = 0
        self._questions: list[Question] = []

    def of(self, questions: Iterable[Question]) -> Iterator[Chunk]:
        """Chunks of a plain iterable."""
        for question in questions:
            if self._is_full(question):
                yield self._chunk()
            self._questions.append(question)
        if self._questions:
            yield self._chunk()

    async def from_async(self, questions: AsyncIterable[Question]) -> AsyncIterator[Chunk]:
        """Chunks of an asynchronous iterable."""
        async for question in questions:
            if self._is_full(question):
                yield self._chunk()
            self._questions.append(question)
        if self._questions:
            yield self._chunk()

    def _is_full(self, question: Question) -> bool:
        asked = self._questions
        return bool(asked) and (len(asked) >= self._chunk_rows or asked[-1].channel != question.channel)

    def _chunk(self) -> Chunk:
        questions, self._questions = self._questions, []
        plans: list[PlanValues] = []
        histories = []
        for place, question in enumerate(questions):
            try:
                planned, given = question.plan_and_history()
                history = self._histories.of(given)
                plans.append(checked_plan(planned, history, question.request_id, question.channel))
            except InvalidInput as error:
                violations = [(f"questions[{self._row + place}].{v.field}", v.description) for v in error.violations]
                raise InvalidInput(f"question {self._row + place}: {error.message}", violations=violations) from error
            histories.append(history)
        ids = tuple([question.request_id or self._ids.next() for question in questions])
        request = chunk_request(
            planned_columns(plans),
            histories,
            sequence=self._sequence,
            request_id=f"{self._prefix}/{self._sequence}",
            row_request_ids=ids,
            model_version=self._version,
            priority=self._priority,
            channel=questions[0].channel,
        )
        rows = np.arange(self._row, self._row + len(questions), dtype=np.int64)
        self._sequence += 1
        self._row += len(questions)
        return Chunk(request=request, rows=rows, row_request_ids=ids)


def table_chunks(
    table: PostTable, index: HistoryIndex, chunk_rows: int, *, prefix: str, **rest: Any
) -> Iterator[Chunk]:
    """Chunks of the rows of one table, without any work a row.

    Args:
        table: the posts.
        index: which rows, and their histories.
        chunk_rows: rows of a chunk.
        prefix: of the chunks' request ids.
        rest: further fields of the messages.
    """
    packed = PackedPosts(table)
    for sequence, first in enumerate(range(0, len(index), chunk_rows)):
        part = index[first : first + chunk_rows]
        request = table_chunk_request(
            pack_planned(table.planned(part.row)),
            packed,
            part.start,
            part.stop,
            sequence=sequence,
            request_id=f"{prefix}/{sequence}",
            **rest,
        )
        yield Chunk(request=request, rows=part.row)
