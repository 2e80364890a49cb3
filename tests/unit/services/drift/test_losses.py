"""Losses that have risen raise an alarm soon, steady and falling ones seldom, however the stream is cut."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from meshcast.rpc.errors import CorruptData
from meshcast.services.drift.baseline import upper_mean
from meshcast.services.drift.losses import RECENT, LossWatch

Floats = NDArray[np.float64]


def errors(*parts: tuple[float, int], seed: int = 0) -> Floats:
    """Losses of 0 and 1: so many of each error rate, one after the other."""
    rng = np.random.default_rng(seed)
    return np.concatenate([(rng.random(count) < rate).astype(np.float64) for rate, count in parts])


@pytest.mark.parametrize("baseline", [0.1, None])
def test_a_rise_is_found_soon_and_its_beginning_is_named(baseline: float | None) -> None:
    watch = LossWatch(baseline=baseline)
    alarms = watch.update(errors((0.1, 10_000), (0.2, 1_000)))
    assert 10_000 < alarms[0].position < 10_500 and abs(alarms[0].onset - 10_000) < 200
    assert watch.is_raised and watch.recent is not None and abs(watch.recent - 0.2) < 0.05


@pytest.mark.parametrize("baseline", [0.3, None])
def test_falling_losses_raise_nothing(baseline: float | None) -> None:
    watch = LossWatch(baseline=baseline)
    assert watch.update(errors((0.3, 20_000), (0.1, 50_000), (0.01, 50_000))) == []
    assert not watch.is_raised and watch.log_value < watch.log_threshold


def test_what_a_slow_drift_adds_does_not_leak_into_the_baseline() -> None:
    rng = np.random.default_rng(0)
    watch = LossWatch()
    watch.update(errors((0.1, 4_000)))
    before = watch.baseline_upper
    alarms = watch.update((rng.random(40_000) < np.linspace(0.1, 0.2, 40_000)).astype(np.float64))
    assert alarms and before is not None and watch.baseline_upper is not None and watch.baseline_upper <= before


def test_steady_losses_tighten_the_bound_but_never_below_the_truth_here() -> None:
    watch = LossWatch()
    bounds = []
    for part in np.split(errors((0.1, 64_000)), 32):
        watch.update(part)
        bounds.append(watch.baseline_upper or math.inf)
    assert bounds == sorted(bounds, reverse=True) and len(set(bounds)) >= 3
    assert 0.1 < bounds[-1] < 0.107 and watch.losses == 64_000


@pytest.mark.parametrize("baseline", [0.1, None])
def test_the_mean_time_to_a_false_alarm_is_at_least_what_was_asked_for(baseline: float | None) -> None:
    lives, asked = 40, 1_000
    times = []
    for seed in range(lives):
        watch = LossWatch(baseline=baseline, warm_up=500, losses_to_false_alarm=asked)
        alarms = watch.update(errors((0.1, 10_000), seed=seed))
        times.append(alarms[0].position if alarms else 10_000)
    assert np.mean(times) > 0.8 * asked  # 40 lives know it to a sixth


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 9_000), max_size=12), baseline=st.sampled_from([None, 0.1]), whole=st.booleans())
def test_alarms_and_state_are_the_same_however_the_stream_is_cut(
    cuts: list[int], baseline: float | None, whole: bool
) -> None:
    losses = errors((0.1, 4_100), (0.25, 1_000), (0.1, 3_900))
    if whole:
        losses = np.random.default_rng(1).beta(2, 8, 9_000) + 0.5 * losses
    once = LossWatch(baseline=baseline, warm_up=1_000, loss_max=1.5)
    wanted = once.update(losses)
    watch, found = LossWatch(baseline=baseline, warm_up=1_000, loss_max=1.5), []
    for part in np.split(losses, sorted(cuts)):
        found += watch.update(part)
        watch = LossWatch.from_bytes(watch.to_bytes())
    assert found == wanted and watch.to_bytes() == once.to_bytes()


def test_sums_begin_anew_at_fixed_positions_and_nothing_is_lost() -> None:
    losses = errors((0.1, 140_000))
    once, watch = LossWatch(losses_to_false_alarm=1e9), LossWatch(losses_to_false_alarm=1e9)
    once.update(losses)
    for part in np.split(losses, [65_535, 65_536, 65_537, 131_000, 131_080]):
        watch.update(part)
    assert watch.to_bytes() == once.to_bytes() and len(once.to_bytes()) < 10_000


def test_an_alarm_stands_until_losses_are_quiet_again() -> None:
    watch = LossWatch(baseline=0.12)
    watch.update(errors((0.1, 2_000), (0.5, 500)))
    assert watch.is_raised
    watch.update(errors((0.05, 3 * RECENT)))
    assert not watch.is_raised


def test_losses_in_bursts_are_taken_for_fewer_than_they_are() -> None:
    rng = np.random.default_rng(0)
    alarms, bounds = 0, []
    for _ in range(20):
        losses = np.repeat(errors((0.1, 1_000), seed=int(rng.integers(1 << 30))), 10)  # each ten times
        watch = LossWatch(losses_to_false_alarm=1e4)
        alarms += bool(watch.update(losses))
        bounds.append(watch.baseline_upper or 0.0)
    assert alarms <= 8 and np.count_nonzero(np.array(bounds) > 0.1) >= 15
    risen = LossWatch()
    found = risen.update(np.repeat(errors((0.1, 1_000), (0.4, 200)), 10))
    assert found and found[-1].position > 10_000


def test_losses_of_any_scale_are_watched_alike() -> None:
    losses = errors((0.1, 3_000), (0.4, 200))
    one, cents = LossWatch(baseline=0.1), LossWatch(baseline=10, loss_max=100)
    assert one.update(losses) == cents.update(100 * losses)
    assert cents.baseline == 10 and cents.recent == pytest.approx(100 * (one.recent or 0))


def test_extreme_baselines_neither_fail_nor_cry_wolf() -> None:
    never = LossWatch(baseline=0)
    assert never.update(np.zeros(5_000)) == [] and never.update(np.ones(1))[0].position == 5_000
    always = LossWatch(baseline=1)
    assert always.update(np.ones(5_000)) == []
    still = LossWatch(warm_up=100)
    assert still.update(np.zeros(5_000)) == [] and still.baseline == 0
    assert still.update(np.ones(10))[0].onset == 5_000
    assert LossWatch(warm_up=100).update(np.ones(5_000)) == []
    nothing = LossWatch()
    assert nothing.update(np.zeros(0)) == [] and nothing.recent is None and nothing.log_value == -math.inf


def test_nothing_is_known_before_the_warm_up_is_over() -> None:
    watch = LossWatch(warm_up=200)
    assert watch.update(np.ones(199)) == [] and watch.baseline is None and watch.baseline_upper is None
    watch.update(np.ones(1))
    assert watch.baseline == 1


@pytest.mark.parametrize("data", [b"", b"MCLW", b"x" * 64, LossWatch().to_bytes()[:-8]])
def test_damaged_state_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptData):
        LossWatch.from_bytes(data)


def test_the_bound_of_a_mean_covers_it_and_is_tighter_for_losses_that_vary_little() -> None:
    rng = np.random.default_rng(0)
    uniform = rng.random((300, 500))
    kinds: list[tuple[Floats, float]] = [
        ((uniform < 0.1).astype(np.float64), 0.1),
        (rng.beta(20, 180, uniform.shape), 0.1),
        (np.where(uniform < 0.01, 100 * uniform, 0), 0.005),
    ]
    for samples, mean in kinds:
        bounds = [upper_mean(500, losses.sum(), (losses**2).sum(), chance=0.1) for losses in samples]
        assert np.count_nonzero(np.array(bounds) < mean) <= 45
    steady = upper_mean(500, 50.0, 5.2, chance=0.1)
    assert 0.1 < steady < upper_mean(500, 50.0, 50.0, chance=0.1) < 0.13
    assert upper_mean(1, 1.0, 1.0, chance=0.1) == 1
