"""An analyzer whose model counts words; it keeps the contract's rules and fails where it is told to."""

import asyncio
import hashlib
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.api.analyzer.v1 import analyzer_pb2_grpc as pb_grpc
from meshcast.api.type.v1 import error_reason_pb2, model_pb2, receipt_pb2, status_pb2
from meshcast.columns import pack_floats
from meshcast.contents import Contents, contents_from_columns, contents_from_messages
from meshcast.rpc import (
    InvalidInput,
    MeshError,
    NotFound,
    NotReady,
    Overloaded,
    Precondition,
    RpcSettings,
    Server,
    prediction_id,
    to_item,
)

Context = grpc.aio.ServicerContext[Any, Any]

DIMENSIONS = 8
READ = 500
"""Characters that the model reads of a text."""
LOG_ODDS = {"won": 2.0, "cup": 1.0, "rain": -1.5, "<script>": 0.75}
"""What words add to the log-odds of both questions."""


def log_odds(text: str, title: str = "") -> float:
    """The model: what the words of text and title add, less a constant."""
    return sum(LOG_ODDS.get(word.strip("!.,"), 0.0) for word in f"{title} {text[:READ]}".lower().split()) - 1.0


def probability(value: float) -> float:
    """Of log-odds."""
    return 1 / (1 + math.exp(-value))


def embedding(text: str) -> NDArray[np.float32]:
    """A vector of length 1 that follows from the words."""
    vector = np.zeros(DIMENSIONS)
    for word in text.lower().split() or [""]:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
        vector += np.random.default_rng(seed).normal(size=DIMENSIONS)
    found: NDArray[np.float32] = (vector / np.linalg.norm(vector)).astype(np.float32)
    return found


def refusal(violations: list[tuple[str, str]]) -> InvalidInput:
    field, why = violations[0]
    return InvalidInput(f"{field} {why}", violations=violations)


@dataclass
class Analyzer(pb_grpc.AnalyzerServiceServicer):
    """The servicer, and what it saw."""

    break_at: dict[int, int] = field(default_factory=dict)
    """How often the stream is to break when a chunk of this sequence arrives."""
    refuse_at: dict[int, int] = field(default_factory=dict)
    """How often a chunk of this sequence is to be refused for a full queue."""
    fails: dict[str, MeshError] = field(default_factory=dict)
    """What a method is to fail with, by its name."""
    hangs: set[str] = field(default_factory=set)
    """Methods that never answer; of the stream, from its second chunk on."""
    refused_rows: set[int] = field(default_factory=set)
    """Rows of every chunk that are refused as if they held nothing."""
    swap_at: int = 1_000_000
    """The sequence from which another version answers the stream."""
    has_embedder: bool = True
    claims: list[pb.Claim] = field(default_factory=list)
    """What every analysis of patterns claims."""
    embedder_version: int = 5
    head_version: int = 0
    chunks: list[pb.AnalyzeContentStreamRequest] = field(default_factory=list)
    patterns: list[pb.AnalyzeContentPatternsRequest] = field(default_factory=list)
    features: list[pb.ExtractContentFeaturesRequest] = field(default_factory=list)
    embedded: list[pb.EmbedTextsRequest] = field(default_factory=list)
    reranked: list[pb.RerankTextsRequest] = field(default_factory=list)
    classified: list[pb.ClassifyTextsRequest] = field(default_factory=list)
    streams: int = 0

    async def AnalyzeContent(self, request: pb.AnalyzeContentRequest, context: Context) -> pb.AnalyzeContentResponse:
        contents = self._content(request.content)
        return pb.AnalyzeContentResponse(
            judgement=_judgement(contents), receipt=_receipt(request.request_id, request.model_version)
        )

    async def AnalyzeContentStream(
        self, request_iterator: AsyncIterator[pb.AnalyzeContentStreamRequest], context: Context
    ) -> AsyncIterator[pb.AnalyzeContentStreamResponse]:
        self.streams += 1
        async for request in request_iterator:
            self.chunks.append(request)
            if request.sequence and "AnalyzeContentStream" in self.hangs:
                await asyncio.Event().wait()
            if self.break_at.get(request.sequence, 0) > 0:
                self.break_at[request.sequence] -= 1
                raise NotReady("the server goes away", retry_after_s=0.01)
            if self.refuse_at.get(request.sequence, 0) > 0:
                self.refuse_at[request.sequence] -= 1
                error = Overloaded("the queue is full", retry_after_s=0.01)
                yield pb.AnalyzeContentStreamResponse(sequence=request.sequence, status=to_item(error))
            else:
                yield self._answer(request)

    async def DetectViralPotential(
        self, request: pb.DetectViralPotentialRequest, context: Context
    ) -> pb.DetectViralPotentialResponse:
        contents = self._content(request.content)
        spans = []
        for kind, text in ((pb.CONTENT_FIELD_TITLE, contents.title[0]), (pb.CONTENT_FIELD_TEXT, contents.text[0])):
            for match in re.finditer(r"\S+", text[:READ]):
                effect = LOG_ODDS.get(match[0].lower().strip("!.,"), 0.0)
                with_it = log_odds(contents.text[0], contents.title[0])
                without = probability(with_it - effect)
                spans.append(
                    pb.Span(
                        field=kind,
                        start=match.start(),
                        end=match.end(),
                        text=match[0],
                        effect=probability(with_it) - without,
                        effect_log_odds=effect,
                        probability_without=without,
                    )
                )
        tried = len(spans)
        spans.sort(key=lambda span: -abs(span.effect_log_odds))
        return pb.DetectViralPotentialResponse(
            judgement=_judgement(contents),
            question=request.question or pb.CONTENT_QUESTION_VIRAL,
            spans=spans[: request.spans_max or 5],
            typical_effect_log_odds=0.5,
            spans_tried=tried,
            receipt=_receipt(request.request_id, request.model_version),
        )

    async def ExtractContentFeatures(
        self, request: pb.ExtractContentFeaturesRequest, context: Context
    ) -> pb.ExtractContentFeaturesResponse:
        await self._fail("ExtractContentFeatures")
        self.features.append(request)
        return pb.ExtractContentFeaturesResponse(features=[_features(one.text) for one in request.contents])

    async def AnalyzeContentPatterns(
        self, request: pb.AnalyzeContentPatternsRequest, context: Context
    ) -> pb.AnalyzeContentPatternsResponse:
        await self._fail("AnalyzeContentPatterns")
        self.patterns.append(request)
        if not 20 <= len(request.rows) <= 10_000:
            raise InvalidInput("rows must be 20 to 10,000", field="rows")
        _, violations = contents_from_messages([row.content for row in request.rows])
        for found in violations.values():
            raise refusal(found)
        n = len(request.rows)
        row_topics = [int("rain" in row.content.text.lower()) for row in request.rows]
        wet = sum(row_topics)
        return pb.AnalyzeContentPatternsResponse(
            topics=[
                pb.Topic(topic=0, words=["won", "<b>cup</b>", "$x^2$"], rows=n - wet, share=1 - wet / n, examples=[0]),
                pb.Topic(topic=1, words=["rain", "дождь"], rows=wet, share=wet / n, examples=[1]),
            ],
            row_topics=row_topics,
            claims=self.claims,
            others=[
                pb.Claim(
                    kind=pb.CLAIM_KIND_MEDIA,
                    subject="has media",
                    text="Texts with a photo or a video do about as well.",
                    effect=0.02,
                    lower=-0.2,
                    upper=0.24,
                    rows_with=3,
                    rows_without=n - 3,
                    p_value=0.4,
                    p_corrected=1.0,
                )
            ],
            representation="words",
            notes=["no row has a time: nothing is said about when"],
        )

    async def EmbedTexts(self, request: pb.EmbedTextsRequest, context: Context) -> pb.EmbedTextsResponse:
        self._need_embedder()
        self.embedded.append(request)
        vectors = np.stack([embedding(text) for text in request.texts])
        cut = [row for row, text in enumerate(request.texts) if len(text) > READ]
        return pb.EmbedTextsResponse(
            rows=len(vectors),
            dimensions=DIMENSIONS,
            embeddings=pack_floats(vectors),
            cut=cut,
            receipt=_receipt(request.request_id, request.model_version or self.embedder_version),
        )

    async def RerankTexts(self, request: pb.RerankTextsRequest, context: Context) -> pb.RerankTextsResponse:
        self._need_embedder()
        self.reranked.append(request)
        scores = [float(embedding(request.query) @ embedding(text)) for text in request.documents]
        order = sorted(range(len(scores)), key=lambda at: (-scores[at], at))[: request.top or None]
        return pb.RerankTextsResponse(
            ranked=[pb.RankedDocument(index=at, score=scores[at]) for at in order],
            receipt=_receipt(request.request_id, request.model_version or self.embedder_version),
        )

    async def ClassifyTexts(self, request: pb.ClassifyTextsRequest, context: Context) -> pb.ClassifyTextsResponse:
        self._need_embedder()
        self.classified.append(request)
        labels = ["a", "b"]
        if request.HasField("zero_shot"):
            labels = [label.name for label in request.zero_shot.labels]
        elif request.head.name != "tone":
            raise NotFound(f"there is no head {request.head.name}; there is: tone")
        best = [len(text) % len(labels) for text in request.texts]
        scores = np.full((len(best), len(labels)), 0.5 / (len(labels) - 1))
        scores[np.arange(len(best)), best] = 0.5
        head = None
        if request.HasField("head"):
            self.head_version += request.head.version == 0
            head = _head(request.head.name, request.head.version or self.head_version, labels)
        return pb.ClassifyTextsResponse(
            labels=labels,
            best=best,
            scores=pack_floats(scores),
            head=head,
            receipt=_receipt(request.request_id, request.model_version or self.embedder_version),
        )

    async def TrainTextHead(self, request: pb.TrainTextHeadRequest, context: Context) -> pb.TrainTextHeadResponse:
        self._need_embedder()
        self.head_version += 1
        labels = sorted({example.label for example in request.examples})
        return pb.TrainTextHeadResponse(head=_head(request.name, self.head_version, labels, len(request.examples)))

    async def ValidateContent(self, request: pb.ValidateContentRequest, context: Context) -> pb.ValidateContentResponse:
        _, violations = contents_from_messages([request.request.content], lambda row, name: f"content.{name}")
        found = [status_pb2.FieldViolation(field=name, description=why) for name, why in violations.get(0, [])]
        remarks = []
        if "<" in request.request.content.text:
            remarks.append(status_pb2.FieldViolation(field="content.text", description="holds HTML"))
        return pb.ValidateContentResponse(valid=not found, violations=found, remarks=remarks)

    async def DescribeModel(self, request: pb.DescribeModelRequest, context: Context) -> pb.DescribeModelResponse:
        return pb.DescribeModelResponse(model=model_pb2.ModelDescription(name="content", version=1, card="# A card"))

    async def _fail(self, method: str) -> None:
        if method in self.hangs:
            await asyncio.Event().wait()
        if method in self.fails:
            raise self.fails[method]

    def _need_embedder(self) -> None:
        if not self.has_embedder:
            command = "meshcast models build embedder"
            raise Precondition(
                f"the embedder is not built: {command}",
                reason=error_reason_pb2.ERROR_REASON_MODEL_MISSING,
                model="embedder",
                command=command,
            )

    def _content(self, content: pb.Content) -> Contents:
        contents, violations = contents_from_messages([content], lambda row, name: f"content.{name}")
        if violations:
            raise refusal(violations[0])
        return contents

    def _answer(self, request: pb.AnalyzeContentStreamRequest) -> pb.AnalyzeContentStreamResponse:
        if any(len(one) > 128 for one in request.row_request_ids):
            error = InvalidInput("row_request_ids has more than 128 characters", field="row_request_ids")
            return pb.AnalyzeContentStreamResponse(sequence=request.sequence, status=to_item(error))
        for row in self.refused_rows:
            request.contents.text[row] = " "
        contents, violations = contents_from_columns(request.contents)
        n = len(contents)
        p = np.array([probability(log_odds(*pair)) for pair in zip(contents.text, contents.title, strict=True)])
        sizes = zip(contents.text, contents.title, strict=True)
        read = np.array([min(len(text), READ) + len(title) for text, title in sizes], dtype="<i4")
        bad = list(violations)
        p[bad], read[bad] = np.nan, 0
        return pb.AnalyzeContentStreamResponse(
            sequence=request.sequence,
            rows=n,
            above_median=pack_floats(np.sqrt(p)),
            viral=pack_floats(p),
            characters_read=read.tobytes(),
            failed=[
                status_pb2.RowStatus(row=row, status=to_item(refusal(found)))
                for row, found in sorted(violations.items())
            ],
            receipt=_receipt(request.request_id, request.model_version or 1 + (request.sequence >= self.swap_at)),
        )


def _judgement(contents: Contents) -> pb.ContentJudgement:
    p = probability(log_odds(contents.text[0], contents.title[0]))
    return pb.ContentJudgement(above_median=math.sqrt(p), viral=p, characters_read=min(len(contents.text[0]), READ))


def _receipt(request_id: str, version: int) -> receipt_pb2.Receipt:
    return receipt_pb2.Receipt(
        prediction_id=prediction_id(request_id), model="content", model_version=version or 1, backend="arithmetic"
    )


def _head(name: str, version: int, labels: Sequence[str], examples: int = 4) -> pb.TextHead:
    return pb.TextHead(
        name=name, version=version, labels=labels, examples=examples, accuracy=0.75, majority=0.5, embedder_version=5,
        trained_time=Timestamp(seconds=30),
    )  # fmt: skip


def _features(text: str) -> pb.ContentFeatures:
    is_english = text.isascii()
    return pb.ContentFeatures(
        characters=len(text),
        words=len(text.split()),
        sentences=1,
        lines=1 + text.count("\n"),
        word_characters=4.5,
        reading_ease=60.5 if is_english else None,
        reading_grade=7.5 if is_english else None,
        links=re.findall(r"https?://\S+", text),
        mentions=re.findall(r"@\w+", text),
        hashtags=re.findall(r"#\w+", text),
        emoji=re.findall("[🎉⚽]", text),
        exclamation_marks=text.count("!"),
        scripts=["Latin"],
        language=pb.ContentLanguage(code="en", confidence=0.9) if is_english else None,
        sentiment=pb.ContentSentiment(compound=0.5, positive=0.4, neutral=0.6) if is_english else None,
        characters_read=len(text),
    )


@dataclass(frozen=True)
class Kit:
    """What tests need of this file: modules cannot import it."""

    log_odds: Callable[..., float] = log_odds
    probability: Callable[[float], float] = probability
    embedding: Callable[[str], NDArray[np.float32]] = embedding
    read: int = READ


@pytest.fixture
def kit() -> Kit:
    """What the arithmetic says of texts."""
    return Kit()


@pytest.fixture
def analyzer() -> Analyzer:
    """The servicer behind `target`."""
    return Analyzer()


@pytest.fixture
async def target(serve: Callable[..., Awaitable[Server]], analyzer: Analyzer) -> str:
    """Address of a server of the arithmetic."""
    settings = RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=0.2)
    server = await serve(
        lambda server: pb_grpc.add_AnalyzerServiceServicer_to_server(analyzer, server),
        settings=settings,
        service_names=("meshcast.api.analyzer.v1.AnalyzerService",),
    )
    return server.address
