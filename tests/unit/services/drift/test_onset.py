"""Restarts date a drift to the window from which on it kept gaining."""

import numpy as np

from meshcast.services.drift.bets import Bets
from meshcast.services.drift.onset import Restarts


def bets() -> Bets:
    """Two features of two categories each."""
    return Bets.of(np.array([[50, 50, 0, 0], [90, 10, 0, 0]]), np.array([2, 2]), np.zeros(2, dtype=np.bool_))


def test_a_stretch_begins_anew_when_nothing_is_left() -> None:
    mine = bets()
    restarts = Restarts.none(len(mine.feature))
    for window, gain in enumerate([-1.0, -2.0, 3.0, -1.0, 2.0, -9.0, 1.0], start=1):
        restarts.step(np.full(len(mine.feature), gain), np.full(len(mine.feature), gain / 2), 10, window)
        if window == 5:
            assert set(restarts.gained) == {4.0} and set(restarts.start) == {3} and set(restarts.rows) == {30}
            assert set(restarts.excess) == {2.0}
    assert set(restarts.gained) == {1.0} and set(restarts.start) == {7} and set(restarts.rows) == {10}


def test_each_feature_is_dated_by_the_bet_that_gained_most_for_its_money() -> None:
    mine = bets()
    restarts = Restarts.none(len(mine.feature))
    first = int(np.flatnonzero(mine.feature == 1)[0])
    gains = np.full(len(mine.feature), -1.0)
    restarts.step(gains, gains, 10, 1)
    gains[first] = 5.0
    restarts.step(gains, gains, 10, 2)
    at, gained = restarts.best(mine)
    assert at[1] == first and gained[1] == 5.0 + mine.log_weight[first]
    assert restarts.onset(mine).tolist() == [0, 2]
