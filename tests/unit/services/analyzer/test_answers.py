"""Answers: arrays and values as the contract's messages."""

import numpy as np
import pytest

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.contents import Contents
from meshcast.services.analyzer.answers import (
    HEADS_LABELS_BYTES_MAX,
    chunk_answer,
    cut_notes,
    features_message,
    head_message,
    head_messages,
    judgement,
    span_message,
)
from meshcast.services.analyzer.head_store import HeadRecord
from meshcast.services.analyzer.prepare import prepare_contents
from meshcast.services.analyzer.questions import Question
from meshcast.services.analyzer.spans import Found, Place
from meshcast.services.analyzer.traits import traits

OUTPUTS = {
    "above_median": np.array([0.25, 0.75], dtype=np.float32),
    "viral": np.array([0.125, 0.5], dtype=np.float32),
}


def a_record(name: str = "topic", labels: tuple[str, ...] = ("a", "b")) -> HeadRecord:
    return HeadRecord(
        name=name,
        version=2,
        labels=labels,
        examples=10,
        accuracy=0.75,
        majority=0.5,
        embedder_version=3,
        trained_unix_us=1_700_000_000_000_000,
        request_id="secret",
        examples_digest="",
        weights_digest="",
    )


def test_a_judgement_is_a_row_of_the_outputs() -> None:
    found = judgement(OUTPUTS, 1, 42)
    assert (found.above_median, found.viral, found.characters_read) == (0.75, 0.5, 42)


def test_rows_that_failed_hold_no_number() -> None:
    answer = chunk_answer(OUTPUTS, np.array([7, 9]), np.array([0, 2]), 3)
    assert answer.rows == 3
    np.testing.assert_array_equal(
        np.frombuffer(answer.above_median, "<f4"), np.array([0.25, np.nan, 0.75], dtype=np.float32)
    )
    np.testing.assert_array_equal(np.frombuffer(answer.viral, "<f4"), np.array([0.125, np.nan, 0.5], dtype=np.float32))
    assert np.frombuffer(answer.characters_read, "<i4").tolist() == [7, 0, 9]


def test_the_receipt_says_what_was_not_read() -> None:
    def notes(contents: Contents) -> list[str]:
        return cut_notes(contents, prepare_contents([Question(contents=contents, violations={})])[0])

    assert notes(Contents.of(["x"])) == []
    assert notes(Contents.of(["something " * 200], title=["something " * 30])) == [
        "only the beginning was read: 1,000 of 2,000 characters of the text",
        "only the beginning was read: 200 of 300 characters of the title",
    ]
    beginning, tokens = notes(Contents.of(["x", "long " * 400, "ข่าว" * 100]))
    assert beginning.startswith("of 1 of 3 rows only the beginning was read")
    assert tokens.startswith("of 2 of 3 rows the network read the first tokens only, 192 of a text and 63 of a title")


def test_labels_of_many_heads_are_left_out_where_they_would_be_too_long() -> None:
    labels = tuple(f"{at:03}{'中' * 125}" for at in range(256))
    messages = head_messages([a_record(name=f"head{at:02}", labels=labels) for at in range(64)])
    assert len(messages) == 64
    assert sum(message.ByteSize() for message in messages) < 1.1 * HEADS_LABELS_BYTES_MAX
    assert list(messages[0].labels) == list(labels) and not messages[-1].labels


@pytest.mark.parametrize(("field", "expected"), [(0, pb.CONTENT_FIELD_TEXT), (1, pb.CONTENT_FIELD_TITLE)])
def test_a_span_is_told_with_its_words(field: int, expected: int) -> None:
    span = span_message(Found(Place(field, 3, 7, 1), 0.5), "so good a day", 0.6, 0.4)
    assert (span.field, span.start, span.end, span.text) == (expected, 3, 7, "good")
    assert span.effect == pytest.approx(0.2)
    assert span.effect_log_odds == pytest.approx(0.5)
    assert span.probability_without == pytest.approx(0.4)


def test_features_are_those_of_the_text() -> None:
    found = features_message(traits("This is a very good day! See https://example.com #win @you 🎉"))
    assert (list(found.hashtags), list(found.mentions), list(found.emoji)) == (["#win"], ["@you"], ["🎉"])
    assert list(found.links) == ["https://example.com"]
    assert found.exclamation_marks == 1
    assert found.language.code == "en" and found.sentiment.compound > 0
    assert found.HasField("reading_ease")


def test_what_a_text_does_not_tell_is_unset() -> None:
    found = features_message(traits("🎉"))
    for field in ("language", "sentiment", "reading_ease", "reading_grade"):
        assert not found.HasField(field)


def test_a_head_is_told_as_it_is_kept() -> None:
    message = head_message(a_record())
    assert (message.name, message.version, list(message.labels), message.examples) == ("topic", 2, ["a", "b"], 10)
    assert (message.accuracy, message.majority, message.embedder_version) == (0.75, 0.5, 3)
    assert message.trained_time.ToSeconds() == 1_700_000_000
