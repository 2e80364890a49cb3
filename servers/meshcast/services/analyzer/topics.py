"""Topics: clusters of texts that are about the same, found without any look at how well the texts did.

Texts are vectors: embeddings where the caller has them, else the frequencies of their words in few dimensions. They
are put into clusters by their direction alone (spherical k-means), words then say once more which text belongs where,
and the clusters are joined into a tree of wider and wider topics. Which branches of the tree are told as topics is
decided later, see `Tree.cut`. Everything is seeded: the same texts have the same topics.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshcast.services.analyzer.vocabulary import Vocabulary, names_of, vocabulary_of

__all__ = ["Topic", "Topics", "Tree", "find_topics", "topics_count"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_DIMENSIONS = 64  # of word frequencies; more of them are noise to k-means
_STARTS = 4
_STEPS = 50
_MIXTURE_STEPS = 15
_SMOOTHING = 2.0  # words of a mean topic, spread as in all texts, that each topic has before any text is seen
_EXAMPLES = 5
_WIDEST = 0.4  # share of the texts up to which a joined branch is a topic: a wider one is what a narrower one is not


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """Texts that are about the same."""

    words: tuple[str, ...]
    """Words that tell it from the others, most telling first; at most 6, none where the texts have no words."""
    rows: int
    """Rows of it."""
    share: float
    """Share of all rows, 0 to 1."""
    examples: tuple[int, ...]
    """Rows at its centre, 0-based positions, nearest first, at most 5."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Topics:
    """Topics that hold every text once.

    Attributes:
        topics: largest first.
        row_topics: shape (n,), int64, number of each row's topic.
        branches: the tree's branch that each topic is.
    """

    topics: tuple[Topic, ...]
    row_topics: Ints
    branches: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tree:
    """Clusters of n texts, and how they join into wider ones.

    Attributes:
        leaf: shape (n,), int64, number of each row's cluster, from 0.
        branches: numbers of the clusters in each branch; first each cluster alone, then joined ones.
        vectors: shape (n, d), float32, of length 1.
        vocabulary: of the texts.
    """

    leaf: Ints
    branches: tuple[frozenset[int], ...]
    vectors: Floats
    vocabulary: Vocabulary

    def has(self, branch: int) -> NDArray[np.bool_]:
        """Which rows are of a branch, shape (n,)."""
        return np.isin(self.leaf, list(self.branches[branch]))

    def cut(self, wanted: Sequence[int]) -> Topics:
        """Topics that hold every text once: the wanted branches, and the clusters that are in none of them.

        Args:
            wanted: branches, most wanted first; one that overlaps with one before it is left out.
        """
        kept: list[int] = []
        for branch in [*wanted, *range(self.leaf.max() + 1)]:
            if all(self.branches[branch].isdisjoint(self.branches[other]) for other in kept):
                kept.append(branch)
        members = [np.flatnonzero(self.has(branch)) for branch in kept]
        order = sorted(range(len(kept)), key=lambda at: (-len(members[at]), kept[at]))
        row_topics = np.empty(len(self.leaf), dtype=np.int64)
        for number, at in enumerate(order):
            row_topics[members[at]] = number
        names = names_of(self.vocabulary, row_topics, len(order))
        topics = []
        for number, at in enumerate(order):
            own = self.vectors[members[at]]
            nearest = members[at][np.argsort(-(own @ own.mean(axis=0)), kind="stable")[:_EXAMPLES]]
            topics.append(
                Topic(
                    words=names[number],
                    rows=len(own),
                    share=len(own) / len(self.leaf),
                    examples=tuple(nearest.tolist()),
                )
            )
        return Topics(topics=tuple(topics), row_topics=row_topics, branches=tuple(kept[at] for at in order))


def topics_count(rows: int) -> int:
    """How many topics are looked for where nobody says: a fifth of the square root of the rows, 2 to 20.

    A topic then has about five square roots of the rows, so that the error of its mean shrinks as more rows come,
    and several of them still join into one where that is what works.
    """
    return int(np.clip(round(rows**0.5 / 5), 2, 20))


def find_topics(
    text: Sequence[str],
    title: Sequence[str],
    embeddings: Floats | None,
    *,
    count: int,
    seed: int,
    check: Callable[[], None],
) -> Tree:
    """The topics of n texts.

    Args:
        text: n texts.
        title: n titles, empty where there is none.
        embeddings: shape (n, d), float32, one vector a text; None: the frequencies of the words are taken.
        count: most clusters; fewer are found where fewer texts differ.
        seed: of the first guesses.
        check: called between steps; raises to give up.
    """
    vocabulary = vocabulary_of(text, title, check)
    vectors = _unit(_centred(embeddings)) if embeddings is not None else _unit(_reduced(vocabulary, seed, check))
    check()
    group = _cluster(vectors, count, seed, check)
    if embeddings is None:
        group = _by_words(vocabulary, group, check)
    leaf = np.unique(group, return_inverse=True)[1].astype(np.int64)
    return Tree(leaf=leaf, branches=_joined(vectors, leaf, check), vectors=vectors, vocabulary=vocabulary)


def _reduced(vocabulary: Vocabulary, seed: int, check: Callable[[], None]) -> Floats:
    """Word frequencies in few dimensions, shape (n, at most 64): TF-IDF and a truncated singular value decomposition.

    Source: Deerwester et al., Indexing by Latent Semantic Analysis (JASIS 41, 1990); the decomposition by Halko,
    Martinsson and Tropp, Finding Structure with Randomness (SIAM Review 53, 2011), algorithm 4.4.
    """
    from scipy.sparse import diags_array

    counts = vocabulary.counts[:, ~vocabulary.is_pair].tocsr()
    n, terms = counts.shape
    size = min(_DIMENSIONS, n - 1, terms)
    if size < 1 or counts.nnz == 0:
        return np.zeros((n, 1), dtype=np.float32)
    frequencies = counts.copy()
    frequencies.data = 1 + np.log(frequencies.data)
    seen_in = np.asarray((counts > 0).sum(axis=0)).ravel()
    weighted = (frequencies @ diags_array(np.log((1 + n) / (1 + seen_in)).astype(np.float32) + 1)).tocsr()
    norms = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    weighted = (diags_array((1 / np.maximum(norms, 1e-12)).astype(np.float32)) @ weighted).tocsr()
    width = min(size + 10, n, terms)
    basis, _ = np.linalg.qr(weighted @ np.random.default_rng(seed).standard_normal((terms, width)).astype(np.float32))
    for _ in range(4):
        check()
        basis, _ = np.linalg.qr(weighted @ (weighted.T @ basis))
    check()
    turned = weighted.T @ basis
    strengths, left = np.linalg.eigh(turned.T @ turned)  # squared, weakest first: a decomposition of the small side
    left = (left * np.sqrt(np.maximum(strengths, 0)))[:, ::-1]
    return np.asarray(basis @ left[:, :size], dtype=np.float32)


def _centred(vectors: Floats) -> Floats:
    """Vectors less their mean: what all texts have in common tells no topic."""
    return np.asarray(vectors - vectors.mean(axis=0, keepdims=True), dtype=np.float32)


def _unit(vectors: Floats) -> Floats:
    """Vectors of length 1, shape as given; a vector of nothing stays one."""
    norms = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    return np.asarray(vectors / np.where(norms > 1e-12, norms, 1), dtype=np.float32)


def _cluster(vectors: Floats, count: int, seed: int, check: Callable[[], None]) -> Ints:
    """Numbers of clusters, shape (n,); the best of several starts.

    Source: Dhillon and Modha, Concept Decompositions for Large Sparse Text Data (Machine Learning 42, 2001); the
    first centres by Arthur and Vassilvitskii, k-means++ (SODA 2007).
    """
    rng = np.random.default_rng(seed)
    best: tuple[float, Ints] | None = None
    for _ in range(_STARTS):
        centres = _first_centres(vectors, count, rng)
        group = np.full(len(vectors), -1)
        for _ in range(_STEPS):
            check()
            cosines = vectors @ centres.T
            nearest = cosines.argmax(axis=1)
            if (nearest == group).all():
                break
            group = nearest
            sums = np.zeros_like(centres)
            np.add.at(sums, group, vectors)
            kept = np.bincount(group, minlength=len(centres)) > 0
            centres = np.where(kept[:, None], _unit(sums), centres)
        cosines = vectors @ centres.T
        group = cosines.argmax(axis=1)
        nearness = float(cosines.max(axis=1).sum(dtype=np.float64))
        if best is None or nearness > best[0]:
            best = nearness, group.astype(np.int64)
    assert best is not None
    return best[1]


def _first_centres(vectors: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Vectors far from each other, at most `count`, fewer where no more differ."""
    centres = [vectors[rng.integers(len(vectors))]]
    distance = np.maximum(1 - vectors @ centres[0], 0)
    while len(centres) < count and float(distance.sum()) > 1e-6 * len(vectors):
        chosen = int(rng.choice(len(vectors), p=distance.astype(np.float64) / distance.sum(dtype=np.float64)))
        centres.append(vectors[chosen])
        distance = np.minimum(distance, np.maximum(1 - vectors @ centres[-1], 0))
    return np.stack(centres)


def _by_words(vocabulary: Vocabulary, group: Ints, check: Callable[[], None]) -> Ints:
    """Clusters as their words have it, shape (n,): a mixture of multinomials that starts from given ones.

    The evidence of words is halved, since they do not come independently of each other.

    Source: Nigam, McCallum, Thrun and Mitchell, Text Classification from Labeled and Unlabeled Documents Using EM
    (Machine Learning 39, 2000), section 5.
    """
    words = (vocabulary.counts[:, ~vocabulary.is_pair] > 0).astype(np.float64).tocsr()
    if words.nnz == 0:
        return group
    groups = int(group.max()) + 1
    overall = np.asarray(words.sum(axis=0)).ravel() / words.nnz
    smoothing = _SMOOTHING * words.nnz / groups
    share = np.eye(groups)[group]
    for _ in range(_MIXTURE_STEPS):
        check()
        counts = np.asarray(words.T @ share)
        check()
        chance = (counts + smoothing * overall[:, None]) / (counts.sum(axis=0) + smoothing)
        weight = (share.sum(axis=0) + 1) / (len(group) + groups)
        logs = 0.5 * (np.asarray(words @ np.log(chance)) + np.log(weight))
        share = np.exp(logs - logs.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
    return np.asarray(share.argmax(axis=1), dtype=np.int64)


def _joined(vectors: Floats, leaf: Ints, check: Callable[[], None]) -> tuple[frozenset[int], ...]:
    """Branches: every cluster alone, then the pairs that lie nearest joined, again and again, up to the widest.

    Source: Ward, Hierarchical Grouping to Optimize an Objective Function (JASA 58, 1963).
    """
    count = int(leaf.max()) + 1
    branches = [frozenset([number]) for number in range(count)]
    live = {number: (float((leaf == number).sum()), vectors[leaf == number].mean(axis=0)) for number in range(count)}
    while len(live) > 2:
        check()
        _, first, second = min(
            (size * other_size / (size + other_size) * float(((centre - other) ** 2).sum()), one, two)
            for one, (size, centre) in live.items()
            for two, (other_size, other) in live.items()
            if one < two
        )
        (size, centre), (other_size, other) = live.pop(first), live.pop(second)
        total = size + other_size
        live[len(branches)] = total, (size * centre + other_size * other) / total
        branches.append(branches[first] | branches[second])
    sizes = np.bincount(leaf, minlength=count)
    widest = _WIDEST * len(leaf)
    return tuple(branch for branch in branches if len(branch) == 1 or sizes[list(branch)].sum() <= widest)
