"""Answers out of arrays and values: what the graph gave, and what was measured, become the messages of the contract."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.contents import Contents
from meshcast.services.analyzer.features import READ_CHARS, READ_TITLE_CHARS, TEXT_TOKENS_MAX, TITLE_TOKENS_MAX
from meshcast.services.analyzer.head_store import HeadRecord
from meshcast.services.analyzer.languages import UNKNOWN_LANGUAGE
from meshcast.services.analyzer.prepare import Prepared
from meshcast.services.analyzer.spans import Found
from meshcast.services.analyzer.traits import Traits

__all__ = [
    "chunk_answer",
    "cut_notes",
    "features_message",
    "head_message",
    "head_messages",
    "judgement",
    "span_message",
]

Floats = NDArray[np.float32]

HEADS_LABELS_BYTES_MAX = 1 << 20
"""Bytes of labels that a list of heads holds: a stock client takes 4 MiB, and all that can be kept are 6."""


def judgement(outputs: Mapping[str, Floats], row: int, read_chars: int) -> pb.ContentJudgement:
    """One row of what the graph gave as a message.

    Args:
        outputs: `above_median` and `viral`, each of shape (n,).
        row: which one.
        read_chars: code points that were read of it.
    """
    return pb.ContentJudgement(
        above_median=float(outputs["above_median"][row]),
        viral=float(outputs["viral"][row]),
        characters_read=read_chars,
    )


def chunk_answer(
    outputs: Mapping[str, Floats], read_chars: NDArray[np.int64], sound: NDArray[np.int64], rows: int
) -> pb.AnalyzeContentStreamResponse:
    """The judgements of a chunk as a message of packed columns; rows that are not sound hold NaN and 0.

    Args:
        outputs: as in `judgement`, of the sound rows, (g,).
        read_chars: shape (g,), code points that were read of them.
        sound: positions of those rows, (g,).
        rows: rows of the chunk.
    """

    def packed(values: NDArray[Any], kind: str, gap: float) -> bytes:
        whole = np.full(rows, gap, dtype=kind)
        whole[sound] = values
        return whole.tobytes()

    return pb.AnalyzeContentStreamResponse(
        rows=rows,
        above_median=packed(outputs["above_median"], "<f4", np.nan),
        viral=packed(outputs["viral"], "<f4", np.nan),
        characters_read=packed(read_chars, "<i4", 0),
    )


def cut_notes(contents: Contents, prepared: Prepared) -> list[str]:
    """What the receipt says where the model read only the beginning.

    Args:
        contents: the n rows that were judged, or the one that was and after it what came of it.
        prepared: what became of them.
    """
    return [*_chars_notes(contents, prepared.was_cut), *_tokens_notes(len(contents), prepared.tokens_cut)]


def _tokens_notes(rows: int, tokens_cut: NDArray[np.bool_]) -> list[str]:
    count = int(tokens_cut[:rows].sum())
    if not count:
        return []
    which = "the network read" if rows == 1 else f"of {count} of {rows} rows the network read"
    return [
        f"{which} the first tokens only, {TEXT_TOKENS_MAX} of a text and {TITLE_TOKENS_MAX} of a title; the other "
        "characters count by their n-grams"
    ]


def _chars_notes(contents: Contents, was_cut: NDArray[np.bool_]) -> list[str]:
    count = int(was_cut[: len(contents)].sum())
    if not count:
        return []
    if len(contents) == 1:
        return [
            f"only the beginning was read: {min(length, most):,} of {length:,} characters of the {name}"
            for name, length, most in (
                ("text", len(contents.text[0]), READ_CHARS),
                ("title", len(contents.title[0]), READ_TITLE_CHARS),
            )
            if length > most
        ]
    return [
        f"of {count} of {len(contents)} rows only the beginning was read: {READ_CHARS:,} characters of a text, "
        f"{READ_TITLE_CHARS:,} of a title"
    ]


def span_message(found: Found, text: str, probability: float, without: float) -> pb.Span:
    """A span as a message.

    Args:
        found: where it stands and what it does.
        text: of the field that it stands in.
        probability: of the whole content.
        without: the same when the span is missing.
    """
    place = found.place
    return pb.Span(
        field=pb.CONTENT_FIELD_TITLE if place.field else pb.CONTENT_FIELD_TEXT,
        start=place.start,
        end=place.end,
        text=text[place.start : place.end],
        effect=probability - without,
        effect_log_odds=found.effect,
        probability_without=without,
    )


def features_message(traits: Traits) -> pb.ContentFeatures:
    """What is in a text as a message."""
    message = pb.ContentFeatures(
        characters=traits.characters,
        words=traits.words,
        sentences=traits.sentences,
        lines=traits.lines,
        word_characters=traits.word_characters,
        reading_ease=traits.reading_ease,
        reading_grade=traits.reading_grade,
        links=traits.links,
        mentions=traits.mentions,
        hashtags=traits.hashtags,
        emoji=traits.emoji,
        exclamation_marks=traits.exclamation_marks,
        question_marks=traits.question_marks,
        upper_share=traits.upper_share,
        digit_share=traits.digit_share,
        right_to_left_share=traits.right_to_left_share,
        html_tags=len(traits.html_tags),
        control_characters=traits.control_characters,
        invisible_characters=traits.invisible_characters,
        scripts=traits.scripts,
        characters_read=traits.characters_read,
    )
    if traits.language.code != UNKNOWN_LANGUAGE:
        message.language.code = traits.language.code
        message.language.confidence = traits.language.confidence
    if traits.sentiment is not None:
        message.sentiment.CopyFrom(
            pb.ContentSentiment(
                compound=traits.sentiment.compound,
                positive=traits.sentiment.positive,
                neutral=traits.sentiment.neutral,
                negative=traits.sentiment.negative,
            )
        )
    return message


def head_messages(records: Iterable[HeadRecord]) -> list[pb.TextHead]:
    """Heads that are kept as messages; from where their labels would be too long together, without labels."""
    messages, size = [], 0
    for record in records:
        message = head_message(record)
        size += sum(len(label.encode()) + 3 for label in record.labels)
        if size > HEADS_LABELS_BYTES_MAX:
            message.ClearField("labels")
        messages.append(message)
    return messages


def head_message(record: HeadRecord) -> pb.TextHead:
    """A head that is kept as a message."""
    message = pb.TextHead(
        name=record.name,
        version=record.version,
        labels=record.labels,
        examples=record.examples,
        accuracy=record.accuracy,
        majority=record.majority,
        embedder_version=record.embedder_version,
    )
    message.trained_time.FromMicroseconds(record.trained_unix_us)
    return message
