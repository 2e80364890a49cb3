"""Spans: what is taken out and what is left, what is tried, and which spans are named."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcast.contents import Contents
from meshcast.services.analyzer.features import READ_CHARS, READ_TITLE_CHARS, rows
from meshcast.services.analyzer.spans import SPANS_MAX, TRIES_MAX, Place, Search, log_odds, variants, without

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
WORDY = st.lists(
    st.sampled_from(["good", "Bad!", "#tag", "👩‍👩‍👧", "你好", "a.b", "\n", "  ", "don't", "हिन्दी"]), max_size=60
).map(" ".join)


def one(text: str, title: str = "") -> Contents:
    return Contents.of([text], title=[title])


def tried_in(contents: Contents) -> list[str]:
    """The spans of every round, where all have the same effect."""
    search, found = Search(contents), []
    while places := search.next_round():
        found += [(contents.text[0], contents.title[0])[place.field][place.start : place.end] for place in places]
        search.learn(places, [0.1] * len(places))
    return found


# --- what is left ---


@pytest.mark.parametrize(
    ("text", "span", "left"),
    [
        ("So very good", "very", "So good"),
        ("very good", "very", "good"),
        ("So very", "very", "So"),
        ("So,good", ",", "So good"),
        ("So (very) good", "very", "So () good"),
        ("first line\nsecond", "line", "first\nsecond"),
        ("first\nline second", "line", "first\nsecond"),
        ("你好世界", "世", "你好 界"),
        ("alone", "alone", ""),
        ("wow!", "!", "wow"),
    ],
)
def test_a_span_goes_and_its_neighbours_stay_apart(text: str, span: str, left: str) -> None:
    start = text.index(span)
    assert without(text, start, start + len(span)) == left


@given(ANY_TEXT, st.data())
def test_no_more_than_a_character_beside_the_span_goes_or_comes(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    left = without(text, start, end)
    assert abs(len(text) - (end - start) - len(left)) <= 1
    assert left.replace(" ", "") in (
        (text[:start] + text[end:]).replace(" ", ""),
        (text[: start - 1] + text[end:]).replace(" ", ""),
        (text[:start] + text[end + 1 :]).replace(" ", ""),
    )


@pytest.mark.parametrize("length_follows", [True, False])
@pytest.mark.parametrize("size", [3, 150, 40_000])
def test_what_the_model_is_asked_is_what_a_caller_would_ask_without_the_span(size: int, length_follows: bool) -> None:
    text = " ".join(f"word{at % 97}" for at in range(size))
    title = " ".join(f"title{at % 13}" for at in range(size // 3))
    declared = None if length_follows else [len(text) + 7]
    contents = Contents.of([text], title=[title], content_length=declared, has_media=[True], hour_of_day=[9])
    places = Search(contents).next_round()
    given = variants(contents, places, length_follows=length_follows)
    texts = [without(text, place.start, place.end) if place.field == 0 else text for place in places]
    titles = [without(title, place.start, place.end) if place.field == 1 else title for place in places]
    count = len(places)
    asked = Contents.of(
        texts,
        title=titles,
        content_length=None if declared is None else declared * count,
        has_media=[True] * count,
        hour_of_day=[9] * count,
    )
    ours, theirs = rows(given), rows(asked)
    for name in ("tokens", "token_starts", "grams", "gram_starts", "extras"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


# --- what is tried ---


def test_words_links_names_emoji_and_loud_marks_are_tried() -> None:
    tried = tried_in(one("Vote NOW! https://t.co/a?b=1 @you #MAGA we don't 👩‍👩‍👧 हिन्दी 你好世界", "A title"))
    for span in (
        "Vote",
        "NOW",
        "!",
        "https://t.co/a?b=1",
        "@you",
        "#MAGA",
        "don't",
        "👩‍👩‍👧",
        "हिन्दी",
        "你好",
        "title",
    ):
        assert span in tried
    assert "Vote NOW" in tried and "we don't 👩‍👩‍👧" in tried
    assert "NOW! https://t.co/a?b=1" not in tried  # a phrase does not go on past the end of a sentence


def test_sentences_are_tried_where_there_are_several() -> None:
    tried = tried_in(one("It is a good day today. We will all be there! Why?"))
    assert "It is a good day today." in tried
    assert "We will all be there!" in tried
    assert "It is a good day today." not in tried_in(one("It is a good day today."))


@pytest.mark.parametrize(
    "text", ["spam " * 100_000, "x" * 1_000_000, "a b " * 500, "😀" * 5_000, "", " \n\t ", "\u200d" * 300, "." * 5_000]
)
def test_the_tries_are_bounded_whatever_the_text(text: str) -> None:
    assert len(tried_in(one(text, "a title"))) <= TRIES_MAX


def test_nothing_past_what_the_model_reads_is_tried() -> None:
    search = Search(one("word " * 1_000, "title " * 1_000))
    while places := search.next_round():
        for place in places:
            assert place.end <= (READ_CHARS, READ_TITLE_CHARS)[place.field]
        search.learn(places, [0.0] * len(places))


def test_in_a_long_text_a_strong_word_is_found_by_looking_closer() -> None:
    text = " ".join("gold" if at == 130 else f"w{at}" for at in range(190))
    contents = one(text)
    at = text.index("gold")
    search, rounds = Search(contents), 0
    while places := search.next_round():
        rounds += 1
        search.learn(places, [1.0 if place.start <= at < place.end else 0.01 for place in places])
    assert rounds == 3
    best = search.strongest(1)[0].place
    assert (best.start, best.end) == (at, at + 4)
    assert search.typical == pytest.approx(0.01)


# --- which are named ---


@settings(max_examples=60, deadline=None)
@given(WORDY | ANY_TEXT, WORDY, st.integers(1, SPANS_MAX), st.integers(0, 99))
def test_named_spans_are_apart_sorted_and_of_the_content(text: str, title: str, most: int, seed: int) -> None:
    contents = one(text, title)
    search, rng = Search(contents), np.random.default_rng(seed)
    while places := search.next_round():
        assert len(set(places)) == len(places)
        search.learn(places, rng.normal(size=len(places)).tolist())
    found = search.strongest(most)
    assert len(found) <= most and search.tried <= TRIES_MAX
    assert [abs(span.effect) for span in found] == sorted((abs(span.effect) for span in found), reverse=True)
    for at, span in enumerate(found):
        assert 0 <= span.place.start < span.place.end <= len((text, title)[span.place.field])
        assert not any(span.place.overlaps(other.place) for other in found[at + 1 :])


def test_a_longer_span_is_named_only_where_it_does_more_than_its_length_explains() -> None:
    search = Search(one("very good"))
    words = search.next_round()
    search.learn(words, [1.0, 0.1])
    (phrase,) = search.next_round()
    search.learn([phrase], [1.2])
    assert [found.place for found in search.strongest(5)] == words
    search.learn([phrase], [2.0])
    assert [found.place for found in search.strongest(5)] == [phrase]


def test_what_moves_nothing_is_not_named() -> None:
    search = Search(one("one two three"))
    places = search.next_round()
    search.learn(places, [0.0, -0.5, 1e-6])
    assert [found.effect for found in search.strongest(5)] == [-0.5]
    assert Search(one("...")).next_round() == []


def test_log_odds_are_finite_at_the_ends() -> None:
    found = log_odds(np.array([0, 0.5, 0.75, 1], dtype=np.float32))
    assert np.isfinite(found).all()
    assert found[1] == 0
    assert found[2] == pytest.approx(np.log(3))


def test_places_of_different_fields_never_overlap() -> None:
    assert Place(0, 0, 5, 1).overlaps(Place(0, 4, 6, 1))
    assert not Place(0, 0, 5, 1).overlaps(Place(1, 0, 5, 1))
    assert not Place(0, 0, 5, 1).overlaps(Place(0, 5, 6, 1))
