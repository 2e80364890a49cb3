"""What is computed from vectors alone: ranks and shares of labels."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from meshcast.services.analyzer.embedding import TEMPERATURE, ranking, zero_shot


def directions(count: int, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def test_the_nearest_document_comes_first_and_ties_keep_their_order() -> None:
    documents = directions(4)
    order, scores = ranking(documents[2], np.concatenate([documents, documents[2:3]]))
    assert order[:2].tolist() == [2, 4]
    assert scores[0] == scores[1] and scores[0] <= 1
    assert sorted(order.tolist()) == [0, 1, 2, 3, 4]


@given(st.integers(1, 30), st.integers(0, 40), st.integers(0, 9))
def test_the_top_is_the_beginning_of_the_whole_order(count: int, top: int, seed: int) -> None:
    documents, query = directions(count, seed), directions(1, seed + 100)[0]
    order, scores = ranking(query, documents, top)
    whole, _ = ranking(query, documents)
    assert order.tolist() == whole.tolist()[: top or count]
    assert (np.diff(scores) <= 0).all()


def test_shares_of_labels_follow_the_cosines() -> None:
    texts, labels = directions(20), directions(5, 1)
    shares = zero_shot(texts, labels)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(shares.argmax(axis=1), (texts @ labels.T).argmax(axis=1))
    ratio = np.log(shares[:, 0] / shares[:, 1]) * TEMPERATURE
    np.testing.assert_allclose(ratio, (texts @ labels.T)[:, 0] - (texts @ labels.T)[:, 1], atol=1e-4)
