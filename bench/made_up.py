"""Made-up posts that several programs stream: light to import, so that a client's process holds little else."""

import numpy as np

from meshcast.posts import PostTable

POSTS = 20_000


def made_up_posts() -> PostTable:
    """Posts of one channel, two hours apart, from a fixed seed: the cost of a row does not depend on what it says."""
    rng = np.random.default_rng(11)
    return PostTable.of(
        {
            "published_unix_s": 1_400_000_000 + np.arange(POSTS) * 7_200,
            "hour_of_day": np.arange(POSTS) * 2 % 24,
            "day_of_week": np.arange(POSTS) // 12 % 7,
            "content_length": rng.integers(0, 400, POSTS),
            "has_media": rng.integers(0, 2, POSTS),
            "forwards": rng.integers(0, 5_000, POSTS),
            "replies": rng.integers(0, 500, POSTS),
            "reactions": rng.integers(0, 20_000, POSTS),
        }
    )
