"""Calls to the analyzer: judgements, streams of them, reasons, features and patterns of texts."""

import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Sized
from contextlib import aclosing

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.client.answers import Validation
from meshcast.client.calls import (
    CHUNK_ROWS,
    STREAM_TIMEOUT_S,
    WINDOW,
    Calls,
    Progress,
    answer_to,
    check_window,
    stream_answers,
)
from meshcast.client.coalesce import Coalescer
from meshcast.client.content_chunks import ContentChunks
from meshcast.client.content_features import ContentFeatures
from meshcast.client.content_patterns import ContentPatterns
from meshcast.client.content_questions import (
    Content,
    ContentLike,
    ContentsLike,
    OutcomesLike,
    check_asking,
    checked_content,
    content_of,
    content_table,
    message_of,
    outcome_messages,
    size_of,
)
from meshcast.client.judgements import QUESTIONS, ContentChunk, ContentJudgement, Question, ViralPotential
from meshcast.client.priority import PRIORITIES, Priority
from meshcast.client.stream import Call, Chunk
from meshcast.contents import ROWS_MAX, Contents, content_message
from meshcast.rpc import DeadlineExceeded, InvalidInput

BULK_TIMEOUT_S = 60.0
"""Deadline of calls that work on many texts at once when none is given, in seconds."""
REQUEST_BYTES = 3_500_000
"""Bytes of the texts of one such request: 4 MiB is the largest message, and some of it goes to what is around them."""

_GATHERED_BYTES = 32 * 1024  # of a content that travels with others: 256 of them make half of the largest message
_FEATURES_MAX = 1_000  # contents of a request, of the contract


class AnalyzerCalls(Calls):
    """What a client asks the analyzer about texts and their posts."""

    _content_coalescer: Coalescer[Content, ContentJudgement] | None = None

    async def analyze_content(
        self,
        content: ContentLike,
        *,
        request_id: str | None = None,
        version: int = 0,
        priority: Priority = "normal",
        timeout_s: float | None = None,
    ) -> ContentJudgement:
        """Judges one text: will it end above its channel's recent median, and will it go viral?

        ```python
        judgement = await mesh.analyze_content(Content(text="We won!", has_media=True, hour_of_day=18))
        print(judgement.above_median, judgement.viral)
        ```

        Args:
            content: the post, or its text alone.
            request_id: unique to the question, at most 128 characters; the judgement's id follows from it. None: one
                is made.
            version: version that must answer; 0 for the one that serves.
            priority: which rows go first when the queue holds more than a batch.
            timeout_s: deadline in seconds; None takes the client's.

        Raises:
            InvalidInput: a rule of the contract is broken; the fields are named.
            MeshError: as the server raised it.
        """
        check_asking(request_id, version, priority)
        item, timeout = checked_content(content, "content"), self._timeout(timeout_s)
        request_id = request_id or self._ids.next()
        if self._content_coalescer is not None and size_of(item.text) + size_of(item.title) <= _GATHERED_BYTES:
            key = (version, priority, "")
            if self._content_coalescer.has_room(key):
                return await self._content_coalescer.ask(item, key=key, request_id=request_id, timeout_s=timeout)
        request = pb.AnalyzeContentRequest(
            request_id=request_id, content=message_of(item), model_version=version, priority=PRIORITIES[priority]
        )
        response = await answer_to(self._open.analyzer.AnalyzeContent(request, timeout=timeout))
        return ContentJudgement.of(response.judgement, response.receipt)

    async def analyze_contents(
        self,
        contents: ContentsLike | AsyncIterable[ContentLike],
        *,
        chunk_rows: int = CHUNK_ROWS,
        window: int | None = WINDOW,
        progress: Progress | None = None,
        request_id: str | None = None,
        version: int = 0,
        priority: Priority = "low",
        timeout_s: float = STREAM_TIMEOUT_S,
    ) -> AsyncGenerator[ContentChunk, None]:
        """Judges many texts over one stream, in order; an iterable is read only as fast as it is answered.

        A stream that breaks is opened again and goes on where it was; every row is answered once. Where the caller may
        stop early, close the generator (`contextlib.aclosing`), so that the stream ends at once.

        ```python
        async for chunk in mesh.analyze_contents(["We won!", "Rain again"]):
            for row, judgement in zip(chunk.rows, chunk.judgements()):
                print(row, judgement)
        ```

        Args:
            contents: the posts: a table, or rows of any iterable.
            chunk_rows: rows of a chunk at most, up to 1,024; a chunk also ends where its texts would make too large a
                message.
            window: chunks in flight at most; None: as many as bring rows, see `AdaptiveWindow`.
            progress: told after each chunk.
            request_id: prefix of the chunks' request ids; the same prefix and rows give the same ids again.
            version: version that must answer; 0 for the one that serves.
            priority: which rows go first when the queue holds more than a batch.
            timeout_s: deadline of the whole stream, in seconds.

        Raises:
            InvalidInput: an argument breaks a rule, or a row cannot be sent at all; rows before it are answered first.
            MeshError: the stream failed for good. Failed rows and refused chunks are no error here: see the chunks.
        """
        check_window(chunk_rows, window)
        check_asking(request_id, version, priority)
        if chunk_rows > ROWS_MAX:
            raise InvalidInput(f"chunk_rows must be from 1 to {ROWS_MAX}, is {chunk_rows}", field="chunk_rows")
        if isinstance(contents, str):
            raise InvalidInput("contents must be several posts, is one text; put it into a list", field="contents")
        chunks = ContentChunks(
            chunk_rows, prefix=request_id or self._ids.next(), model_version=version, priority=PRIORITIES[priority]
        )
        source: Iterator[Chunk] | AsyncIterator[Chunk]
        if isinstance(contents, Contents):
            source = chunks.of_table(contents)
        else:
            source = chunks.from_async(contents) if isinstance(contents, AsyncIterable) else chunks.of(contents)
        answers = stream_answers(
            self._open_contents,
            source,
            ContentChunk.of,
            window=window,
            timeout_s=timeout_s,
            progress=progress,
            rows_total=len(contents) if isinstance(contents, Sized) else None,
        )
        async with aclosing(answers):
            async for answer in answers:
                yield answer

    async def detect_viral_potential(
        self,
        content: ContentLike,
        *,
        question: Question = "viral",
        spans_max: int = 5,
        request_id: str | None = None,
        version: int = 0,
        priority: Priority = "normal",
        timeout_s: float | None = None,
    ) -> ViralPotential:
        """Judges one text and names the spans that moved the judgement: the model reads it again without each of them.

        Args:
            content: the post, or its text alone.
            question: which judgement is to be explained, `viral` or `above_median`.
            spans_max: most spans to name, 1 to 32.
            request_id: as in `analyze_content`.
            version: version that must answer; 0 for the one that serves.
            priority: which rows go first when the queue holds more than a batch.
            timeout_s: deadline in seconds; None takes the client's.

        Raises:
            InvalidInput: a rule of the contract is broken; the fields are named.
        """
        if question not in QUESTIONS:
            raise InvalidInput(f"question must be one of {', '.join(QUESTIONS)}, is {question!r}", field="question")
        if not 1 <= spans_max <= 32:
            raise InvalidInput(f"spans_max must be from 1 to 32, is {spans_max}", field="spans_max")
        check_asking(request_id, version, priority)
        request = pb.DetectViralPotentialRequest(
            request_id=request_id or self._ids.next(),
            content=content_of(content),
            question=QUESTIONS[question],
            spans_max=spans_max,
            model_version=version,
            priority=PRIORITIES[priority],
        )
        call = self._open.analyzer.DetectViralPotential(request, timeout=self._timeout(timeout_s))
        return ViralPotential.of(await answer_to(call))

    async def extract_content_features(
        self, contents: ContentsLike, *, timeout_s: float = BULK_TIMEOUT_S
    ) -> list[ContentFeatures]:
        """Measures what is in texts: length, readability, links, mentions, hashtags, emoji, sentiment, language.

        Args:
            contents: the posts, any number of them: as many requests are made as it takes.
            timeout_s: deadline of the whole, in seconds.

        Raises:
            InvalidInput: a rule of the contract is broken; the fields are named.
        """
        table = content_table(contents)
        clock = Clock(timeout_s)
        found: list[ContentFeatures] = []
        for part in parts(_sizes(table), _FEATURES_MAX):
            request = pb.ExtractContentFeaturesRequest(
                contents=[content_message(table, row) for row in range(part.start, part.stop)]
            )
            call = self._open.analyzer.ExtractContentFeatures(request, timeout=clock.remaining_s())
            found.extend(map(ContentFeatures.of, (await answer_to(call)).features))
        return found

    async def analyze_content_patterns(
        self,
        rows: OutcomesLike,
        *,
        topics_max: int = 0,
        error_rate: float = 0.05,
        timeout_s: float = BULK_TIMEOUT_S,
    ) -> ContentPatterns:
        """Finds topics in texts with outcomes, and what goes with a better or worse outcome, each with its uncertainty.

        Args:
            rows: 20 to 10,000 posts, with texts of about 3.5 MB together at most.
            topics_max: most topics to look for, 2 to 64; 0: the number follows from the rows.
            error_rate: share of reports, above 0 and up to 0.2, that may claim anything where nothing has an effect.
            timeout_s: deadline in seconds.

        Raises:
            InvalidInput: a rule of the contract is broken; the fields are named.
        """
        request = pb.AnalyzeContentPatternsRequest(
            rows=outcome_messages(rows), topics_max=topics_max, error_rate=error_rate
        )
        return ContentPatterns.of(
            await answer_to(self._open.analyzer.AnalyzeContentPatterns(request, timeout=timeout_s))
        )

    async def validate_content(self, content: ContentLike, *, timeout_s: float | None = None) -> Validation:
        """Asks whether the analyzer would take a post, and what is unusual about it, without judging."""
        request = pb.ValidateContentRequest(request=pb.AnalyzeContentRequest(content=content_of(content)))
        call = self._open.analyzer.ValidateContent(request, timeout=self._timeout(timeout_s))
        response = await answer_to(call)
        return Validation.of(response)

    async def describe_analyzer(self, *, version: int = 0, timeout_s: float | None = None) -> pb.DescribeModelResponse:
        """Describes the content model, the embedder where it is built, and the heads that are kept.

        Raises:
            NotFound: there is no such version of the content model.
        """
        call = self._open.analyzer.DescribeModel(
            pb.DescribeModelRequest(model_version=version), timeout=self._timeout(timeout_s)
        )
        return await answer_to(call)

    def _open_contents(self, timeout_s: float) -> Call:
        return self._open.streaming_analyzer.AnalyzeContentStream(timeout=timeout_s)


class Clock:
    """The deadline of a call that takes several requests.

    Args:
        timeout_s: seconds from now.
    """

    def __init__(self, timeout_s: float) -> None:
        self._ends_at = time.monotonic() + timeout_s

    def remaining_s(self) -> float:
        """Seconds that are left.

        Raises:
            DeadlineExceeded: none is.
        """
        remaining = self._ends_at - time.monotonic()
        if remaining <= 0:
            raise DeadlineExceeded("the call's time is over; give a larger timeout_s", where="client")
        return remaining


def parts(sizes: Iterable[int], rows_max: int, *, around: int = 0) -> Iterator[range]:
    """Ranges of rows that fit one request each, in order; a row that is too large for any goes alone.

    Args:
        sizes: bytes of each row, or a bound of them.
        rows_max: rows of a request at most.
        around: bytes that each request has beside its rows.
    """
    first = row = 0
    size = around
    for own in sizes:
        if row > first and (row - first >= rows_max or size + own > REQUEST_BYTES):
            yield range(first, row)
            first, size = row, around
        size += own
        row += 1
    if row > first:
        yield range(first, row)


def _sizes(table: Contents) -> Iterator[int]:
    return (size_of(text) + size_of(title) for text, title in zip(table.text, table.title, strict=True))
