"""Rows that hang together are taken for fewer; independent ones, and what says nothing, are not."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter

from meshcast.observations import CategoryColumn, Observations
from meshcast.services.drift.bets import Bets
from meshcast.services.drift.dependence import INFLATION_MAX, inflations
from meshcast.services.drift.evidence import Evidence
from meshcast.services.drift.layout import Layout

Floats = NDArray[np.float64]


def remembering(rng: np.random.Generator, rows: int, memory: float) -> Floats:
    """A normal series with variance 1 whose correlation with the row before is `memory`."""
    noise = rng.standard_normal(rows + 500) * np.sqrt(1 - memory**2)
    return np.asarray(lfilter([1.0], [1.0, -memory], noise)[500:])


def table(*columns: Floats) -> Observations:
    return Observations(len(columns[0]), {f"x{at}": column for at, column in enumerate(columns)}, {}, None)


def test_independent_rows_count_in_full() -> None:
    rng = np.random.default_rng(0)
    coin = (rng.random(5_000) < 0.5).astype(np.float64)
    columns: list[Floats] = [rng.standard_normal(5_000), rng.lognormal(0, 3, 5_000), coin]
    columns += [np.where(rng.random(5_000) < 0.1, np.nan, columns[0])]
    assert inflations(table(*columns)).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("memory", [0.5, 0.8])
def test_rows_that_remember_count_for_as_many_as_their_means_are_worth(memory: float) -> None:
    rng = np.random.default_rng(1)
    wanted = (1 + memory) / (1 - memory)
    found = inflations(table(remembering(rng, 20_000, memory), np.exp(3 * remembering(rng, 20_000, memory))))
    assert found[0] == pytest.approx(wanted * 1.25, rel=0.3) and found[1] > wanted / 2


def test_nulls_and_categories_in_bursts_count() -> None:
    rng = np.random.default_rng(2)
    state = remembering(rng, 5_000, 0.95)
    observations = Observations(
        5_000,
        {"x": np.where(state > 1, np.nan, rng.standard_normal(5_000))},
        {"c": CategoryColumn((state > 0).astype(np.int32), ("a", "b"))},
        None,
    )
    assert (inflations(observations) > 5).all()


def test_what_says_nothing_counts_in_full() -> None:
    rng = np.random.default_rng(3)
    odd = np.array([np.inf, -np.inf, np.nan, 1e308, -1e308] * 400)
    found = inflations(table(np.full(2_000, 5.0), np.full(2_000, np.nan), odd))
    assert found.tolist() == [1, 1, 1]
    assert inflations(table(remembering(rng, 900, 0.9))).tolist() == [1]
    assert inflations(table(np.sort(rng.standard_normal(20_000)))).tolist() == [INFLATION_MAX]


def test_remembering_rows_raise_no_alarm_and_a_layout_keeps_how_they_do() -> None:
    rng = np.random.default_rng(4)
    reference = table(*(remembering(rng, 10_000, 0.8) for _ in range(8)))
    layout = Layout.from_bytes(Layout.of(reference).to_bytes())
    counts = layout.tally(reference, sketches=False).counts
    alarms = []
    for inflation in (layout.inflation, None):
        bets, drawn = Bets.of(counts, layout.bins, layout.ordered, inflation=inflation), np.random.default_rng(5)
        evidence = Evidence(bets, np.log(2))
        steps = [
            evidence.step(
                layout.tally(table(*(remembering(drawn, 1_000, 0.8) for _ in range(8))), sketches=False).counts,
                1e-4,
                window,
            )
            for window in range(1, 61)
        ]
        alarms.append(any(step.log_value >= np.log(2) for step in steps))
    assert alarms == [False, True]
