import numpy as np
from numpy.typing import NDArray

from meshcast.services.analyzer.embedder.accuracy import compare, judge


def directions(rows: int = 50, seed: int = 0) -> NDArray[np.float32]:
    found = np.random.default_rng(seed).normal(size=(rows, 384))
    units: NDArray[np.float32] = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
    return units


def test_the_same_embeddings_pass() -> None:
    figures, refusal = judge(directions(), directions())
    assert refusal == ""
    assert figures["cosine_min"] > 0.9999 and figures["neighbours_same"] == 1.0 and figures["error_max"] == 0.0
    assert figures["texts"] == 50


def test_one_text_that_went_astray_is_refused_however_good_the_others_are() -> None:
    given = directions()
    given[7] = directions(seed=1)[7]
    figures, refusal = judge(directions(), given)
    assert figures["cosine_mean"] < 0.99 and "cosine_min" in refusal and "cosine_mean" in refusal


def test_small_noise_in_all_texts_is_seen_in_the_mean_and_the_neighbours() -> None:
    noisy = directions() + np.random.default_rng(2).normal(scale=0.02, size=(50, 384)).astype(np.float32)
    figures, refusal = judge(directions(), noisy)
    assert "cosine_mean is 0.9" in refusal and "under 0.99" in refusal
    assert figures["neighbours_same"] < 1.0


def test_what_is_no_number_is_refused() -> None:
    given = directions()
    given[3, 5] = np.nan
    assert judge(directions(), given)[1]


def test_two_texts_have_one_neighbour_each() -> None:
    assert compare(directions(2), directions(2))["neighbours_same"] == 1.0
