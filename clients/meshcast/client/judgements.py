"""Answers of the analyzer about what texts will do: judgements, chunks of them, and the spans that moved one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.api.type.v1 import receipt_pb2
from meshcast.client.chunk_answers import ChunkAnswer, checked_columns, errors_of
from meshcast.client.receipts import Receipt
from meshcast.columns import unpack_column, unpack_floats
from meshcast.rpc import MeshError

Question = Literal["viral", "above_median"]
"""What is asked about a text: whether it ends among the channel's top tenth, or above the channel's recent median."""

Field = Literal["text", "title"]
"""A field of a content."""

QUESTIONS: Mapping[str, pb.ContentQuestion.ValueType] = {
    "viral": pb.CONTENT_QUESTION_VIRAL,
    "above_median": pb.CONTENT_QUESTION_ABOVE_MEDIAN,
}

_CHARACTERS = np.dtype("<i4")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentJudgement:
    """What a text will do.

    Attributes:
        above_median: probability, calibrated on the posts that the model was trained with, that its engagement ends
            above the median of the channel's last 100 settled posts.
        viral: likewise, that it ends among the channel's top tenth, relative to that median.
        characters_read: characters of title and text that the model read.
        receipt: how it came about.
    """

    above_median: float
    viral: float
    characters_read: int
    receipt: Receipt

    @classmethod
    def of(
        cls, judgement: pb.ContentJudgement, receipt: receipt_pb2.Receipt, prediction_id: str | None = None
    ) -> "ContentJudgement":
        """The value of a message."""
        return cls(
            above_median=judgement.above_median,
            viral=judgement.viral,
            characters_read=judgement.characters_read,
            receipt=Receipt(receipt, prediction_id),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ContentChunk(ChunkAnswer):
    """Judgements of one chunk of rows as columns; a failed row, or each of a refused chunk, has NaN probabilities.

    Attributes:
        above_median: shape (n,), float32, as in `ContentJudgement`.
        viral: shape (n,), float32.
        characters_read: shape (n,), int32; 0 where the row failed.
    """

    above_median: NDArray[np.float32]
    viral: NDArray[np.float32]
    characters_read: NDArray[np.int32]

    def prediction_id(self, row: int) -> str:
        """Id of the judgement of a row of the chunk, counted from 0."""
        return self.row_id(row)

    def judgements(self) -> "list[ContentJudgement | MeshError]":
        """The rows one by one, a failed one as its error."""
        if self.error is not None:
            return [self.error] * len(self.rows)
        receipt = self.receipt.message
        columns = zip(self.above_median.tolist(), self.viral.tolist(), self.characters_read.tolist(), strict=True)
        return [
            self.failed[row]
            if row in self.failed
            else ContentJudgement(
                above_median=above,
                viral=viral,
                characters_read=read,
                receipt=Receipt(receipt, self.prediction_id(row)),
            )
            for row, (above, viral, read) in enumerate(columns)
        ]

    @classmethod
    def of(
        cls,
        response: pb.AnalyzeContentStreamResponse,
        rows: NDArray[np.int64],
        sequence: int,
        row_request_ids: tuple[str, ...] = (),
    ) -> "ContentChunk":
        """The value of a message.

        Args:
            response: the message.
            rows: the rows asked about.
            sequence: number of the chunk, as callers count.
            row_request_ids: the rows' own request ids; empty when they had none.

        Raises:
            Internal: the columns are not of as many rows as were asked about.
        """
        n = len(rows)
        error, failed = errors_of(response)
        if error is not None:
            above = viral = np.full(n, np.nan, dtype=np.float32)
            read = np.zeros(n, dtype=np.int32)
        else:
            with checked_columns(response, n):
                above = unpack_floats(response.above_median, (n,), "above_median")
                viral = unpack_floats(response.viral, (n,), "viral")
                read = unpack_column(response.characters_read, _CHARACTERS, (n,), "characters_read")
        return cls(
            sequence=sequence,
            rows=rows,
            above_median=above,
            viral=viral,
            characters_read=read,
            failed=failed,
            error=error,
            receipt=Receipt(response.receipt),
            row_request_ids=row_request_ids,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span of a content, and what it does to the judgement."""

    field: Field
    """Where it stands."""
    start: int
    """Its first character, in code points from 0."""
    end: int
    """Its end (exclusive), in code points."""
    text: str
    """The span itself."""
    effect: float
    """The probability with it less the probability without it, from -1 to 1."""
    effect_log_odds: float
    """The same in log-odds."""
    probability_without: float
    """The probability when the span alone is taken out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViralPotential:
    """A judgement of one text, and the spans that moved it."""

    judgement: ContentJudgement
    """The judgement."""
    question: Question
    """The judgement that is explained."""
    spans: tuple[Span, ...]
    """The spans that move it most, strongest first; they do not overlap. Effects of several need not add up."""
    typical_effect_log_odds: float
    """Median size of the effects, in log-odds, of the spans that were tried."""
    spans_tried: int
    """How often the model read the content without a span."""
    receipt: Receipt
    """How it came about."""

    @property
    def probability(self) -> float:
        """The probability that is explained."""
        return self.judgement.viral if self.question == "viral" else self.judgement.above_median

    @classmethod
    def of(cls, response: pb.DetectViralPotentialResponse) -> "ViralPotential":
        """The value of a message."""
        return cls(
            judgement=ContentJudgement.of(response.judgement, response.receipt),
            question="above_median" if response.question == pb.CONTENT_QUESTION_ABOVE_MEDIAN else "viral",
            spans=tuple(
                Span(
                    field="title" if span.field == pb.CONTENT_FIELD_TITLE else "text",
                    start=span.start,
                    end=span.end,
                    text=span.text,
                    effect=span.effect,
                    effect_log_odds=span.effect_log_odds,
                    probability_without=span.probability_without,
                )
                for span in response.spans
            ),
            typical_effect_log_odds=response.typical_effect_log_odds,
            spans_tried=response.spans_tried,
            receipt=Receipt(response.receipt),
        )
