"""The bag's weights solve the regression that they are said to, and its unseen answers are unseen."""

import numpy as np
from numpy.typing import NDArray

from meshcast.services.analyzer.bag import Bags, fit_bag, out_of_fold
from meshcast.services.analyzer.grams import KIND_IDS, hashed_grams

BUCKETS = 1 << 10
WORDS = [f"word{k}" for k in range(60)]


def texts(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 6)) for _ in range(n)]


def bags_of(found: list[str], counted: NDArray[np.bool_] | None = None, buckets: int = BUCKETS) -> Bags:
    grams, starts = hashed_grams(found)
    plan = np.random.default_rng(1).normal(size=(len(found), 2)).astype(np.float32)
    every = np.ones(len(found), dtype=np.bool_)
    media = np.arange(len(found)) % 3 == 0
    return Bags(grams, starts, plan, media, every if counted is None else counted, buckets=buckets)


def test_each_kind_of_a_text_has_length_one() -> None:
    bags = bags_of(texts(50), buckets=KIND_IDS)  # n-grams that share a bucket add up
    squares = np.asarray(bags.matrix[:, 2:].multiply(bags.matrix[:, 2:]).sum(axis=1)).ravel()
    np.testing.assert_allclose(squares, 2, rtol=1e-4)


def test_the_fit_is_ridge_regression_with_a_free_bias() -> None:
    bags = bags_of(texts(200))
    x = bags.matrix.toarray().astype(np.float64)
    x = np.concatenate([x, x * bags.side], axis=1)  # what counts for any row, and what counts by its side
    dear = np.concatenate([bags.dearness, 3 * bags.dearness])[:, 0]
    assert set(np.unique(bags.dearness).tolist()) == {1.0, 4.0}
    rng = np.random.default_rng(2)
    y = (x @ rng.normal(size=(x.shape[1], 2)) + rng.normal(size=(200, 2)) + 3).astype(np.float32)
    used = np.arange(200) < 150
    weights, bias = fit_bag(bags, y, used, penalty=(1.0, 4.0))
    for k, penalty in enumerate((1.0, 4.0)):
        seen, level = x[used] - x[used].mean(axis=0), y[used, k] - y[used, k].mean()
        exact = np.linalg.solve(seen.T @ seen + penalty * np.diag(dear), seen.T @ level)
        expected = x @ exact + y[used, k].mean() - x[used].mean(axis=0) @ exact
        np.testing.assert_allclose(bags.answers(weights, bias)[:, k], expected, atol=0.05 * expected.std())


def test_a_start_leads_to_the_same_place() -> None:
    bags = bags_of(texts(200))
    y = np.random.default_rng(3).normal(size=(200, 1)).astype(np.float32)
    used = np.ones(200, dtype=np.bool_)
    cold, level = fit_bag(bags, y, used, penalty=(2.0,))
    warm, other = fit_bag(bags, y, used, penalty=(2.0,), start=cold + np.float32(0.01))
    np.testing.assert_allclose(bags.answers(cold, level), bags.answers(warm, other), atol=0.01)


def test_a_word_may_say_one_thing_with_media_and_another_without() -> None:
    found = texts(300)
    bags = bags_of(found)
    there = np.array([WORDS[0] in text.split() for text in found])
    side = bags.side[:, 0]
    y = np.where(there, side, 0).astype(np.float32)[:, None]
    weights, bias = fit_bag(bags, y, np.arange(300) < 200, penalty=(0.3,))
    unseen = there & (np.arange(300) >= 200)
    assert np.corrcoef(bags.answers(weights, bias, unseen)[:, 0], side[unseen])[0, 1] > 0.7


def test_weights_by_bucket_give_what_the_matrix_gives() -> None:
    found = texts(80)
    bags = bags_of(found)
    y = np.random.default_rng(4).normal(size=(80, 2)).astype(np.float32)
    solved, bias = fit_bag(bags, y, np.ones(80, dtype=np.bool_), penalty=(1.0, 1.0))
    weights = bags.weights(solved, bias)
    grams, starts = hashed_grams(found)
    plan = bags.matrix[:, :2].toarray()
    said = bags.answers(solved, bias)
    for row in range(80):
        own = grams[starts[row] : starts[row + 1]]
        halves = plan[row] @ weights.plan
        for kind in (own < KIND_IDS, own >= KIND_IDS):
            bucket = own[kind] % BUCKETS + (own[kind] >= KIND_IDS) * BUCKETS
            value = weights.rarity[bucket]
            halves = halves + (value / np.sqrt((value**2).sum() + 1e-6)) @ weights.grams[bucket]
        answer = bias + halves[:2] + bags.side[row] * halves[2:]
        np.testing.assert_allclose(answer, said[row], atol=2e-3)


def test_rarity_is_counted_where_it_is_told_and_rare_buckets_weigh_nothing() -> None:
    counted = np.arange(40) < 20
    all_rows, first_rows = bags_of(texts(40)), bags_of(texts(40), counted)
    assert (first_rows.rarity > 0).sum() < (all_rows.rarity > 0).sum()
    once = bags_of(["abc def", "ghi jkl"])
    assert not once.rarity[:BUCKETS].any()  # no word stands in two texts


def test_unseen_answers_know_nothing_of_noise() -> None:
    found = texts(300, seed=5)
    bags = bags_of(found)
    noise = np.random.default_rng(6).normal(size=(300, 1)).astype(np.float32)
    used = np.arange(300) < 250
    told: list[int] = []
    unseen = out_of_fold(bags, noise, used, np.arange(300), penalty=(0.1,), folds=3, fitted=told.append)
    weights, bias = fit_bag(bags, noise, used, penalty=(0.1,))
    seen = bags.answers(weights, bias)
    assert np.corrcoef(seen[used, 0], noise[used, 0])[0, 1] > 0.5
    assert abs(np.corrcoef(unseen[used, 0], noise[used, 0])[0, 1]) < 0.25
    np.testing.assert_allclose(unseen[~used], seen[~used], atol=1e-5)
    assert told == [1, 2, 3]
