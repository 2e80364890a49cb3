"""The breaker: what opens it, what does not, and how it closes again."""

from __future__ import annotations

import random

import pytest

from meshcast.gateway.breaker import Breaker, BreakerSettings, BreakerState, Outcome

SETTINGS = BreakerSettings()


def breaker(**changes: float) -> Breaker:
    return Breaker(BreakerSettings(**changes), random.Random(1))  # type: ignore[arg-type]  # numbers as the fields want them


def take(one: Breaker, outcome: Outcome, count: int = 1, *, now: float = 0.0) -> None:
    for _ in range(count):
        one.end(one.begin(now), outcome, now)


def state(one: Breaker) -> BreakerState:
    return one.state


def opened(now: float = 0.0) -> Breaker:
    one = breaker()
    take(one, Outcome.FAILED, SETTINGS.tries_min, now=now)
    assert state(one) is BreakerState.OPEN
    return one


def test_a_share_of_failures_opens_it() -> None:
    one = breaker(failure_share=0.5, failures_in_row=1000)
    for _ in range(30):
        take(one, Outcome.OK)
    take(one, Outcome.FAILED, 29)
    assert state(one) is BreakerState.CLOSED
    take(one, Outcome.FAILED)
    assert state(one) is BreakerState.OPEN


def test_failures_in_a_row_open_it_long_before_their_share_is_large() -> None:
    one = breaker()
    take(one, Outcome.OK, 1000)
    take(one, Outcome.FAILED, SETTINGS.failures_in_row - 1)
    take(one, Outcome.OK)
    take(one, Outcome.FAILED, SETTINGS.failures_in_row - 1)
    assert state(one) is BreakerState.CLOSED
    take(one, Outcome.FAILED)
    assert state(one) is BreakerState.OPEN


def test_too_few_tries_never_open_it() -> None:
    one = breaker()
    take(one, Outcome.FAILED, SETTINGS.tries_min - 1)
    assert state(one) is BreakerState.CLOSED


def test_what_has_left_the_window_does_not_count() -> None:
    one = breaker()
    take(one, Outcome.FAILED, SETTINGS.tries_min - 1, now=0.0)
    take(one, Outcome.OK, now=SETTINGS.window_s + 1.0)
    take(one, Outcome.FAILED, 4, now=SETTINGS.window_s + 1.0)
    assert state(one) is BreakerState.CLOSED


def test_cancels_and_refusals_change_nothing() -> None:
    one = breaker()
    take(one, Outcome.FAILED, SETTINGS.tries_min - 1)
    take(one, Outcome.IGNORED, 1000)
    assert state(one) is BreakerState.CLOSED


def test_while_open_nothing_is_admitted_until_the_pause_is_over() -> None:
    one = opened()
    pause_s = one.retry_after_s(0.0)
    assert SETTINGS.pause_s / 2 <= pause_s <= SETTINGS.pause_s <= 1.0
    assert not one.admits(pause_s - 0.001)
    assert one.admits(pause_s)
    assert one.retry_after_s(pause_s) == 0.0


def test_only_a_few_probes_are_admitted_at_a_time() -> None:
    one = opened()
    turns = [one.begin(1.0) for _ in range(SETTINGS.probes_max)]
    assert state(one) is BreakerState.HALF_OPEN
    assert not one.admits(1.0)
    one.end(turns[0], Outcome.IGNORED, 1.0)
    assert one.admits(1.0)


def test_enough_successes_close_it_and_one_failure_opens_it_for_longer() -> None:
    one = opened()
    take(one, Outcome.OK, SETTINGS.probes_to_close - 1, now=1.0)
    assert state(one) is BreakerState.HALF_OPEN
    take(one, Outcome.FAILED, now=1.0)
    assert state(one) is BreakerState.OPEN
    assert one.retry_after_s(1.0) >= SETTINGS.pause_s  # twice the first, less up to a half
    take(one, Outcome.OK, SETTINGS.probes_to_close, now=3.0)
    assert state(one) is BreakerState.CLOSED


def test_the_pauses_stay_short_so_that_full_use_is_back_within_seconds() -> None:
    one, now = opened(), 0.0
    for _ in range(50):
        now += one.retry_after_s(now)
        take(one, Outcome.FAILED, now=now)
        assert one.retry_after_s(now) <= SETTINGS.pause_s_max < 5.0


def test_tries_that_began_before_it_opened_do_not_decide_over_it_afterwards() -> None:
    one = breaker()
    early = [one.begin(0.0) for _ in range(30)]
    take(one, Outcome.FAILED, SETTINGS.tries_min)
    take(one, Outcome.OK, 1, now=1.0)
    for turn in early[:10]:
        one.end(turn, Outcome.OK, 1.0)
    assert state(one) is BreakerState.HALF_OPEN
    take(one, Outcome.OK, SETTINGS.probes_to_close - 1, now=1.0)
    assert state(one) is BreakerState.CLOSED
    for turn in early[10:]:
        one.end(turn, Outcome.FAILED, 1.1)
    assert state(one) is BreakerState.CLOSED


def test_a_try_that_was_not_admitted_is_not_counted() -> None:
    one = opened()
    take(one, Outcome.FAILED, 100, now=0.1)
    assert one.opened == 1
    take(one, Outcome.OK, 100, now=0.1)
    assert state(one) is BreakerState.OPEN


def test_pauses_differ_by_chance_but_not_for_one_seed() -> None:
    def pauses(seed: int) -> float:
        one = Breaker(SETTINGS, random.Random(seed))
        take(one, Outcome.FAILED, SETTINGS.tries_min)
        return one.retry_after_s(0.0)

    assert len({pauses(seed) for seed in range(20)}) == 20
    assert pauses(3) == pauses(3)


@pytest.mark.parametrize(
    "changes",
    [{"window_s": 0.0}, {"tries_min": 0}, {"failure_share": 1.5}, {"pause_s_max": 0.1}, {"probes_max": 0}],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        breaker(**changes)
