"""The figures of the demo's texts, on numbers that can be worked out by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from demo_content import auc, auc_interval, outcomes, texts_of, write_texts
from meshcast.posts import PostTable

DAY_S = 86_400


def test_the_auc_is_the_share_of_pairs_in_the_right_order_and_a_tie_is_half() -> None:
    truth = np.array([True, True, False, False])
    assert auc(np.array([4.0, 3.0, 2.0, 1.0]), truth) == 1.0
    assert auc(np.array([1.0, 2.0, 3.0, 4.0]), truth) == 0.0
    assert auc(np.array([4.0, 2.0, 3.0, 1.0]), truth) == 0.75
    assert auc(np.array([4.0, 2.0, 2.0, 1.0]), truth) == 0.875
    assert auc(np.zeros(4), truth) == 0.5


def test_scores_that_know_nothing_have_half_in_their_interval() -> None:
    rng = np.random.default_rng(3)
    low, high = auc_interval(rng.random(400), rng.random(400) < 0.3)
    assert low < 0.5 < high < 0.6


def test_posts_are_held_against_the_settled_ones_before_and_against_each_other() -> None:
    # 40 posts, one a day, of e^size - 1 reactions; the usual stays 2 throughout.
    size = np.concatenate([np.tile([1.0, 2.0, 3.0], 10), [1.5, 2.8, 2.5, 2.0, 1.0, 9.0, 1.0, 1.0, 2.5, 0.5]])
    n = len(size)
    posts = PostTable.of(
        {
            "published_unix_s": np.arange(n) * DAY_S,
            "hour_of_day": np.zeros(n),
            "day_of_week": np.arange(n) % 7,
            "content_length": np.ones(n),
            "has_media": np.zeros(n),
            "forwards": np.zeros(n),
            "reactions": np.expm1(size),
        }
    )
    found = outcomes(posts, datetime.fromtimestamp(30 * DAY_S, UTC))
    assert found.row.tolist() == list(range(30, 40))
    assert found.truth["above_median"].tolist() == (size[30:] > 2.0 + 1e-6).tolist()
    assert np.flatnonzero(found.truth["viral"]).tolist() == [5]


def test_texts_are_written_as_they_stand(tmp_path: Path) -> None:
    rows = [
        {"post_id": "7", "text": 'He said, "no" \u2014\nand left'},
        {"post_id": "8", "text": "\U0001f600 \u0645\u0631\u062d\u0628\u0627"},
    ]
    write_texts(tmp_path / "texts.csv", rows)
    assert texts_of(tmp_path / "texts.csv") == rows
