"""Streams into sinks: each row is asked for, answered and stored exactly once, whatever is killed on the way."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.client.calls import CHUNK_ROWS, Progress, check_window
from meshcast.client.chunk_answers import ChunkAnswer
from meshcast.client.resume import ResumeToken, check_stream_id
from meshcast.client.stream import AnswerOf, Chunk, ChunkStream, OpenCall, backoff_s
from meshcast.client.window import AdaptiveWindow, FixedWindow
from meshcast.rpc import Conflict, InvalidInput, MeshError, NotFound
from meshcast.sinks import Columns, Sink
from meshcast.sinks.blocks import Blocks

__all__ = ["INTO_TIMEOUT_S", "PATIENCE_S", "IntoOptions", "StoredStream", "store"]

T = TypeVar("T")
A = TypeVar("A", bound=ChunkAnswer)
A_contra = TypeVar("A_contra", contravariant=True)

PATIENCE_S = 300.0
"""Seconds that a stream into a sink waits for a mesh that is away: time to start a machine."""
INTO_TIMEOUT_S = 86_400.0
"""Deadline of a stream into a sink when none is given, in seconds; what is stored by then stays."""

_REPLICAS_ASKED = 3  # times that a version is asked for again where a replica has it no more


class ColumnsOf(Protocol[A_contra]):
    """Makes the block of rows that is stored of an answer; the second argument is its first row, from 0."""

    def __call__(self, answer: A_contra, first_row: int, /) -> Columns: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class IntoOptions:
    """How rows are streamed into a sink; see `MeshClient.predict_posts_into`."""

    stream_id: str | None
    chunk_rows: int | None
    window: int | None
    version: int
    repin: bool
    patience_s: float
    timeout_s: float
    progress: Progress | None

    def check(self) -> None:
        """Refuses options that are none.

        Raises:
            InvalidInput: the option is named.
        """
        check_window(CHUNK_ROWS if self.chunk_rows is None else self.chunk_rows, self.window)
        if self.stream_id is not None:
            check_stream_id(self.stream_id)
        if self.version < 0:
            raise InvalidInput(f"version must be 0 or more, is {self.version}", field="version")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStream:
    """What a stream has put into a sink: all rows of its source stand there now, each once."""

    stream_id: str
    """Its id, from which the rows' prediction ids follow."""
    rows: int
    """Rows of the source."""
    rows_before: int
    """Those of them that stood already when this call began."""
    rows_failed: int
    """Those that this call, not one before it, has stored as failed, with their errors."""
    versions: Mapping[int, int]
    """Rows that this call has stored, by the version that answered them; empty where all stood before it. The version
    of every row is its `model_version` in the sink."""
    resumes: int
    """Times that the stream broke and was opened again."""
    seconds: float
    """How long this call took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source(Generic[A]):
    """Rows that are to be streamed, and how.

    Attributes:
        rows: how many.
        digest: tells them from other rows, or the same with other options; called in a thread.
        chunks: chunks of the rows from a row on, of so many rows at most; their requests have no ids yet.
        open_call: opens the stream.
        answer_of: makes the value of an answer.
        columns_of: makes the block that is stored of it.
        new_id: makes the id of a stream that the caller gave none.
    """

    rows: int
    digest: Callable[[], bytes]
    chunks: Callable[[int, int], Iterator[Chunk]]
    open_call: OpenCall
    answer_of: AnswerOf[A]
    columns_of: ColumnsOf[A]
    new_id: Callable[[], str]


class _VersionGone(Exception):
    """The pinned version is not there any more."""

    def __init__(self, error: NotFound) -> None:
        super().__init__(error.message)
        self.error = error


async def store(sink: Sink, source: Source[A], options: IntoOptions) -> StoredStream:
    """Streams the rows of a source into a sink, from the row on that the sink's token names.

    Raises:
        InvalidInput: an option is none; TOKEN_INVALID, the sink belongs to another stream.
        NotFound: VERSION_UNKNOWN, the pinned version is gone.
        MeshError: the stream failed for good; what was answered before is stored.
        OSError: the disk is full or gone.
    """
    options.check()
    stored = _Storing(sink, source, options)
    try:
        return await stored.run()
    except MeshError as error:
        if stored.rows_stored:
            error.add_note(f"{stored.rows_stored:,} rows stand in {sink.name}; the same call goes on after them")
        raise


class _Storing(Generic[A]):
    def __init__(self, sink: Sink, source: Source[A], options: IntoOptions) -> None:
        self._sink = sink
        self._source = source
        self._options = options
        self._token = ResumeToken(stream_id="-")
        self._versions: Counter[int] = Counter()
        self._failed = 0
        self._resumes = 0
        self._ends_at = time.monotonic() + options.timeout_s
        self.rows_stored = 0
        """Rows of the source that stand in the sink, as far as it is known."""

    async def run(self) -> StoredStream:
        began = time.monotonic()
        sink, total = self._sink, self._source.rows
        try:
            text = await _in_thread(lambda: sink.open(self._options.stream_id))
            self._token = await self._first_token(text)
            before = self.rows_stored = self._token.next_row
            self._tell()
            failures = 0
            while (first := self._token.next_row) < total:
                try:
                    await self._push()
                except _VersionGone as gone:
                    failures = failures + 1 if self._token.next_row == first else 1
                    if failures <= _REPLICAS_ASKED:  # while replicas are replaced, another may still have it
                        await asyncio.sleep(backoff_s(failures, gone.error))
                        continue
                    if not self._options.repin or not self._token.model_version:
                        raise self._way_on(gone.error) from gone
                    self._token, failures = replace(self._token, model_version=0), 0
        finally:
            await _in_thread(sink.close)
        return StoredStream(
            stream_id=self._token.stream_id,
            rows=total,
            rows_before=before,
            rows_failed=self._failed,
            versions=dict(self._versions),
            resumes=self._resumes,
            seconds=time.monotonic() - began,
        )

    async def _first_token(self, text: str) -> ResumeToken:
        options, source = self._options, self._source
        digest = await _in_thread(source.digest)
        if not text:
            return ResumeToken(
                stream_id=options.stream_id or source.new_id(),
                model_version=options.version,
                source_digest=digest,
                chunk_rows=options.chunk_rows or CHUNK_ROWS,
            )
        token = ResumeToken.parse(text, f"the token of {self._sink.name}").checked(
            stream_id=options.stream_id,
            source=digest,
            chunk_rows=options.chunk_rows,
            rows_total=source.rows,
            where=self._sink.name,
        )
        if options.version and token.model_version not in (0, options.version):
            if not options.repin:
                raise InvalidInput(
                    f"the rows in {self._sink.name} are of version {token.model_version}, asked for is "
                    f"{options.version}; repin=True goes on with it",
                    field="version",
                    reason=error_reason_pb2.ERROR_REASON_TOKEN_INVALID,
                )
            token = replace(token, model_version=options.version)
        return token

    async def _push(self) -> None:
        """Streams from the token's row on, until the last row or a failure; stores what was answered either way."""
        options, source = self._options, self._source
        pin = _Pin(self._token.model_version)
        stream = ChunkStream(
            source.open_call,
            self._named(source.chunks(self._token.next_row, self._token.chunk_rows), pin),
            source.answer_of,
            window=AdaptiveWindow() if options.window is None else FixedWindow(options.window),
            timeout_s=max(self._ends_at - time.monotonic(), 1e-3),
            patience_s=options.patience_s,
        )
        blocks = Blocks(self._sink, time.monotonic())
        try:
            async with aclosing(stream.answers()) as answers:
                async for answer in answers:
                    self._take(answer, pin, blocks)
                    if blocks.is_due(time.monotonic()):
                        await self._commit(blocks)
        finally:
            self._resumes += stream.resumes
            await self._commit(blocks)

    def _take(self, answer: A, pin: _Pin, blocks: Blocks) -> None:
        if answer.error is not None:
            unknown = error_reason_pb2.ERROR_REASON_VERSION_UNKNOWN
            if isinstance(answer.error, NotFound) and answer.error.reason == unknown:
                raise _VersionGone(answer.error)
            raise answer.error
        version = answer.receipt.model_version
        if pin.version and version not in (0, pin.version):  # 0: no row was computed
            raise Conflict(f"version {pin.version} was asked for, version {version} has answered", name=self._sink.name)
        pin.answered(version)
        after = self._token.after(len(answer), pin.version)
        blocks.add(self._source.columns_of(answer, self._token.next_row), after.text, time.monotonic())
        self._token = after
        self._versions[version] += len(answer)
        self._failed += len(answer.failed)
        self._tell()

    async def _commit(self, blocks: Blocks) -> None:
        next_row = self._token.next_row
        if await _in_thread(blocks.commit):
            self.rows_stored = next_row

    async def _named(self, chunks: Iterator[Chunk], pin: _Pin) -> AsyncIterator[Chunk]:
        """Chunks with the request id that follows from their first row, and with the version that must answer."""
        row = self._token.next_row
        stream_id = self._token.stream_id
        for chunk in chunks:
            chunk.request.model_version = await pin.of_next()
            chunk.request.request_id = f"{stream_id}/{row}"
            row += len(chunk.rows)
            yield chunk
            await asyncio.sleep(0)  # building chunks takes the loop: the reader gets its turn between two

    def _way_on(self, error: NotFound) -> NotFound:
        version, row = self._token.model_version, self._token.next_row
        if not version or not row:
            return error
        error.message = (
            f"version {version}, which answered the rows before row {row:,}, serves no more; repin=True goes on with "
            f"the version that serves, or load version {version} and call again ({error.message})"
        )
        error.args = (error.message,)
        return error

    def _tell(self) -> None:
        if self._options.progress is not None:
            self._options.progress(self._token.next_row, self._source.rows)


class _Pin:
    """The version that must answer; as long as it is not known, one chunk at a time is on its way.

    Args:
        version: 0 where the first answer is to tell it.
    """

    def __init__(self, version: int) -> None:
        self.version = version
        self._may_go = asyncio.Event()
        self._may_go.set()

    async def of_next(self) -> int:
        """The version to ask for, once the next chunk may be sent."""
        if not self.version:
            await self._may_go.wait()
            self._may_go.clear()
        return self.version

    def answered(self, version: int) -> None:
        """Told of the version that has answered; 0 where no row was computed."""
        self.version = self.version or version
        self._may_go.set()


async def _in_thread(work: Callable[[], T]) -> T:
    """Runs work in a thread, to its end: whoever is cancelled meanwhile must not leave it running on the sink."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # asked for, so that asyncio does not complain of it
        raise
