"""Characters of a text by what they are: scripts, directions, case, digits, and what no reader sees."""

from collections import Counter
from dataclasses import dataclass

import regex

__all__ = ["Characters", "characters_of"]

# The scripts of living languages, by their Unicode names; a letter of any other counts as `Other`.
_SCRIPTS = (
    "Latin Cyrillic Greek Arabic Hebrew Han Hiragana Katakana Hangul Devanagari Bengali Gurmukhi Gujarati Oriya Tamil "
    "Telugu Kannada Malayalam Sinhala Thai Lao Tibetan Myanmar Georgian Armenian Ethiopic Khmer Mongolian Cherokee "
    "Canadian_Aboriginal Bopomofo Thaana Syriac Nko Tifinagh Yi Javanese Balinese Sundanese Adlam"
).split()
_RIGHT_TO_LEFT = regex.compile(r"[\p{Bidi_Class=R}\p{Bidi_Class=AL}]")
_SCRIPT = regex.compile("|".join(rf"(?P<{name}>\p{{Script={name}}})" for name in _SCRIPTS))
_LETTER = regex.compile(r"\p{L}")
_CONTROL = regex.compile(r"[\p{Cc}--[\t\n\r\f\v\x85]]", regex.V1)
# Format characters and fillers that draw nothing; variation selectors are part of an emoji or of a letter's form.
_INVISIBLE = regex.compile(r"[[\p{Cf}\u034F\u115F\u1160\u17B4\u17B5\u3164\uFFA0]--[\U000E0020-\U000E007F]]", regex.V1)
_JOINED = regex.compile(r"(?<=[\p{Emoji}\uFE0F])\u200D(?=\p{Emoji})")
_STEP = 1 << 16  # characters counted in one go, so that other threads get a turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Characters:
    """What the characters of a text are; counts are of code points."""

    scripts: dict[str, int]
    """Letters by script, most first, by Unicode names as in `Latin`; `Common` letters, as mathematical ones, are left
    out, and scripts of dead languages are `Other`."""
    letters: int
    """Letters of any script."""
    right_to_left: int
    """Letters that are written from right to left."""
    upper: int
    """Upper-case letters."""
    lower: int
    """Lower-case letters."""
    digits: int
    """Decimal digits of any script."""
    control: int
    """Control characters other than line ends and tabs."""
    invisible: int
    """Characters without width, as zero-width spaces and marks of direction; the joiners inside of emoji left out."""


def characters_of(text: str) -> Characters:
    """Counts the characters of a text by what they are; each different one is looked at once."""
    counted: Counter[str] = Counter()
    for start in range(0, len(text), _STEP):
        counted.update(text[start : start + _STEP])
    scripts: Counter[str] = Counter()
    letters = right_to_left = upper = lower = digits = control = invisible = 0
    for character, count in counted.items():
        if _LETTER.match(character):
            letters += count
            right_to_left += count if _RIGHT_TO_LEFT.match(character) else 0
            upper += count if character.isupper() else 0
            lower += count if character.islower() else 0
            found = _SCRIPT.match(character)
            name = found.lastgroup if found else None
            if name or not _is_common(character):
                scripts[(name or "Other").replace("_", " ")] += count
        elif character.isdecimal():
            digits += count
        elif _CONTROL.match(character):
            control += count
        elif _INVISIBLE.match(character):
            invisible += count
    joined = sum(1 for _ in _JOINED.finditer(text)) if "\u200d" in counted else 0
    return Characters(
        scripts=dict(scripts.most_common()),
        letters=letters,
        right_to_left=right_to_left,
        upper=upper,
        lower=lower,
        digits=digits,
        control=control,
        invisible=invisible - joined,
    )


_COMMON = regex.compile(r"[\p{Script=Common}\p{Script=Inherited}]")


def _is_common(character: str) -> bool:
    return _COMMON.match(character) is not None
