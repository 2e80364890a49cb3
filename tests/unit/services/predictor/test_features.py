"""Raw posts become the same tensors wherever they stand, and every number is what its name says."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from meshcast.posts import Planned, PostTable, settled_history
from meshcast.rpc import InvalidInput
from meshcast.services.predictor import features

HOUR_S, DAY_S = 3_600, 86_400
COUNTS = ("views", "forwards", "replies", "reactions")


def some_posts(n: int, *, seed: int = 0, missing: float = 0.0, channels: int = 1) -> PostTable:
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, n * 5 * HOUR_S, n))
    columns: dict[str, Any] = {
        "channel": rng.integers(0, channels, n).astype(str),
        "published_unix_s": times,
        "hour_of_day": times // HOUR_S % 24,
        "day_of_week": times // DAY_S % 7,
        "content_length": rng.integers(0, 400, n),
        "has_media": rng.integers(0, 2, n),
    }
    for name in COUNTS:
        counts = np.floor(rng.lognormal(4, 1, n))
        columns[name] = np.where(rng.random(n) < missing, np.nan, counts)
    return PostTable.of(columns)


def column(tensors: dict[str, NDArray[np.float32]], name: str) -> NDArray[np.float32]:
    return tensors["planned"][:, features.PLANNED_FEATURES.index(name)]


def every_row(posts: PostTable) -> dict[str, NDArray[np.float32]]:
    index = settled_history(posts)
    return features.tensors(posts, posts.planned(index.row), index.start, index.stop)


def test_engagement_is_the_sum_of_the_counts_that_are_known() -> None:
    posts = dataclasses.replace(
        some_posts(3),
        forwards=np.array([1, np.nan, np.nan], dtype=np.float32),
        replies=np.array([2, 5, np.nan], dtype=np.float32),
        reactions=np.array([3, np.nan, np.nan], dtype=np.float32),
    )
    level = features.log_engagement(posts)
    assert level.dtype == np.float32
    np.testing.assert_allclose(level, [np.log(7), np.log(6), np.nan], rtol=1e-6)


def test_tensors_have_the_stated_shapes_and_hold_only_finite_numbers() -> None:
    tensors = every_row(some_posts(300, missing=0.1, channels=2))
    rows = len(tensors["planned"])
    assert tuple(tensors) == features.INPUTS
    assert tensors["history"].shape == (rows, features.STEPS, len(features.HISTORY_FEATURES))
    assert tensors["mask"].shape == (rows, features.STEPS)
    assert tensors["planned"].shape == (rows, len(features.PLANNED_FEATURES))
    assert all(tensor.dtype == np.float32 and np.isfinite(tensor).all() for tensor in tensors.values())
    assert len(set(features.PLANNED_FEATURES)) == len(features.PLANNED_FEATURES)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), missing=st.sampled_from([0.0, 0.2, 0.5]), row=st.integers(0, 199))
def test_a_row_is_the_same_alone_as_among_others_bit_for_bit(seed: int, missing: float, row: int) -> None:
    posts = some_posts(260, seed=seed, missing=missing, channels=2)
    index = settled_history(posts)
    enough = features.usable_posts(posts, index.start, index.stop) >= features.POSTS_MIN
    index = index[enough]
    together = features.tensors(posts, posts.planned(index.row), index.start, index.stop)
    row = row % len(index)
    start, stop = int(index.start[row]), int(index.stop[row])
    own = posts[start:stop]
    alone = features.tensors(own, posts.planned(index.row[row : row + 1]), np.array([0]), np.array([stop - start]))
    for name in features.INPUTS:
        np.testing.assert_array_equal(alone[name][0], together[name][row])


def test_summaries_are_what_their_names_say() -> None:
    posts = some_posts(200)
    index = settled_history(posts)
    tensors = features.tensors(posts, posts.planned(index.row), index.start, index.stop)
    level = features.log_engagement(posts)
    row = len(index) - 1
    window = slice(int(index.start[row]), int(index.stop[row]))
    own, plan = level[window], posts.planned(index.row[row : row + 1])
    residual = own - np.median(own)
    hours = np.abs(posts.hour_of_day[window] - plan.hour_of_day)
    near = 1 / (1 + np.minimum(hours, 24 - hours) ** 2)
    same = (posts.has_media[window] == plan.has_media).astype(float)
    lengths = (np.log1p(posts.content_length[window]) - np.log1p(plan.content_length)) / 0.25
    alike = same * near / (1 + lengths**2)
    expected = {
        "recent_median": np.median(own[-20:]),
        "recent_mean": own[-20:].mean(),
        "recent_spread": own[-20:].std(),
        "newest_mean": own[-5:].mean(),
        "window_mean": own.mean(),
        "window_quantile_500": np.median(own),
        "window_quantile_100": np.quantile(own, 0.1),
        "window_quantile_975": np.quantile(own, 0.975),
        "window_spread": np.sqrt((residual**2).mean()),
        "posts_usable": len(own),
        "media_share": posts.has_media[window].mean(),
        "media_effect": (same * residual).sum() / (same.sum() + 1),
        "hour_effect": (near * residual).sum() / (near.sum() + 1),
        "plan_effect": (alike * residual).sum() / (alike.sum() + 1),
        "plan_weight": np.log1p(alike.sum()),
        "log_hours_since_last": np.log1p((plan.published_unix_s[0] - posts.published_unix_s[window.stop - 1]) / HOUR_S),
    }
    assert {name: column(tensors, name)[row] for name in expected} == pytest.approx(expected, abs=2e-5)
    np.testing.assert_array_equal(
        features.recent_median(posts, index.start, index.stop), column(tensors, "recent_median")
    )


def test_a_short_history_is_padded_in_front_and_a_long_one_cut_to_the_newest() -> None:
    posts = some_posts(150)
    plan = Planned(
        published_unix_s=posts.published_unix_s[-1:] + 2 * DAY_S,
        hour_of_day=np.array([9], dtype=np.float32),
        day_of_week=np.array([0], dtype=np.float32),
        content_length=np.array([80], dtype=np.float32),
        has_media=np.array([1], dtype=np.float32),
    )
    short = features.tensors(posts, plan, np.array([130]), np.array([150]))
    assert short["mask"][0].tolist() == [0.0] * 4 + [1.0] * 20
    assert not short["history"][0, :4].any()
    assert column(short, "posts_usable")[0] == 20
    whole = features.tensors(posts, plan, np.array([0]), np.array([150]))
    newest = features.tensors(posts, plan, np.array([50]), np.array([150]))
    for name in features.INPUTS:
        np.testing.assert_array_equal(whole[name], newest[name])
    np.testing.assert_array_equal(whole["history"][0, :, 0], features.log_engagement(posts)[-features.STEPS :])


def test_posts_outside_of_the_history_do_not_matter() -> None:
    posts = some_posts(200)
    plan = posts.planned(np.array([199]))
    before = features.tensors(posts, plan, np.array([40]), np.array([140]))
    changed = posts.reactions.copy()
    changed[:40], changed[140:] = 1e6, 1e6
    after = features.tensors(dataclasses.replace(posts, reactions=changed), plan, np.array([40]), np.array([140]))
    for name in features.INPUTS:
        np.testing.assert_array_equal(before[name], after[name])


def test_missing_counts_are_declared_and_never_zero() -> None:
    posts = some_posts(120)
    lacking = dataclasses.replace(posts, replies=np.full(120, np.nan, dtype=np.float32))
    tensors = every_row(lacking)
    at = features.HISTORY_FEATURES.index
    real = tensors["mask"] > 0
    assert (tensors["history"][real][:, at("replies_missing")] == 1).all()
    assert (tensors["history"][real][:, at("forwards_missing")] == 0).all()
    assert (column(tensors, "replies_missing_share") == 1).all()
    assert (column(tensors, "forwards_missing_share") == 0).all()
    expected = np.log1p(lacking.forwards + lacking.reactions)
    np.testing.assert_allclose(features.log_engagement(lacking), expected, rtol=1e-6)


def test_posts_without_any_count_are_skipped() -> None:
    posts = some_posts(200)
    gone = np.zeros(200, dtype=bool)
    gone[50:120:3] = True
    columns: dict[str, Any] = {
        name: np.where(gone, np.nan, getattr(posts, name)).astype(np.float32) for name in COUNTS[1:]
    }
    holey = dataclasses.replace(posts, **columns)
    plan = posts.planned(np.array([199]))
    usable = features.usable_posts(holey, np.array([60]), np.array([150]))
    skipped = features.tensors(holey, plan, np.array([60]), np.array([150]))
    kept = posts.take(~gone)
    start = int((~gone)[:60].sum())
    without = features.tensors(kept, plan, np.array([start]), np.array([start + int(usable[0])]))
    assert usable[0] < 90
    for name in features.INPUTS:
        np.testing.assert_array_equal(skipped[name], without[name])


def test_histories_that_are_too_short_or_outside_of_the_table_are_refused() -> None:
    posts = some_posts(100)
    plan = posts.planned(np.array([99, 99]))
    with pytest.raises(InvalidInput, match=r"row 1 has 19") as caught:
        features.tensors(posts, plan, np.array([0, 0]), np.array([20, 19]))
    assert caught.value.violations[0].field == "start[1]"
    for start, stop in ((-1, 40), (60, 101), (50, 40)):
        with pytest.raises(InvalidInput, match="outside of the 100 posts"):
            features.tensors(posts, plan, np.array([start, 0]), np.array([stop, 30]))
