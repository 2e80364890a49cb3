"""Traits: those of a post that people would write, and of texts that nobody should."""

import math
import time
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcast.services.analyzer.languages import READ_MAX
from meshcast.services.analyzer.traits import Traits, traits, words_of

MEGABYTE = 1 << 20
PIECES = [
    "love ",
    "a",
    "<",
    "a.b ",
    "www.",
    "http://x ",
    "<!--",
    "<a ",
    "@a",
    "#1_",
    " ",
    "\n",
    "!",
    "a-",
    "\u200d",
    "🇩",
]
PIECES += ["😀", "👨\u200d", "e\u0301", "好。", "สวัสดี", "مرحبا ", "1\u20e3", "\x00", "https://example.com/ "]


def assert_sound(found: Traits) -> None:
    for field in fields(found):
        value = getattr(found, field.name)
        if isinstance(value, float):
            assert math.isfinite(value), field.name
        if field.name.endswith("_share"):
            assert 0 <= value <= 1, field.name
    assert 0 <= found.words <= found.characters
    assert 0 <= found.graphemes <= found.characters
    assert 0 <= found.language.confidence <= 1
    if found.sentiment:
        assert -1 <= found.sentiment.compound <= 1


def test_a_post_is_told_by_its_traits() -> None:
    found = traits(
        "We LOVE this wonderful city! 😍👨‍👩‍👧‍👦\nAre you coming, @mayor? https://example.com/news #bridge",
        "Mayor opens the new bridge",
    )
    assert (found.words, found.sentences, found.lines) == (10, 3, 2)
    assert (found.exclamation_marks, found.question_marks) == (1, 1)
    assert found.links == ("https://example.com/news",)
    assert found.hosts == ("example.com",)
    assert found.mentions == ("@mayor",)
    assert found.hashtags == ("#bridge",)
    assert found.emoji == ("😍", "👨‍👩‍👧‍👦")
    assert found.graphemes == found.characters - 6
    assert found.language.code == "en"
    assert found.scripts == ("Latin",)
    assert found.sentiment is not None
    assert found.sentiment.compound > 0.5
    assert found.reading_ease is not None
    assert found.reading_ease > 60


def test_the_title_tells_the_language_but_not_the_length() -> None:
    found = traits("Wow", "The mayor opens the new bridge over the river today")
    assert (found.characters, found.words) == (3, 1)
    assert found.language.code == "en"


def test_another_language_has_neither_sentiment_nor_readability() -> None:
    found = traits("O prefeito inaugura hoje a nova ponte sobre o rio, que maravilha!")
    assert found.language.code == "pt"
    assert found.sentiment is None
    assert found.reading_ease is None


def test_right_to_left_text() -> None:
    found = traits("שלום עולם, מה שלומך היום")
    assert found.right_to_left_share == 1
    assert found.scripts == ("Hebrew",)


def test_nothing_has_no_traits_and_nothing_goes_wrong() -> None:
    found = traits("")
    assert_sound(found)
    assert (found.characters, found.words, found.sentences, found.lines) == (0, 0, 0, 0)
    assert found.language.code == "und"
    assert found.sentiment is None


def test_words_of_links_and_tags_are_not_counted() -> None:
    assert words_of("<b>Don't</b> see https://example.com/don't www.example.com don't") == {"don't": 2, "see": 1}
    assert words_of("你好 hello") == {"你": 1, "好": 1, "hello": 1}


@pytest.mark.parametrize("step", range(1, 12))
def test_words_of_a_long_text_are_counted_in_parts_as_in_one_go(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [
        "see https://example.com/some/thing and <a href='x y z'> this </a> <b >or <i> that",
        "a < b and c > d http://x.org/<q r>s <no tag <br > http://a>b www.example.com/x",
        "no-space/" * 10,
    ]
    whole = [words_of(text) for text in texts]
    monkeypatch.setattr("meshcast.services.analyzer.traits._STEP", step)
    assert [words_of(text) for text in texts] == whole


@given(st.text(alphabet=st.characters(), max_size=300), st.text(alphabet=st.characters(), max_size=50))
def test_any_text_has_finite_traits(text: str, title: str) -> None:
    assert_sound(traits(text, title))


@given(st.text(alphabet="a.<>@#:/w\u200d\u0301\ufe0f😀🇩1\ud800\x00 \n'-é好ت", max_size=200))
def test_any_mixture_of_marks_has_finite_traits(text: str) -> None:
    assert_sound(traits(text))


@pytest.mark.parametrize("piece", PIECES)
def test_a_megabyte_of_anything_is_measured_in_bounded_time(piece: str) -> None:
    text = piece * (MEGABYTE // len(piece.encode()))
    started = time.thread_time()
    found = traits(text, "title")
    assert time.thread_time() - started < 10  # up to two seconds; what is not linear takes minutes
    assert_sound(found)
    assert found.characters_read == READ_MAX


def test_one_word_repeated_is_told_as_such() -> None:
    found = traits("love " * 100_000)
    assert (found.words, found.top_word, found.top_word_share) == (100_000, "love", 1.0)
    assert found.language.code == "und"
