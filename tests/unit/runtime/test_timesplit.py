"""Rows are split by time, by shares or by dates, and a part that is too small is refused."""

from dataclasses import dataclass

import numpy as np
import pytest

from meshcast.rpc import InvalidInput
from meshcast.runtime.timesplit import rows_needed, split_by_time


@dataclass(frozen=True, kw_only=True)
class Split:
    train_before_unix_s: int | None = None
    validate_before_unix_s: int | None = None
    test_before_unix_s: int | None = None
    train_share: float = 0.7
    validate_share: float = 0.1
    rows_min: int = 20


WHEN = np.random.default_rng(0).permutation(100)


def test_shares_cut_by_time_whatever_the_order() -> None:
    learn, validation, test = split_by_time(WHEN, Split())
    assert sorted(WHEN[learn]) == list(range(70))
    assert sorted(WHEN[validation]) == list(range(70, 80))
    assert sorted(WHEN[test]) == list(range(80, 100))


def test_dates_cut_where_they_are() -> None:
    split = Split(train_before_unix_s=50, validate_before_unix_s=60, test_before_unix_s=90)
    assert [int(mask.sum()) for mask in split_by_time(WHEN, split)] == [50, 10, 30]


def test_what_is_too_small_is_named() -> None:
    assert rows_needed(Split()) == 24
    for split, why in (
        (Split(rows_min=80), "the training part has 70 posts with a usable history, it needs 80"),
        (Split(train_before_unix_s=90, validate_before_unix_s=91), "the validation part has 1 posts .* it needs 2"),
        (Split(validate_before_unix_s=99), "the test part has 1 posts"),
        (Split(train_before_unix_s=60, validate_before_unix_s=60), "validation must end after training ends"),
    ):
        with pytest.raises(InvalidInput, match=why) as caught:
            split_by_time(WHEN, split)
        assert caught.value.violations[0].field == "split"
