"""The demo's drift: rows as they are sent."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from demo_drift import observations, split
from meshcast.posts import PostTable

DAY_S = 86_400


def test_posts_are_rows_in_logs_with_their_times_and_cut_by_time() -> None:
    start = int(datetime(2014, 12, 30, tzinfo=UTC).timestamp())
    posts = PostTable.of(
        {
            "published_unix_s": start + np.arange(4) * DAY_S,
            "hour_of_day": [0, 6, 12, 18],
            "day_of_week": [1, 2, 3, 4],
            "content_length": [0, 9, 99, 139],
            "has_media": [0, 0, 0, 0],
            "forwards": [0, 1, 2, 3],
            "replies": [0, 0, 0, 0],
            "reactions": [0, 9, 99, 999],
        }
    )
    before, after = split(observations(posts))
    assert before.names == ("favourites", "retweets", "length", "hour")
    assert (before.rows, after.rows) == (2, 2)
    assert after.numeric["favourites"] == pytest.approx(np.log([100, 1_000]))
    assert after.numeric["hour"].tolist() == [12, 18]
    assert after.unix_us is not None and after.unix_us[0] == (start + 2 * DAY_S) * 1_000_000
