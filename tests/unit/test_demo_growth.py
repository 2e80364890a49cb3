"""The figures of the demo's forecasts, on numbers that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from demo_growth import DAYS, LEVELS, Asked, daily_engagement, score
from meshcast.posts import PostTable


def test_engagement_is_summed_by_day_and_a_day_without_posts_has_none() -> None:
    posts = PostTable.of(
        {
            "published_unix_s": [0, 3_600, 3 * 86_400],
            "hour_of_day": [0, 1, 0],
            "day_of_week": [3, 3, 6],
            "content_length": [1, 1, 1],
            "has_media": [0, 0, 0],
            "forwards": [1, 2, 3],
            "reactions": [10, float("nan"), 30],
        }
    )
    table = daily_engagement(posts)
    assert table.day.tolist() == [0, 1, 2, 3]
    assert table.value.tolist() == [13, 0, 0, 33]


def test_forecasts_are_scored_beside_the_last_week_and_the_mean_of_four() -> None:
    history = np.arange(35.0)  # one more each day: a week before is always 7 less
    actual = np.arange(35.0, 35 + DAYS)
    bounds = np.stack([[actual - 1, actual + 1], [actual + 1, actual + 2]])[None]
    asked = Asked(
        actual=actual[None],
        history=[history],
        median=actual[None] + 3.5,
        bounds=bounds,
        drawn=bounds,
        evidence=[],
    )
    found = score(asked, bounds)
    # Errors: 3.5 each day; 7, then 14 in the second week; 17.5, then 24.5, as the four weeks' mean is 10.5 older.
    assert found.mase == pytest.approx({"the mesh": 0.5, "seasonal naive": 1.5, "weekday mean of 4 weeks": 3.0})
    assert found.covered == {LEVELS[0]: 1.0, LEVELS[1]: 0.0}
    assert found.width == {LEVELS[0]: 2.0, LEVELS[1]: 1.0}
