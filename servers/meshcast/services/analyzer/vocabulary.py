"""The vocabulary of many texts: how often each of them has each word or pair of words, and which words name a group.

Words are read from the beginning of a text and its title. Those that every text of a language has, as `the`, and words
of a single character or of digits alone are left out.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.services.analyzer.languages import language_of
from meshcast.services.analyzer.traits import words_in

__all__ = ["Vocabulary", "names_of", "vocabulary_of"]

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
    from scipy.sparse import csr_array

    stop = _stop_words(text, title)
    spread: Counter[str] = Counter()
    rows: list[Counter[str]] = []
    for own, titled in zip(text, title, strict=True):
        if len(rows) % 500 == 0:
            check()
        terms = Counter(_terms(f"{titled[:READ_MAX]}\n{own}"[:READ_MAX], stop))
        rows.append(terms)
        spread.update(terms.keys())
    least = _SEEN_IN_MIN if len(rows) >= 50 else 2
    kept = sorted(term for term, seen in spread.most_common(_TERMS_MAX) if seen >= least)
    place = {term: at for at, term in enumerate(kept)}
    columns, values, ends = [], [], [0]
    for terms in rows:
        for term, count in terms.items():
            if (at := place.get(term)) is not None:
                columns.append(at)
                values.append(count)
        ends.append(len(columns))
    counts = csr_array(
        (np.array(values, dtype=np.float32), np.array(columns, dtype=np.int32), np.array(ends, dtype=np.int32)),
        shape=(len(rows), len(kept)),
    )
    return Vocabulary(tuple(kept), counts, np.array([" " in term for term in kept], dtype=np.bool_))


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


def _terms(text: str, stop: frozenset[str]) -> Iterator[str]:
    """Words that are no stop words, and pairs of them that stand beside each other."""
    words = [word for word in words_in(text) if len(word) > 1 and not word.isdigit() and word not in stop]
    yield from words
    for first, second in pairwise(words):
        yield f"{first} {second}"


def _stop_words(text: Sequence[str], title: Sequence[str]) -> frozenset[str]:
    """Stop words of the languages that the texts are in, by a sample spread over them."""
    from stop_words import StopWordError, get_stop_words

    step = max(len(text) // _LANGUAGE_ROWS, 1)
    asked = [language_of(f"{text[row]} {title[row]}").code for row in range(0, len(text), step)]
    codes = [code for code, count in Counter(asked).items() if code != "und" and count >= _LANGUAGE_SHARE * len(asked)]
    found: set[str] = set()
    for code in codes or ["en"]:
        try:
            found.update(get_stop_words(code))
        except StopWordError:  # it knows 33 languages
            continue
    return frozenset(found) | {word.replace("'", "\u2019") for word in found if "'" in word}
