"""Odd texts to real processes: every rpc gives a right answer or names the field, in bounded time, and goes on serving;
directly and through the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.contents import BYTES_MAX, Contents, pack_contents
from meshcast.rpc import InvalidInput, Overloaded, from_item, mesh_errors

BOUND_S = 8.0
"""Deadline of each of these calls, in seconds, for a busy host; alone none takes more than two."""

LETTERS = [chr(code) for code in range(0x41, 0x1E944) if chr(code).isalpha()]
MIB = BYTES_MAX

ODD = {
    "one mebibyte": ("The news of the day is good. " * (MIB // 29 + 1))[:MIB],
    "one mebibyte of emoji": "😀" * (MIB // 4),
    "one mebibyte without a space": "x" * MIB,
    "only emoji": "🎉🎉👩‍👩‍👧👍🏽🇫🇷❤️",
    "right to left": "صوّتوا الآن! שלום לכולם, זה יום טוב מאוד. #انتخابات",
    "control characters": "".join(map(chr, range(1, 32))) + "text\x7f\x85\u2028with\x00zero",
    "300 languages": " ".join("".join(LETTERS[at : at + 5]) for at in range(0, len(LETTERS), len(LETTERS) // 300)),
    "HTML": "<html><body onload='x()'><p>Hello <b>you</b> &amp; &#128512;</p><script>alert(1)</script><!-- " * 40,
    "zero-width joiners": "\u200d".join("hidden words") + "\u200b\u200c\u2060\ufeff" * 200,
    "joined without end": "👨" + "\u200d👨" * 20_000,
    "marks without end": "e" + "\u0301" * 100_000,
    "one word repeated": "word " * 100_000,
    "byte order and private use": "\ufeff\ufffe\uffff\ue000 text \U0010ffff",
    "one point": ".",
    "line ends alone but for a letter": "\r\n" * 5_000 + "a",
    "format strings": "%s %n {0} ${x} $(id) `id` ' OR 1=1; -- \\x00 ../../etc/passwd",
}

EMPTY = {"nothing": "", "spaces": " " * 100, "line ends": "\n\r\n\t", "wide spaces": "\u3000\u2003\u00a0"}

Asked = Any


@pytest.fixture(scope="module")
def doors(
    mesh_of: Any, embedder_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Addresses of one analyzer with the embedder, asked directly and through a gateway."""
    folder = tmp_path_factory.mktemp("mesh")
    with (
        mesh_of.analyzer(folder, RUNTIME_MODEL_REPOSITORY=str(embedder_repository)) as server,
        mesh_of.gateway(folder, analyzers=[server.address]) as gateway,
    ):
        yield {"direct": server.address, "gateway": gateway.address}


@pytest.fixture(params=["direct", "gateway"])
async def asked(request: pytest.FixtureRequest, doors: dict[str, str], mesh_of: Any) -> AsyncIterator[Asked]:
    """A client of either address; afterwards the service still answers at both."""
    async with mesh_of.peer(doors[request.param]) as peer:
        yield peer.content
    for address in doors.values():
        async with mesh_of.peer(address) as peer:
            with mesh_errors():
                good = pb.AnalyzeContentRequest(content=pb.Content(text="a good text"))
                assert (await peer.content.AnalyzeContent(good, timeout=10)).judgement.characters_read == 11


async def told(call: Any) -> Any:
    """The answer of a call, or its MeshError: DeadlineExceeded, which no test expects, past the bound."""
    with mesh_errors():
        return await call


async def fields(call: Any) -> list[str]:
    """The fields that a call is refused by."""
    with pytest.raises(InvalidInput) as caught:
        await told(call)
    return [violation.field for violation in caught.value.violations]


def is_judged(judgement: pb.ContentJudgement) -> bool:
    return 0 < judgement.viral < 1 and 0 < judgement.above_median < 1


@pytest.mark.parametrize("name", ODD)
async def test_an_odd_text_is_judged_and_explained(asked: Asked, name: str) -> None:
    text = ODD[name]
    content = pb.Content(text=text)
    answer = await told(asked.AnalyzeContent(pb.AnalyzeContentRequest(content=content), timeout=BOUND_S))
    assert is_judged(answer.judgement)
    assert answer.judgement.characters_read == min(len(text), 1_000)
    assert any("characters of the text" in note for note in answer.receipt.notes) == (len(text) > 1_000)
    found = await told(
        asked.DetectViralPotential(pb.DetectViralPotentialRequest(content=content, spans_max=32), timeout=BOUND_S)
    )
    assert is_judged(found.judgement)
    for span in found.spans:
        assert text[span.start : span.end] == span.text
        assert np.isfinite(span.effect_log_odds)
    titled = pb.AnalyzeContentRequest(content=pb.Content(title=text))
    assert is_judged((await told(asked.AnalyzeContent(titled, timeout=BOUND_S))).judgement)


@pytest.mark.parametrize("name", ODD)
async def test_an_odd_text_is_measured_and_checked(asked: Asked, name: str) -> None:
    text = ODD[name]
    contents = [pb.Content(text=text)]
    request = pb.ExtractContentFeaturesRequest(contents=contents)
    (found,) = (await told(asked.ExtractContentFeatures(request, timeout=BOUND_S))).features
    assert found.characters == len(text)
    assert 0 <= found.upper_share <= 1 and 0 <= found.right_to_left_share <= 1
    check = pb.ValidateContentRequest(request=pb.AnalyzeContentRequest(content=contents[0]))
    answer = await told(asked.ValidateContent(check, timeout=BOUND_S))
    assert answer.valid
    assert all(one.field == "content.text" and one.description for one in answer.remarks)


@pytest.mark.parametrize("name", ODD)
async def test_an_odd_text_is_embedded_ranked_and_classified(asked: Asked, name: str) -> None:
    text = ODD[name]
    answer = await told(asked.EmbedTexts(pb.EmbedTextsRequest(texts=[text, "plain"]), timeout=BOUND_S))
    vectors = np.frombuffer(answer.embeddings, "<f4").reshape(2, -1)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    rerank = pb.RerankTextsRequest(query=text, documents=["plain", text])
    ranked = (await told(asked.RerankTexts(rerank, timeout=BOUND_S))).ranked
    assert sorted(one.index for one in ranked) == [0, 1]
    shots = pb.ZeroShot(labels=[pb.TextLabel(name="odd", description=text), pb.TextLabel(name="plain")])
    classes = pb.ClassifyTextsRequest(texts=[text, "plain"], zero_shot=shots)
    assert list((await told(asked.ClassifyTexts(classes, timeout=BOUND_S))).best) == [0, 1]


async def test_odd_texts_are_rows_of_a_chunk_beside_empty_ones(asked: Asked) -> None:
    texts = [text for name, text in ODD.items() if "mebibyte" not in name] + list(EMPTY.values())
    request = pb.AnalyzeContentStreamRequest(contents=pack_contents(Contents.of(texts)))
    (answer,) = [one async for one in asked.AnalyzeContentStream(iter([request]), timeout=BOUND_S)]
    bad = [row for row, text in enumerate(texts) if not text.strip()]
    assert [one.row for one in answer.failed] == bad
    for one in answer.failed:
        error = from_item(one.status)
        assert isinstance(error, InvalidInput)
        assert error.violations[0].field == f"contents.text[{one.row}]"
    assert np.flatnonzero(np.isnan(np.frombuffer(answer.viral, "<f4"))).tolist() == bad


async def test_odd_texts_are_analysed_for_patterns_and_taught(asked: Asked) -> None:
    texts = [text[:20_000] for text in ODD.values()] * 3
    rows = [pb.ContentOutcome(content=pb.Content(text=text), outcome=at % 7) for at, text in enumerate(texts)]
    request = pb.AnalyzeContentPatternsRequest(rows=rows)
    patterns = await told(asked.AnalyzeContentPatterns(request, timeout=BOUND_S))
    assert len(patterns.row_topics) == len(rows)
    examples = [pb.LabelledText(text=text, label="ab"[at % 2]) for at, text in enumerate(texts)]
    lesson = pb.TrainTextHeadRequest(name="odd", examples=examples)
    head = (await told(asked.TrainTextHead(lesson, timeout=BOUND_S))).head
    assert head.examples == len(texts) and 0 <= head.accuracy <= 1


@pytest.mark.parametrize("name", EMPTY)
async def test_an_empty_content_is_refused_by_its_field(asked: Asked, name: str) -> None:
    text = EMPTY[name]
    content = pb.Content(text=text, title=text)
    analyze = pb.AnalyzeContentRequest(content=content)
    assert await fields(asked.AnalyzeContent(analyze, timeout=BOUND_S)) == ["content.text"]
    detect = pb.DetectViralPotentialRequest(content=content)
    assert await fields(asked.DetectViralPotential(detect, timeout=BOUND_S)) == ["content.text"]
    measure = pb.ExtractContentFeaturesRequest(contents=[pb.Content(text="a"), content])
    assert await fields(asked.ExtractContentFeatures(measure, timeout=BOUND_S)) == ["contents[1].text"]
    rows = [pb.ContentOutcome(content=pb.Content(text="a"))] * 20
    rows[3] = pb.ContentOutcome(content=content)
    patterns = pb.AnalyzeContentPatternsRequest(rows=rows)
    assert await fields(asked.AnalyzeContentPatterns(patterns, timeout=BOUND_S)) == ["rows[3].content.text"]
    rerank = pb.RerankTextsRequest(query=text, documents=["a"])
    assert await fields(asked.RerankTexts(rerank, timeout=BOUND_S)) == ["query"]
    examples = [
        pb.LabelledText(text=given, label=label) for given, label in zip(("a", text, "c", "d"), "aabb", strict=True)
    ]
    lesson = pb.TrainTextHeadRequest(name="h", examples=examples)
    assert await fields(asked.TrainTextHead(lesson, timeout=BOUND_S)) == ["examples[1].text"]
    check = await told(asked.ValidateContent(pb.ValidateContentRequest(request=analyze), timeout=BOUND_S))
    assert [one.field for one in check.violations] == ["content.text"]
    # A text without words has a vector all the same.
    assert (await told(asked.EmbedTexts(pb.EmbedTextsRequest(texts=[text]), timeout=BOUND_S))).rows == 1


async def test_a_text_over_the_bound_is_refused_by_its_field(asked: Asked) -> None:
    long = "é" * (MIB // 2 + 1)
    half = pb.Content(text=long[: MIB // 4], title=long[: MIB // 4 + 1])
    for content in (pb.Content(text=long), half):
        analyze = pb.AnalyzeContentRequest(content=content)
        assert await fields(asked.AnalyzeContent(analyze, timeout=BOUND_S)) == ["content.text"]
    embed = pb.EmbedTextsRequest(texts=["a", "b", "c", long])
    assert await fields(asked.EmbedTexts(embed, timeout=BOUND_S)) == ["texts[3]"]
    rerank = pb.RerankTextsRequest(query="a", documents=["b", long])
    assert await fields(asked.RerankTexts(rerank, timeout=BOUND_S)) == ["documents[1]"]
    label = pb.ZeroShot(labels=[pb.TextLabel(name="a", description=long), pb.TextLabel(name="b")])
    classes = pb.ClassifyTextsRequest(texts=["a"], zero_shot=label)
    assert await fields(asked.ClassifyTexts(classes, timeout=BOUND_S)) == ["zero_shot.labels[0].description"]


async def test_a_message_over_the_limit_is_refused_with_the_limit(asked: Asked) -> None:
    request = pb.EmbedTextsRequest(texts=["x" * MIB] * 5)
    with pytest.raises(Overloaded) as caught:
        await told(asked.EmbedTexts(request, timeout=BOUND_S))
    assert caught.value.reason == ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (pb.Content(text="a", content_length=-1), "content.content_length"),
        (pb.Content(text="a", hour_of_day=24), "content.hour_of_day"),
        (pb.Content(text="a", hour_of_day=-1), "content.hour_of_day"),
    ],
)
async def test_a_number_out_of_its_range_is_refused_by_its_field(asked: Asked, content: pb.Content, field: str) -> None:
    analyze = pb.AnalyzeContentRequest(content=content)
    assert await fields(asked.AnalyzeContent(analyze, timeout=BOUND_S)) == [field]
    detect = pb.DetectViralPotentialRequest(content=content)
    assert await fields(asked.DetectViralPotential(detect, timeout=BOUND_S)) == [field]


@pytest.mark.parametrize("door", ["direct", "gateway"])
async def test_bytes_that_are_no_text_are_refused_at_both_doors(doors: dict[str, str], mesh_of: Any, door: str) -> None:
    good = pb.AnalyzeContentRequest(content=pb.Content(text="abc")).SerializeToString()
    broken = good.replace(b"abc", b"a\xffc")
    async with mesh_of.peer(doors[door]) as peer:
        call = peer.channel.unary_unary("/meshcast.api.analyzer.v1.AnalyzerService/AnalyzeContent")
        with pytest.raises(InvalidInput, match=r"the bytes are no request message of .*/AnalyzeContent;"):
            await told(call(broken, timeout=BOUND_S))
