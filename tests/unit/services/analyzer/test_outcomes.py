"""Posts are measured against their own channel's settled past, and labels follow from nothing else."""

import numpy as np
import pytest

from meshcast.contents import ContentRows, Contents
from meshcast.rpc import InvalidInput
from meshcast.services.analyzer.outcomes import Outcomes, outcomes_of

DAY_S = 86_400


def file_of(outcome: list[float], channel: list[str] | None = None, step_s: int = DAY_S) -> ContentRows:
    n = len(outcome)
    return ContentRows.of(
        Contents.of([f"post {k}" for k in range(n)]),
        channel=channel,
        published_unix_s=np.arange(n) * step_s,
        outcome=outcome,
    )


def outcomes(residual: list[float], channel: list[int] | None = None) -> Outcomes:
    n = len(residual)
    numbers = np.zeros(n, dtype=np.int64) if channel is None else np.array(channel)
    return Outcomes(
        row=np.arange(n), channel=numbers, published_unix_s=np.arange(n), residual=np.array(residual, dtype=np.float64)
    )


def test_the_residual_is_against_the_median_of_the_last_hundred_settled_posts() -> None:
    values = [float(k) for k in range(150)]
    found = outcomes_of(file_of(values), settle_s=DAY_S)
    assert found.row.tolist() == list(range(20, 150))
    assert found.residual[0] == 20 - np.median(values[:20])
    assert found.residual[-1] == 149 - np.median(values[49:149])


def test_posts_that_have_not_settled_do_not_count() -> None:
    found = outcomes_of(file_of([float(k) for k in range(60)], step_s=DAY_S // 2), settle_s=DAY_S)
    assert found.row[0] == 21  # a post later than where 20 posts are before it, since the last one is too young
    assert found.residual[0] == 21 - np.median(range(20))


def test_posts_of_unknown_outcome_are_neither_asked_about_nor_history() -> None:
    values = [float(k) for k in range(60)]
    values[30] = float("nan")
    found = outcomes_of(file_of(values), settle_s=DAY_S)
    assert 30 not in found.row.tolist()
    assert found.residual[found.row == 31].item() == 31 - np.median([*range(30)])


def test_channels_are_measured_apart_and_files_may_be_in_any_order() -> None:
    channel = ["b", "a"] * 40
    values = [1_000.0 + k if name == "a" else float(k) for k, name in enumerate(channel)]
    rows = file_of(values, channel)
    found = outcomes_of(rows, settle_s=DAY_S)
    assert np.abs(found.residual).max() < 100
    turned = outcomes_of(rows.take(np.arange(80)[::-1]), settle_s=DAY_S)
    assert (79 - turned.row).tolist() == found.row.tolist()
    np.testing.assert_array_equal(turned.residual, found.residual)


def test_without_times_or_without_history_there_is_nothing_to_learn_from() -> None:
    untimed = ContentRows.of(Contents.of(["a", "b"]), outcome=[1.0, 2.0])
    with pytest.raises(InvalidInput, match="published_at"):
        outcomes_of(untimed, settle_s=DAY_S)
    with pytest.raises(InvalidInput, match="none of the 15 posts has an outcome and a history"):
        outcomes_of(file_of([1.0] * 15), settle_s=DAY_S)
    with pytest.raises(InvalidInput, match="none of the 50 posts"):
        outcomes_of(file_of([float("nan")] * 50), settle_s=DAY_S)


def test_viral_is_the_top_tenth_of_the_own_channel() -> None:
    small, large = [float(k) for k in range(100)], [100.0 * k for k in range(100)]
    found = outcomes(small + large, [0] * 100 + [1] * 100)
    viral = found.is_viral(found.thresholds())
    assert viral[:100].sum() == viral[100:].sum() == 10


def test_channels_that_are_new_or_small_take_the_tenth_of_all() -> None:
    learnt = outcomes([float(k) for k in range(110)], [0] * 100 + [1] * 10).thresholds()
    assert learnt[1] == learnt[2] == np.quantile(range(110), 0.9) != learnt[0]
    assert outcomes([98.5, 90.0], [7, 7]).is_viral(learnt).tolist() == [True, False]


def test_ranks_are_within_the_channel_and_ties_share_theirs() -> None:
    ranks = outcomes([3.0, 1.0, 2.0, 50.0, 50.0], [0, 0, 0, 1, 1]).ranks()
    np.testing.assert_allclose(ranks, [5 / 6, 1 / 6, 3 / 6, 0.5, 0.5])
