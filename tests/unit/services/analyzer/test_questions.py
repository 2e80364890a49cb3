"""Questions out of requests: what they become, and which field a bad one is refused by."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.contents import BYTES_MAX
from meshcast.rpc import InvalidInput
from meshcast.services.analyzer.heads import EXAMPLES_MAX
from meshcast.services.analyzer.questions import (
    DOCUMENTS_MAX,
    TEXTS_MAX,
    chunk_question,
    classify_question,
    contents_question,
    embed_question,
    explain_question,
    rerank_question,
    single_question,
    train_question,
)

LONG = "é" * (BYTES_MAX // 2 + 1)
FULL = "é" * (BYTES_MAX // 2)


def fields_of(ask: Callable[[Any], Any], request: Any) -> list[str]:
    """Fields that a request is refused by."""
    with pytest.raises(InvalidInput) as caught:
        ask(request)
    assert all(violation.description for violation in caught.value.violations)
    assert caught.value.message.startswith(caught.value.violations[0].field)
    return [violation.field for violation in caught.value.violations]


# --- contents ---


def test_a_single_question_is_one_row() -> None:
    content = pb.Content(text="hello", title="there", hour_of_day=23, has_media=True, content_length=900)
    question = single_question(pb.AnalyzeContentRequest(content=content))
    assert len(question) == 1 and not question.violations
    row = question.contents
    assert (row.text[0], row.title[0], row.content_length[0]) == ("hello", "there", 900)
    assert (row.hour_of_day[0], bool(row.has_media[0])) == (23, True)


def test_a_question_without_content_or_with_a_long_id_is_refused() -> None:
    assert fields_of(single_question, pb.AnalyzeContentRequest()) == ["content"]
    assert fields_of(single_question, pb.AnalyzeContentRequest(request_id="x" * 129)) == ["request_id", "content"]


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (pb.Content(text=" \n\u2003"), "content.text"),
        (pb.Content(text=LONG), "content.text"),
        (pb.Content(text="x", content_length=-1), "content.content_length"),
        (pb.Content(text="x", hour_of_day=24), "content.hour_of_day"),
    ],
)
def test_a_bad_content_is_named_by_its_field(content: pb.Content, field: str) -> None:
    violations = single_question(pb.AnalyzeContentRequest(content=content)).violations
    assert [where for where, _ in violations[0]] == [field]
    assert fields_of(explain_question, pb.DetectViralPotentialRequest(content=content)) == [field]


def test_what_is_to_be_explained_has_its_defaults() -> None:
    asked = explain_question(pb.DetectViralPotentialRequest(content=pb.Content(text="hello")))
    assert (asked.question, asked.spans_max, asked.length_follows) == (pb.CONTENT_QUESTION_VIRAL, 5, True)
    declared = pb.Content(text="hello", content_length=5)
    asked = explain_question(
        pb.DetectViralPotentialRequest(content=declared, question=pb.CONTENT_QUESTION_ABOVE_MEDIAN, spans_max=32)
    )
    assert (asked.question, asked.spans_max, asked.length_follows) == (pb.CONTENT_QUESTION_ABOVE_MEDIAN, 32, False)


def test_an_unknown_question_and_too_many_spans_are_refused() -> None:
    request = pb.DetectViralPotentialRequest(content=pb.Content(text="hello"), spans_max=33)
    request.question = 7  # type: ignore[assignment]  # an enum of proto3 is open
    assert fields_of(explain_question, request) == ["question", "spans_max"]


def test_a_chunk_keeps_its_good_rows_beside_the_bad_ones() -> None:
    columns = pb.ContentColumns(rows=3, text=["a", "", "c"], hour_of_day=np.array([1, 2, 99], dtype="<f4").tobytes())
    question = chunk_question(pb.AnalyzeContentStreamRequest(contents=columns), rows_max=4)
    assert {row: [where for where, _ in found] for row, found in question.violations.items()} == {
        1: ["contents.text[1]"],
        2: ["contents.hour_of_day[2]"],
    }


def test_a_chunk_of_a_wrong_size_is_refused() -> None:
    def ask(request: pb.AnalyzeContentStreamRequest) -> object:
        return chunk_question(request, rows_max=4)

    for rows in (-1, 0, 5):
        request = pb.AnalyzeContentStreamRequest(contents=pb.ContentColumns(rows=rows, text=["a"] * max(rows, 0)))
        assert fields_of(ask, request) == ["contents.rows"]
    request = pb.AnalyzeContentStreamRequest(contents=pb.ContentColumns(rows=2, text=["a"]), row_request_ids=["one"])
    assert fields_of(ask, request) == ["row_request_ids"]
    request = pb.AnalyzeContentStreamRequest(contents=pb.ContentColumns(rows=2, text=["a"], has_media=b"123"))
    assert fields_of(ask, request) == ["contents.text", "contents.has_media"]


def test_contents_to_measure_are_all_sound_and_not_too_many() -> None:
    def ask(contents: list[pb.Content]) -> object:
        return contents_question(contents, field="contents", rows_max=3)

    assert fields_of(ask, []) == ["contents"]
    assert fields_of(ask, [pb.Content(text="a")] * 4) == ["contents"]
    assert fields_of(ask, [pb.Content(text="a"), pb.Content()]) == ["contents[1].text"]
    assert len(contents_question([pb.Content(text="a")] * 3, field="contents", rows_max=3)) == 3


# --- texts ---


def test_texts_to_embed_may_be_empty_but_not_too_long_or_too_many() -> None:
    assert embed_question(pb.EmbedTextsRequest(texts=["", "a", FULL])) == ("", "a", FULL)
    assert fields_of(embed_question, pb.EmbedTextsRequest()) == ["texts"]
    assert fields_of(embed_question, pb.EmbedTextsRequest(texts=["a"] * (TEXTS_MAX + 1))) == ["texts"]
    assert fields_of(embed_question, pb.EmbedTextsRequest(texts=["a", LONG])) == ["texts[1]"]


def test_a_query_and_its_documents_go_together() -> None:
    assert rerank_question(pb.RerankTextsRequest(query="q", documents=["a", "b"])) == ("q", "a", "b")
    assert fields_of(rerank_question, pb.RerankTextsRequest()) == ["query", "documents"]
    many = pb.RerankTextsRequest(query=LONG, documents=["a"] * (DOCUMENTS_MAX + 1), top=-1)
    assert fields_of(rerank_question, many) == ["query", "documents", "top"]


def labels(*names: str) -> pb.ZeroShot:
    return pb.ZeroShot(labels=[pb.TextLabel(name=name) for name in names])


def test_labels_have_their_names_as_descriptions_unless_told() -> None:
    request = pb.ClassifyTextsRequest(texts=["t"], zero_shot=labels("a", "b"))
    request.zero_shot.labels[1].description = "about b"
    texts, shots = classify_question(request)
    assert texts == ("t",) and shots is not None
    assert (shots.names, shots.descriptions) == (("a", "b"), ("a", "about b"))
    assert classify_question(pb.ClassifyTextsRequest(texts=["t"], head=pb.TextHeadRef(name="h")))[1] is None


@pytest.mark.parametrize(
    ("classes", "fields"),
    [
        ({}, ["classes"]),
        ({"head": pb.TextHeadRef()}, ["head.name"]),
        ({"head": pb.TextHeadRef(name="../../etc")}, ["head.name"]),
        ({"head": pb.TextHeadRef(name="h", version=-1)}, ["head.version"]),
        ({"zero_shot": labels("a")}, ["zero_shot.labels"]),
        ({"zero_shot": labels("a", "")}, ["zero_shot.labels[1].name"]),
        ({"zero_shot": labels("a", "b", "a")}, ["zero_shot.labels[2].name"]),
        ({"zero_shot": labels("a", "b" * 129)}, ["zero_shot.labels[1].name"]),
        ({"zero_shot": labels(*map(str, range(257)))}, ["zero_shot.labels"]),
    ],
)
def test_bad_classes_are_named(classes: dict[str, Any], fields: list[str]) -> None:
    assert fields_of(classify_question, pb.ClassifyTextsRequest(texts=["t"], **classes)) == fields


# --- examples ---


def examples(*pairs: tuple[str, str]) -> list[pb.LabelledText]:
    return [pb.LabelledText(text=text, label=label) for text, label in pairs]


GOOD = (("w", "a"), ("x", "a"), ("y", "b"), ("z", "b"))


def test_examples_become_texts_and_labels() -> None:
    found = train_question(pb.TrainTextHeadRequest(name="topic_2-b", examples=examples(*GOOD)))
    assert (found.texts, found.labels) == (("w", "x", "y", "z"), ("a", "a", "b", "b"))


@pytest.mark.parametrize("name", ["", "Topic", "2topic", "a b", "a/b", ".", "x" * 65, "tópic", "a\n"])
def test_a_name_that_is_no_head_s_is_refused(name: str) -> None:
    assert fields_of(train_question, pb.TrainTextHeadRequest(name=name, examples=examples(*GOOD))) == ["name"]


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ([], ["examples"]),
        ([("w", "a"), ("x", "a")], ["examples"]),
        ([*GOOD, ("v", "c")], ["examples[4].label"]),
        ([*GOOD, ("", "a")], ["examples[4].text"]),
        ([*GOOD, ("v", "")], ["examples[4].label"]),
        ([*GOOD, ("v", "l" * 129), ("u", "l" * 129)], ["examples[4].label", "examples[5].label"]),
        ([("w", "a"), ("w", "a"), ("w", "b"), ("w", "b")], ["examples"]),
        ([("w", "a")] * (EXAMPLES_MAX + 1), ["examples"]),
    ],
)
def test_bad_examples_are_named(given: list[tuple[str, str]], fields: list[str]) -> None:
    assert fields_of(train_question, pb.TrainTextHeadRequest(name="h", examples=examples(*given))) == fields


def test_no_more_than_fifty_faults_are_told() -> None:
    request = pb.TrainTextHeadRequest(name="h", examples=examples(*[("", "")] * 100))
    assert len(fields_of(train_question, request)) == 50
