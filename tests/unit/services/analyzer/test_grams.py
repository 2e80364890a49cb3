"""N-grams are those that a slow, plain reading finds, one id each, whatever stands beside a text."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcast.services.analyzer.grams import GRAM_IDS, KIND_IDS, hashed_grams


def plain_pieces(text: str) -> set[str]:
    """Pieces of two to four characters within words that have a space at either end, as `char_wb` cuts them."""
    found = set()
    for word in text.split():
        padded = f" {word} "
        found |= {padded[at : at + size] for size in (2, 3, 4) for at in range(len(padded) - size + 1)}
    return found


def plain_words(text: str) -> list[str]:
    letters = "".join(one if one.isalnum() or one == "_" else " " for one in text)
    return [word for word in letters.split() if len(word) > 1]


def ids(text: str) -> list[int]:
    grams, starts = hashed_grams([text])
    assert starts.tolist() == [0, len(grams)]
    return [int(one) for one in grams]


@pytest.mark.parametrize(
    "text", ["", "a", "ab", "the cat sat", "a b", "  two   spaces ", "new\nline\ttab", "😀", "l'été 2016!"]
)
def test_there_is_an_id_for_each_different_n_gram(text: str) -> None:
    words = plain_words(text)
    pairs = set(pairwise(words))
    found = ids(text)
    assert len([one for one in found if one >= KIND_IDS]) == len(plain_pieces(text))
    assert len([one for one in found if one < KIND_IDS]) == len(set(words)) + len(pairs)


def test_a_word_has_the_same_ids_wherever_it_stands() -> None:
    assert set(ids("cat")) < set(ids("the cat sat")) and set(ids("cat")) < set(ids("cat and dog"))
    assert ids("cat dog") != ids("dog cat")  # the pair differs
    assert set(ids("tac")).isdisjoint(set(ids("cat")))


def test_ids_are_fixed_for_good() -> None:
    """Weights of shipped versions belong to them."""
    assert ids("we won") == FIXED


FIXED = [
    824871,
    834105,
    1004222,
    1124628,
    1195652,
    1201202,
    1206811,
    1217277,
    1228455,
    1388866,
    1434245,
    1521883,
    1551805,
    1590087,
    1832526,
    1985917,
    1987208,
]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=6))
def test_a_text_has_the_same_ids_alone_as_among_others(texts: list[str]) -> None:
    grams, starts = hashed_grams(texts)
    assert len(starts) == len(texts) + 1 and starts[-1] == len(grams)
    assert not len(grams) or (grams.min() > 0 and grams.max() < GRAM_IDS)
    for text, (first, last) in zip(texts, pairwise(starts), strict=True):
        own = grams[first:last]
        assert own.tolist() == ids(text)
        assert (np.diff(own) > 0).all()


@pytest.mark.parametrize("text", ["\ud800 alone", "\x00\x01", "x" * 5_000, "a\u200db" * 400, "\u2028" * 3])
def test_odd_texts_have_ids_too(text: str) -> None:
    assert all(0 < one < GRAM_IDS for one in ids(text))
