"""Analysis of patterns on the wire: requests become rows with outcomes, and what was found becomes messages."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.contents import UNKNOWN_DAY, UNKNOWN_TIME, ContentRows, contents_from_messages
from meshcast.rpc import Violation
from meshcast.runtime.requests import NAME_CHARACTERS_MAX, VIOLATIONS_MAX, refusal
from meshcast.services.analyzer.patterns import ERROR_RATE, ERROR_RATE_MAX, ROWS, TOPICS, Claim, Patterns

__all__ = ["PatternQuestion", "pattern_question", "patterns_message"]

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
    if row.HasField("outcome") and not math.isfinite(row.outcome):
        found.append(Violation(f"{field}.outcome", f"must be finite, is {row.outcome}; leave out what is not known"))
    if row.HasField("published_time") and not _TIMES_S[0] <= row.published_time.seconds <= _TIMES_S[1]:
        found.append(Violation(f"{field}.published_time", "must be in the years 1 to 9999"))
    if row.HasField("day_of_week") and not 0 <= row.day_of_week <= 6:
        found.append(Violation(f"{field}.day_of_week", f"must be 0 (Monday) to 6, is {row.day_of_week}"))
    if len(row.channel) > NAME_CHARACTERS_MAX:
        found.append(Violation(f"{field}.channel", f"has {len(row.channel)} characters, at most {NAME_CHARACTERS_MAX}"))
    return found
