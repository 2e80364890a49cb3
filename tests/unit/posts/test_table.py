import numpy as np

from meshcast.posts import PostTable, engagement

NAN = float("nan")


def test_engagement_leaves_unknown_counts_out_and_knows_nothing_of_none() -> None:
    posts = PostTable.of(
        {
            "published_unix_s": [0, 1, 2],
            "hour_of_day": [0, 0, 0],
            "day_of_week": [0, 0, 0],
            "forwards": [1, NAN, NAN],
            "replies": [2, NAN, NAN],
            "reactions": [3, 7, NAN],
        }
    )
    assert engagement(posts)[:2].tolist() == [6, 7]
    assert np.isnan(engagement(posts)[2])
