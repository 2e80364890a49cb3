"""The analyzer as a process: judgements and their reasons, texts without an embedder and with one, heads that stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.contents import Contents, pack_contents
from meshcast.rpc import (
    AlreadyExists,
    DeadlineExceeded,
    InvalidInput,
    MeshError,
    NotFound,
    Overloaded,
    Precondition,
    mesh_errors,
    prediction_id,
)
from meshcast.services.analyzer.spans import log_odds, without

CALL_S = 30.0
TEXTS = (
    "We won the vote, and we will make jobs great again! Thank you Ohio #MAGA https://example.com/a",
    "Tonight at 9 P.M. I will be interviewed. Watch it! The fake news will not tell you. So sad, so unfair. "
    "They had their chance and did nothing for years.",
    "short",
)


@pytest.fixture(scope="module")
def plain(mesh_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an analyzer on a host where nobody has built the embedder."""
    with mesh_of.analyzer(tmp_path_factory.mktemp("plain")) as server:
        yield server.address


@pytest.fixture(scope="module")
def full(mesh_of: Any, embedder_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an analyzer with the embedder."""
    folder = tmp_path_factory.mktemp("full")
    with mesh_of.analyzer(folder, RUNTIME_MODEL_REPOSITORY=str(embedder_repository)) as server:
        yield server.address


@pytest.fixture
async def asked(plain: str, mesh_of: Any) -> AsyncIterator[Any]:
    """The analyzer without the embedder."""
    async with mesh_of.peer(plain) as peer:
        yield peer.content


@pytest.fixture
async def embedding(full: str, mesh_of: Any) -> AsyncIterator[Any]:
    """The analyzer with it."""
    async with mesh_of.peer(full) as peer:
        yield peer.content


async def told(call: Any) -> Any:
    """The answer of a call, or its MeshError."""
    with mesh_errors():
        return await call


async def refused(kind: type[MeshError], call: Any) -> Any:
    with pytest.raises(kind) as caught:
        await told(call)
    assert type(caught.value) is kind
    return caught.value


async def judged(asked: Any, content: pb.Content) -> pb.ContentJudgement:
    request = pb.AnalyzeContentRequest(content=content)
    answer = await told(asked.AnalyzeContent(request, timeout=CALL_S))
    return answer.judgement  # type: ignore[no-any-return]


# --- judgements and reasons ---


async def test_rows_of_a_chunk_are_judged_as_if_alone_and_bad_ones_are_told(asked: Any) -> None:
    texts = [*TEXTS, "", "long " * 2_000]
    contents = Contents.of(texts, title=["a title"] * 3 + ["", "t"], hour_of_day=[1, -1, 23, 4, 5])
    request = pb.AnalyzeContentStreamRequest(sequence=7, request_id="chunk", contents=pack_contents(contents))
    (answer,) = [one async for one in asked.AnalyzeContentStream(iter([request]), timeout=CALL_S)]
    assert (answer.sequence, answer.rows, [one.row for one in answer.failed]) == (7, 5, [3])
    viral, read = np.frombuffer(answer.viral, "<f4"), np.frombuffer(answer.characters_read, "<i4")
    assert np.isnan(viral[3]) and read[3] == 0
    assert answer.receipt.prediction_id == prediction_id("chunk")
    assert any("1 of 4 rows" in note for note in answer.receipt.notes)
    for row in (0, 1, 2, 4):
        content = pb.Content(text=texts[row], title=contents.title[row])
        if contents.hour_of_day[row] >= 0:
            content.hour_of_day = int(contents.hour_of_day[row])
        alone = await judged(asked, content)
        assert alone.viral == pytest.approx(viral[row], abs=1e-5)
        assert alone.characters_read == read[row]


@pytest.mark.parametrize("question", [pb.CONTENT_QUESTION_VIRAL, pb.CONTENT_QUESTION_ABOVE_MEDIAN])
@pytest.mark.parametrize(
    "content",
    [
        pb.Content(text=TEXTS[0], hour_of_day=9, has_media=True),
        pb.Content(text=TEXTS[1], title="Ten things to know", content_length=400),
        pb.Content(text=TEXTS[2]),
        pb.Content(text=" ".join(TEXTS) * 40, title=TEXTS[1] * 3),
    ],
    ids=["short", "declared", "one word", "long"],
)
async def test_taking_a_span_out_changes_the_answer_by_its_effect(
    asked: Any, content: pb.Content, question: pb.ContentQuestion.ValueType
) -> None:
    request = pb.DetectViralPotentialRequest(content=content, question=question, spans_max=8)
    found = await told(asked.DetectViralPotential(request, timeout=CALL_S))
    name = "viral" if question == pb.CONTENT_QUESTION_VIRAL else "above_median"
    whole = await judged(asked, content)
    assert getattr(found.judgement, name) == pytest.approx(getattr(whole, name), abs=1e-5)
    assert found.judgement.characters_read == whole.characters_read
    assert found.question == question
    assert found.spans and found.spans_tried >= len(found.spans)
    sizes = [abs(span.effect_log_odds) for span in found.spans]
    assert sizes == sorted(sizes, reverse=True)
    for span in found.spans:
        field = "text" if span.field == pb.CONTENT_FIELD_TEXT else "title"
        given = getattr(content, field)
        assert given[span.start : span.end] == span.text
        left = pb.Content()
        left.CopyFrom(content)
        setattr(left, field, without(given, span.start, span.end))
        if not left.text.strip() and not left.title.strip():
            continue  # nothing is left that a caller could ask about
        alone = getattr(await judged(asked, left), name)
        assert span.probability_without == pytest.approx(alone, abs=1e-4)
        assert span.effect == pytest.approx(getattr(whole, name) - alone, abs=1e-4)
        pair = log_odds(np.array([getattr(whole, name), alone], dtype=np.float32))
        assert span.effect_log_odds == pytest.approx(pair[0] - pair[1], abs=1e-3)


# --- without the embedder ---

NEEDING = {
    "EmbedTexts": (pb.EmbedTextsRequest(texts=["a"]), pb.EmbedTextsRequest()),
    "RerankTexts": (pb.RerankTextsRequest(query="a", documents=["b"]), pb.RerankTextsRequest(query="a")),
    "ClassifyTexts": (
        pb.ClassifyTextsRequest(texts=["a"], head=pb.TextHeadRef(name="topic")),
        pb.ClassifyTextsRequest(texts=["a"]),
    ),
    "TrainTextHead": (
        pb.TrainTextHeadRequest(
            name="topic",
            examples=[pb.LabelledText(text=text, label=label) for text, label in zip("wxyz", "aabb", strict=True)],
        ),
        pb.TrainTextHeadRequest(name="topic"),
    ),
}


@pytest.mark.parametrize("method", NEEDING)
async def test_calls_that_need_the_embedder_say_how_to_build_it(asked: Any, method: str) -> None:
    good, bad = NEEDING[method]
    error = await refused(Precondition, getattr(asked, method)(good, timeout=CALL_S))
    assert error.reason == ErrorReason.ERROR_REASON_MODEL_MISSING
    assert error.facts["command"] == "meshcast models build embedder"
    assert "meshcast models build embedder" in error.message
    await refused(InvalidInput, getattr(asked, method)(bad, timeout=CALL_S))


async def test_everything_else_works_without_the_embedder(asked: Any) -> None:
    described = await told(asked.DescribeModel(pb.DescribeModelRequest(), timeout=CALL_S))
    assert described.model.name == "analyzer" and not described.HasField("embedder")
    contents = [pb.Content(text=text) for text in TEXTS]
    measured = await told(
        asked.ExtractContentFeatures(pb.ExtractContentFeaturesRequest(contents=contents), timeout=CALL_S)
    )
    assert list(measured.features[0].hashtags) == ["#MAGA"]
    patterns = await told(asked.AnalyzeContentPatterns(outcomes(60), timeout=CALL_S))
    assert patterns.representation == "words"
    assert len(patterns.row_topics) == 60


async def test_a_check_says_what_analyze_content_would_and_remarks(asked: Any) -> None:
    def request(**fields: Any) -> pb.ValidateContentRequest:
        return pb.ValidateContentRequest(request=pb.AnalyzeContentRequest(**fields))

    good = await told(asked.ValidateContent(request(content=pb.Content(text="<b>Hello</b> " * 200)), timeout=CALL_S))
    assert good.valid and not good.violations
    assert {one.field for one in good.remarks} == {"content.text"}
    bad = await told(
        asked.ValidateContent(request(content=pb.Content(text=" ", hour_of_day=24), model_version=99), timeout=CALL_S)
    )
    assert not bad.valid
    assert [one.field for one in bad.violations] == ["content.text", "content.hour_of_day", "model_version"]
    nothing = await told(asked.ValidateContent(pb.ValidateContentRequest(), timeout=CALL_S))
    assert [one.field for one in nothing.violations] == ["content"]


async def test_a_check_does_not_stand_behind_the_measurement_of_large_texts(asked: Any) -> None:
    contents = [pb.Content(text="@a." * 330_000)] * 4
    bulk = asyncio.ensure_future(
        told(asked.ExtractContentFeatures(pb.ExtractContentFeaturesRequest(contents=contents), timeout=CALL_S))
    )
    request = pb.ValidateContentRequest(request=pb.AnalyzeContentRequest(content=pb.Content(text="a plain text")))
    for _ in range(3):
        assert (await told(asked.ValidateContent(request, timeout=CALL_S))).valid
        assert not bulk.done()
    assert len((await bulk).features) == 4


def outcomes(count: int, seed: int = 0) -> pb.AnalyzeContentPatternsRequest:
    """Posts of three made-up subjects, with outcomes that nothing explains."""
    rng = np.random.default_rng(seed)
    words = ("goal match team coach", "shares bank market rates", "rain sun cloud storm")
    rows = [
        pb.ContentOutcome(
            content=pb.Content(text=" ".join(rng.choice(words[at % 3].split(), 8).tolist()), hour_of_day=at % 24),
            outcome=float(rng.normal()),
        )
        for at in range(count)
    ]
    return pb.AnalyzeContentPatternsRequest(rows=rows)


async def test_an_analysis_that_cannot_end_in_time_ends_and_the_next_one_is_answered(asked: Any) -> None:
    with pytest.raises(DeadlineExceeded):
        await told(asked.AnalyzeContentPatterns(outcomes(10_000), timeout=0.5))
    answer = await told(asked.AnalyzeContentPatterns(outcomes(30), timeout=CALL_S))
    assert len(answer.row_topics) == 30


async def test_more_analyses_than_may_wait_are_refused_with_a_time_to_retry(asked: Any) -> None:
    calls = [asked.AnalyzeContentPatterns(outcomes(1_500, at), timeout=2 * CALL_S) for at in range(8)]
    found = await asyncio.gather(*(told(call) for call in calls), return_exceptions=True)
    errors = [one for one in found if isinstance(one, Exception)]
    assert errors and all(isinstance(error, Overloaded) and error.retry_after_s for error in errors)
    assert len(found) - len(errors) >= 5
    assert (await judged(asked, pb.Content(text="hello"))).characters_read == 5


# --- with the embedder ---


def vectors_of(answer: pb.EmbedTextsResponse) -> Any:
    return np.frombuffer(answer.embeddings, "<f4").reshape(answer.rows, answer.dimensions)


async def embedded(asked: Any, *texts: str) -> Any:
    return vectors_of(await told(asked.EmbedTexts(pb.EmbedTextsRequest(texts=texts), timeout=CALL_S)))


async def test_vectors_keep_the_order_of_their_texts(embedding: Any) -> None:
    texts = ["a goal in the last minute", "", "x " * 3_000, "rates rise again", "a goal in the last minute"]
    answer = await told(embedding.EmbedTexts(pb.EmbedTextsRequest(texts=texts, request_id="one"), timeout=CALL_S))
    vectors = vectors_of(answer)
    assert vectors.shape == (5, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    assert list(answer.cut) == [2]
    assert answer.receipt.prediction_id == prediction_id("one")
    assert answer.receipt.model == "embedder"
    assert vectors[0] @ vectors[4] > 0.999
    for at, text in enumerate(texts):
        (alone,) = await embedded(embedding, text)
        assert alone @ vectors[at] > 0.99


async def test_documents_are_ranked_and_texts_classified_by_what_they_mean(embedding: Any) -> None:
    documents = ["The central bank raised rates.", "A late goal won the cup.", "Rain is expected tomorrow."]
    request = pb.RerankTextsRequest(query="Who won the football match?", documents=documents, top=2)
    ranked = (await told(embedding.RerankTexts(request, timeout=CALL_S))).ranked
    assert [one.index for one in ranked][:1] == [1] and len(ranked) == 2
    assert ranked[0].score > ranked[1].score
    labels = [("money", "It is about banks and markets."), ("sport", "It is about sport."), ("weather", "")]
    shots = pb.ZeroShot(labels=[pb.TextLabel(name=name, description=text) for name, text in labels])
    answer = await told(
        embedding.ClassifyTexts(pb.ClassifyTextsRequest(texts=documents, zero_shot=shots), timeout=CALL_S)
    )
    assert list(answer.labels) == ["money", "sport", "weather"] and list(answer.best) == [0, 1, 2]
    scores = np.frombuffer(answer.scores, "<f4").reshape(3, 3)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
    assert scores.argmax(axis=1).tolist() == list(answer.best)
    assert not answer.HasField("head")


SPORT = ("A late goal won the cup.", "The coach left the team.", "She set a record in the final.", "They lost at home.")
MONEY = ("Rates rose again.", "The bank made a loss.", "Shares fell on Monday.", "Inflation is slowing.")


def lesson(name: str, **fields: Any) -> pb.TrainTextHeadRequest:
    pairs = [(text, "sport") for text in SPORT] + [(text, "money") for text in MONEY]
    examples = [pb.LabelledText(text=text, label=label) for text, label in pairs]
    return pb.TrainTextHeadRequest(name=name, examples=examples, **fields)


def question(name: str, version: int = 0) -> pb.ClassifyTextsRequest:
    texts = ["Our striker scored twice.", "The market closed higher."]
    return pb.ClassifyTextsRequest(texts=texts, head=pb.TextHeadRef(name=name, version=version))


async def test_a_head_is_trained_classifies_and_is_still_there_after_a_restart(
    embedder_repository: Path, mesh_of: Any, tmp_path: Path
) -> None:
    settings = {"RUNTIME_MODEL_REPOSITORY": str(embedder_repository)}
    with mesh_of.analyzer(tmp_path, **settings) as server:
        async with mesh_of.peer(server.address) as peer:
            asked = peer.content
            made = await told(asked.TrainTextHead(lesson("topic", request_id="one"), timeout=CALL_S))
            assert (made.head.name, made.head.version, made.head.examples) == ("topic", 1, 8)
            assert list(made.head.labels) == ["money", "sport"]
            assert made.head.accuracy >= 0.75 and made.head.majority == 0.5
            first = await told(asked.ClassifyTexts(question("topic"), timeout=CALL_S))
            assert [first.labels[best] for best in first.best] == ["sport", "money"]
            assert first.head == made.head
            await refused(NotFound, asked.ClassifyTexts(question("topics"), timeout=CALL_S))
            await refused(NotFound, asked.ClassifyTexts(question("topic", 2), timeout=CALL_S))
            at_once = [asked.TrainTextHead(lesson("topic"), timeout=CALL_S) for _ in range(3)]
            versions = [answer.head.version for answer in await asyncio.gather(*map(told, at_once))]
            assert sorted(versions) == [2, 3, 4]
    (tmp_path / "state" / "heads" / "topic" / "4" / "head.json").write_text("damaged", "utf-8")
    with mesh_of.analyzer(tmp_path, **settings) as server:
        async with mesh_of.peer(server.address) as peer:
            asked = peer.content
            again = await told(asked.TrainTextHead(lesson("topic", request_id="one"), timeout=CALL_S))
            assert again.head == made.head and again.receipt.notes
            other = lesson("topic", request_id="one")
            other.examples[0].text = "another text"
            await refused(AlreadyExists, asked.TrainTextHead(other, timeout=CALL_S))
            after = await told(asked.ClassifyTexts(question("topic", 1), timeout=CALL_S))
            np.testing.assert_allclose(
                np.frombuffer(after.scores, "<f4"), np.frombuffer(first.scores, "<f4"), atol=1e-3
            )
            described = await told(asked.DescribeModel(pb.DescribeModelRequest(), timeout=CALL_S))
            assert [(head.name, head.version) for head in described.heads] == [("topic", 3)]
            assert described.embedder.name == "embedder"
            events = [event for event in server.events() if event.get("event") == "a head is damaged and left out"]
            assert [(event["head"], event["version"]) for event in events] == [("topic", 4)]


async def test_labels_are_compared_by_the_version_that_is_asked_for(embedding: Any) -> None:
    shots = pb.ZeroShot(labels=[pb.TextLabel(name="sport"), pb.TextLabel(name="weather")])

    def classes(version: int) -> Any:
        request = pb.ClassifyTextsRequest(texts=["It will rain."], zero_shot=shots, model_version=version)
        return embedding.ClassifyTexts(request, timeout=CALL_S)

    assert list((await told(classes(1))).best) == [1]
    await refused(NotFound, classes(99))


async def test_topics_are_found_by_the_embedder_where_it_is_built_and_for_too_many_posts_by_words(
    embedding: Any,
) -> None:
    answer = await told(embedding.AnalyzeContentPatterns(outcomes(60), timeout=CALL_S))
    assert answer.representation == "embedder 1"
    many = await told(embedding.AnalyzeContentPatterns(outcomes(2_001), timeout=CALL_S))
    assert many.representation == "words" and "takes up to 2,000 posts, these are 2,001" in many.notes[0]
