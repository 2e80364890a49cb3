"""Marks of a post inside its text: links, mentions, hashtags, emoji and HTML tags."""

from functools import cache
from typing import Any
from urllib.parse import urlsplit

import regex

__all__ = ["emoji_in", "hashtags_in", "hosts_of", "links_in", "mentions_in", "tags_in"]

_WORDS_MAX = 5_000  # different words that are asked whether they are links: a third of a second
_LINK_CHARACTERS_MAX = 2_048  # of a link that browsers take
_STRETCH = regex.compile(r"\S+")
_MAYBE_LINK = regex.compile(r"://|\w\.\p{L}")
_MENTION = regex.compile(r"(?<![\w@/.])[@\uFF20](\w(?:[\w.]*\w)?)")
_HASHTAG = regex.compile(r"(?<![\w&#/])[#\uFF03](\w*[^\W\d_]\w*)")
_TAG = regex.compile(r"</?([A-Za-z][A-Za-z0-9]{0,15})(?=[\s/>])[^<>]*>")
_TAG_NAMES = frozenset(
    "a abbr address article aside audio b big blockquote body br button canvas caption center cite code col dd del div "
    "dl dt em embed fieldset figcaption figure font footer form frame h1 h2 h3 h4 h5 h6 head header hr html i iframe "
    "img input ins kbd label legend li link main map mark menu meta nav noscript object ol option p param picture pre "
    "q s samp script section select small source span strike strong style sub summary sup svg table tbody td textarea "
    "tfoot th thead time title tr tt u ul var video wbr".split()
)

# Unicode Technical Standard 51, section 1.4.9; symbols that pictures draw (as a plain heart) count without the
# selector, the signs of copyright and trade marks only with it.
_PICTURE = (
    r"(?:[©®™]\uFE0F|[\p{Emoji_Presentation}||[\p{Extended_Pictographic}&&\p{Emoji}--[©®™]]])"
    r"(?:\p{Emoji_Modifier}|\uFE0F\u20E3?|[\U000E0020-\U000E007E]+\U000E007F)?"
)
_EMOJI = regex.compile(
    rf"\p{{Regional_Indicator}}\p{{Regional_Indicator}}|[0-9#*]\uFE0F?\u20E3|{_PICTURE}(?:\u200D{_PICTURE})*",
    regex.V1,
)


def links_in(text: str) -> list[str]:
    """Web links as they are written, in order: with a scheme, with `www.`, or a bare host as in `example.com/news`.

    Of a text with more than 5,000 different words that could be links, the links among the first 5,000.
    """
    if "." not in text and "://" not in text:
        return []
    found: list[str] = []
    known: dict[str, list[str]] = {}
    for stretch in _STRETCH.finditer(text):
        word = stretch.group()
        if ("." not in word and ":" not in word) or len(word) > _LINK_CHARACTERS_MAX:
            continue
        if word not in known and _MAYBE_LINK.search(word):
            if len(known) >= _WORDS_MAX:
                break
            known[word] = _links_of(word)
        found += known.get(word, ())
    return found


def hosts_of(links: list[str]) -> list[str]:
    """The hosts of links, lower case and without `www.`, each once, in order."""
    hosts: dict[str, None] = {}
    for link in links:
        try:
            host = urlsplit(link if "://" in link else f"//{link}").hostname
        except ValueError:  # as of broken IPv6 addresses
            continue
        if host:
            hosts[host.removeprefix("www.")] = None
    return list(hosts)


def mentions_in(text: str) -> list[str]:
    """Accounts that are mentioned, as in `@name`, in order; addresses of e-mail are none."""
    return [f"@{match[1]}" for match in _MENTION.finditer(text)] if "@" in text or "\uff20" in text else []


def hashtags_in(text: str) -> list[str]:
    """Hashtags, as in `#topic`, in order; one has at least one letter, so `#1` is none."""
    return [f"#{match[1]}" for match in _HASHTAG.finditer(text)] if "#" in text or "\uff03" in text else []


def emoji_in(text: str) -> list[str]:
    """Emoji in order; one that is joined of several, has a skin tone or is a flag counts once."""
    if text.isascii():
        return []
    return [match.group() for match in _EMOJI.finditer(text)]


def tags_in(text: str) -> list[str]:
    """Names of HTML tags in order, opening and closing alike, lower case; `<3` and `<unknown>` are none."""
    if "<" not in text or ">" not in text:
        return []
    names = (match[1].lower() for match in _TAG.finditer(text))
    return [name for name in names if name in _TAG_NAMES]


def _links_of(word: str) -> list[str]:
    """Links in a stretch without white space."""
    matches = _linkify().match(word) or []
    return [match.raw for match in matches if match.schema != "mailto:" and not _is_sentence_end(match)]


def _is_sentence_end(match: Any) -> bool:
    """Whether a bare host is rather two sentences without a space between, as in `then.It`."""
    ending = match.raw.partition("/")[0].rpartition(".")[2]
    return match.schema == "" and ending[:1].isupper() and not match.raw.isupper()


@cache
def _linkify() -> Any:
    from linkify_it import LinkifyIt

    return LinkifyIt(options={"fuzzy_email": False})
