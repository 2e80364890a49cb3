from collections.abc import Callable

import numpy as np
import pytest

from meshcast.observations import Observations
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.tally import Tally
from meshcast.services.drift.wasserstein import wasserstein

Maker = Callable[[np.random.Generator, int], np.ndarray]


def table(values: np.ndarray) -> Observations:
    return Observations(rows=len(values), numeric={"x": values}, categorical={})


def taken_in(layout: Layout, values: np.ndarray) -> Tally:
    whole = layout.tally(table(values[:0]))
    for start in range(0, len(values), 5_000):
        whole.add(layout.tally(table(values[start : start + 5_000])))
    return whole


def exact(before: np.ndarray, after: np.ndarray) -> float:
    a, b = np.sort(before), np.sort(after)
    ends = np.union1d(np.arange(len(a) + 1) / len(a), np.arange(len(b) + 1) / len(b))
    ends = np.unique(np.clip(ends, 0.001, 0.999))
    middle = (ends[1:] + ends[:-1]) / 2
    apart = a[np.ceil(middle * len(a)).astype(int) - 1] - b[np.ceil(middle * len(b)).astype(int) - 1]
    return float(np.abs(apart) @ np.diff(ends))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda rng, n: rng.standard_normal(n), lambda rng, n: rng.standard_normal(n)),
        (lambda rng, n: rng.standard_normal(n), lambda rng, n: rng.standard_normal(n) + 30),
        (lambda rng, n: rng.lognormal(0, 1.5, n), lambda rng, n: rng.lognormal(0, 1.5, n)),
        (lambda rng, n: rng.lognormal(0, 1.5, n), lambda rng, n: rng.lognormal(0, 1.8, n)),
        (lambda rng, n: rng.zipf(3, n) * 1.0, lambda rng, n: rng.zipf(2.8, n) * 1.0),
        (lambda rng, n: np.full(n, 0.1), lambda rng, n: rng.choice([0.1, 0.6], n)),
        (lambda rng, n: rng.choice([0.0, 1.0], n), lambda rng, n: rng.choice([0.0, 0.5, 1.0], n)),
        (lambda rng, n: 1.7e9 + rng.standard_normal(n), lambda rng, n: 1.7e9 + 0.1 + rng.standard_normal(n)),
    ],
)
def test_sketched_rows_are_as_far_as_the_rows_themselves(first: Maker, second: Maker) -> None:
    rng = np.random.default_rng(0)
    before, after = first(rng, 60_000), second(rng, 60_000)
    layout = Layout.of(table(before))
    reference, window = taken_in(layout, before), taken_in(layout, after)
    assert window.sketches is not None and not window.sketches.is_exact
    low, high = np.quantile(before, [0.25, 0.75])
    truth = exact(before, after)
    assert wasserstein(layout, reference, window)[0] == pytest.approx(truth, abs=max(0.03 * truth, 0.01 * (high - low)))


def test_rows_of_one_window_are_measured_by_their_own_values() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.standard_normal(20_000), rng.standard_normal(1_000) * 1.5
    layout = Layout.of(table(before))
    found = wasserstein(layout, layout.tally(table(before)), layout.tally(table(after)))
    assert found[0] == pytest.approx(exact(before, after), rel=0.02)


def test_counts_alone_tell_a_distance_within_the_references_range() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.standard_normal(20_000), rng.standard_normal(20_000) + 0.3
    layout = Layout.of(table(before))
    window = layout.tally(table(after), sketches=False)
    truth = exact(before, after)
    assert wasserstein(layout, layout.tally(table(before)), window)[0] == pytest.approx(truth, rel=0.02)
    window.fine = None
    assert wasserstein(layout, layout.tally(table(before)), window)[0] == pytest.approx(truth, rel=0.1)


def test_infinities_have_no_place() -> None:
    layout = Layout.of(table(np.arange(100.0)))
    reference = layout.tally(table(np.arange(100.0)))
    some = layout.tally(table(np.r_[np.arange(100.0), np.inf, -np.inf]))
    assert wasserstein(layout, reference, some)[0] == pytest.approx(0, abs=0.3)
    assert np.isnan(wasserstein(layout, reference, layout.tally(table(np.full(3, np.inf))))[0])
    assert np.isnan(wasserstein(layout, reference, layout.tally(table(np.empty(0))))[0])
