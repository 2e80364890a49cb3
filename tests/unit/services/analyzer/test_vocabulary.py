"""The vocabulary of texts, and the words that name a group."""

import numpy as np

from meshcast.services.analyzer.vocabulary import names_of, vocabulary_of

TEXTS = ["The new bridge over the river", "A bridge was built", "The old bridge", "Cats like the sun", "Two cats"]


def test_stop_words_digits_and_links_are_no_terms() -> None:
    found = vocabulary_of([*TEXTS, "cats 42 https://cats.com/bridge"], [""] * 6, lambda: None)
    assert {"bridge", "cats"} <= set(found.terms)
    assert not {"the", "over", "42", "https", "com"} & set(found.terms)
    assert found.counts.shape == (6, len(found.terms))
    assert found.counts[[5], [found.terms.index("bridge")]].sum() == 0


def test_titles_count_as_text() -> None:
    found = vocabulary_of(["", "bridge"], ["bridge", ""], lambda: None)
    assert found.terms == ("bridge",)


def test_words_and_pairs_are_counted_and_never_across_texts() -> None:
    texts = ["red bridge, red bridge", "red bridge", "bridge", "blue"]
    found = vocabulary_of(texts, ["", "", "", "bridge"], lambda: None)
    assert found.terms == ("bridge", "red", "red bridge")
    assert found.is_pair.tolist() == [False, False, True]
    assert found.counts.toarray().tolist() == [[2, 2, 2], [1, 1, 1], [1, 0, 0], [1, 0, 0]]


def test_a_group_is_named_by_what_others_have_not() -> None:
    texts = ["red bridge today", "bridge closed today", "cats sleep today", "cats play today"]
    found = vocabulary_of(texts, [""] * 4, lambda: None)
    names = names_of(found, np.array([0, 0, 1, 1]), 2)
    assert names[0][0] == "bridge"
    assert names[1][0] == "cats"


def test_texts_without_words_have_no_names() -> None:
    found = vocabulary_of(["😀", "!"], ["", ""], lambda: None)
    assert found.terms == ()
    assert names_of(found, np.array([0, 1]), 2) == [(), ()]
