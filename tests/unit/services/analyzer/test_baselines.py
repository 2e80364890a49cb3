import numpy as np
import pytest

from meshcast.contents import Contents
from meshcast.services.analyzer.baselines import answer_of_shares, tfidf_answers


def test_tf_idf_learns_words_of_text_and_title() -> None:
    pytest.importorskip("sklearn")
    good = np.arange(200) % 2 == 0
    learn = Contents.of(
        [f"{'wonderful' if one else 'boring'} day {k % 7}" for k, one in enumerate(good)], title=["a title"] * 200
    )
    labels = np.stack([good, ~good], axis=1)
    found = tfidf_answers(learn, labels, Contents.of(["wonderful thing", "boring thing"]))
    assert found.shape == (2, 2) and found.dtype == np.float32
    assert found[0, 0] > 0.6 > 0.4 > found[1, 0]
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=0.05)


def test_the_same_for_all_is_how_often_each_held() -> None:
    labels = np.array([[True, False], [True, True], [False, False], [True, False]])
    assert answer_of_shares(labels, 3).tolist() == [[0.75, 0.25]] * 3
