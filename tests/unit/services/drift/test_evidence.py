"""Evidence grows under drift alone, keeps its budget of false alarms, and comes back from disk as it was."""

import numpy as np
import pytest
from numpy.typing import NDArray

from meshcast.observations import Observations
from meshcast.rpc.errors import CorruptData
from meshcast.services.drift.bets import Bets
from meshcast.services.drift.evidence import ELAPSED_YEARS_MAX, ELAPSED_YEARS_MIN, Evidence, called
from meshcast.services.drift.layout import Layout

FEATURES = 8
ELAPSED = 1e-4
LOG_THRESHOLD = float(np.log(2))
Counts = NDArray[np.int64]


class Stream:
    """A reference of normal columns that hang together, and windows of it."""

    def __init__(self, seed: int, rows: int = 5_000) -> None:
        self.rng = np.random.default_rng(seed)
        reference = self.rows(rows)
        self.layout = Layout.of(reference)
        self.bets = Bets.of(self.layout.tally(reference, sketches=False).counts, self.layout.bins, self.layout.ordered)
        self.evidence = Evidence(self.bets, LOG_THRESHOLD)

    def rows(self, count: int, shifts: dict[int, float] | None = None) -> Observations:
        common = self.rng.standard_normal(count)
        columns = {f"x{at}": (common + self.rng.standard_normal(count)) / np.sqrt(2) for at in range(FEATURES)}
        for at, shift in (shifts or {}).items():
            columns[f"x{at}"] += shift
        return Observations(count, columns, {}, None)

    def window(self, shifts: dict[int, float] | None = None, *, rows: int = 1_000) -> Counts:
        return self.layout.tally(self.rows(rows, shifts), sketches=False).counts


def test_a_small_shift_of_one_feature_is_found_named_and_dated() -> None:
    stream = Stream(0)
    for window in range(1, 11):
        step = stream.evidence.step(stream.window(), ELAPSED, window)
        assert step.log_value < LOG_THRESHOLD and not step.drifted.any()
    for window in range(11, 21):
        step = stream.evidence.step(stream.window({3: 0.2}), ELAPSED, window)
        if step.log_value >= LOG_THRESHOLD:
            break
    assert 11 < window <= 16
    assert np.flatnonzero(step.drifted).tolist() == [3]
    assert abs(step.onset[3] - 11) <= 1
    assert step.blame[3] == pytest.approx(1)
    assert step.by_feature.argmax() == 3 and step.window_log_e[3] > 0


@pytest.mark.parametrize("rows", [500, 5_000])
def test_clean_windows_raise_nothing(rows: int) -> None:
    stream = Stream(1, rows)
    steps = [stream.evidence.step(stream.window(), ELAPSED, window) for window in range(1, 101)]
    assert max(step.log_value for step in steps) < LOG_THRESHOLD
    assert not any(step.drifted.any() for step in steps)


def test_the_value_is_an_e_detector_on_average() -> None:
    """Under the counted shares themselves the mean of M is at most the years gone by."""
    stream, years, values = Stream(2), 0.0, []
    shares = stream.bets.reference[0] / stream.bets.rows
    for _ in range(200):
        evidence, years = Evidence(stream.bets, LOG_THRESHOLD), 0.0
        for window in range(1, 6):
            counts = stream.rng.multinomial(20, shares, FEATURES)
            step = evidence.step(counts, ELAPSED, window)
            years += ELAPSED
        values.append(np.exp(step.log_value))
    assert np.mean(values) <= years * 1.05


def test_windows_weigh_their_time_within_bounds() -> None:
    stream = Stream(3)
    counts = stream.window()
    values = {
        years: Evidence(stream.bets, LOG_THRESHOLD).step(counts, years, 1).log_value
        for years in (-1.0, 0.0, ELAPSED_YEARS_MIN, 1e-5, 2e-5, ELAPSED_YEARS_MAX, 100.0)
    }
    assert values[-1.0] == values[0.0] == values[ELAPSED_YEARS_MIN] and values[100.0] == values[ELAPSED_YEARS_MAX]
    assert values[2e-5] - values[1e-5] == pytest.approx(np.log(2))


def test_an_alarm_can_end_and_reset_forgets() -> None:
    stream = Stream(4)
    for window in range(1, 51):
        step = stream.evidence.step(stream.window({0: 2.0}), ELAPSED, window)
    assert LOG_THRESHOLD < step.log_value < LOG_THRESHOLD + 12
    for window in range(51, 91):
        step = stream.evidence.step(stream.window(), ELAPSED, window)
    assert step.log_value < LOG_THRESHOLD
    stream.evidence.reset()
    fresh = Evidence(stream.bets, LOG_THRESHOLD)
    counts = stream.window()
    assert np.array_equal(
        stream.evidence.step(counts, ELAPSED, 91).by_feature, fresh.step(counts, ELAPSED, 91).by_feature
    )


def test_a_window_without_rows_is_only_time() -> None:
    stream = Stream(5)
    empty = np.zeros_like(stream.window())
    step = stream.evidence.step(empty, ELAPSED, 1)
    assert step.log_value == pytest.approx(np.log(ELAPSED)) and not step.blame.any() and not step.onset.any()


def test_what_comes_back_from_disk_goes_on_alike() -> None:
    stream = Stream(6)
    for window in range(1, 6):
        stream.evidence.step(stream.window({1: 0.1}), ELAPSED, window)
    back = Evidence.from_bytes(stream.evidence.to_bytes(), stream.bets)
    counts = stream.window({1: 0.1})
    one, other = back.step(counts, ELAPSED, 6), stream.evidence.step(counts, ELAPSED, 6)
    assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in one._fields)
    assert back.state_bytes == stream.evidence.state_bytes


def test_damaged_and_foreign_states_are_refused() -> None:
    stream, other = Stream(7), Stream(7, 600)
    data = stream.evidence.to_bytes()
    for damaged in (b"", data[:-1], data[:100] + b"x" + data[101:], b"XXXX" + data[4:]):
        with pytest.raises(CorruptData):
            Evidence.from_bytes(damaged, stream.bets)
    with pytest.raises(CorruptData, match="other bets"):
        Evidence.from_bytes(data, other.bets)


def test_e_bh_calls_as_many_as_the_budget_bears() -> None:
    values = np.log([8.0, 4.0, 2.1, 0.1])  # with a threshold of 2, the k largest must be 8 / k at least
    assert called(values, np.log(2.0)).tolist() == [True, True, False, False]
    assert called(np.log([2.1, 2.1, 2.1, 2.1]), np.log(2.0)).all()
    assert not called(np.log([7.9, 0.1, 0.1, 0.1]), np.log(2.0)).any()
    assert called(np.zeros(0), 0.0).tolist() == []


def test_features_without_any_bet_are_let_be() -> None:
    nothing = np.zeros((2, 5), dtype=np.int64)
    nothing[:, 0] = 1
    evidence = Evidence(Bets.of(nothing, np.array([1, 1]), np.array([True, True]), failure=1e-300), LOG_THRESHOLD)
    step = evidence.step(nothing * 1_000, ELAPSED, 1)
    assert not step.drifted.any() and not step.onset.any() and not step.blame.any()
