"""What was found out about the texts of a file: judgements, patterns, features, and how it all held up."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from meshcast.cli.calibration import Calibration, calibration, truths
from meshcast.cli.problem import ExitCode, Problem
from meshcast.cli.shown_text import excerpt
from meshcast.client import Claim, ContentChunk, ContentFeatures, ContentPatterns, Receipt
from meshcast.contents import UNKNOWN_DAY, UNKNOWN_HOUR, ContentRows, Contents
from meshcast.rpc import MeshError

__all__ = [
    "QUESTIONS",
    "Clock",
    "ContentReport",
    "FeatureSummary",
    "Judged",
    "calibrations",
    "claim_label",
    "claims_shown",
    "clock",
    "cut_note",
    "no_claims",
    "summarize",
]

QUESTIONS: Mapping[str, str] = {"above_median": "above the channel's median", "viral": "in the channel's top tenth"}
"""The model's two questions in words."""

_REASONS_SHOWN = 5
_CELL_ROWS_MIN = 10  # of an hour of the week that is shown: of fewer, the mean is mostly luck

Floats = NDArray[np.float64]


@dataclass(kw_only=True)
class Judged:
    """Judgements gathered chunk by chunk, as columns of n rows; a row that failed holds NaN.

    Args:
        rows: how many there will be.
    """

    rows: int
    answered: int = 0
    """Rows of the chunks so far, which come in order."""
    above_median: Floats = field(init=False)
    viral: Floats = field(init=False)
    characters_read: NDArray[np.int64] = field(init=False)
    prediction_ids: list[str] = field(init=False)
    model_versions: NDArray[np.int64] = field(init=False)
    reasons: dict[str, list[int]] = field(default_factory=dict)
    """Rows that failed, by why."""
    receipt: Receipt | None = None
    """Of the first chunk that a version answered."""

    def __post_init__(self) -> None:
        self.above_median, self.viral = np.full(self.rows, np.nan), np.full(self.rows, np.nan)
        self.characters_read = np.zeros(self.rows, dtype=np.int64)
        self.model_versions = np.zeros(self.rows, dtype=np.int64)
        self.prediction_ids = [""] * self.rows

    def add(self, chunk: ContentChunk) -> None:
        """Takes a chunk in.

        Raises:
            MeshError: the chunk as a whole was refused.
        """
        if chunk.error is not None:
            raise chunk.error
        self.above_median[chunk.rows] = chunk.above_median
        self.viral[chunk.rows] = chunk.viral
        self.characters_read[chunk.rows] = chunk.characters_read
        self.model_versions[chunk.rows] = chunk.receipt.model_version
        for place, row in enumerate(chunk.rows.tolist()):
            self.prediction_ids[row] = chunk.prediction_id(place)
        for place, error in chunk.failed.items():
            self.reasons.setdefault(why(error), []).append(int(chunk.rows[place]))
        self.answered += len(chunk)
        if self.receipt is None and chunk.receipt.model_version:
            self.receipt = chunk.receipt

    def end(self, reason: str) -> None:
        """Says why the rows that were not answered were not."""
        if self.answered < self.rows:
            self.reasons.setdefault(reason, []).extend(range(self.answered, self.rows))

    @property
    def versions(self) -> dict[int, int]:
        """Rows that were judged by the version that judged them."""
        return dict(sorted(Counter(self.model_versions[~np.isnan(self.viral)].tolist()).items()))

    def probability(self, question: str) -> Floats:
        """The answers to one of `QUESTIONS`."""
        return self.viral if question == "viral" else self.above_median

    @property
    def failures(self) -> int:
        """Rows that were not judged."""
        return sum(map(len, self.reasons.values()))


@dataclass(frozen=True, kw_only=True)
class FeatureSummary:
    """What is in texts, counted over many of them.

    Attributes:
        rows: texts that were looked at.
        languages: texts by language, most frequent first; `unknown` where a text does not tell.
        characters: the least, the median and the most, and the quartiles between them.
        words: median number of words.
        share: of the texts that have it, by what it is, as in `a link`.
        emoji: the most frequent ones, each with how many texts hold it.
        hashtags: likewise.
        reading_ease: median Flesch reading ease of English texts; None where there are none.
        sentiment: mean compound sentiment of English texts; None where there are none.
    """

    rows: int
    languages: Mapping[str, int]
    characters: tuple[int, int, int, int, int]
    words: int
    share: Mapping[str, float]
    emoji: Mapping[str, int]
    hashtags: Mapping[str, int]
    reading_ease: float | None
    sentiment: float | None


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Outcomes by day of the week (rows, Monday first) and hour of the day (columns); shape (7, 24) each."""

    rows: NDArray[np.int64]
    """Rows with a known time."""
    known: NDArray[np.int64]
    """Those of them with an outcome."""
    outcome: Floats
    """Mean of the outcomes, in standard deviations within the channel; NaN where fewer than ten are known."""


@dataclass(frozen=True, kw_only=True)
class ContentReport:
    """A report on a file.

    Attributes:
        source: the file's name.
        rows: its rows but those without text and title.
        places: shape (n,), number of each in the file, from 1.
        judged: what the model said.
        calibrations: by question, where the file has outcomes enough.
        patterns: what works; None where it was not asked for or not found out.
        pattern_rows: shape (k,), rows that patterns were looked for in, as positions in `rows`.
        features: what is in the texts; None where it was not found out.
        clock: outcomes by weekday and hour, where times are known.
        notes: what a reader must know of how it came about.
    """

    source: str
    rows: ContentRows
    places: NDArray[np.int64]
    judged: Judged
    calibrations: Mapping[str, Calibration]
    patterns: ContentPatterns | None
    pattern_rows: NDArray[np.int64]
    features: FeatureSummary | None
    clock: Clock | None
    notes: tuple[str, ...]

    def ranked(self, question: str) -> NDArray[np.int64]:
        """Rows that were judged, the most probable first."""
        p = self.judged.probability(question)
        order = np.argsort(-p, kind="stable")
        return order[: int((~np.isnan(p)).sum())]

    def excerpt(self, row: int, most: int) -> str:
        """The beginning of a row's text, or of its title where it has no text, on one line."""
        contents = self.rows.contents
        return excerpt(contents.text[row] if contents.text[row].strip() else contents.title[row], most)

    def held_up(self) -> str:
        """What is known of how far the probabilities can be trusted, in one sentence."""
        found = ", ".join(f"{one.error:.3f} to end {QUESTIONS[name]}" for name, one in self.calibrations.items())
        trained = "The probabilities are calibrated on the posts that the model was trained with"
        return f"{trained}; their calibration error on these texts is {found}." if found else f"{trained}."

    def examples(self, rows: Sequence[int]) -> list[int]:
        """Positions in `rows` of positions in what patterns were looked for in."""
        return [int(self.pattern_rows[row]) for row in rows if 0 <= row < len(self.pattern_rows)]

    @property
    def has_outcomes(self) -> bool:
        """Whether any row has an outcome."""
        return not bool(np.isnan(self.rows.outcome).all())

    def refusal(self) -> Problem | None:
        """What to say of the rows that were refused, the most frequent reason first; None when there are none."""
        reasons = self.judged.reasons
        if not reasons:
            return None
        details = []
        for reason, rows in sorted(reasons.items(), key=lambda item: -len(item[1]))[:_REASONS_SHOWN]:
            more = f" and {len(rows) - 1:,} more" if len(rows) > 1 else ""
            details.append(f"row {self.places[rows[0]]}{more}: {reason}")
        if len(reasons) > _REASONS_SHOWN:
            details.append(f"and {len(reasons) - _REASONS_SHOWN:,} more reasons")
        message = f"{self.judged.failures:,} of {len(self.rows):,} rows were refused"
        return Problem(message, exit_code=ExitCode.REFUSED, details=details)


def calibrations(rows: ContentRows, judged: Judged) -> tuple[dict[str, Calibration], str]:
    """How the probabilities held up, by question, and what must be said of it."""
    known = truths(rows)
    found = {
        "above_median": calibration(judged.above_median, known.above_median),
        "viral": calibration(judged.viral, known.viral),
    }
    told = {question: one for question, one in found.items() if one is not None}
    note = known.note
    if not told and np.isfinite(known.above_median).any():
        note = "too few rows have an outcome and posts before them to say how the probabilities held up"
    return told, note


def summarize(features: Sequence[ContentFeatures]) -> FeatureSummary | None:
    """What is in texts, counted over many of them; None of none."""
    if not features:
        return None
    n = len(features)
    languages = Counter(one.language.code if one.language is not None else "unknown" for one in features)
    characters = np.quantile([one.characters for one in features], (0, 0.25, 0.5, 0.75, 1)).round().astype(int).tolist()
    ease = [one.reading_ease for one in features if one.reading_ease is not None]
    sentiment = [one.sentiment.compound for one in features if one.sentiment is not None]
    has: dict[str, Callable[[ContentFeatures], object]] = {
        "a link": lambda one: one.links,
        "a mention": lambda one: one.mentions,
        "a hashtag": lambda one: one.hashtags,
        "an emoji": lambda one: one.emoji,
        "an exclamation mark": lambda one: one.exclamation_marks,
        "a question mark": lambda one: one.question_marks,
        "HTML tags": lambda one: one.html_tags,
        "control characters": lambda one: one.control_characters,
        "characters without width": lambda one: one.invisible_characters,
        "right-to-left script": lambda one: one.right_to_left_share > 0.5,
    }
    return FeatureSummary(
        rows=n,
        languages=dict(languages.most_common()),
        characters=(characters[0], characters[1], characters[2], characters[3], characters[4]),
        words=round(float(np.median([one.words for one in features]))),
        share={name: sum(bool(test(one)) for one in features) / n for name, test in has.items()},
        emoji=dict(Counter(emoji for one in features for emoji in set(one.emoji)).most_common(10)),
        hashtags=dict(Counter(tag.lower() for one in features for tag in set(one.hashtags)).most_common(10)),
        reading_ease=float(np.median(ease)) if ease else None,
        sentiment=float(np.mean(sentiment)) if sentiment else None,
    )


def clock(rows: ContentRows) -> Clock | None:
    """Outcomes by weekday and hour; None where no row has both."""
    hour, day = rows.contents.hour_of_day, rows.day_of_week
    timed = (hour != UNKNOWN_HOUR) & (day != UNKNOWN_DAY)
    if not timed.any():
        return None
    score = _standardised(rows)
    cell = day * 24 + hour
    counts = np.bincount(cell[timed], minlength=168)
    known = timed & ~np.isnan(score)
    of = np.bincount(cell[known], minlength=168)
    sums = np.bincount(cell[known], weights=score[known], minlength=168)
    mean = np.where(of >= _CELL_ROWS_MIN, sums / np.maximum(of, 1), np.nan)
    return Clock(rows=counts.reshape(7, 24), known=of.reshape(7, 24), outcome=mean.reshape(7, 24))


def cut_note(contents: Contents, judged: Judged) -> str:
    """What to say of texts that were judged by their beginning; empty where none was."""
    sizes = zip(contents.text, contents.title, strict=True)
    characters = np.array([len(text) + len(title) for text, title in sizes], dtype=np.int64)
    cut = np.flatnonzero(~np.isnan(judged.viral) & (judged.characters_read < characters))
    if not len(cut):
        return ""
    longest = cut[int(np.argmax(characters[cut]))]
    return (
        f"rows judged by the beginning of a long text or title, as the model reads no more: {len(cut):,}; of the"
        f" longest, {judged.characters_read[longest]:,} of {characters[longest]:,} characters were read"
    )


def no_claims(report: ContentReport) -> str:
    """Why nothing is claimed, as it must be said."""
    patterns = report.patterns
    if patterns is None:
        return "What works was not looked for."
    if not report.has_outcomes:
        return "The file holds no outcomes (`outcome`, or forwards, replies and reactions), so nothing can be claimed."
    compared = len(patterns.others)
    if not compared:
        return "There was nothing to compare: " + (" ".join(patterns.notes) or "too few rows have outcomes.")
    return (
        f"Nothing can be told from chance: of what was compared ({compared:,} in all), and after correcting for all "
        "of it, nothing is beyond what luck gives. More rows may show smaller effects."
    )


def claim_label(claim: Claim, patterns: ContentPatterns) -> str:
    """What a claim is about, in a few words: a topic's number says nothing without its words."""
    words = next((topic.words[:3] for topic in patterns.topics if topic.topic == claim.topic), ())
    return f"{claim.subject}: {', '.join(words)}" if words else claim.subject


def claims_shown(patterns: ContentPatterns, most: int) -> list[tuple[Claim, bool]]:
    """Claims with True, filled up with what cannot be told from chance with False, at most so many."""
    shown = [(claim, True) for claim in patterns.claims] + [(claim, False) for claim in patterns.others]
    return shown[:most]


def why(error: MeshError) -> str:
    """Why a row was refused."""
    # A row's own field is its place in a message, which says nothing to someone who gave a file.
    return "; ".join(violation.description for violation in error.violations) or error.message


def _standardised(rows: ContentRows) -> Floats:
    """Outcomes less their channel's mean, over its standard deviation; NaN where unknown, or where all are alike."""
    score = np.full(len(rows), np.nan)
    known = ~np.isnan(rows.outcome)
    outcome, code = rows.outcome[known], np.unique(rows.channel[known], return_inverse=True)[1]
    if len(outcome):
        count = np.bincount(code)
        mean = np.bincount(code, outcome) / count
        gap = outcome - mean[code]
        spread = np.sqrt(np.bincount(code, gap**2) / count)
        differs = spread > 1e-9 * np.abs(mean)  # below, it is what rounding leaves of outcomes that are all alike
        score[known] = np.where(differs[code], gap / np.where(differs, spread, 1.0)[code], np.nan)
    return score
