"""Calls to the analyzer from plain code."""

from collections.abc import Generator, Iterable, Sequence

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.client.analyzer_calls import BULK_TIMEOUT_S
from meshcast.client.answers import Validation
from meshcast.client.calls import CHUNK_ROWS, STREAM_TIMEOUT_S, WINDOW, Progress
from meshcast.client.content_features import ContentFeatures
from meshcast.client.content_patterns import ContentPatterns
from meshcast.client.content_questions import ContentLike, ContentsLike, OutcomesLike
from meshcast.client.embedder_calls import Labels
from meshcast.client.judgements import ContentChunk, ContentJudgement, Question, ViralPotential
from meshcast.client.priority import Priority
from meshcast.client.sync_calls import SyncCalls, Told
from meshcast.client.text_answers import Classification, Embeddings, Ranking, TextHead


class SyncAnalyzerCalls(SyncCalls):
    """What plain code asks the analyzer."""

    def analyze_content(
        self,
        content: ContentLike,
        *,
        request_id: str | None = None,
        version: int = 0,
        priority: Priority = "normal",
        timeout_s: float | None = None,
    ) -> ContentJudgement:
        """Judges one text; see `MeshClient.analyze_content`."""
        return self._run(
            self._mesh.analyze_content(
                content, request_id=request_id, version=version, priority=priority, timeout_s=timeout_s
            )
        )

    def analyze_contents(
        self,
        contents: ContentsLike,
        *,
        chunk_rows: int = CHUNK_ROWS,
        window: int | None = WINDOW,
        progress: Progress | None = None,
        request_id: str | None = None,
        version: int = 0,
        priority: Priority = "low",
        timeout_s: float = STREAM_TIMEOUT_S,
    ) -> Generator[ContentChunk, None, None]:
        """Judges many texts, in order; see `MeshClient.analyze_contents`. Progress is told in this thread."""
        answers = self._mesh.analyze_contents(
            contents,
            chunk_rows=chunk_rows,
            window=window,
            request_id=request_id,
            version=version,
            priority=priority,
            timeout_s=timeout_s,
            progress=(told := Told(progress)),
        )
        return self._each(answers, told.tell)

    def detect_viral_potential(
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
        """Judges one text and names the spans that moved the judgement; see `MeshClient.detect_viral_potential`."""
        return self._run(
            self._mesh.detect_viral_potential(
                content,
                question=question,
                spans_max=spans_max,
                request_id=request_id,
                version=version,
                priority=priority,
                timeout_s=timeout_s,
            )
        )

    def extract_content_features(
        self, contents: ContentsLike, *, timeout_s: float = BULK_TIMEOUT_S
    ) -> list[ContentFeatures]:
        """Measures what is in texts; see `MeshClient.extract_content_features`."""
        return self._run(self._mesh.extract_content_features(contents, timeout_s=timeout_s))

    def analyze_content_patterns(
        self, rows: OutcomesLike, *, topics_max: int = 0, error_rate: float = 0.05, timeout_s: float = BULK_TIMEOUT_S
    ) -> ContentPatterns:
        """Finds topics and what works in texts with outcomes; see `MeshClient.analyze_content_patterns`."""
        return self._run(
            self._mesh.analyze_content_patterns(rows, topics_max=topics_max, error_rate=error_rate, timeout_s=timeout_s)
        )

    def validate_content(self, content: ContentLike, *, timeout_s: float | None = None) -> Validation:
        """Asks whether the analyzer would take a post; see `MeshClient.validate_content`."""
        return self._run(self._mesh.validate_content(content, timeout_s=timeout_s))

    def describe_analyzer(self, *, version: int = 0, timeout_s: float | None = None) -> pb.DescribeModelResponse:
        """Describes the analyzer's models and heads; see `MeshClient.describe_analyzer`."""
        return self._run(self._mesh.describe_analyzer(version=version, timeout_s=timeout_s))

    def embed_texts(
        self,
        texts: Sequence[str],
        *,
        request_id: str | None = None,
        version: int = 0,
        priority: Priority = "normal",
        timeout_s: float = BULK_TIMEOUT_S,
    ) -> Embeddings:
        """Embeds texts; see `MeshClient.embed_texts`."""
        return self._run(
            self._mesh.embed_texts(
                texts, request_id=request_id, version=version, priority=priority, timeout_s=timeout_s
            )
        )

    def rerank_texts(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top: int = 0,
        request_id: str | None = None,
        version: int = 0,
        priority: Priority = "normal",
        timeout_s: float = BULK_TIMEOUT_S,
    ) -> Ranking:
        """Ranks documents by how well they answer a query; see `MeshClient.rerank_texts`."""
        return self._run(
            self._mesh.rerank_texts(
                query,
                documents,
                top=top,
                request_id=request_id,
                version=version,
                priority=priority,
                timeout_s=timeout_s,
            )
        )

    def classify_texts(
        self,
        texts: Sequence[str],
        *,
        labels: Labels | None = None,
        head: str | None = None,
        head_version: int = 0,
        request_id: str | None = None,
        version: int = 0,
        priority: Priority = "normal",
        timeout_s: float = BULK_TIMEOUT_S,
    ) -> Classification:
        """Classifies texts; see `MeshClient.classify_texts`."""
        return self._run(
            self._mesh.classify_texts(
                texts,
                labels=labels,
                head=head,
                head_version=head_version,
                request_id=request_id,
                version=version,
                priority=priority,
                timeout_s=timeout_s,
            )
        )

    def train_text_head(
        self,
        name: str,
        examples: Iterable[tuple[str, str]],
        *,
        request_id: str | None = None,
        timeout_s: float = BULK_TIMEOUT_S,
    ) -> TextHead:
        """Trains a head and keeps it; see `MeshClient.train_text_head`."""
        return self._run(self._mesh.train_text_head(name, examples, request_id=request_id, timeout_s=timeout_s))
