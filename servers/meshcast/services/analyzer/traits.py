"""Traits of a text: what is in it, counted and measured without any model.

    found = traits("Vote NOW! https://example.com #election")
    found.hashtags, found.language.code

Counts are of the text alone. Language, sentiment and scripts are those of text and title together, since a post that
links to an article often says in the title what it is about. Every text has traits: nothing in it raises.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import regex

from meshcast.contents import Contents
from meshcast.rpc.errors import Cancelled
from meshcast.services.analyzer.languages import READ_MAX, Language, language_of
from meshcast.services.analyzer.marks import emoji_in, hashtags_in, hosts_of, links_in, mentions_in, tags_in
from meshcast.services.analyzer.readability import readability
from meshcast.services.analyzer.scripts import characters_of
from meshcast.services.analyzer.sentiments import Sentiment, sentiment_of

__all__ = ["Traits", "traits", "traits_of", "words_in", "words_of"]

# In scripts without spaces between words, a character of Chinese or Japanese counts as a word.
_ALONE = r"[\p{Han}\p{Hiragana}\p{Katakana}]"
_PART = rf"[\p{{L}}\p{{N}}--{_ALONE}][\p{{L}}\p{{M}}\p{{N}}--{_ALONE}]*"
_WORD = regex.compile(rf"[\p{{Han}}\p{{Hiragana}}]|\p{{Katakana}}+|{_PART}(?:['\u2019\u200C\u200D-]{_PART})*", regex.V1)
_SENTENCE = regex.compile(r"(?:[^.!?\u2026\u3002\uFF01\uFF1F\u061F\u0964\n\r]|[.](?=\w))+")
_LETTER = regex.compile(r"[\p{L}\p{N}]")
# Of a run of plain characters only the last can have marks. Flags have a case of their own, or a long run of them would
# be read from its start for each.
_CLUSTERS = regex.compile(r"(?P<plain>[ -~]+)(?=[ -~])|\p{RI}\p{RI}?[\p{GCB=Extend}\p{GCB=ZWJ}\p{GCB=SpacingMark}]*|\X")
_WORDLESS = regex.compile(r"https?://\S*|www[.]\S*|\b\w{1,63}[.]\p{L}{2,6}/\S*|<[^<>]*>")
_SPACE, _TAG_END = regex.compile(r"\s"), regex.compile("[<>]")
_STEP = 1 << 16  # characters of a part of a text, unless it has no white space
_NO_LANGUAGE = regex.compile(rf"{_WORDLESS.pattern}|(?<!\w)[@#]\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What is in a text."""

    characters: int
    """Length in code points."""
    graphemes: int
    """Length in characters as readers see them: a letter with its marks or a joined emoji is one."""
    words: int
    """Words; a character of Chinese or Japanese counts as one."""
    sentences: int
    """Sentences: stretches with a word in them, up to an end mark or the end of a line."""
    lines: int
    """Lines that are not empty."""
    word_characters: float
    """Mean length of a word in code points; 0 without words."""
    top_word: str
    """The most frequent word, lower case; empty without words."""
    top_word_share: float
    """Share of the words that it is, 0 to 1."""
    reading_ease: float | None
    """Flesch reading ease; None where the language is not English or there are no words."""
    reading_grade: float | None
    """Flesch-Kincaid grade; None as above."""
    links: tuple[str, ...]
    """Web links as written, in order."""
    hosts: tuple[str, ...]
    """Their hosts, each once, in order."""
    mentions: tuple[str, ...]
    """Accounts, as in `@name`, in order."""
    hashtags: tuple[str, ...]
    """As in `#topic`, in order."""
    emoji: tuple[str, ...]
    """In order; one that is joined of several counts once."""
    exclamation_marks: int
    """Exclamation marks of any script."""
    question_marks: int
    """Question marks of any script."""
    upper_share: float
    """Share of the cased letters that are upper case, 0 to 1; 0 without such letters."""
    digit_share: float
    """Share of the characters that are digits, 0 to 1."""
    right_to_left_share: float
    """Share of the letters that are written from right to left, 0 to 1."""
    html_tags: tuple[str, ...]
    """Names of HTML tags in order, opening and closing ones alike."""
    control_characters: int
    """Control characters other than line ends and tabs."""
    invisible_characters: int
    """Characters without width."""
    scripts: tuple[str, ...]
    """Scripts of the letters of text and title, most frequent first, by Unicode names as in `Latin`."""
    language: Language
    """The language of text and title; `und` where they do not tell."""
    sentiment: Sentiment | None
    """The sentiment of text and title; None where their language is not English or there are no words."""
    characters_read: int
    """Characters of text and title that language and sentiment were read from, from the beginning."""


def traits(text: str, title: str = "") -> Traits:
    """What is in a text.

    Args:
        text: any string; 1 MB takes up to two seconds.
        title: of what the post links to; only language, sentiment and scripts take it in.
    """
    whole = f"{text}\n{title}" if text and title else text or title
    head = whole[:READ_MAX]
    own = characters_of(text)
    words = words_of(text)
    count = sum(words.values())
    sentences = sum(1 for stretch in _SENTENCE.finditer(text) if _LETTER.search(stretch.group()))
    language = language_of(_NO_LANGUAGE.sub(" ", head))
    is_english = language.code == "en"
    ease = readability(words, sentences) if is_english else None
    has_words = count > 0 or _WORD.search(title[:READ_MAX]) is not None
    top_word, top_count = words.most_common(1)[0] if words else ("", 0)
    links = links_in(text)
    cased = own.upper + own.lower
    return Traits(
        characters=len(text),
        graphemes=_graphemes(text),
        words=count,
        sentences=sentences,
        lines=sum(1 for line in text.splitlines() if line.strip()),
        word_characters=sum(len(word) * times for word, times in words.items()) / count if count else 0.0,
        top_word=top_word,
        top_word_share=top_count / count if count else 0.0,
        reading_ease=ease.ease if ease else None,
        reading_grade=ease.grade if ease else None,
        links=tuple(links),
        hosts=tuple(hosts_of(links)),
        mentions=tuple(mentions_in(text)),
        hashtags=tuple(hashtags_in(text)),
        emoji=tuple(emoji_in(text)),
        exclamation_marks=sum(text.count(mark) for mark in "!\u203c\uff01"),
        question_marks=sum(text.count(mark) for mark in "?\u037e\u055e\u061f\uff1f"),
        upper_share=own.upper / cased if cased else 0.0,
        digit_share=own.digits / len(text) if text else 0.0,
        right_to_left_share=own.right_to_left / own.letters if own.letters else 0.0,
        html_tags=tuple(tags_in(text)),
        control_characters=own.control,
        invisible_characters=own.invisible,
        scripts=tuple((characters_of(whole) if title else own).scripts),
        language=language,
        sentiment=sentiment_of(head) if is_english and has_words else None,
        characters_read=len(head),
    )


def traits_of(contents: Contents, is_over: Callable[[], bool]) -> list[Traits]:
    """What is in each of several texts.

    Args:
        contents: the texts with their titles.
        is_over: asked between texts; true once nobody waits for the traits.

    Raises:
        Cancelled: `is_over`.
    """
    found = []
    for text, title in zip(contents.text, contents.title, strict=True):
        if is_over():
            raise Cancelled("nobody waits for the features any longer")
        found.append(traits(text, title))
    return found


def words_of(text: str) -> Counter[str]:
    """How often each word, lower case, is in a text; those inside of links and of HTML tags are left out."""
    return Counter(words_in(text))


def words_in(text: str) -> Iterator[str]:
    """The words of a text in order, lower case, without those inside of links and of HTML tags."""
    if "/" in text or "www." in text or "<" in text:
        text = "".join([_WORDLESS.sub(" ", part) for part in _parts(text)])
    return (match.group() for match in _WORD.finditer(text.lower()))


def _parts(text: str) -> Iterator[str]:
    """A text in parts that no link and no HTML tag reaches across, so that other threads get a turn between them."""
    start = 0
    while start < len(text):
        end = min(start + _STEP, len(text))
        while (space := _SPACE.search(text, end)) is not None:
            end = space.start()
            opened = text.rfind("<", start, end)
            if opened <= text.rfind(">", start, end) or (closed := _TAG_END.search(text, end)) is None:
                break
            if closed.group() == "<":
                break  # what was opened is no tag
            end = closed.end()
        else:
            end = len(text)
        yield text[start:end]
        start = end


def _graphemes(text: str) -> int:
    """Grapheme clusters of a text.

    Source: Unicode Standard Annex 29.
    """
    if text.isascii():
        return len(text) - text.count("\r\n")
    return sum(len(match.group()) if match.lastgroup else 1 for match in _CLUSTERS.finditer(text))
