"""Patterns of contents as values: topics, and claims about what goes with a better or worse outcome."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.client.receipts import Receipt

ClaimKind = Literal["topic", "text", "media", "hour", "weekday"]
"""What a claim is about: a topic, something in the text, a photo or video, a time of the day, a day of the week."""

_KINDS: Mapping[int, ClaimKind] = {
    pb.CLAIM_KIND_TOPIC: "topic",
    pb.CLAIM_KIND_TEXT: "text",
    pb.CLAIM_KIND_MEDIA: "media",
    pb.CLAIM_KIND_HOUR: "hour",
    pb.CLAIM_KIND_WEEKDAY: "weekday",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """Texts that are about the same."""

    topic: int
    """Its number, from 0, largest first."""
    words: tuple[str, ...]
    """Words that tell it from the others, most telling first."""
    rows: int
    """Rows of it."""
    share: float
    """Share of all rows, 0 to 1."""
    examples: tuple[int, ...]
    """Rows at its centre, 0-based positions in the question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One comparison of rows that have something with rows that have not."""

    kind: ClaimKind
    """What it is about."""
    subject: str
    """What exactly, as in `topic 3` or `has a link`."""
    text: str
    """The claim for a person, one sentence."""
    topic: int | None
    """Number of the topic, for a claim about one."""
    effect: float
    """Difference in standard deviations of the outcome within its channel."""
    lower: float
    """Lower end of its 95 % confidence interval."""
    upper: float
    """Upper end of the same."""
    effect_in_unit: float
    """The same difference in the outcome's own unit."""
    rows_with: int
    """Rows with a known outcome that have it."""
    rows_without: int
    """Rows with a known outcome that have it not."""
    p_value: float
    """Probability of so large a difference by chance."""
    p_corrected: float
    """The same after correction for every comparison of the report."""
    examples: tuple[int, ...]
    """Rows that have it, 0-based positions in the question."""

    @classmethod
    def of(cls, message: pb.Claim) -> "Claim":
        """The value of a message."""
        return cls(
            kind=_KINDS.get(message.kind, "text"),
            subject=message.subject,
            text=message.text,
            topic=message.topic if message.HasField("topic") else None,
            effect=message.effect,
            lower=message.lower,
            upper=message.upper,
            effect_in_unit=message.effect_in_unit,
            rows_with=message.rows_with,
            rows_without=message.rows_without,
            p_value=message.p_value,
            p_corrected=message.p_corrected,
            examples=tuple(message.examples),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ContentPatterns:
    """What works in texts whose outcomes are known."""

    topics: tuple[Topic, ...]
    """The topics, largest first."""
    row_topics: NDArray[np.int64]
    """Shape (n,), number of the topic of each row of the question."""
    claims: tuple[Claim, ...]
    """What can be told from chance at the error rate, strongest evidence first. Often there is nothing."""
    others: tuple[Claim, ...]
    """What was compared as well and cannot be told from chance, strongest evidence first."""
    representation: str
    """What the topics were found by: `embedder` and its version, or `words` where it is not built."""
    notes: tuple[str, ...]
    """What could not be found out and why."""
    receipt: Receipt
    """Receipt of the call."""

    @classmethod
    def of(cls, response: pb.AnalyzeContentPatternsResponse) -> "ContentPatterns":
        """The value of a message."""
        return cls(
            topics=tuple(
                Topic(
                    topic=one.topic,
                    words=tuple(one.words),
                    rows=one.rows,
                    share=one.share,
                    examples=tuple(one.examples),
                )
                for one in response.topics
            ),
            row_topics=np.array(response.row_topics, dtype=np.int64),
            claims=tuple(map(Claim.of, response.claims)),
            others=tuple(map(Claim.of, response.others)),
            representation=response.representation,
            notes=tuple(response.notes),
            receipt=Receipt(response.receipt),
        )
