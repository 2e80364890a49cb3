"""The analyzer's service: messages to arrays and back; models, batching and drains come from the runtime."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

import grpc
import numpy as np

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.api.analyzer.v1 import analyzer_pb2_grpc as pb_grpc
from meshcast.api.type.v1 import receipt_pb2
from meshcast.columns import pack_floats
from meshcast.contents import Contents
from meshcast.rpc import CorruptData, Deadline, InvalidInput, MeshError, NotFound, prediction_id, to_item
from meshcast.runtime import (
    LOW,
    Answer,
    RunFacts,
    ServiceContext,
    answer_in_order,
    plain_receipt,
    priority_class,
    receipt_of,
)
from meshcast.runtime.loader import give_back_memory
from meshcast.runtime.ragged import RowGroup
from meshcast.runtime.requests import add_violations, refusal
from meshcast.runtime.turns import Turns
from meshcast.services.analyzer.analysis import pattern_question, patterns_message, represented
from meshcast.services.analyzer.answers import (
    chunk_answer,
    cut_notes,
    features_message,
    head_message,
    head_messages,
    judgement,
    span_message,
)
from meshcast.services.analyzer.embedder import EMBEDDER, WIDTH
from meshcast.services.analyzer.embedding import TextEmbedder, ranking, zero_shot
from meshcast.services.analyzer.explain import explain
from meshcast.services.analyzer.features import READ_CHARS, READ_TITLE_CHARS
from meshcast.services.analyzer.head_store import HeadStore
from meshcast.services.analyzer.patterns import Patterns, analyze
from meshcast.services.analyzer.prepare import Prepared, content_preparer, prepare_contents
from meshcast.services.analyzer.questions import (
    CONTENTS_MAX,
    Question,
    chunk_question,
    classify_question,
    contents_question,
    embed_question,
    explain_question,
    rerank_question,
    single_question,
    train_question,
)
from meshcast.services.analyzer.remarks import remarks
from meshcast.services.analyzer.signature import SIGNATURE
from meshcast.services.analyzer.training import HeadTrainer
from meshcast.services.analyzer.traits import traits_of

__all__ = ["CHUNK_ROWS_MAX", "AnalyzerServicer"]

Context = grpc.aio.ServicerContext[Any, Any]
Groups = Sequence[RowGroup]

CHUNK_ROWS_MAX = 1024
"""Rows of a chunk at most, of the contract."""

CHUNKS_AT_ONCE = 4
"""Chunks of one stream under way: one runs, one waits, one is prepared, one is written."""

MANY_S, LONG_S = 10.0, 60.0
"""Budget at least of calls about many texts, and of trainings and pattern analyses, whose caller set none."""

ANALYSIS_S = 15.0
"""What callers of pattern analyses who find no room are told to wait: one takes 5 to 25 seconds of a core."""

ANALYSES_WAITING_MAX = 4
"""Pattern analyses that may wait for the one that runs."""

_OUTPUT_OF = {pb.CONTENT_QUESTION_VIRAL: "viral", pb.CONTENT_QUESTION_ABOVE_MEDIAN: "above_median"}


class AnalyzerServicer(pb_grpc.AnalyzerServiceServicer):
    """Answers `meshcast.api.analyzer.v1.AnalyzerService`; use as `async with`. No text is stored."""

    def __init__(self, context: ServiceContext) -> None:
        self._mesh = context
        name = context.model.name
        self._preparer = content_preparer()
        self._embedder = TextEmbedder(context.models)
        self._heads = HeadTrainer(HeadStore(context.settings.state / "heads"), self._embedder, name)
        self._measuring = Turns(name, "measurement")
        self._remarking = Turns(name, "remark")
        self._analyses = Turns(name, "analysis", waiting_max=ANALYSES_WAITING_MAX, retry_after_s=ANALYSIS_S)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._preparer)
        await self._stack.enter_async_context(self._embedder)
        await self._heads.newest()  # damaged heads are told at start
        return self

    async def __aexit__(self, *error: object) -> None:
        self._measuring.close()
        self._remarking.close()
        self._analyses.close()
        self._heads.close()
        await self._stack.aclose()

    async def AnalyzeContent(self, request: pb.AnalyzeContentRequest, context: Context) -> pb.AnalyzeContentResponse:
        """Judges one text."""
        with self._preparer.caller():
            return await self._single(request, self._deadline(context))

    async def AnalyzeContentStream(  # type: ignore[override]  # writes, does not yield
        self, request_iterator: AsyncIterator[pb.AnalyzeContentStreamRequest], context: Context
    ) -> None:
        """Judges chunks of texts, a bounded number at once, and answers in their order."""

        async def answer(request: pb.AnalyzeContentStreamRequest) -> pb.AnalyzeContentStreamResponse:
            return await self._chunk(request, self._deadline(context))

        await answer_in_order(
            request_iterator, answer, context.write, window=CHUNKS_AT_ONCE, draining=self._mesh.draining
        )

    async def DetectViralPotential(
        self, request: pb.DetectViralPotentialRequest, context: Context
    ) -> pb.DetectViralPotentialResponse:
        """Judges one text, and names the spans that moved the judgement."""
        deadline = self._deadline(context, MANY_S)
        asked = explain_question(request)
        priority, output = priority_class(request.priority), _OUTPUT_OF[asked.question]

        rounds: list[Prepared] = []

        async def judge(contents: Contents, version: int) -> Answer:
            question = Question(contents=contents, violations={})
            rounds.extend(await self._preparer.aside(lambda: prepare_contents([question])))
            return await self._ask(rounds[-1].groups, deadline, priority, version)

        found = await explain(
            asked.contents,
            judge,
            output=output,
            length_follows=asked.length_follows,
            spans_max=asked.spans_max,
            version=request.model_version,
        )
        probability, prepared = float(found.outputs[output][0]), rounds[0]  # its first row is the content itself
        fields = asked.contents.text[0], asked.contents.title[0]
        return pb.DetectViralPotentialResponse(
            judgement=judgement(found.outputs, 0, int(prepared.read_chars[0])),
            question=asked.question,
            spans=[
                span_message(span, fields[span.place.field], probability, found.without[span.place])
                for span in found.spans
            ],
            typical_effect_log_odds=found.typical,
            spans_tried=found.tried,
            receipt=self._receipt(found.facts, deadline, request.request_id, cut_notes(asked.contents, prepared)),
        )

    async def AnalyzeContentPatterns(
        self, request: pb.AnalyzeContentPatternsRequest, context: Context
    ) -> pb.AnalyzeContentPatternsResponse:
        """Finds topics, and what goes with a better or worse outcome."""
        deadline = self._deadline(context, LONG_S)
        question = await self._preparer.aside(lambda: pattern_question(request))
        rows = question.rows
        advice = f"send fewer than {len(rows):,} posts or set a longer deadline"
        async with deadline.enforced(where="the analysis", advice=advice), self._analyses.turn() as turn:
            texts = await represented(rows.contents, self._embedder, deadline)

            def find(is_over: Callable[[], bool]) -> Patterns:
                try:
                    return analyze(
                        rows,
                        embeddings=texts.vectors,
                        topics_max=question.topics_max,
                        error_rate=question.error_rate,
                        stop=is_over,
                    )
                finally:
                    give_back_memory()

            patterns = await turn.run(find)
        answer = patterns_message(patterns, texts.name, texts.notes)
        answer.receipt.CopyFrom(plain_receipt(deadline))
        return answer

    async def ExtractContentFeatures(
        self, request: pb.ExtractContentFeaturesRequest, context: Context
    ) -> pb.ExtractContentFeaturesResponse:
        """Measures what is in texts."""
        deadline = self._deadline(context, MANY_S)
        contents = contents_question(request.contents, field="contents", rows_max=CONTENTS_MAX)
        async with deadline.enforced(where="the measurement", advice="send fewer texts or set a longer deadline"):
            features = await self._measuring.take(lambda is_over: traits_of(contents, is_over))
        return pb.ExtractContentFeaturesResponse(
            features=map(features_message, features), receipt=plain_receipt(deadline)
        )

    async def EmbedTexts(self, request: pb.EmbedTextsRequest, context: Context) -> pb.EmbedTextsResponse:
        """Embeds texts."""
        deadline = self._deadline(context, MANY_S)
        texts = embed_question(request)
        found = await self._embedder.embed(
            texts, deadline=deadline, priority=priority_class(request.priority), version=request.model_version
        )
        return pb.EmbedTextsResponse(
            rows=len(texts),
            dimensions=WIDTH,
            embeddings=pack_floats(found.vectors),
            cut=np.flatnonzero(found.was_cut).tolist(),
            receipt=self._receipt(found.facts, deadline, request.request_id),
        )

    async def RerankTexts(self, request: pb.RerankTextsRequest, context: Context) -> pb.RerankTextsResponse:
        """Ranks documents by their likeness to a query."""
        deadline = self._deadline(context, MANY_S)
        texts = rerank_question(request)
        found = await self._embedder.embed(
            texts, deadline=deadline, priority=priority_class(request.priority), version=request.model_version
        )
        order, scores = ranking(found.vectors[0], found.vectors[1:], request.top)
        return pb.RerankTextsResponse(
            ranked=[
                pb.RankedDocument(index=index, score=score)
                for index, score in zip(order.tolist(), scores.tolist(), strict=True)
            ],
            receipt=self._receipt(found.facts, deadline, request.request_id, found.notes()),
        )

    async def ClassifyTexts(self, request: pb.ClassifyTextsRequest, context: Context) -> pb.ClassifyTextsResponse:
        """Classifies texts by descriptions of the labels, or by a trained head."""
        deadline, priority = self._deadline(context, MANY_S), priority_class(request.priority)
        texts, shots = classify_question(request)
        self._embedder.require()
        head, notes = None, []
        if shots is not None:
            found = await self._embedder.embed(
                (*texts, *shots.descriptions), deadline=deadline, priority=priority, version=request.model_version
            )
            vectors = found.vectors[: len(texts)]
            labels, scores = shots.names, zero_shot(vectors, found.vectors[len(texts) :])
        else:
            kept = await self._heads.find(request.head.name, request.head.version)
            found = await self._embedder.embed(
                texts, deadline=deadline, priority=priority, version=kept.record.embedder_version
            )
            labels, scores = kept.record.labels, kept.weights.probabilities(found.vectors)
            head, notes = head_message(kept.record), kept.notes()
        return pb.ClassifyTextsResponse(
            labels=labels,
            best=scores.argmax(axis=1).tolist(),
            scores=pack_floats(scores),
            head=head,
            receipt=self._receipt(found.facts, deadline, request.request_id, [*found.notes(), *notes]),
        )

    async def TrainTextHead(self, request: pb.TrainTextHeadRequest, context: Context) -> pb.TrainTextHeadResponse:
        """Trains a head, and keeps it as the next version of its name."""
        deadline = self._deadline(context, LONG_S)
        kept = await self._heads.train(
            request.name, train_question(request), request_id=request.request_id, deadline=deadline
        )
        receipt = plain_receipt(deadline)
        if kept.is_retry:
            receipt.notes.append("an earlier try of this request trained the head")
        return pb.TrainTextHeadResponse(head=head_message(kept.record), receipt=receipt)

    async def ValidateContent(self, request: pb.ValidateContentRequest, context: Context) -> pb.ValidateContentResponse:
        """Checks a request as AnalyzeContent would, and remarks on what is unusual."""
        deadline = self._deadline(context)
        answer = pb.ValidateContentResponse(receipt=plain_receipt(deadline))
        try:
            question = single_question(request.request)
        except InvalidInput as error:
            add_violations(answer.violations, ((one.field, one.description) for one in error.violations))
            return answer
        found = list(question.violations.get(0, []))
        try:
            self._mesh.model.describe(request.request.model_version)
        except NotFound as error:
            found.append(("model_version", error.message))
        add_violations(answer.violations, found)
        answer.valid = not answer.violations
        if answer.valid:
            content = request.request.content
            async with deadline.enforced(where="the remarks", advice="set a longer deadline or send a shorter text"):
                told = await self._remarking.take(
                    lambda _: remarks(
                        content.text,
                        content.title,
                        field=lambda column: f"content.{column}",
                        content_length=content.content_length if content.HasField("content_length") else None,
                        characters_read=min(len(content.text), READ_CHARS) + min(len(content.title), READ_TITLE_CHARS),
                    )
                )
            add_violations(answer.remarks, told)
        return answer

    async def DescribeModel(self, request: pb.DescribeModelRequest, context: Context) -> pb.DescribeModelResponse:
        """Describes the models that serve, and the heads that are kept."""
        deadline = self._deadline(context)
        embedder = self._mesh.models.get(EMBEDDER.name)
        return pb.DescribeModelResponse(
            model=self._mesh.model.describe(request.model_version),
            embedder=embedder.describe() if embedder.is_ready else None,
            heads=head_messages(await self._heads.newest()),
            receipt=plain_receipt(deadline),
        )

    def _deadline(self, context: Context, default_s: float = 0.0) -> Deadline:
        return Deadline.of(context, default_s=max(default_s, self._mesh.default_deadline_s))

    async def _single(self, request: pb.AnalyzeContentRequest, deadline: Deadline) -> pb.AnalyzeContentResponse:
        question = single_question(request)
        if question.violations:
            raise refusal(question.violations[0])
        prepared = await self._preparer.prepare(question)
        ran = await self._ask(prepared.groups, deadline, priority_class(request.priority), request.model_version)
        return pb.AnalyzeContentResponse(
            judgement=judgement(ran.outputs, 0, int(prepared.read_chars[0])),
            receipt=self._receipt(ran.facts, deadline, request.request_id, cut_notes(question.contents, prepared)),
        )

    async def _chunk(
        self, request: pb.AnalyzeContentStreamRequest, deadline: Deadline
    ) -> pb.AnalyzeContentStreamResponse:
        """The answer to one chunk; a fault of the chunk is in the answer, so that the stream goes on."""
        try:
            question = chunk_question(request, rows_max=CHUNK_ROWS_MAX)
            prepared = await self._preparer.prepare(question)
            if len(prepared.sound):
                priority = priority_class(request.priority, default=LOW)
                ran = await self._ask(prepared.groups, deadline, priority, request.model_version)
                outputs = ran.outputs
                notes = cut_notes(question.contents.take(prepared.sound), prepared)
                receipt = self._receipt(ran.facts, deadline, request.request_id, notes)
            else:
                outputs = {name: np.empty(0, dtype=np.float32) for name in SIGNATURE.output_names}
                receipt = plain_receipt(deadline)
                receipt.prediction_id = prediction_id(request.request_id)
        except MeshError as error:
            return pb.AnalyzeContentStreamResponse(
                sequence=request.sequence,
                rows=max(0, request.contents.rows),
                status=to_item(error),
                receipt=plain_receipt(deadline),
            )
        answer = chunk_answer(outputs, prepared.read_chars, prepared.sound, len(question))
        answer.sequence = request.sequence
        for row, violations in sorted(prepared.violations.items()):
            answer.failed.add(row=row, status=to_item(refusal(violations)))
        answer.receipt.CopyFrom(receipt)
        return answer

    async def _ask(self, groups: Groups, deadline: Deadline, priority: int, version: int) -> Answer:
        """What the model gives for rows, `above_median` and `viral`, each of shape (g,)."""
        ran = await self._mesh.batcher.submit_groups(groups, deadline=deadline, priority=priority, version=version)
        if not all(np.isfinite(array).all() for array in ran.outputs.values()):
            raise CorruptData(
                f"Version {ran.facts.version} of {self._mesh.model.name} gave a probability that is no number.",
                model=self._mesh.model.name,
                version=ran.facts.version,
                why="not finite",
            )
        return ran

    def _receipt(
        self, facts: RunFacts, deadline: Deadline, request_id: str, notes: Sequence[str] = ()
    ) -> receipt_pb2.Receipt:
        receipt = receipt_of(facts, deadline)
        receipt.prediction_id = prediction_id(request_id)
        receipt.notes.extend(notes)
        return receipt
