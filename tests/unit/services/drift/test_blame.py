"""Blame goes to what moved, in shares of the squared shift, and to nobody where nothing did."""

import numpy as np
import pytest
from numpy.typing import NDArray

from meshcast.observations import CategoryColumn, Observations
from meshcast.services.drift.bets import Bets
from meshcast.services.drift.blame import blame, blame_since_onset
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.onset import Restarts

COLUMNS = ("a", "b", "c", "d")


def rows(rng: np.random.Generator, count: int, *, lettered: float = 0.5, **shifts: float) -> Observations:
    common = rng.standard_normal(count)
    columns = {name: (common + rng.standard_normal(count)) / np.sqrt(2) + shifts.get(name, 0.0) for name in COLUMNS}
    letters = CategoryColumn((rng.random(count) < lettered).astype(np.int32), ("x", "y"))
    return Observations(count, columns, {"letters": letters}, None)


class Referenced:
    """A reference, its bets, and how later rows are counted."""

    def __init__(self, rng: np.random.Generator) -> None:
        reference = rows(rng, 5_000)
        self.layout = Layout.of(reference)
        self.bets = Bets.of(self.layout.tally(reference).counts, self.layout.bins, self.layout.ordered)

    def counts(self, observations: Observations) -> NDArray[np.int64]:
        return self.layout.tally(observations).counts


def test_what_moved_further_has_the_larger_share() -> None:
    rng = np.random.default_rng(0)
    one = Referenced(rng)
    shares = blame(one.bets, one.counts(rows(rng, 2_000, a=0.4, c=0.9)))
    assert shares.sum() == pytest.approx(1) and shares[2] > 3 * shares[0] > 0
    assert shares[[1, 3, 4]].sum() == 0


def test_a_category_can_be_to_blame() -> None:
    rng = np.random.default_rng(1)
    one = Referenced(rng)
    assert blame(one.bets, one.counts(rows(rng, 2_000, lettered=0.8))).tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("count", [0, 1, 30, 2_000])
def test_nobody_is_to_blame_where_nothing_moved(count: int) -> None:
    rng = np.random.default_rng(2)
    one = Referenced(rng)
    assert not blame(one.bets, one.counts(rows(rng, count))).any()


def test_over_windows_small_shifts_are_blamed_since_their_onset() -> None:
    rng = np.random.default_rng(3)
    one = Referenced(rng)
    restarts = Restarts.none(len(one.bets.feature))
    for window in range(1, 13):
        counts = one.counts(rows(rng, 1_000, **({"b": 0.2, "d": 0.4} if window > 6 else {})))
        restarts.step(one.bets.log_increments(counts), one.bets.excesses(counts), 1_000, window)
        if window == 6:
            assert not blame_since_onset(one.bets, restarts).any()
    shares = blame_since_onset(one.bets, restarts)
    assert shares[3] > shares[1] > 0 and shares[[0, 2, 4]].sum() == 0 and shares.sum() == pytest.approx(1)
