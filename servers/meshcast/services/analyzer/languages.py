"""The language of a text, by Compact Language Detector 2, and whether it can be said at all."""

from dataclasses import dataclass

import regex

__all__ = ["READ_MAX", "UNKNOWN_LANGUAGE", "Language", "language_of"]

READ_MAX = 10_000
"""Characters of a text that language and sentiment are read from; the first of them tell as much as all."""

UNKNOWN_LANGUAGE = "und"
"""Code of the language of a text that does not tell."""

_UNREADABLE = regex.compile(r"[\p{Cc}\p{Cs}\p{Cn}\p{Co}]+")  # the detector refuses some of these as broken UTF-8
_OLD_CODES = {"iw": "he", "in": "id", "ji": "yi", "jw": "jv", "mo": "ro", "zh-Hant": "zh"}


@dataclass(frozen=True, slots=True)
class Language:
    """A language, and how much of the text is in it."""

    code: str
    """ISO 639-1 code, as in `en`; ISO 639-3 where a language has no shorter one; `und` where the text does not tell."""
    confidence: float
    """Share of the text's letters that the detector gives to it, 0 to 1; 0 for `und`."""


def language_of(text: str) -> Language:
    """The main language of a text.

    `und` where the detector does not trust its own answer, as for very short texts, and where no language has half of
    the text.

    Args:
        text: of any length and characters; the first 10,000 are read.
    """
    import pycld2

    readable = _UNREADABLE.sub(" ", text[:READ_MAX]).encode()
    try:
        reliable, _, found = pycld2.detect(readable, isPlainText=True, bestEffort=False)
    except pycld2.error:
        return Language(UNKNOWN_LANGUAGE, 0.0)
    name, code, percent, _ = found[0]
    if not reliable or percent < 50 or code == "un" or code.startswith(("xx", "zz")) or name.startswith("X_"):
        return Language(UNKNOWN_LANGUAGE, 0.0)
    return Language(_OLD_CODES.get(code, code), min(percent / 100, 1.0))
