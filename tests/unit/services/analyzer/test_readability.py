"""Readability: the classic formulas on sentences whose syllables are known."""

from collections import Counter

import pytest

from meshcast.services.analyzer.readability import readability, syllables


@pytest.mark.parametrize(
    ("word", "count"),
    [("cat", 1), ("made", 1), ("table", 2), ("asked", 1), ("wanted", 2), ("reading", 2), ("people", 2), ("rhythm", 1)],
)
def test_syllables_of_common_words(word: str, count: int) -> None:
    assert syllables(word) == count


def test_the_formulas_of_a_sentence_counted_by_hand() -> None:
    found = readability(Counter("the cat sat on the mat".split()), 1)
    assert found is not None
    assert found.ease == pytest.approx(206.835 - 1.015 * 6 - 84.6)
    assert found.grade == pytest.approx(0.39 * 6 + 11.8 - 15.59)


def test_no_words_have_no_score_and_endless_sentences_a_bounded_one() -> None:
    assert readability(Counter(), 0) is None
    endless = readability(Counter({"love": 100_000}), 1)
    assert endless is not None
    assert (endless.ease, endless.grade) == (-100, 100)
