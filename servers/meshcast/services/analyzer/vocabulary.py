"""The vocabulary of many texts: how often each of them has each word or pair of words, and which words name a group.

Words are read from the beginning of a text and its title. Those that every text of a language has, as `the`, and words
of a single character or of digits alone are left out.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.services.analyzer.languages import UNKNOWN_LANGUAGE, language_of
from meshcast.services.analyzer.traits import words_in

__all__ = ["Vocabulary", "names_of", "vocabulary_of"]

Ints = NDArray[np.int64]
Ints32 = NDArray[np.int32]

READ_MAX = 2_000
"""Characters of title and text that words are read from."""

_TERMS_MAX = 30_000  # the most widespread; their counts of 10,000 posts are a few MB
_SEEN_IN_MIN = 3  # texts; a rarer word tells nothing of a group
_LANGUAGE_ROWS = 400  # texts whose language is asked for, to know whose stop words to leave out
_LANGUAGE_SHARE = 0.02
_NAME_SHARE = 0.02  # of a group's texts that have a term which names it


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """Terms of n texts.

    Attributes:
        terms: words, and pairs of words that stand beside each other, lower case.
        counts: scipy.sparse CSR, shape (n, len(terms)), float32, how often each text has each term.
        is_pair: shape (len(terms),), True for pairs.
    """

    terms: tuple[str, ...]
    counts: Any
    is_pair: NDArray[np.bool_]


def vocabulary_of(text: Sequence[str], title: Sequence[str], check: Callable[[], None]) -> Vocabulary:
    """The vocabulary of n texts with their titles.

    Args:
        text: n texts.
        title: n titles, empty where there is none.
        check: called between steps; raises to give up.
    """
    from scipy.sparse import csr_array, hstack

    stop = _stop_words(text, title, check)
    numbers: dict[str, int] = {}
    flat, ends = array("i"), [0]
    for row, (own, titled) in enumerate(zip(text, title, strict=True)):
        if row % 200 == 0:
            check()
        words = _words(f"{titled[:READ_MAX]}\n{own}"[:READ_MAX], stop)
        flat.extend([numbers.setdefault(word, len(numbers)) for word in words])
        ends.append(len(flat))
    word = np.array(flat, dtype=np.int64)
    row_of = np.repeat(np.arange(len(text), dtype=np.int32), np.diff(ends))
    least = _SEEN_IN_MIN if len(text) >= 50 else 2
    check()
    of_words = _counted(row_of, word, (len(text), len(numbers)))
    check()
    places, pair = _pairs(word, row_of, _seen_in(of_words) >= least, least)
    of_pairs = _counted(
        row_of[places], np.searchsorted(pair, _keys(word, places, len(numbers))), (len(text), len(pair))
    )
    check()
    seen = np.concatenate([_seen_in(of_words), _seen_in(of_pairs)])
    widest = np.argsort(-seen, kind="stable")[:_TERMS_MAX]
    widest = np.sort(widest[seen[widest] >= least])
    names = list(numbers)
    terms = [
        names[at] if at < len(names) else " ".join(names[one] for one in divmod(int(pair[at - len(names)]), len(names)))
        for at in widest.tolist()
    ]
    order = sorted(range(len(terms)), key=terms.__getitem__)
    counts = csr_array(hstack([of_words, of_pairs], format="csr")[:, widest[order]])
    return Vocabulary(tuple(terms[at] for at in order), counts, widest[order] >= len(names))


def _pairs(word: Ints, row_of: Ints32, is_kept: NDArray[np.bool_], least: int) -> tuple[Ints, Ints]:
    """Places of the first words of pairs that may be terms, and the keys of these pairs in ascending order."""
    places = np.flatnonzero((row_of[:-1] == row_of[1:]) & is_kept[word[:-1]] & is_kept[word[1:]])
    keys = _keys(word, places, len(is_kept))
    pair, count = np.unique(keys, return_counts=True)
    pair = pair[count >= least]
    if not len(pair):
        return places[:0], pair
    found = np.minimum(np.searchsorted(pair, keys), len(pair) - 1)
    return places[pair[found] == keys], pair


def _keys(word: Ints, places: Ints, words: int) -> Ints:
    """One number for each pair of words, that at a place and the next."""
    return np.asarray(word[places] * words + word[places + 1])


def _counted(row: Ints32, term: Ints, shape: tuple[int, int]) -> Any:
    """How often each row has each term: scipy.sparse CSR, float32."""
    from scipy.sparse import coo_array

    return coo_array((np.ones(len(row), dtype=np.float32), (row, term.astype(np.int32))), shape=shape).tocsr()


def _seen_in(counts: Any) -> Ints:
    """Texts that have each term."""
    return np.bincount(counts.indices, minlength=counts.shape[1])


def names_of(vocabulary: Vocabulary, group: NDArray[np.int64], groups: int, *, most: int = 6) -> list[tuple[str, ...]]:
    """The terms that tell each group of texts from the others, most telling first.

    Args:
        vocabulary: of n texts.
        group: shape (n,), number of each text's group.
        groups: how many there are.
        most: terms of each.

    Source: class-based TF-IDF of Grootendorst, BERTopic (arXiv 2203.05794), section 3.3.
    """
    from scipy.sparse import csr_array

    if not vocabulary.terms:
        return [()] * groups
    n = len(group)
    member = csr_array((np.ones(n, dtype=np.float32), (group, np.arange(n))), shape=(groups, n))
    counts = np.asarray((member @ vocabulary.counts).todense(), dtype=np.float64)
    seen_in = np.asarray((member @ (vocabulary.counts > 0).astype(np.float32)).todense())
    size = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    weight = counts / size * np.log1p(size.mean() / np.maximum(counts.sum(axis=0), 1e-9))
    texts = np.bincount(group, minlength=groups)[:, None]
    weight[seen_in < np.maximum(_NAME_SHARE * texts, np.minimum(2, texts))] = 0
    return [_distinct(vocabulary, weight[at], most) for at in range(groups)]


def _distinct(vocabulary: Vocabulary, weight: NDArray[np.float64], most: int) -> tuple[str, ...]:
    """The heaviest terms, without those whose words were all named before."""
    named: list[str] = []
    for at in np.argsort(-weight, kind="stable")[: 5 * most].tolist():
        words = set(vocabulary.terms[at].split())
        if weight[at] <= 0 or len(named) == most:
            break
        if not words <= {word for term in named for word in term.split()}:
            named.append(vocabulary.terms[at])
    return tuple(named)


def _words(text: str, stop: frozenset[str]) -> list[str]:
    """Words that are no stop words."""
    return [word for word in words_in(text) if len(word) > 1 and not word.isdigit() and word not in stop]


def _stop_words(text: Sequence[str], title: Sequence[str], check: Callable[[], None]) -> frozenset[str]:
    """Stop words of the languages that the texts are in, by a sample spread over them."""
    from stop_words import StopWordError, get_stop_words

    step = max(len(text) // _LANGUAGE_ROWS, 1)
    asked = []
    for row in range(0, len(text), step):
        check()
        asked.append(language_of(f"{text[row]} {title[row]}").code)
    codes = [
        code
        for code, count in Counter(asked).items()
        if code != UNKNOWN_LANGUAGE and count >= _LANGUAGE_SHARE * len(asked)
    ]
    found: set[str] = set()
    for code in codes or ["en"]:
        try:
            found.update(get_stop_words(code))
        except StopWordError:  # it knows 33 languages
            continue
    return frozenset(found) | {word.replace("'", "\u2019") for word in found if "'" in word}
