"""Spans of a content that move its judgement, found by taking them out and asking the model again.

The effect of a span is what the answer loses when the span alone is missing: an intervention on the text that the
model really reads, not a property of its weights, so anybody can repeat it by `without` and a second question. Which
spans are tried is a search, from coarse to fine where a text is long; what is found is measured whatever the search
was.

Source: occlusion after Zeiler and Fergus, Visualizing and Understanding Convolutional Networks (ECCV 2014), on words as
    in Li, Monroe, Jurafsky, Understanding Neural Networks through Representation Erasure (2016).
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import regex
from numpy.typing import NDArray

from meshcast.contents import Contents
from meshcast.services.analyzer.features import READ_CHARS, READ_TITLE_CHARS

__all__ = ["SPANS_DEFAULT", "SPANS_MAX", "TRIES_MAX", "Found", "Place", "Search", "log_odds", "variants", "without"]

SPANS_DEFAULT, SPANS_MAX = 5, 32
"""Spans that are named where the caller does not say how many, and at most."""

TRIES_MAX = 128
"""Spans that are tried at most: two runs of the model."""

_FIELDS = ("text", "title")
_READ = (READ_CHARS, READ_TITLE_CHARS)
_FINE_MAX = 72  # parts of a content that are all tried one by one; with more, chunks of them are tried first
_CHUNKS = 32
_PHRASE_PARTS = (2, 3)
_SENTENCES_MAX = 12
_SENTENCE_PARTS_MIN = 4
_EFFECT_MIN = 1e-4  # log-odds; below it nothing was moved: back-ends differ by as much
_PROBABILITY_MIN = 1e-7

# What is tried by itself: links, names, hashtags, words, runs of emoji and other signs, loud marks. Scripts without
# spaces between words go by two characters, and endless words by 48.
_PART = regex.compile(
    r"(?:https?://|www[.])\S{1,512}"
    r"|[@#][\p{L}\p{M}\p{N}_]{1,63}"
    r"|[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
    r"(?:[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*)?"
    r"|[\p{L}\p{N}_](?:[\p{L}\p{M}\p{N}_]|['\u2019\u200C\u200D-](?=[\p{L}\p{N}])){0,47}"
    r"|[\p{S}\u200D\uFE0F\p{Emoji_Modifier}]+"
    r"|[!?\uFF01\uFF1F\u203C\u2049]+"
)
_STOPS = regex.compile(r"[.!?\u2026\u3002\uFF01\uFF1F\u061F\u0964\n\r]")


class Place(NamedTuple):
    """Where a span stands.

    Attributes:
        field: 0 the text, 1 the title.
        start: its first code point.
        end: its end, exclusive.
        parts: words and the like in it.
        is_named: True where it may be an answer; else it only says where to look closer.
    """

    field: int
    start: int
    end: int
    parts: int
    is_named: bool = True

    def overlaps(self, other: "Place") -> bool:
        """True when both have a character in common."""
        return self.field == other.field and self.start < other.end and other.start < self.end


class Found(NamedTuple):
    """A span with what it does: the log-odds with it less those without it."""

    place: Place
    effect: float


def without(text: str, start: int, end: int) -> str:
    """The text without a span: what the effect of a span is measured by.

    Of two white spaces that meet one goes, and so does one that would begin or end the text; words that would grow
    together get a space between them.

    >>> without("So very good", 3, 7), without("so,good", 2, 3), without("So good", 0, 2)
    ('So good', 'so good', 'good')

    Args:
        text: any.
        start: first code point of the span.
        end: its end, exclusive.
    """
    before, after = text[:start], text[end:]
    opens, closes = before[-1:].isspace(), after[:1].isspace()
    if opens and (closes or not after):
        # A line's end says more than a space.
        if after and before[-1] in "\n\r" and after[0] not in "\n\r":
            return before + after[1:]
        return before[:-1] + after
    if closes and not before:
        return after[1:]
    if before and after and _is_word(before[-1]) and _is_word(after[0]):
        return f"{before} {after}"
    return before + after


def variants(contents: Contents, places: Sequence[Place], *, length_follows: bool) -> Contents:
    """The content without each of the spans, one row a span, cut to what the model can read.

    Args:
        contents: one row.
        places: spans of it.
        length_follows: True to let the stated length be that of what is left; False where the caller declared it.
    """
    fields: tuple[list[str], list[str]] = ([], [])
    lengths = []
    own = (contents.text[0], contents.title[0])
    for place in places:
        for field, (text, read) in enumerate(zip(own, _READ, strict=True)):
            if field != place.field:
                fields[field].append(text[:read])
                continue
            # No more than one character beside the span goes, so this is what is read of the whole.
            head = text[: max(place.end, read) + place.end - place.start + 2]
            left = without(head, place.start, place.end)
            fields[field].append(left[:read])
            if field == 0:
                lengths.append(len(text) + len(left) - len(head))
        if place.field:
            lengths.append(len(own[0]))
    count = len(places)
    declared = np.repeat(contents.content_length, count)
    return Contents(
        text=tuple(fields[0]),
        title=tuple(fields[1]),
        content_length=np.array(lengths, dtype=np.int64) if length_follows else declared,
        has_media=np.repeat(contents.has_media, count),
        hour_of_day=np.repeat(contents.hour_of_day, count),
    )


def log_odds(probability: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-odds of probabilities, of any shape; finite."""
    p = np.clip(probability.astype(np.float64), _PROBABILITY_MIN, 1 - _PROBABILITY_MIN)
    odds: NDArray[np.float64] = np.log(p) - np.log1p(-p)
    return odds


class Search:
    """The search for the spans that matter, round after round.

        search = Search(contents)
        while places := search.next_round():
            search.learn(places, effects)

    Args:
        contents: one row.
    """

    def __init__(self, contents: Contents) -> None:
        self._sentences: list[list[Place]] = []
        self._long: list[tuple[Place, list[Place]]] = []  # sentences that may be answers, with their parts
        for field, (column, read) in enumerate(zip(_FIELDS, _READ, strict=True)):
            self._divide(field, getattr(contents, column)[0][:read])
        self._parts = [part for sentence in self._sentences for part in sentence]
        self._parts_of: dict[Place, list[Place]] = {}  # chunks, of a content with too many parts to try them all
        self._effects: dict[Place, float] = {}
        self._round = 0 if len(self._parts) > _FINE_MAX else 1

    @property
    def parts(self) -> Sequence[Place]:
        """The words and the like that the content is made of, those of the text first."""
        return self._parts

    @property
    def tried(self) -> int:
        """How many spans have been tried."""
        return len(self._effects)

    @property
    def typical(self) -> float:
        """Median size of the effects so far, in log-odds; 0 before any."""
        return float(np.median(np.abs(list(self._effects.values())))) if self._effects else 0.0

    def next_round(self) -> list[Place]:
        """The spans to be tried next; none when the search is over."""
        while self._round <= 2:
            places = (self._chunks, self._fine, self._phrases)[self._round]()
            self._round += 1
            room = TRIES_MAX - self.tried
            if new := [place for place in dict.fromkeys(places) if place not in self._effects][:room]:
                return new
        return []

    def learn(self, places: Sequence[Place], effects: Iterable[float]) -> None:
        """Takes the effects of a round, in log-odds."""
        self._effects.update(zip(places, effects, strict=True))

    def strongest(self, most: int) -> list[Found]:
        """The spans that move the judgement most, strongest first; they do not overlap.

        Of spans that overlap the shorter one is taken unless the longer one does more than its length explains, as the
        root of its words.

        Args:
            most: how many at most.
        """
        named = [Found(place, effect) for place, effect in self._effects.items() if place.is_named]
        named = [found for found in named if abs(found.effect) > _EFFECT_MIN]
        named.sort(key=lambda found: -abs(found.effect) / found.place.parts**0.5)
        taken: list[Found] = []
        for found in named:
            if len(taken) < most and not any(found.place.overlaps(one.place) for one in taken):
                taken.append(found)
        return sorted(taken, key=lambda found: (-abs(found.effect), found.place))

    def _divide(self, field: int, text: str) -> None:
        """Adds the parts of a field by sentence, and the sentences."""
        parts = [Place(field, match.start(), match.end(), 1) for match in _PART.finditer(text)]
        if not parts:
            return
        sentences = [[parts[0]]]
        for last, part in pairwise(parts):
            if _STOPS.search(text, last.end, part.start) or _STOPS.match(text, last.start):
                sentences.append([])
            sentences[-1].append(part)
        self._sentences += sentences
        if len(sentences) > 1:
            ends = [len(text[: after[0].start].rstrip()) for after in sentences[1:]] + [len(text.rstrip())]
            self._long += [
                (Place(field, sentence[0].start, end, len(sentence)), sentence)
                for sentence, end in zip(sentences, ends, strict=True)
                if len(sentence) >= _SENTENCE_PARTS_MIN
            ]

    def _chunks(self) -> list[Place]:
        """The whole content in about equal chunks of parts."""
        size = -(-len(self._parts) // _CHUNKS)
        for field in range(len(_FIELDS)):
            parts = [part for part in self._parts if part.field == field]
            for at in range(0, len(parts), size):
                chunk = parts[at : at + size]
                place = Place(field, chunk[0].start, chunk[-1].end, len(chunk), is_named=False)
                self._parts_of[place] = chunk
        return list(self._parts_of)

    def _fine(self) -> list[Place]:
        """The parts, or those in the strongest chunks."""
        if not self._parts_of:
            return self._parts
        chunks = sorted(self._parts_of, key=lambda place: -abs(self._effects[place]))
        return [part for chunk in chunks for part in self._parts_of[chunk]][:_FINE_MAX]

    def _phrases(self) -> list[Place]:
        """Sentences and phrases around the strongest parts, the most promising first."""
        phrases: dict[Place, float] = {}
        for sentence in self._sentences:
            sizes = [abs(self._effects[part]) if part in self._effects else None for part in sentence]
            for parts in _PHRASE_PARTS:
                for at in range(len(sentence) - parts + 1):
                    known = [size for size in sizes[at : at + parts] if size is not None]
                    if len(known) == parts:
                        first, last = sentence[at], sentence[at + parts - 1]
                        phrases[Place(first.field, first.start, last.end, parts)] = max(known)
        sentences: dict[Place, float] = {}
        for span, parts_of in self._long:
            known = [abs(self._effects[part]) for part in parts_of if part in self._effects]
            if known:
                sentences[span] = max(known)
        best = sorted(sentences, key=lambda span: (-sentences[span], span))
        return best[:_SENTENCES_MAX] + sorted(phrases, key=lambda phrase: (-phrases[phrase], phrase))


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
