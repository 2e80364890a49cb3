"""How probabilities held up: what came true follows from the past of each channel alone, and figures are right."""

import time

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from meshcast.cli.calibration import _top_tenth, calibration, truths
from meshcast.cli.content_report import clock
from meshcast.contents import UNKNOWN_TIME, ContentRows, Contents

HOUR = 3_600


def rows_of(outcome: list[float], times: list[int], channel: list[str] | None = None) -> ContentRows:
    contents = Contents.of(["x"] * len(outcome))
    return ContentRows.of(contents, channel=channel, published_unix_s=times, outcome=outcome)


def test_what_came_true_follows_from_settled_posts_of_the_channel() -> None:
    n = 160
    rng = np.random.default_rng(0)
    order = rng.permutation(2 * n)
    outcome = rng.normal(size=2 * n) + np.repeat([0.0, 100.0], n)
    times = np.tile(np.arange(n) * 5 * HOUR, 2)
    channel = np.repeat(["a", "b"], n)
    shuffled = rows_of(outcome[order].tolist(), times[order].tolist(), channel[order].tolist())
    found = truths(shuffled)
    back = np.empty(2 * n)
    back[order] = found.above_median
    for first in (0, n):
        for row in range(n):
            settled = [at for at in range(n) if times[at] <= times[row] - 24 * HOUR][-100:]
            wanted = np.nan
            if len(settled) >= 20:
                wanted = float(outcome[first + row] > np.median(outcome[first : first + n][settled]))
            np.testing.assert_equal(back[first + row], wanted)
    known = found.viral[~np.isnan(found.viral)]
    assert known.mean() == pytest.approx(0.1, abs=0.01)
    assert "are left out" in found.note


@pytest.mark.parametrize(
    ("outcome", "times", "said"),
    [
        ([np.nan] * 30, list(range(30)), "holds no outcomes"),
        ([1.0] * 30, [UNKNOWN_TIME] * 30, "no times"),
        ([1.0] * 30, list(range(30)), "no post has 20 posts"),
    ],
)
def test_why_nothing_can_be_told_is_said(outcome: list[float], times: list[int], said: str) -> None:
    found = truths(rows_of(outcome, times))
    assert said in found.note
    assert np.isnan(found.above_median).all() and np.isnan(found.viral).all()


def test_figures_agree_with_those_of_others() -> None:
    rng = np.random.default_rng(1)
    p = rng.beta(2, 5, 3_000).round(2)  # with ties
    y = (rng.random(3_000) < p).astype(np.float64)
    y[:10], p[10:20] = np.nan, np.nan
    found = calibration(p, y)
    assert found is not None
    assert (found.rows, len(found.bins)) == (2_980, 15)
    assert found.auc == pytest.approx(roc_auc_score(y[20:], p[20:]))
    assert found.error < 0.03
    assert sum(one.rows for one in found.bins) == 2_980
    assert all(one.lower <= one.rate <= one.upper for one in found.bins)
    wrong = calibration(np.minimum(1.0, p + 0.3), y)
    assert wrong is not None and wrong.error == pytest.approx(0.3, abs=0.03)


def test_the_interval_of_a_share_is_wilsons() -> None:
    found = calibration(np.full(150, 0.5), np.r_[np.ones(10), np.zeros(140)])
    assert found is not None
    bins = [one for one in found.bins if one.rate == pytest.approx(1 / 3)]
    assert bins[0].rows == 30
    assert [bins[0].lower, bins[0].upper] == pytest.approx([0.1923, 0.5122], abs=1e-4)


def test_the_top_tenth_is_that_of_each_channel() -> None:
    rng = np.random.default_rng(2)
    sizes = [20, 21, 31, 40, 19]
    code = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    residual = rng.normal(size=len(code)).round(1)  # with ties
    found = _top_tenth(residual, code.astype(np.str_))
    for one, size in enumerate(sizes):
        own = residual[code == one]
        wanted = np.full(size, np.nan) if size < 20 else own > np.quantile(own, 0.9)
        np.testing.assert_array_equal(found[code == one], wanted)


def test_outcomes_of_many_channels_take_no_time_for_each() -> None:
    n = 60_000
    contents = Contents.of(["x"] * n, hour_of_day=np.zeros(n, dtype=np.int64))
    rows = ContentRows.of(
        contents,
        channel=np.arange(n).astype(np.str_)[np.arange(n) // 2],
        day_of_week=np.zeros(n, dtype=np.int64),
        outcome=np.tile([1.0, 3.0], n // 2),
    )
    began = time.process_time()
    found = clock(rows)
    assert time.process_time() - began < 1.0
    assert found is not None and found.outcome[0, 0] == pytest.approx(0.0)
    alike = clock(ContentRows.of(contents, day_of_week=np.zeros(n, dtype=np.int64), outcome=np.full(n, 0.1)))
    assert alike is not None and np.isnan(alike.outcome).all()


@pytest.mark.parametrize("y", [np.ones(200), np.zeros(200), np.full(200, np.nan), np.r_[0.0, 1.0]])
def test_too_little_says_nothing(y: NDArray[np.float64]) -> None:
    assert calibration(np.linspace(0, 1, len(y)), y) is None
