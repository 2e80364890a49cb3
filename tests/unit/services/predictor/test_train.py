"""Training splits by time, learns what there is to learn, calibrates it, and says clearly when it cannot."""

import dataclasses
import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from meshcast.posts import PostTable
from meshcast.rpc import InvalidInput
from meshcast.services.predictor.features import INPUTS
from meshcast.services.predictor.train import Progress, TrainSettings, split_rows, train

HOUR_S, DAY_S = 3_600, 86_400
QUICK = TrainSettings(epochs=3, steps_min=120, batch_rows=64, averaging=0.95, learning_rate=4e-3)


def posts_with_a_rhythm(n: int = 900, channels: int = 2) -> PostTable:
    """Posts that do well in the evening and with media, on channels of quite different sizes."""
    rng = np.random.default_rng(0)
    tables: dict[str, list[Any]] = {}
    for channel in range(channels):
        times = np.sort(rng.integers(0, n * 3 * HOUR_S, n))
        hour, media = times // HOUR_S % 24, rng.integers(0, 2, n)
        level = 4 + 3 * channel + 1.2 * (hour >= 18) + 0.8 * media + rng.normal(0, 0.3, n)
        columns = {
            "channel": np.full(n, f"channel {channel}"),
            "published_unix_s": times,
            "hour_of_day": hour,
            "day_of_week": times // DAY_S % 7,
            "content_length": rng.integers(1, 300, n),
            "has_media": media,
            "forwards": np.floor(np.exp(level) * 0.2),
            "replies": np.floor(np.exp(level) * 0.1),
            "reactions": np.floor(np.exp(level) * 0.7),
        }
        for name, values in columns.items():
            tables.setdefault(name, []).append(values)
    return PostTable.of({name: np.concatenate(values) for name, values in tables.items()})


def test_the_parts_follow_each_other_in_time_and_hold_every_usable_row() -> None:
    posts = posts_with_a_rhythm()
    parts = split_rows(posts, TrainSettings())
    for earlier, later in pairwise(parts):
        assert earlier.published_unix_s.max() < later.published_unix_s.min()
    shares = np.array([len(part) for part in parts]) / sum(len(part) for part in parts)
    np.testing.assert_allclose(shares, [0.70, 0.12, 0.18], atol=0.01)
    for part in parts:
        newest = posts.published_unix_s[part.index.stop - 1]
        assert (newest <= part.published_unix_s - DAY_S).all()
        assert ((part.index.stop - part.index.start >= 20) & (part.index.stop - part.index.start <= 100)).all()


def test_dates_move_the_parts() -> None:
    posts = posts_with_a_rhythm()
    dates = TrainSettings(
        train_before_unix_s=60 * DAY_S, validate_before_unix_s=80 * DAY_S, test_before_unix_s=90 * DAY_S
    )
    learn, validation, test = split_rows(posts, dates)
    assert learn.published_unix_s.max() < 60 * DAY_S <= validation.published_unix_s.min()
    assert validation.published_unix_s.max() < 80 * DAY_S <= test.published_unix_s.min()
    assert test.published_unix_s.max() < 90 * DAY_S


def test_training_beats_plain_methods_on_a_rhythm_and_tells_how_it_goes() -> None:
    heard: list[Progress] = []
    trained = train(posts_with_a_rhythm(), settings=QUICK, progress=heard.append)
    model, baselines = trained.metrics["test"]["model"], trained.metrics["test"]["baselines"]
    for name in ("last value", "median of last 20", "mean of last 20", "median of last 100"):
        assert model["mae"] < 0.8 * baselines[name]["mae"]
    assert model["auc"] > 0.8
    assert model["coverage"]["80 %"]["covered"] == pytest.approx(0.80, abs=0.1)
    assert model["coverage"]["95 %"]["covered"] == pytest.approx(0.95, abs=0.05)
    assert json.loads(json.dumps(trained.metrics, allow_nan=False)) == trained.metrics
    assert not trained.module.training
    assert tuple(trained.recorded) == INPUTS
    assert {len(tensor) for tensor in trained.recorded.values()} == {trained.metrics["split"]["validation"]["rows"]}
    done = [at for at in heard if at.validation_mae is not None]
    assert [at.epoch for at in done] == list(range(1, len(done) + 1))
    assert all(at.batch <= at.batches and at.epoch <= at.epochs for at in heard)


def test_the_same_seed_gives_the_same_model() -> None:
    settings = dataclasses.replace(QUICK, epochs=1, steps_min=1)
    first, second = (train(posts_with_a_rhythm(400), settings=settings) for _ in range(2))
    for a, b in zip(first.module.state_dict().values(), second.module.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_a_count_may_be_missing_everywhere() -> None:
    posts = posts_with_a_rhythm(400)
    lacking = dataclasses.replace(posts, replies=np.full(len(posts), np.nan, dtype=np.float32))
    trained = train(lacking, settings=dataclasses.replace(QUICK, epochs=1, steps_min=1))
    assert trained.metrics["data"]["missing_share"] == {"views": 1, "forwards": 0, "replies": 1, "reactions": 0}
    assert np.isfinite(trained.metrics["test"]["model"]["mae"])


def test_too_few_posts_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"too few posts: 1\d\d of 200 have a usable history, training needs 600"):
        train(posts_with_a_rhythm(100))


def test_posts_without_a_usable_history_are_refused() -> None:
    posts = posts_with_a_rhythm(400)
    unknown: Any = {name: np.full(800, np.nan, dtype=np.float32) for name in ("forwards", "replies", "reactions")}
    with pytest.raises(InvalidInput, match="none of the 800 posts has a usable history"):
        train(dataclasses.replace(posts, **unknown))
    with pytest.raises(InvalidInput, match="none of the 20 posts"):
        train(posts_with_a_rhythm(20, channels=1))


def test_engagement_that_never_varies_is_refused() -> None:
    posts = posts_with_a_rhythm(900, channels=1)
    constant: Any = {name: np.full(900, 7, dtype=np.float32) for name in ("forwards", "replies", "reactions")}
    with pytest.raises(InvalidInput, match="the same for every post"):
        train(dataclasses.replace(posts, **constant))


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
    settings = TrainSettings(train_before_unix_s=dates[0] * DAY_S, validate_before_unix_s=dates[1] * DAY_S)
    with pytest.raises(InvalidInput, match=why) as caught:
        split_rows(posts_with_a_rhythm(), settings)
    assert caught.value.violations[0].field == "split"
