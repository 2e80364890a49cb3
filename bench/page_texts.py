"""Texts of public pages' posts beside what they did: the rows that benchmarks of text models learn from and test on."""

from pathlib import Path
from typing import Any

import numpy as np

from meshcast.services.analyzer.embedder.tokens import embedded_text

FILES = ("page_posts_a.csv.xz", "page_posts_b.csv.xz")
NOT_ENGLISH = ("veja", "esporteinterativo", "redeglobo", "thalia", "figc", "amrkhaled")
HISTORY_MIN, HISTORY_MAX, SETTLED_S = 20, 100, 86_400
TRAIN_BEFORE, TEST_FROM, TEST_ROWS = "2016-05-15", "2016-06-01", 6_000


def missing(folder: Path) -> list[str]:
    """Names of the files that the folder lacks."""
    return [name for name in FILES if not (folder / name).is_file()]


def read_posts(folder: Path) -> Any:
    """The posts as a data frame, sorted by channel and time, with `embedded`: what the embedder is given of each."""
    import pandas as pd

    frame = pd.concat(pd.read_csv(folder / name, keep_default_na=False) for name in FILES)
    frame["time"] = pd.to_datetime(frame["published_at"])
    frame["embedded"] = [embedded_text(*both) for both in zip(frame["text"], frame["title"], strict=True)]
    return frame.sort_values(["channel", "time"], kind="stable").reset_index(drop=True)


def judged(posts: Any) -> tuple[Any, Any]:
    """Rows to learn from and to test on, with `above_median` and `viral`.

    A row has a history of at least 20 posts of its channel that are a day older; `above_median` compares log1p of its
    engagement with the median of the last 100 of them, and `viral` asks whether it is beyond that by more than nine of
    ten of the channel's rows before 15 May. Pages that do not write English are left out.
    """
    import pandas as pd

    posts = posts[~posts["channel"].isin(NOT_ENGLISH)].reset_index(drop=True)
    engagement = np.log1p(posts[["reactions", "comments", "shares"]].sum(axis=1).to_numpy(dtype=np.float64))
    seconds = ((posts["time"] - pd.Timestamp(0)) // pd.Timedelta(seconds=1)).to_numpy()
    median = np.full(len(posts), np.nan)
    for rows in posts.groupby("channel").indices.values():
        rows = np.sort(rows)
        settled = np.searchsorted(seconds[rows], seconds[rows] - SETTLED_S, side="right")
        for row, count in zip(rows, settled, strict=True):
            if count >= HISTORY_MIN:
                median[row] = np.median(engagement[rows[max(0, count - HISTORY_MAX) : count]])
    posts = posts.assign(beyond=engagement - median)[np.isfinite(median)]
    train = posts[posts["time"] < TRAIN_BEFORE]
    often = train.groupby("channel")["beyond"].quantile(0.9)
    posts = posts.assign(above_median=posts["beyond"] > 0, viral=posts["beyond"] > posts["channel"].map(often))
    train, test = posts[posts["time"] < TRAIN_BEFORE], posts[posts["time"] >= TEST_FROM]
    return train, test.sample(min(TEST_ROWS, len(test)), random_state=1)
