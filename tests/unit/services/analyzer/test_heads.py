"""Heads: what they learn, that they are honest about it, and what they refuse."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from meshcast.rpc import Cancelled
from meshcast.services.analyzer.heads import train

WIDTH = 48


def clusters(
    labels: int = 3, each: int = 60, *, spread: float = 0.5, seed: int = 0
) -> tuple[NDArray[np.float32], list[str], list[str]]:
    """Directions around one centre a label, their labels and texts that all differ."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(labels, WIDTH))
    target = np.repeat(np.arange(labels), each)
    vectors = centres[target] + spread * np.sqrt(WIDTH) * rng.normal(size=(len(target), WIDTH)) / 4
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), [f"label {one}" for one in target], [f"text {at}" for at in range(len(target))]


def test_it_learns_labels_that_can_be_told_and_says_how_well() -> None:
    vectors, labels, texts = clusters()
    trained = train(vectors, labels, texts)
    assert trained.labels == ("label 0", "label 1", "label 2")
    assert trained.examples == 180
    assert trained.accuracy > 0.95
    assert trained.majority == pytest.approx(1 / 3)
    fresh, expected, _ = clusters(seed=0, each=60, spread=0.6)
    found = trained.head.probabilities(fresh)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert (
        np.mean([trained.labels[best] == one for best, one in zip(found.argmax(axis=1), expected, strict=True)]) > 0.9
    )


def test_where_nothing_can_be_learnt_it_does_not_claim_more_than_the_majority() -> None:
    vectors, _, texts = clusters(each=100)
    labels = np.random.default_rng(1).choice(["a", "b", "b"], len(texts)).tolist()
    trained = train(vectors, labels, texts)
    assert trained.accuracy < trained.majority + 0.08
    assert trained.strength == 1.0


def test_its_probabilities_are_those_of_what_happens() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(3_000, WIDTH))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    truth = 1 / (1 + np.exp(-8 * vectors[:, 0]))
    labels = np.where(rng.random(3_000) < truth, "yes", "no")
    trained = train(vectors[:2_000].astype(np.float32), labels[:2_000].tolist(), [str(at) for at in range(2_000)])
    stated = trained.head.probabilities(vectors[2_000:].astype(np.float32))[:, 1]
    assert abs(float((stated - truth[2_000:]).mean())) < 0.03
    assert float(np.abs(stated - truth[2_000:]).mean()) < 0.1


def test_the_same_examples_give_the_same_head_in_any_process() -> None:
    vectors, labels, texts = clusters(spread=2.0)
    first, again = train(vectors, labels, texts), train(vectors, labels, texts)
    np.testing.assert_array_equal(first.head.weights, again.head.weights)
    assert (first.accuracy, first.strength) == (again.accuracy, again.strength)


def test_copies_of_a_text_do_not_vouch_for_each_other() -> None:
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(40, WIDTH)), 10, axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.repeat(rng.choice(["a", "b"], 40), 10).tolist()
    texts = np.repeat([f"text {at}" for at in range(40)], 10).tolist()
    assert train(vectors.astype(np.float32), labels, texts).accuracy < 0.8


def test_a_training_that_nobody_waits_for_ends() -> None:
    vectors, labels, texts = clusters()
    asked: list[None] = []

    def is_over() -> bool:
        asked.append(None)
        return len(asked) > 5

    with pytest.raises(Cancelled):
        train(vectors, labels, texts, is_over=is_over)
    assert len(asked) == 6


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_examples_give_finite_probabilities(data: Any) -> None:
    count = data.draw(st.integers(2, 30))
    labels = data.draw(st.lists(st.sampled_from("abcde"), min_size=count, max_size=count))
    texts = data.draw(st.lists(st.sampled_from("vwxyz"), min_size=count, max_size=count))
    seed = data.draw(st.integers(0, 9))
    vectors = np.random.default_rng(seed).normal(size=(count, WIDTH))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assume(len(set(labels)) >= 2 and len(set(texts)) >= 2)
    trained = train(vectors.astype(np.float32), labels, texts)
    assert np.isfinite(trained.head.probabilities(vectors.astype(np.float32))).all()
    assert 0 <= trained.accuracy <= 1
    assert list(trained.labels) == sorted(set(labels))
