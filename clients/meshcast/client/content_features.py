"""What is in texts, as values: counts, readability, links, emoji, language and sentiment."""

from dataclasses import dataclass

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentLanguage:
    """The language of a text."""

    code: str
    """ISO 639-1 code, as in `en`."""
    confidence: float
    """How sure it is, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentSentiment:
    """The sentiment of a text."""

    compound: float
    """From -1 (most negative) to 1 (most positive)."""
    positive: float
    """Share of the text that is positive, 0 to 1."""
    neutral: float
    """Share that is neutral, 0 to 1."""
    negative: float
    """Share that is negative, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentFeatures:
    """What is in one text, its title left out."""

    characters: int
    """Length in code points."""
    words: int
    """Words."""
    sentences: int
    """Sentences."""
    lines: int
    """Lines that are not empty."""
    word_characters: float
    """Mean length of a word in code points; 0 without words."""
    reading_ease: float | None
    """Flesch reading ease, about 0 (hard) to 100 (easy); None where the language is not English."""
    reading_grade: float | None
    """Flesch-Kincaid grade, years of school that a reader needs; None as above."""
    links: tuple[str, ...]
    """Web links, as written."""
    mentions: tuple[str, ...]
    """Accounts that are mentioned, as in `@name`."""
    hashtags: tuple[str, ...]
    """Hashtags, as in `#topic`."""
    emoji: tuple[str, ...]
    """Emoji, in order; one that is joined of several counts once."""
    exclamation_marks: int
    """Exclamation marks."""
    question_marks: int
    """Question marks."""
    upper_share: float
    """Share of the cased letters that are upper case, 0 to 1."""
    digit_share: float
    """Share of the characters that are digits, 0 to 1."""
    right_to_left_share: float
    """Share of the letters that are written from right to left, 0 to 1."""
    html_tags: int
    """HTML tags."""
    control_characters: int
    """Control characters other than line ends and tabs."""
    invisible_characters: int
    """Characters without width."""
    scripts: tuple[str, ...]
    """Scripts of its letters, most frequent first, as in `Latin`."""
    language: ContentLanguage | None
    """The language; None where the text does not tell."""
    sentiment: ContentSentiment | None
    """The sentiment; None where the language is not English or there are no words."""
    characters_read: int
    """Characters that language and sentiment were read from, from the beginning."""

    @classmethod
    def of(cls, message: pb.ContentFeatures) -> "ContentFeatures":
        """The value of a message."""
        language, sentiment = message.language, message.sentiment
        return cls(
            characters=message.characters,
            words=message.words,
            sentences=message.sentences,
            lines=message.lines,
            word_characters=message.word_characters,
            reading_ease=message.reading_ease if message.HasField("reading_ease") else None,
            reading_grade=message.reading_grade if message.HasField("reading_grade") else None,
            links=tuple(message.links),
            mentions=tuple(message.mentions),
            hashtags=tuple(message.hashtags),
            emoji=tuple(message.emoji),
            exclamation_marks=message.exclamation_marks,
            question_marks=message.question_marks,
            upper_share=message.upper_share,
            digit_share=message.digit_share,
            right_to_left_share=message.right_to_left_share,
            html_tags=message.html_tags,
            control_characters=message.control_characters,
            invisible_characters=message.invisible_characters,
            scripts=tuple(message.scripts),
            language=(
                ContentLanguage(code=language.code, confidence=language.confidence)
                if message.HasField("language")
                else None
            ),
            sentiment=(
                ContentSentiment(
                    compound=sentiment.compound,
                    positive=sentiment.positive,
                    neutral=sentiment.neutral,
                    negative=sentiment.negative,
                )
                if message.HasField("sentiment")
                else None
            ),
            characters_read=message.characters_read,
        )
