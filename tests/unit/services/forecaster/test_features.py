from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcast.rpc import InvalidInput
from meshcast.services.forecaster import features
from meshcast.services.forecaster.features import DAYS_BACK, HISTORY, LAST_YEAR, tensors

FIRST_DAY = date(2016, 6, 1).toordinal() - date(1970, 1, 1).toordinal()  # a Wednesday, day 152 of a leap year


def one_row(day: np.ndarray, value: np.ndarray, first_day: int = FIRST_DAY) -> dict[str, np.ndarray]:
    start, stop = np.array([0]), np.array([len(day)])
    return dict(tensors(day, value, start, stop, np.array([first_day]), np.array([True])))


def test_every_day_stands_at_its_own_place() -> None:
    day = np.arange(FIRST_DAY - 500, FIRST_DAY)
    found = one_row(day, day.astype(float))
    assert found["history"][0].tolist() == list(range(FIRST_DAY - HISTORY, FIRST_DAY))
    assert found["mask"].all()
    assert found["last_year"][0].tolist() == list(range(FIRST_DAY - 393, FIRST_DAY - 393 + LAST_YEAR))
    assert found["last_year"][0, -1] == FIRST_DAY + 89 - 364  # the last day ahead, 52 weeks before
    assert found["last_year_mask"].all()
    assert found["calendar"].tolist() == [[2.0, 152.0]]
    assert found["nonnegative"].tolist() == [1.0]
    assert tuple(found) == features.INPUTS
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}


def test_absent_days_and_nan_are_both_missing() -> None:
    day = np.arange(FIRST_DAY - 30, FIRST_DAY)
    value = np.full(30, 5.0)
    value[10] = np.nan
    missing = one_row(day, value)
    absent = one_row(np.delete(day, 10), np.delete(value, 10))
    for name in features.INPUTS:
        np.testing.assert_array_equal(missing[name], absent[name])
    assert missing["mask"].sum() == 29
    assert missing["history"][0, HISTORY - 20] == 0.0
    assert not missing["last_year_mask"].any()


def test_a_history_that_ended_some_days_ago_leaves_its_newest_places_empty() -> None:
    day = np.arange(FIRST_DAY - 40, FIRST_DAY - 5)
    found = one_row(day, np.ones(35))
    assert found["mask"][0, -5:].tolist() == [0.0] * 5
    assert found["mask"][0, -6] == 1.0


def test_a_history_that_reaches_past_its_first_forecast_day_is_refused() -> None:
    with pytest.raises(InvalidInput, match="first forecast day"):
        one_row(np.arange(FIRST_DAY - 20, FIRST_DAY + 1), np.ones(21))


def test_no_row_and_a_row_without_days_are_right_answers() -> None:
    none = np.zeros(0, np.int64)
    assert tensors(none, np.zeros(0), none, none, none, np.zeros(0, np.bool_))["history"].shape == (0, HISTORY)
    assert not one_row(none, np.zeros(0))["mask"].any()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 600), st.integers(1, 40)), min_size=1, max_size=6), st.integers(0, 1000))
def test_a_rows_tensors_are_its_own_whatever_else_is_in_the_chunk(sizes: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    days, values, firsts = [], [], []
    for size, gap in sizes:
        first = int(rng.integers(5_000, 20_000))
        day = np.sort(rng.choice(np.arange(first - 700, first - gap + 1), size, replace=False))
        days.append(day)
        values.append(rng.normal(size=size))
        firsts.append(first)
    size_ = np.array([len(day) for day in days])
    stop = np.cumsum(size_)
    flag = rng.random(len(sizes)) < 0.5
    day, value = np.concatenate(days), np.concatenate(values)
    together = tensors(day, value, stop - size_, stop, np.array(firsts), flag)
    for k in range(len(sizes)):
        alone = tensors(
            days[k], values[k], np.array([0]), size_[k : k + 1], np.array(firsts[k : k + 1]), flag[k : k + 1]
        )
        for name in features.INPUTS:
            np.testing.assert_array_equal(together[name][k], alone[name][0])
        reach = (firsts[k] - days[k]) <= DAYS_BACK
        assert together["mask"][k].sum() == ((firsts[k] - days[k]) <= HISTORY).sum()
        assert together["last_year_mask"][k].sum() == (reach & (firsts[k] - days[k] > DAYS_BACK - LAST_YEAR)).sum()
