"""Training splits by time, learns what words do, calibrates it, and says clearly when it cannot."""

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from meshcast.contents import ContentRows, Contents
from meshcast.rpc import InvalidInput
from meshcast.runtime import calibration
from meshcast.services.analyzer.features import INPUTS
from meshcast.services.analyzer.outcomes import outcomes_of
from meshcast.services.analyzer.parts import judge, parts_of, split
from meshcast.services.analyzer.signature import SIGNATURE
from meshcast.services.analyzer.train import Progress, TrainSettings, train

HOUR_S, DAY_S = 3_600, 86_400
QUICK = TrainSettings(epochs=1, steps_min=20, folds=2, rows_min=300)
PLAIN = ["the", "a", "of", "we", "you", "today", "now", "house", "tree", "road", "river", "market", "office", "paper"]


def posts_with_a_word_that_works(n: int = 900, channels: int = 2) -> ContentRows:
    """Posts that do well with the word `wonderful` and badly with `boring`, on channels of quite different sizes."""
    rng = np.random.default_rng(0)
    text, channel, when, outcome = [], [], [], []
    for number in range(channels):
        for time in np.sort(rng.integers(0, n * 3 * HOUR_S, n)).tolist():
            words = rng.choice(PLAIN, 8).tolist()
            good, bad = rng.random(2) < 0.3
            words[2:2] = ["wonderful"] * bool(good) + ["boring"] * bool(bad)
            text.append(" ".join(words))
            channel.append(f"channel {number}")
            when.append(time)
            outcome.append(4 + 3 * number + 0.8 * good - 0.8 * bad + rng.normal(0, 0.3))
    contents = Contents.of(text, hour_of_day=np.array(when) // HOUR_S % 24)
    return ContentRows.of(contents, channel=channel, published_unix_s=when, outcome=outcome)


def test_the_parts_follow_each_other_in_time_and_hold_every_usable_row() -> None:
    rows = posts_with_a_word_that_works()
    outcomes = outcomes_of(rows, settle_s=DAY_S)
    parts = parts_of(*split(outcomes, QUICK))
    for earlier, later in pairwise(parts):
        assert earlier.published_unix_s.max() < later.published_unix_s.min()
    assert sum(map(len, parts)) == len(outcomes)
    shares = np.array([len(part) for part in parts]) / len(outcomes)
    np.testing.assert_allclose(shares, [0.70, 0.12, 0.18], atol=0.01)
    for part in parts:
        assert part.labels.shape == (len(part), 2)
        np.testing.assert_allclose(part.labels.mean(axis=0), [0.5, 0.1], atol=0.12)


@pytest.mark.slow
def test_training_finds_the_words_and_tells_how_it_goes() -> None:
    heard: list[Progress] = []
    rows = posts_with_a_word_that_works()
    trained = train(rows, settings=QUICK, progress=heard.append)
    model, baselines = trained.metrics["test"]["model"], trained.metrics["test"]["baselines"]
    assert model["above_median"]["auc"] > 0.75 and model["viral"]["auc"] > 0.75
    assert model["above_median"]["ece"] < 0.12
    assert baselines["the same for all"]["above_median"]["auc"] == 0.5
    assert json.loads(json.dumps(trained.metrics, allow_nan=False)) == trained.metrics
    assert not trained.module.training
    assert tuple(trained.recorded) == INPUTS
    assert SIGNATURE.check(trained.recorded) == min(256, len(trained.parts[1]))
    assert {at.doing for at in heard} == {"reading texts", "fitting n-grams", "training"}
    assert all(0 < at.done <= at.total for at in heard)
    assert sum(at.validation_loss is not None for at in heard) == trained.metrics["recipe"]["epochs_run"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model() -> None:
    settings = dataclasses.replace(QUICK, steps_min=1)
    first, second = (train(posts_with_a_word_that_works(400), settings=settings) for _ in range(2))
    for a, b in zip(first.module.state_dict().values(), second.module.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_scores_are_by_question() -> None:
    part = parts_of(*split(outcomes_of(posts_with_a_word_that_works(400), settle_s=DAY_S), QUICK))[2]
    perfect = part.labels.astype(np.float32)
    found = judge(perfect, part)
    assert found["above_median"] == {
        "auc": 1.0,
        "ece": pytest.approx(0, abs=1e-6),
        "log_loss": pytest.approx(0, abs=1e-6),
        "share": pytest.approx(part.labels[:, 0].mean()),
    }
    half = np.full_like(perfect, 0.5)
    assert judge(half, part)["viral"]["ece"] == pytest.approx(
        calibration.expected_calibration_error(half[:, 1], part.labels[:, 1])
    )


def test_too_few_posts_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"too few posts: \d+ have an outcome and a usable history, training needs"):
        train(posts_with_a_word_that_works(100))


def test_outcomes_that_never_vary_are_refused() -> None:
    rows = posts_with_a_word_that_works(400)
    constant = dataclasses.replace(rows, outcome=np.ones(len(rows)))
    with pytest.raises(InvalidInput, match="the same answer for every post"):
        train(constant, settings=QUICK)


@pytest.mark.parametrize(
    ("dates", "why"),
    [
        ((0, 80), "the training part has 0 posts"),
        ((60, 60), "validation must end after training ends"),
        ((2_000, 3_000), "the validation part has 0 posts"),
        ((60, 3_000), "the test part has 0 posts"),
    ],
)
def test_an_empty_part_is_refused(dates: tuple[int, int], why: str) -> None:
    settings = dataclasses.replace(QUICK, train_before_unix_s=dates[0] * DAY_S, validate_before_unix_s=dates[1] * DAY_S)
    outcomes = outcomes_of(posts_with_a_word_that_works(), settle_s=DAY_S)
    with pytest.raises(InvalidInput, match=why) as caught:
        split(outcomes, settings)
    assert caught.value.violations[0].field == "split"
