"""Analysis of patterns on the wire: rows out of requests, and the messages of what was found."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.contents import UNKNOWN_DAY, UNKNOWN_TIME, Contents
from meshcast.rpc import Deadline, DeadlineExceeded, InvalidInput, Precondition
from meshcast.services.analyzer.analysis import EMBEDDED_MAX, pattern_question, patterns_message, represented
from meshcast.services.analyzer.patterns import Claim, Patterns, Topic


def rows(count: int = 20) -> list[pb.ContentOutcome]:
    return [pb.ContentOutcome(content=pb.Content(text=f"text {at}"), outcome=at) for at in range(count)]


def changed(at: int, **fields: Any) -> list[pb.ContentOutcome]:
    found = rows()
    found[at] = pb.ContentOutcome(**{"content": pb.Content(text="text"), **fields})
    return found


def test_a_request_becomes_rows_and_what_is_unset_is_unknown() -> None:
    given = changed(3, outcome=1.5, published_time=Timestamp(seconds=1_500_000_000), day_of_week=6, channel="one")
    question = pattern_question(pb.AnalyzeContentPatternsRequest(rows=given))
    assert (len(question.rows), question.topics_max, question.error_rate) == (20, 0, 0.05)
    table = question.rows
    assert (table.outcome[3], table.published_unix_s[3], table.day_of_week[3]) == (1.5, 1_500_000_000, 6)
    assert table.channel[3] == "one"
    unknown = pattern_question(pb.AnalyzeContentPatternsRequest(rows=changed(3), topics_max=4, error_rate=0.1))
    assert np.isnan(unknown.rows.outcome[3])
    assert (unknown.rows.published_unix_s[3], unknown.rows.day_of_week[3]) == (UNKNOWN_TIME, UNKNOWN_DAY)
    assert (unknown.topics_max, unknown.error_rate) == (4, 0.1)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.AnalyzeContentPatternsRequest(rows=rows(19)), "rows"),
        (pb.AnalyzeContentPatternsRequest(rows=rows() * 501), "rows"),
        (pb.AnalyzeContentPatternsRequest(rows=rows(), topics_max=1), "topics_max"),
        (pb.AnalyzeContentPatternsRequest(rows=rows(), topics_max=65), "topics_max"),
        (pb.AnalyzeContentPatternsRequest(rows=rows(), error_rate=0.3), "error_rate"),
        (pb.AnalyzeContentPatternsRequest(rows=rows(), error_rate=-0.1), "error_rate"),
        (pb.AnalyzeContentPatternsRequest(rows=rows(), error_rate=math.nan), "error_rate"),
        (pb.AnalyzeContentPatternsRequest(rows=changed(2, outcome=math.nan)), "rows[2].outcome"),
        (pb.AnalyzeContentPatternsRequest(rows=changed(2, outcome=math.inf)), "rows[2].outcome"),
        (pb.AnalyzeContentPatternsRequest(rows=changed(2, day_of_week=7)), "rows[2].day_of_week"),
        (pb.AnalyzeContentPatternsRequest(rows=changed(2, channel="x" * 257)), "rows[2].channel"),
        (pb.AnalyzeContentPatternsRequest(rows=changed(2, content=pb.Content())), "rows[2].content.text"),
        (
            pb.AnalyzeContentPatternsRequest(rows=changed(2, published_time=Timestamp(seconds=10**12))),
            "rows[2].published_time",
        ),
    ],
)
def test_a_bad_request_is_refused_by_its_field(request_: pb.AnalyzeContentPatternsRequest, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        pattern_question(request_)
    assert [one.field for one in caught.value.violations] == [field]


def test_what_was_found_is_told_as_it_is() -> None:
    claim = Claim(
        kind="topic",
        subject="topic 0",
        text="Posts about a, b do better.",
        topic=0,
        effect=0.4,
        lower=0.2,
        upper=0.6,
        effect_in_unit=0.8,
        rows_with=10,
        rows_without=30,
        p_value=0.001,
        p_corrected=0.01,
        examples=(3, 1),
    )
    found = Patterns(
        topics=(Topic(words=("a", "b"), rows=10, share=0.25, examples=(3,)),),
        row_topics=np.array([0, 0, 0]),
        claims=(claim,),
        others=(),
        notes=("a note",),
    )
    message = patterns_message(found, "words")
    assert (message.topics[0].topic, list(message.topics[0].words), message.topics[0].share) == (0, ["a", "b"], 0.25)
    assert list(message.row_topics) == [0, 0, 0]
    told = message.claims[0]
    assert (told.kind, told.subject, told.topic) == (pb.CLAIM_KIND_TOPIC, "topic 0", 0)
    assert (told.effect, told.lower, told.upper, told.p_corrected) == (0.4, 0.2, 0.6, 0.01)
    assert list(told.examples) == [3, 1]
    assert (message.representation, list(message.notes)) == ("words", ["a note"])


class Vectors:
    """An embedder that gives the lengths of texts, raises what it is told to, or never ends."""

    def __init__(self, live: int = 4, error: Exception | None = None, *, ends: bool = True) -> None:
        self.live, self.error, self.ends = live, error, ends
        self.texts: list[str] = []

    async def embed_many(self, texts: Sequence[str], *, deadline: Deadline, version: int) -> Any:
        assert version == self.live
        self.texts = list(texts)
        if self.error:
            raise self.error
        if not self.ends:
            await asyncio.Event().wait()
        return np.array([[len(text)] for text in texts], dtype=np.float32)


async def of(embedder: Any, count: int = 3, seconds: float = 60.0) -> Any:
    return await represented(Contents.of(["text"] * count), embedder, Deadline.after(seconds))


async def test_topics_are_found_by_the_embedder_where_it_can_be_had() -> None:
    embedder: Any = Vectors()
    contents = Contents.of(["one", "", "two"], title=["title", "alone", ""])
    found = await represented(contents, embedder, Deadline.after(60))
    assert (found.name, found.notes) == ("embedder 4", ())
    assert found.vectors is not None and len(found.vectors) == 3
    assert "one" in embedder.texts[0] and "title" in embedder.texts[0]
    assert await of(Vectors(live=0)) == (None, "words", ())


async def test_topics_of_too_many_rows_are_found_by_words_with_a_note() -> None:
    embedder: Any = Vectors()
    assert (await of(embedder, EMBEDDED_MAX)).vectors is not None
    embedder.texts.clear()
    vectors, name, (note,) = await of(embedder, EMBEDDED_MAX + 1)
    assert (vectors, name, embedder.texts) == (None, "words", [])
    assert "up to 2,000 posts, these are 2,001" in note


@pytest.mark.parametrize("embedder", [Vectors(error=DeadlineExceeded("late")), Vectors(ends=False)])
async def test_an_embedder_that_takes_too_long_leaves_time_for_words(embedder: Any) -> None:
    vectors, name, (note,) = await of(embedder, seconds=0.1)
    assert (vectors, name) == (None, "words")
    assert "longer deadline" in note


async def test_other_failures_of_the_embedder_are_told() -> None:
    with pytest.raises(Precondition):
        await of(Vectors(error=Precondition("unloaded")))
