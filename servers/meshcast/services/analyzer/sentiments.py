"""The sentiment of an English text, by the lexicon and rules of VADER."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from meshcast.services.analyzer.languages import READ_MAX

__all__ = ["Sentiment", "sentiment_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentiment:
    """How a text feels; the three shares add up to 1, or are all 0 where no word was looked at."""

    compound: float
    """From -1 (most negative) to 1 (most positive)."""
    positive: float
    """Share of the text that is positive, 0 to 1."""
    neutral: float
    """Share that is neutral, 0 to 1."""
    negative: float
    """Share that is negative, 0 to 1."""


def sentiment_of(text: str) -> Sentiment:
    """The sentiment of a text; a text in another language than English is neutral but for its emoji.

    Args:
        text: of any length; the first 10,000 characters are read.

    Source: Hutto and Gilbert, VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text
    (ICWSM 2014).
    """
    scores = _analyzer().polarity_scores(text[:READ_MAX])
    return Sentiment(
        compound=float(scores["compound"]),
        positive=float(scores["pos"]),
        neutral=float(scores["neu"]),
        negative=float(scores["neg"]),
    )


@cache
def _analyzer() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
