"""Topics: texts about the same are together, the tree joins neighbours, and the same texts have the same topics."""

from collections.abc import Sequence

import numpy as np
import pytest

from meshcast.rpc import MeshError
from meshcast.rpc.errors import Cancelled
from meshcast.services.analyzer.topics import Tree, find_topics, topics_count

SUBJECTS = (
    "mayor council election vote party senate".split(),
    "goal match league striker penalty keeper".split(),
    "planet rocket orbit telescope galaxy moon".split(),
)


def texts(count: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    subject = rng.integers(0, len(SUBJECTS), count)
    return [" ".join(rng.choice(SUBJECTS[at], 4)) for at in subject], subject


def tree_of(text: Sequence[str], *, count: int = 6, embeddings: np.ndarray | None = None) -> Tree:
    return find_topics(text, [""] * len(text), embeddings, count=count, seed=0, check=lambda: None)


def test_texts_about_the_same_are_together() -> None:
    text, subject = texts(300)
    found = tree_of(text, count=3).cut([])
    assert [topic.rows for topic in found.topics] == sorted((topic.rows for topic in found.topics), reverse=True)
    assert sum(topic.share for topic in found.topics) == pytest.approx(1)
    for number, topic in enumerate(found.topics):
        own = subject[found.row_topics == number]
        assert (own == own[0]).all()
        assert set(topic.words[0].split()) <= set(SUBJECTS[own[0]])
        assert (found.row_topics[list(topic.examples)] == number).all()


def test_branches_join_the_clusters_of_one_subject() -> None:
    text, subject = texts(600)
    tree = tree_of(text, count=9)
    for at in range(len(SUBJECTS)):
        own = subject == at
        assert any((tree.has(branch) == own).mean() > 0.97 for branch in range(len(tree.branches)))


def test_a_cut_holds_every_row_once_and_the_most_wanted_branch_first() -> None:
    rng = np.random.default_rng(2)
    place = rng.integers(0, 9, 600)
    vectors = np.eye(12)[place // 3] + 0.3 * np.eye(12)[3 + place] + 0.01 * rng.standard_normal((600, 12))
    text = [f"word{at}" for at in place]
    tree = tree_of(text, count=9, embeddings=vectors.astype(np.float32))
    wide = max(range(len(tree.branches)), key=lambda branch: len(tree.branches[branch]))
    inside = next(iter(tree.branches[wide]))
    found = tree.cut([wide, inside])
    assert wide in found.branches
    assert inside not in found.branches
    assert (found.row_topics >= 0).all()
    assert sum(topic.rows for topic in found.topics) == len(text)
    assert inside in tree.cut([inside, wide]).branches


def test_embeddings_are_taken_where_they_are_given() -> None:
    _, subject = texts(200)
    rng = np.random.default_rng(1)
    vectors = (np.eye(8)[subject] + 0.05 * rng.standard_normal((200, 8))).astype(np.float32)
    found = tree_of(["word"] * 200, count=3, embeddings=vectors).cut([])
    assert len(found.topics) == 3
    assert found.topics[0].words in ((), ("word",))
    assert all(len(np.unique(subject[found.row_topics == number])) == 1 for number in range(3))


def test_the_same_texts_have_the_same_topics() -> None:
    text, _ = texts(200)
    first, second = tree_of(text), tree_of(text)
    assert (first.leaf == second.leaf).all()
    assert first.branches == second.branches


@pytest.mark.parametrize("text", [["same words here"] * 30, [""] * 30, ["😀"] * 30, ["a", "b"] * 15])
def test_texts_that_do_not_differ_or_have_no_words_are_one_topic_or_few(text: list[str]) -> None:
    found = tree_of(text).cut([])
    assert 1 <= len(found.topics) <= 2
    assert sum(topic.rows for topic in found.topics) == 30


def test_more_rows_have_more_topics_up_to_twenty() -> None:
    assert [topics_count(rows) for rows in (20, 100, 2_000, 10_000)] == [2, 2, 9, 20]


def test_a_search_that_is_stopped_ends() -> None:
    def stop() -> None:
        raise Cancelled("enough")

    with pytest.raises(MeshError):
        find_topics(["a b"] * 30, [""] * 30, None, count=3, seed=0, check=stop)
