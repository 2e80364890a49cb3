"""Marks in texts: what is one, what only looks like one, and long texts in bounded time."""

import pytest

from meshcast.services.analyzer.marks import emoji_in, hashtags_in, hosts_of, links_in, mentions_in, tags_in


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("see https://example.com/a?b=c#d.", ["https://example.com/a?b=c#d"]),
        ("www.example.org and bit.ly/abc", ["www.example.org", "bit.ly/abc"]),
        ('<a href="https://example.com/x">x</a>', ["https://example.com/x"]),
        ("He left.It rained", []),
        ("mail me@example.com now", []),
        ("3.14 and e.g. this... and v1.2.3", []),
        ("", []),
    ],
)
def test_links_are_found_as_written(text: str, links: list[str]) -> None:
    assert links_in(text) == links


def test_hosts_are_named_once() -> None:
    links = ["https://WWW.Example.com/a", "example.com/b", "http://[broken", "http://user@other.org:80/"]
    assert hosts_of(links) == ["example.com", "other.org"]


def test_mentions_and_hashtags_of_any_script() -> None:
    text = "@foo.bar, (@名前) me@example.com https://x.com/@path #élection #हिन्दी #1 a#b #2016vote &#39;"
    assert mentions_in(text) == ["@foo.bar", "@名前"]
    assert hashtags_in(text) == ["#élection", "#हिन्दी", "#2016vote"]


@pytest.mark.parametrize(
    ("text", "emoji"),
    [
        ("a😍b", ["😍"]),
        ("👨‍👩‍👧‍👦👍🏽", ["👨‍👩‍👧‍👦", "👍🏽"]),
        ("🇩🇪🇫🇷", ["🇩🇪", "🇫🇷"]),
        ("1️⃣ #", ["1️⃣"]),
        ("❤️ ❤ ™ ©️", ["❤️", "❤", "©️"]),
        ("🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", None),
        ("5 * é", []),
    ],
)
def test_an_emoji_that_is_joined_of_several_counts_once(text: str, emoji: list[str] | None) -> None:
    assert emoji_in(text) == (emoji if emoji is not None else [text])


def test_html_tags_are_those_of_html() -> None:
    assert tags_in('<p class="x">Hi<br/> I <3 you, <name> </P>') == ["p", "br", "p"]
    assert tags_in("a < b > c") == []
