"""Calls to the analyzer through both clients: judgements, streams, reasons, features, patterns, vectors, classes."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from meshcast.api.analyzer.v1 import analyzer_pb2_grpc as pb_grpc
from meshcast.client import Content, ContentJudgement, ContentOutcome, MeshClient, SyncMeshClient, prediction_id
from meshcast.client.coalesce import Coalescer
from meshcast.client.content_chunks import GatheredContents
from meshcast.contents import Contents, rows_from_columns
from meshcast.rpc import DeadlineExceeded, Internal, InvalidInput, NotFound, Precondition, channel

TEXTS = ["We won the cup!", "rain again", "just a day", "cup of tea"]


async def test_a_text_is_judged_alone_and_with_what_else_is_known(target: str, kit: Any) -> None:
    async with MeshClient(target) as mesh:
        bare = await mesh.analyze_content("We won the cup!", request_id="q1")
        whole = await mesh.analyze_content(Content(text="rain", title="We won", has_media=True, hour_of_day=7))
        refused = mesh.analyze_content(Content(text="x", hour_of_day=24))
        with pytest.raises(InvalidInput, match=r"content\.hour_of_day must be a whole number from 0 to 23, is 24"):
            await refused
    assert bare.viral == pytest.approx(kit.probability(kit.log_odds(TEXTS[0])), abs=1e-6)
    assert bare.above_median > bare.viral
    assert (bare.characters_read, bare.receipt.prediction_id) == (15, prediction_id("q1"))
    assert whole.viral == pytest.approx(kit.probability(kit.log_odds("rain", "We won")), abs=1e-6)


async def test_texts_that_are_awaited_together_travel_together(target: str, analyzer: Any, kit: Any) -> None:
    asked = [Content(text=f"{'won ' * (row % 3)}{row}", hour_of_day=25 if row == 7 else None) for row in range(40)]
    asked += [Content(text="won " * 10_000), Content(text=" ")]
    analyzer.break_at = {1: 1}
    async with MeshClient(target, coalesce=True) as mesh:
        calls = [mesh.analyze_content(one, request_id=f"q{row}") for row, one in enumerate(asked)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    for row, (one, answer) in enumerate(zip(asked, answers, strict=True)):
        if row in (7, 41):
            assert isinstance(answer, InvalidInput)
            field = "content.hour_of_day" if row == 7 else "content.text"
            assert answer.violations[0].field == field
            assert answer.message.startswith(f"{field} ")
        else:
            assert isinstance(answer, ContentJudgement)
            assert answer.viral == pytest.approx(kit.probability(kit.log_odds(one.text)), abs=1e-6)
            assert answer.receipt.prediction_id == prediction_id(f"q{row}")
    assert analyzer.streams == 2, "one that broke, and one"
    assert max(len(chunk.contents.text) for chunk in analyzer.chunks) == 41
    assert all("won won won won" not in text for chunk in analyzer.chunks for text in chunk.contents.text)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"request_id": "x" * 200}, "request_id must be text of at most 128 characters"),
        ({"request_id": "\ud800"}, "request_id: character 0 is a lone surrogate"),
        ({"priority": "zzz"}, "priority must be one of high, normal, low, is 'zzz'"),
        ({"version": 2**70}, "version must be a whole number"),
        ({"version": "1"}, "version must be a whole number, is '1'"),
    ],
)
@pytest.mark.parametrize("coalesce", [False, True])
async def test_what_one_caller_gives_wrong_befalls_no_other(
    target: str, coalesce: bool, fields: dict[str, Any], said: str
) -> None:
    async with MeshClient(target, coalesce=coalesce) as mesh:
        calls = [mesh.analyze_content(f"day {row}", **(fields if row == 3 else {})) for row in range(6)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    for row, answer in enumerate(answers):
        if row == 3:
            assert isinstance(answer, InvalidInput) and answer.message.startswith(said)
        else:
            assert isinstance(answer, ContentJudgement)


async def test_a_question_that_breaks_its_chunk_is_asked_alone(target: str, analyzer: Any) -> None:
    async with channel(target) as open_channel:
        stub = pb_grpc.AnalyzerServiceStub(open_channel)
        coalescer = Coalescer(lambda s: stub.AnalyzeContentStream(timeout=s), GatheredContents())
        asked = {"a": "won", "x" * 200: "cup", "b": "rain", "c": "\ud800", "d": None, "e": "tea"}
        calls = [
            coalescer.ask(Content(text=text), key=(0, "normal", ""), request_id=request_id, timeout_s=10)  # type: ignore[arg-type]
            for request_id, text in asked.items()
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        await coalescer.close()
    kinds = [ContentJudgement, InvalidInput, ContentJudgement, InvalidInput, Internal, ContentJudgement]
    assert [type(answer) for answer in answers] == kinds


@pytest.mark.parametrize("break_at", [{}, {1: 1, 3: 2}])
async def test_a_stream_answers_every_row_once_and_in_order(
    target: str, analyzer: Any, kit: Any, break_at: dict[int, int]
) -> None:
    analyzer.break_at = dict(break_at)
    analyzer.refuse_at = {2: 1}
    texts = [f"won {'cup ' * (row % 3)}{row}" for row in range(95)]
    told: list[tuple[int, int | None]] = []
    async with MeshClient(target) as mesh:
        chunks = [
            chunk
            async for chunk in mesh.analyze_contents(texts, chunk_rows=20, progress=lambda *done: told.append(done))
        ]
    assert np.concatenate([chunk.rows for chunk in chunks]).tolist() == list(range(95))
    found = np.concatenate([chunk.viral for chunk in chunks])
    np.testing.assert_allclose(found, [kit.probability(kit.log_odds(text)) for text in texts], rtol=1e-6)
    assert told == [(20, 95), (40, 95), (60, 95), (80, 95), (95, 95)]
    assert len({chunk.prediction_id(0) for chunk in chunks}) == 5


async def test_tables_rows_and_asynchronous_rows_give_the_same_answers(target: str) -> None:
    async def rows() -> AsyncIterator[str | Content]:
        for text in TEXTS:
            await asyncio.sleep(0)
            yield Content(text=text)

    async with MeshClient(target) as mesh:
        answers = []
        for contents in (Contents.of(TEXTS), TEXTS, iter(TEXTS), rows()):
            chunks = [chunk async for chunk in mesh.analyze_contents(contents, chunk_rows=3)]
            answers.append([one.viral for chunk in chunks for one in chunk.judgements()])  # type: ignore[union-attr]
    assert answers[0] == answers[1] == answers[2] == answers[3]


async def test_an_iterable_is_read_only_as_fast_as_it_is_answered(target: str) -> None:
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield "won"

    async with MeshClient(target) as mesh:
        answers = mesh.analyze_contents(endless(), chunk_rows=10, window=2)
        await anext(answers)
        await answers.aclose()
    assert taken <= 10 * 5


async def test_chunks_end_where_their_texts_would_make_too_large_a_message(target: str, analyzer: Any) -> None:
    texts = ["ж" * 400_000] * 12  # 0.8 MB each
    async with MeshClient(target) as mesh:
        sizes = [len(chunk) async for chunk in mesh.analyze_contents(texts)]
        table = [len(chunk) async for chunk in mesh.analyze_contents(Contents.of(texts))]
    assert sizes == table == [5, 5, 2]
    assert max(chunk.ByteSize() for chunk in analyzer.chunks) < 4.3 * 1024 * 1024


async def test_a_bad_row_is_told_in_its_place(target: str) -> None:
    async with MeshClient(target) as mesh:
        contents = Contents.of([*TEXTS, " "], hour_of_day=[1, 24, -1, 3, 4])
        (chunk,) = [chunk async for chunk in mesh.analyze_contents(contents)]
    assert chunk.is_ok.tolist() == [True, False, True, True, False]
    assert np.isnan(chunk.viral).tolist() == [False, True, False, False, True]
    answers = chunk.judgements()
    assert isinstance(answers[1], InvalidInput)
    assert answers[1].violations[0].field == "contents.hour_of_day[1]"
    assert isinstance(answers[4], InvalidInput)
    assert "a text or a title is required" in answers[4].message


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ("one text", "put it into a list"),
        ([1.5], r"contents\[0\] must be a text or a Content, is float"),
        (["a", "b\ud800"], r"contents\[1\].text: character 1 is a lone surrogate"),
        (["a", Content(text="b", content_length=-1)], r"contents\[1\].content_length must be a whole number"),
        (["ж" * 600_000], r"contents\[0\].text has 1200000 bytes of UTF-8, at most 1048576"),
        (Contents.of(["a", "x" * 20_000_000, "b"]), r"contents\[1\].text has 20000000 bytes of UTF-8, at most 1048576"),
        (["a", Content(text="b", has_media="no")], r"contents\[1\].has_media must be true or false, is 'no'"),  # type: ignore[arg-type]
        (["a", Content(text="b", content_length=2**24 + 1)], r"contents\[1\].content_length .* to 16,777,216"),
        (Contents.of(["b\ud800"]), r"contents\[0\].text: character 1 is a lone surrogate \(U\+D800\)"),
    ],
)
async def test_what_cannot_be_sent_is_named(target: str, contents: Any, said: str) -> None:
    async with MeshClient(target) as mesh:
        answered = 0
        with pytest.raises(InvalidInput, match=said):
            async for chunk in mesh.analyze_contents(contents, chunk_rows=50):
                answered += len(chunk)
    assert answered == int("[1]" in said.replace("\\", "")), "rows before it are answered first"


async def test_spans_tell_what_moved_the_judgement(target: str, kit: Any) -> None:
    text = "We won the cup! rain 🎉 later"
    async with MeshClient(target) as mesh:
        found = await mesh.detect_viral_potential(Content(text=text, title="cup"), spans_max=3, question="above_median")
        with pytest.raises(InvalidInput, match="spans_max must be from 1 to 32"):
            await mesh.detect_viral_potential("x", spans_max=33)
    assert [span.text for span in found.spans] == ["won", "rain", "cup"]
    assert [span.field for span in found.spans] == ["text", "text", "title"]
    assert all(text[span.start : span.end] == span.text for span in found.spans[:2])
    assert found.spans[0].effect > 0 > found.spans[1].effect
    assert found.question == "above_median"
    assert found.probability == found.judgement.above_median


async def test_features_of_any_number_of_texts_take_as_many_requests_as_they_need(target: str, analyzer: Any) -> None:
    texts = [f"number {row}!" for row in range(2_100)]
    async with MeshClient(target) as mesh:
        found = await mesh.extract_content_features(texts)
        await mesh.extract_content_features(["ж" * 500_000] * 8)
        strange = (await mesh.extract_content_features(["привет #мир"]))[0]
    assert [len(request.contents) for request in analyzer.features] == [1000, 1000, 100, 3, 3, 2, 1]
    assert [one.characters for one in found] == list(map(len, texts))
    assert found[0].language is not None and found[0].language.code == "en"
    assert (strange.language, strange.sentiment, strange.reading_ease) == (None, None, None)
    assert strange.hashtags == ("#мир",)


async def test_patterns_take_rows_and_tables(target: str, analyzer: Any) -> None:
    when = datetime(2016, 5, 10, 23, 30, tzinfo=UTC)
    rows = [
        ContentOutcome(
            content=Content(text=f"rain {row}" if row % 3 else f"won {row}", hour_of_day=7),
            outcome=None if row == 4 else float(row),
            published_at=when,
            channel="a",
        )
        for row in range(30)
    ]
    columns: dict[str, list[Any]] = {
        "text": [f"rain {row}" if row % 3 else f"won {row}" for row in range(30)],
        "outcome": [None if row == 4 else row for row in range(30)],
        "published_at": ["2016-05-10T23:30:00Z"] * 30,
        "hour_of_day": [7] * 30,
        "channel": ["a"] * 30,
    }
    async with MeshClient(target) as mesh:
        found = await mesh.analyze_content_patterns(rows, topics_max=4)
        await mesh.analyze_content_patterns(rows_from_columns(columns), topics_max=4)
        with pytest.raises(InvalidInput, match="20 to 10,000"):
            await mesh.analyze_content_patterns(rows[:5])
    assert analyzer.patterns[0] == analyzer.patterns[1]
    sent = analyzer.patterns[0].rows[4]
    assert not sent.HasField("outcome") and analyzer.patterns[0].rows[0].outcome == 0.0
    assert sent.day_of_week == 1 and sent.published_time.seconds == int(when.timestamp())
    assert found.row_topics.tolist() == [int(row % 3 != 0) for row in range(30)]
    assert found.topics[1].words == ("rain", "дождь")
    assert found.others[0].kind == "media" and found.others[0].topic is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"channel": "\ud800"}, r"rows\[1\].channel: character 0 is a lone surrogate"),
        ({"outcome": "a"}, r"rows\[1\].outcome must be a number from -1e\+15 to 1e\+15, or None, is 'a'"),
        ({"outcome": float("inf")}, r"rows\[1\].outcome must be a number"),
        ({"outcome": 1.7e308}, r"rows\[1\].outcome must be a number"),
        ({"outcome": 10**400}, r"rows\[1\].outcome must be a number"),
        ({"published_at": "today"}, r"rows\[1\].published_at must be a datetime or None, is str"),
        ({"day_of_week": 7}, r"rows\[1\].day_of_week must be a whole number"),
    ],
)
async def test_an_outcome_that_cannot_be_sent_is_named(target: str, fields: dict[str, Any], said: str) -> None:
    rows = [ContentOutcome(content="x"), ContentOutcome(content="x", **fields)] * 20
    async with MeshClient(target) as mesh:
        with pytest.raises(InvalidInput, match=said):
            await mesh.analyze_content_patterns(rows)


async def test_vectors_of_many_texts_are_of_one_version(target: str, analyzer: Any, kit: Any) -> None:
    texts = [f"text {row}" for row in range(1_500)] + ["long " * 200]
    async with MeshClient(target) as mesh:
        found = await mesh.embed_texts(texts)
    assert found.vectors.shape == (1_501, 8) and found.vectors.dtype == np.float32
    np.testing.assert_array_equal(found.vectors[[0, 1_200]], [kit.embedding(texts[0]), kit.embedding(texts[1_200])])
    assert np.asarray(found).shape == (1_501, 8)
    assert found.cut.tolist() == [1_500]
    assert [len(request.texts) for request in analyzer.embedded] == [1_024, 477]
    assert [request.model_version for request in analyzer.embedded] == [0, 5], "the second asks for the first's version"
    assert len(found.receipts) == 2


async def test_documents_of_several_requests_make_one_order(target: str, analyzer: Any, kit: Any) -> None:
    documents = [f"document {row}" for row in range(1_300)]
    documents[1_200] = "the query"
    async with MeshClient(target) as mesh:
        found = await mesh.rerank_texts("the query", documents, top=10)
        everything = await mesh.rerank_texts("the query", documents[:5])
    scores = np.stack([kit.embedding(text) for text in documents]) @ kit.embedding("the query")
    assert found.indices == np.argsort(-scores, kind="stable")[:10].tolist()
    assert found.ranked[0].index == 1_200 and found.ranked[0].score == pytest.approx(1.0)
    assert len(analyzer.reranked) == 3 and len(everything.ranked) == 5


async def test_classes_are_told_by_labels_or_by_a_head(target: str, analyzer: Any) -> None:
    texts = ["x" * (row % 5) for row in range(1_100)]
    async with MeshClient(target) as mesh:
        found = await mesh.classify_texts(texts[:3], labels={"sport": "A match was won.", "weather": "It rains."})
        assert found.labels == ("sport", "weather") and found.names == ["sport", "weather", "sport"]
        assert analyzer.classified[0].zero_shot.labels[1].description == "It rains."
        head = await mesh.train_text_head("tone", [("good", "a"), ("fine", "a"), ("bad", "b"), ("poor", "b")])
        assert (head.version, head.labels, head.examples) == (1, ("a", "b"), 4)
        by_head = await mesh.classify_texts(texts, head="tone")
        assert by_head.head is not None and by_head.scores.shape == (1_100, 2)
        assert [request.head.version for request in analyzer.classified[1:]] == [0, by_head.head.version]
        with pytest.raises(NotFound, match="there is: tone"):
            await mesh.classify_texts(["x"], head="none")
        for wrong in ({}, {"labels": ["a", "b"], "head": "tone"}):
            with pytest.raises(InvalidInput, match="one of the two"):
                await mesh.classify_texts(["x"], **wrong)  # type: ignore[arg-type]


async def test_classes_of_many_texts_are_of_one_version_and_fit_their_messages(target: str, analyzer: Any) -> None:
    labels = {f"label {row}": "x" * 16_000 for row in range(100)}
    async with MeshClient(target) as mesh:
        found = await mesh.classify_texts(["y" * 3_400] * 1_000, labels=labels)
        await mesh.classify_texts(["x"], labels=["a", "b"], version=3)
        for wrong, said in (
            ({"head": "\ud800"}, "head: character 0"),
            ({"head": "tone", "head_version": 2**70}, "head_version must be"),
            ({"head": "tone", "request_id": "\ud800"}, "request_id: character 0"),
            ({"head": "tone", "priority": "zzz"}, "priority must be one of"),
        ):
            with pytest.raises(InvalidInput, match=said):
                await mesh.classify_texts(["x"], **wrong)
    assert found.scores.shape == (1_000, 100)
    *parts, alone = analyzer.classified
    assert [request.model_version for request in parts] == [0] + [5] * (len(parts) - 1)
    assert alone.model_version == 3


async def test_without_the_embedder_the_command_to_run_is_told(target: str, analyzer: Any) -> None:
    analyzer.has_embedder = False
    async with MeshClient(target) as mesh:
        for call in (
            mesh.embed_texts(["x"]),
            mesh.rerank_texts("x", ["y"]),
            mesh.classify_texts(["x"], labels=["a", "b"]),
            mesh.train_text_head("tone", [("x", "a")]),
        ):
            with pytest.raises(Precondition) as caught:
                await call
            assert caught.value.facts["command"] == "meshcast models build embedder"


async def test_no_texts_and_one_text_for_several_are_refused(target: str) -> None:
    async with MeshClient(target) as mesh:
        with pytest.raises(InvalidInput, match="give at least one"):
            await mesh.embed_texts([])
        with pytest.raises(InvalidInput, match="put it into a list"):
            await mesh.embed_texts("text")
        with pytest.raises(InvalidInput, match="character 0 is a lone surrogate"):
            await mesh.classify_texts(["\ud800"], head="tone")
        with pytest.raises(DeadlineExceeded):
            await mesh.embed_texts(["x"], timeout_s=-1.0)


async def test_checks_and_descriptions_are_told(target: str) -> None:
    async with MeshClient(target) as mesh:
        good, bad = await mesh.validate_content("<b>x</b>"), await mesh.validate_content(" ")
        described = await mesh.describe_analyzer()
    assert good.valid and good.remarks[0].description == "holds HTML"
    assert not bad.valid and bad.violations[0].field == "content.text"
    assert described.model.name == "content"


async def test_plain_code_asks_the_same(target: str) -> None:
    def work() -> None:
        told: list[int] = []
        with SyncMeshClient(target) as mesh:
            assert mesh.analyze_content("won").viral > 0.5
            chunks = list(mesh.analyze_contents(TEXTS, chunk_rows=2, progress=lambda done, _: told.append(done)))
            assert [len(chunk) for chunk in chunks] == [2, 2]
            assert told == [2, 4]
            assert mesh.detect_viral_potential("won").spans[0].text == "won"
            assert mesh.extract_content_features(TEXTS)[0].words == 4
            assert len(mesh.embed_texts(TEXTS)) == 4
            assert mesh.rerank_texts("cup", TEXTS).indices
            assert mesh.classify_texts(TEXTS, labels=["a", "b"]).names
            assert mesh.train_text_head("tone", [("x", "a")]).name == "tone"
            assert mesh.validate_content("x").valid
            assert mesh.describe_analyzer().model.name == "content"

    await asyncio.to_thread(work)
