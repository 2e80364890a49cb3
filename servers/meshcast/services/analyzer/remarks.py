"""Remarks on contents that are sound but unusual: what a judgement of them should be taken with."""

from collections.abc import Callable

import regex

from meshcast.services.analyzer.traits import Traits, traits

__all__ = ["remarks"]

_REPEATED_WORDS_MIN = 50  # fewer words than these may well be mostly one
_REPEATED_SHARE = 0.5
_INVISIBLE_SHARE = 0.05  # scripts of India and Persian need some, for how letters join
_LATIN_ALIKE = regex.compile(r"\p{Latin}[\p{M}]*[\p{Cyrillic}\p{Greek}]|[\p{Cyrillic}\p{Greek}][\p{M}]*\p{Latin}")


def remarks(
    text: str,
    title: str,
    *,
    field: Callable[[str], str],
    content_length: int | None = None,
    characters_read: int | None = None,
    found: Traits | None = None,
) -> list[tuple[str, str]]:
    """Legal but unusual things about one sound content, as (field, remark).

    Args:
        text: of the content.
        title: of the content; empty where there is none.
        field: names a column (`text`, `title`, `content_length`) in the caller's message.
        content_length: as declared; None where it was not.
        characters_read: of title and text by the model; None where it is not known.
        found: the traits of text and title, if they are known already.
    """
    found = found or traits(text, title)
    place = field("text" if text.strip() else "title")
    told: list[tuple[str, str]] = []

    def tell(description: str, at: str = place) -> None:
        told.append((at, description))

    total = len(text) + len(title)
    if characters_read is not None and characters_read < total:
        tell(f"has {total} characters with its title; the model reads the first {characters_read}")
    if content_length is not None and content_length < len(text):
        tell(f"is {content_length}, less than the {len(text)} characters of the text", field("content_length"))
    if found.html_tags:
        names = ", ".join(dict.fromkeys(found.html_tags[:5]))
        tell(f"has {_count(len(found.html_tags), 'HTML tag')} ({names}); the model takes them for text")
    if found.control_characters:
        tell(f"has {_count(found.control_characters, 'control character')}, which no reader sees")
    if found.invisible_characters > max(2, _INVISIBLE_SHARE * found.characters):
        tell(f"has {found.invisible_characters} characters without width, which no reader sees")
    if "\ufffd" in text or "\ufffd" in title:
        tell("has replacement characters (U+FFFD): it was read in a wrong encoding")
    if {"Latin"} < set(found.scripts) and _LATIN_ALIKE.search(f"{text}\n{title}"):
        tell("mixes scripts whose letters look alike inside of a word, as Latin and Cyrillic")
    if found.words >= _REPEATED_WORDS_MIN and found.top_word_share > _REPEATED_SHARE:
        tell(f"is mostly one word: {100 * found.top_word_share:.0f} % of its {found.words} words")
    if not found.words and text.strip():
        what = "emoji" if found.emoji else "links" if found.links else "signs"
        tell(f"has no words, only {what}")
    return told


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
