"""Chunks of contents: rows of texts put into the stream's messages, cut by rows and by size."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.client.coalesce import LaneKey
from meshcast.client.content_questions import (
    Content,
    ContentLike,
    check_content_texts,
    checked_content,
    size_of,
    table_of,
)
from meshcast.client.judgements import ContentChunk, ContentJudgement
from meshcast.client.priority import PRIORITIES
from meshcast.client.stream import Chunk
from meshcast.contents import Contents, pack_contents
from meshcast.rpc import InvalidInput, MeshError, Violation

_CHUNK_BYTES = 4 * 1024 * 1024
"""Bytes of the texts of a chunk at most, unless one text alone has more: a quarter of the largest message."""


class GatheredContents:
    """How single contents travel together."""

    def request(
        self,
        items: Sequence[Content],
        key: LaneKey,
        *,
        sequence: int,
        request_id: str,
        row_request_ids: list[str],
    ) -> pb.AnalyzeContentStreamRequest:
        """Contents as the message of a chunk."""
        version, priority, _ = key
        return pb.AnalyzeContentStreamRequest(
            sequence=sequence,
            request_id=request_id,
            contents=pack_contents(table_of(items)),
            row_request_ids=row_request_ids,
            model_version=version,
            priority=PRIORITIES[priority],
        )

    def answers(
        self, response: pb.AnalyzeContentStreamResponse, items: Sequence[Any], row_request_ids: tuple[str, ...]
    ) -> list[ContentJudgement | MeshError]:
        """Judgements of a chunk, one a content in its order; an error names the content as if it had been alone."""
        chunk = ContentChunk.of(response, np.arange(len(items)), response.sequence, row_request_ids)
        for row, error in chunk.failed.items():
            if isinstance(error, InvalidInput):
                _as_single(error, row)
        return chunk.judgements()


class ContentChunks:
    """Builds chunks of contents.

    Args:
        chunk_rows: rows of a chunk at most; a chunk also ends where its texts would make too large a message.
        prefix: of the chunks' request ids.
        rest: further fields of the messages.
    """

    def __init__(self, chunk_rows: int, *, prefix: str, **rest: Any) -> None:
        self._chunk_rows = chunk_rows
        self._prefix = prefix
        self._rest = rest
        self._sequence = 0
        self._row = 0
        self._waiting: list[Content] = []
        self._size = 0

    def of_table(self, contents: Contents) -> Iterator[Chunk]:
        """Chunks of a table.

        Raises:
            InvalidInput: a row cannot be sent; chunks of the rows before it come first.
        """
        first = size = 0
        for row, (text, title) in enumerate(zip(contents.text, contents.title, strict=True)):
            own = size_of(text) + size_of(title)
            try:
                check_content_texts(text, title, f"contents[{row}]")
            except InvalidInput:
                if row > first:
                    yield self._chunk(contents[first:row])
                raise
            if row > first and (row - first >= self._chunk_rows or size + own > _CHUNK_BYTES):
                yield self._chunk(contents[first:row])
                first, size = row, 0
            size += own
        if first < len(contents):
            yield self._chunk(contents[first:])

    def of(self, contents: Iterable[ContentLike]) -> Iterator[Chunk]:
        """Chunks of a plain iterable, which is asked for no more rows than a chunk needs.

        Raises:
            InvalidInput: a row cannot be sent; chunks of the rows before it come first.
        """
        for content in contents:
            yield from self._taken(content)
        if self._waiting:
            yield self._next()

    async def from_async(self, contents: AsyncIterable[ContentLike]) -> AsyncIterator[Chunk]:
        """Chunks of an asynchronous iterable.

        Raises:
            InvalidInput: as `of`.
        """
        async for content in contents:
            for chunk in self._taken(content):
                yield chunk
        if self._waiting:
            yield self._next()

    def _taken(self, content: ContentLike) -> Iterator[Chunk]:
        """Takes a row in; what waits goes first where the row has no room beside it, or cannot be sent."""
        try:
            row = checked_content(content, f"contents[{self._row + len(self._waiting)}]")
        except InvalidInput:
            if self._waiting:
                yield self._next()
            raise
        own = size_of(row.text) + size_of(row.title)
        waiting = len(self._waiting)
        if waiting and (waiting >= self._chunk_rows or self._size + own > _CHUNK_BYTES):
            yield self._next()
        self._waiting.append(row)
        self._size += own

    def _next(self) -> Chunk:
        waiting, self._waiting, self._size = self._waiting, [], 0
        return self._chunk(table_of(waiting))

    def _chunk(self, contents: Contents) -> Chunk:
        request = pb.AnalyzeContentStreamRequest(
            sequence=self._sequence,
            request_id=f"{self._prefix}/{self._sequence}",
            contents=pack_contents(contents),
            **self._rest,
        )
        rows = np.arange(self._row, self._row + len(contents), dtype=np.int64)
        self._sequence += 1
        self._row += len(contents)
        return Chunk(request=request, rows=rows)


def _as_single(error: InvalidInput, row: int) -> None:
    """Names the fields of an error, as `contents.text[3]`, as those of a question of its own: `content.text`."""
    renamed = []
    for field, why in error.violations:
        name = field.removeprefix("contents.").removesuffix(f"[{row}]")
        renamed.append(Violation(f"content.{name}", why))
        error.message = error.message.replace(field, f"content.{name}")
    error.violations = tuple(renamed)
    error.args = (error.message,)
