"""How hard an English text is to read, by the lengths of its sentences and words."""

from collections.abc import Mapping
from dataclasses import dataclass

import regex

__all__ = ["Readability", "readability", "syllables"]

_VOWELS = regex.compile(r"[aeiouy]+")
_SILENT = regex.compile(r"(?:[^laeiouy]e|[^aeiouydt]ed|[^aeiouyscxz]es)$")  # as in `made`, `asked`, `makes`
_EASE = (-100.0, 121.22)
_GRADE = (-3.4, 100.0)


@dataclass(frozen=True, slots=True)
class Readability:
    """Two classic scores of an English text."""

    ease: float
    """Flesch reading ease, about 0 (hard) to 100 (easy); clipped to -100 to 121.22."""
    grade: float
    """Flesch-Kincaid grade, the years of school that a reader needs; clipped to -3.4 to 100."""


def readability(words: Mapping[str, int], sentences: int) -> Readability | None:
    """Scores of an English text; None without words.

    Args:
        words: how often each word, lower case, is in the text.
        sentences: of the text, at least 1 where there are words.

    Source: Flesch, A New Readability Yardstick (J. Appl. Psychol. 32, 1948); Kincaid et al., Derivation of New
    Readability Formulas for Navy Enlisted Personnel (1975).
    """
    total = sum(words.values())
    if total == 0:
        return None
    length = total / max(sentences, 1)
    weight = sum(count * syllables(word) for word, count in words.items()) / total
    ease = 206.835 - 1.015 * length - 84.6 * weight
    grade = 0.39 * length + 11.8 * weight - 15.59
    return Readability(min(max(ease, _EASE[0]), _EASE[1]), min(max(grade, _GRADE[0]), _GRADE[1]))


def syllables(word: str) -> int:
    """Syllables of a lower-case English word, at least 1: groups of vowels, less a silent `e` at the end."""
    groups = sum(1 for _ in _VOWELS.finditer(word))
    return max(groups - (1 if _SILENT.search(word) else 0), 1)
