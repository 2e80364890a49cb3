"""Analysis of patterns on the wire: requests become rows with outcomes and vectors, what was found becomes messages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.contents import OUTCOME_MAX, UNKNOWN_DAY, UNKNOWN_TIME, ContentRows, Contents, contents_from_messages
from meshcast.rpc import Deadline, DeadlineExceeded, Violation
from meshcast.runtime.requests import NAME_CHARACTERS_MAX, VIOLATIONS_MAX, refusal
from meshcast.services.analyzer.embedder import EMBEDDER
from meshcast.services.analyzer.embedder.tokens import embedded_text
from meshcast.services.analyzer.embedding import TextEmbedder
from meshcast.services.analyzer.patterns import ERROR_RATE, ERROR_RATE_MAX, ROWS, TOPICS, Claim, Patterns

__all__ = [
    "EMBEDDED_MAX",
    "PatternQuestion",
    "Represented",
    "pattern_question",
    "patterns_message",
    "represented",
]

EMBEDDED_MAX = 2_000
"""Most rows whose topics are found by the embedder: as texts of 256 tokens so many take it 20 seconds of a core."""

_EMBEDDING_SHARE = 0.5  # of the time that is left: the analysis needs the rest

_KINDS = {
    "topic": pb.CLAIM_KIND_TOPIC,
    "text": pb.CLAIM_KIND_TEXT,
    "media": pb.CLAIM_KIND_MEDIA,
    "hour": pb.CLAIM_KIND_HOUR,
    "weekday": pb.CLAIM_KIND_WEEKDAY,
}
_TIMES_S = (-62_135_596_800, 253_402_300_799)  # years 1 to 9999, as a timestamp is defined


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternQuestion:
    """What is to be analysed.

    Attributes:
        rows: all sound.
        topics_max: most topics; 0 where their number follows from the rows.
        error_rate: share of reports that may claim anything where nothing has an effect.
    """

    rows: ContentRows
    topics_max: int
    error_rate: float


def pattern_question(request: pb.AnalyzeContentPatternsRequest) -> PatternQuestion:
    """The rows of a request.

    Raises:
        InvalidInput: there are too few or too many rows, one breaks a rule, or a parameter is out of its range.
    """
    found = []
    rows = request.rows
    if not ROWS[0] <= len(rows) <= ROWS[1]:
        found.append(Violation("rows", f"must be {ROWS[0]} to {ROWS[1]:,}, are {len(rows)}"))
    if request.topics_max and not TOPICS[0] <= request.topics_max <= TOPICS[1]:
        found.append(Violation("topics_max", f"is {request.topics_max}; 0, or {TOPICS[0]} to {TOPICS[1]} topics"))
    if not 0 <= request.error_rate <= ERROR_RATE_MAX:  # NaN as well
        found.append(
            Violation("error_rate", f"is {request.error_rate:g}; 0 for {ERROR_RATE}, or up to {ERROR_RATE_MAX}")
        )
    if found:
        raise refusal(found)
    contents, violations = contents_from_messages(
        [row.content for row in rows], lambda row, column: f"rows[{row}].content.{column}"
    )
    found = [Violation(*one) for row in sorted(violations) for one in violations[row]]
    for at, row in enumerate(rows):
        found += _row_violations(row, f"rows[{at}]")
    if found:
        raise refusal(found[:VIOLATIONS_MAX])
    return PatternQuestion(
        rows=ContentRows.of(
            contents,
            channel=[row.channel for row in rows],
            published_unix_s=[
                row.published_time.seconds if row.HasField("published_time") else UNKNOWN_TIME for row in rows
            ],
            day_of_week=[row.day_of_week if row.HasField("day_of_week") else UNKNOWN_DAY for row in rows],
            outcome=[row.outcome if row.HasField("outcome") else np.nan for row in rows],
        ),
        topics_max=request.topics_max,
        error_rate=request.error_rate or ERROR_RATE,
    )


class Represented(NamedTuple):
    """What topics are found by.

    Attributes:
        vectors: shape (n, d), float32; None: the words of the texts.
        name: `words`, or that of the embedder with its version.
        notes: why it is not the embedder, though one serves.
    """

    vectors: NDArray[np.float32] | None
    name: str
    notes: tuple[str, ...] = ()


async def represented(contents: Contents, embedder: TextEmbedder, deadline: Deadline) -> Represented:
    """Vectors of texts where an embedder serves, there are no more than `EMBEDDED_MAX`, and it is done in half of the
    time that is left; else their words.

    Raises:
        MeshError: as `TextEmbedder.embed_many`, but for its DeadlineExceeded.
    """
    if not (version := embedder.live):
        return Represented(None, "words")
    count = len(contents)
    if count > EMBEDDED_MAX:
        note = f"Topics were found by words: the embedder takes up to {EMBEDDED_MAX:,} posts, these are {count:,}."
        return Represented(None, "words", (note,))
    share = deadline.shrink(deadline.remaining_s() * (1 - _EMBEDDING_SHARE))
    texts = [embedded_text(text, title) for text, title in zip(contents.text, contents.title, strict=True)]
    try:
        async with share.enforced(where="the embedding"):
            vectors = await embedder.embed_many(texts, deadline=share, version=version)
    except DeadlineExceeded:
        note = (
            "Topics were found by words: half of the time was too little for the embedder; "
            "send fewer posts or set a longer deadline."
        )
        return Represented(None, "words", (note,))
    return Represented(vectors, f"{EMBEDDER.name} {version}")


def patterns_message(
    patterns: Patterns, representation: str, notes: Sequence[str] = ()
) -> pb.AnalyzeContentPatternsResponse:
    """What was found as a message; the receipt is not set.

    Args:
        patterns: what was found.
        representation: what the topics were found by.
        notes: to be told before those of the analysis.
    """
    return pb.AnalyzeContentPatternsResponse(
        topics=[
            pb.Topic(topic=number, words=topic.words, rows=topic.rows, share=topic.share, examples=topic.examples)
            for number, topic in enumerate(patterns.topics)
        ],
        row_topics=patterns.row_topics.tolist(),
        claims=map(_claim_message, patterns.claims),
        others=map(_claim_message, patterns.others),
        representation=representation,
        notes=[*notes, *patterns.notes],
    )


def _claim_message(claim: Claim) -> pb.Claim:
    return pb.Claim(
        kind=_KINDS[claim.kind],
        subject=claim.subject,
        text=claim.text,
        topic=claim.topic,
        effect=claim.effect,
        lower=claim.lower,
        upper=claim.upper,
        effect_in_unit=claim.effect_in_unit,
        rows_with=claim.rows_with,
        rows_without=claim.rows_without,
        p_value=claim.p_value,
        p_corrected=claim.p_corrected,
        examples=claim.examples,
    )


def _row_violations(row: pb.ContentOutcome, field: str) -> list[Violation]:
    found = []
    if row.HasField("outcome") and not -OUTCOME_MAX <= row.outcome <= OUTCOME_MAX:
        rule = f"must be from -{OUTCOME_MAX:g} to {OUTCOME_MAX:g}, is {row.outcome:g}; leave out what is not known"
        found.append(Violation(f"{field}.outcome", rule))
    if row.HasField("published_time") and not _TIMES_S[0] <= row.published_time.seconds <= _TIMES_S[1]:
        found.append(Violation(f"{field}.published_time", "must be in the years 1 to 9999"))
    if row.HasField("day_of_week") and not 0 <= row.day_of_week <= 6:
        found.append(Violation(f"{field}.day_of_week", f"must be 0 (Monday) to 6, is {row.day_of_week}"))
    if len(row.channel) > NAME_CHARACTERS_MAX:
        found.append(Violation(f"{field}.channel", f"has {len(row.channel)} characters, at most {NAME_CHARACTERS_MAX}"))
    return found
