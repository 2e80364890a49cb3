"""The breaker against a plain model of it, in random orders of tries and outcomes."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from meshcast.gateway.breaker import Breaker, BreakerSettings, BreakerState, Outcome

WINDOW_S = 5.0
BUCKET_S = WINDOW_S / 10


class BreakerMachine(RuleBasedStateMachine):
    """Tries begin and end in any order while time passes; the model keeps every outcome with its time."""

    tries = Bundle("tries")

    @initialize(
        tries_min=st.integers(1, 6),
        share=st.floats(0.2, 1.0),
        in_row=st.integers(1, 6),
        probes_max=st.integers(1, 4),
        to_close=st.integers(1, 5),
        seed=st.integers(0, 1000),
    )
    def begin(self, tries_min: int, share: float, in_row: int, probes_max: int, to_close: int, seed: int) -> None:
        self.settings = BreakerSettings(
            window_s=WINDOW_S,
            tries_min=tries_min,
            failure_share=share,
            failures_in_row=in_row,
            probes_max=probes_max,
            probes_to_close=to_close,
        )
        self.breaker = Breaker(self.settings, random.Random(seed))
        self.now = 100.0
        self.outcomes: list[tuple[float, bool]] = []  # of the closed state it is in now: time, whether it failed
        self.probes: set[int] = set()
        self.successes = 0
        self.number = 0
        self.opened = 0

    @rule(seconds=st.sampled_from([0.01, 0.5, 1.0, 2.0, 4.5, 6.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=tries)
    def one_begins(self) -> tuple[int, int, BreakerState, bool]:
        before, admitted = self.breaker.state, self.breaker.admits(self.now)
        turn = self.breaker.begin(self.now)
        self.number += 1
        if before is BreakerState.CLOSED:
            assert admitted
            assert self.breaker.state is BreakerState.CLOSED
        elif admitted:
            if before is BreakerState.OPEN:
                self.probes, self.successes = set(), 0
            assert self.breaker.state is BreakerState.HALF_OPEN
            self.probes.add(self.number)
        else:
            assert self.breaker.state is before
        return self.number, turn, self.breaker.state, admitted

    @rule(one=consumes(tries), outcome=st.sampled_from(Outcome))
    def one_ends(self, one: tuple[int, int, BreakerState, bool], outcome: Outcome) -> None:
        number, turn, began_in, admitted = one
        before, opened = self.breaker.state, self.breaker.opened
        is_probe = number in self.probes
        is_of_now = admitted and began_in is before
        is_of_now = is_of_now and (is_probe if before is BreakerState.HALF_OPEN else number > self.closed_since)
        self.breaker.end(turn, outcome, self.now)
        after = self.breaker.state
        if not is_of_now or outcome is Outcome.IGNORED:
            assert after is before  # cancels and old tries change nothing
            self.probes.discard(number)
        elif before is BreakerState.HALF_OPEN:
            self.probes.discard(number)
            self._probe_ends(outcome, after)
        else:
            self._counts(outcome, after)
        assert self.breaker.opened - opened == (before is not after and after is BreakerState.OPEN)

    @rule(outcome=st.sampled_from([Outcome.OK, Outcome.FAILED]), count=st.integers(1, 4))
    def some_begin_and_end(self, outcome: Outcome, count: int) -> None:
        for _ in range(count):
            self.one_ends(self.one_begins(), outcome)

    @rule()
    def the_replica_is_well_again(self) -> None:
        """Whatever has happened, enough successes after the pauses close it."""
        for _ in range(self.settings.probes_to_close):
            if self.breaker.state is BreakerState.CLOSED or self.probes:
                return
            self.now += self.settings.pause_s_max
            number, turn, began_in, admitted = self.one_begins()
            assert admitted
            self.one_ends((number, turn, began_in, admitted), Outcome.OK)
        assert self.breaker.state is BreakerState.CLOSED

    @invariant()
    def never_more_probes_than_allowed_and_none_is_lost(self) -> None:
        if not hasattr(self, "breaker"):
            return
        assert self.breaker.probes <= self.settings.probes_max
        if self.breaker.state is BreakerState.HALF_OPEN:
            assert self.breaker.probes == len(self.probes)
            assert self.breaker.admits(self.now) == (len(self.probes) < self.settings.probes_max)
        else:
            assert self.breaker.probes == 0

    @invariant()
    def it_is_never_closed_to_calls_for_longer_than_the_longest_pause(self) -> None:
        if hasattr(self, "breaker") and self.breaker.state is BreakerState.OPEN:
            assert self.breaker.retry_after_s(self.now) <= self.settings.pause_s_max
            assert self.breaker.admits(self.now + self.settings.pause_s_max)

    closed_since = 0  # number of the last try that began before the state was closed

    def _probe_ends(self, outcome: Outcome, after: BreakerState) -> None:
        if outcome is Outcome.FAILED:
            assert after is BreakerState.OPEN
            self.probes = set()
            return
        self.successes += 1
        if self.successes >= self.settings.probes_to_close:
            assert after is BreakerState.CLOSED
            self.outcomes, self.probes, self.closed_since = [], set(), self.number
        else:
            assert after is BreakerState.HALF_OPEN

    def _counts(self, outcome: Outcome, after: BreakerState) -> None:
        self.outcomes.append((self.now, outcome is Outcome.FAILED))
        oldest = int(self.now / BUCKET_S) - 9
        window = [failed for time, failed in self.outcomes if int(time / BUCKET_S) >= oldest]
        in_row = 0
        for _, failed in reversed(self.outcomes):
            if not failed:
                break
            in_row += 1
        must_open = (
            outcome is Outcome.FAILED
            and len(window) >= self.settings.tries_min
            and (sum(window) >= self.settings.failure_share * len(window) or in_row >= self.settings.failures_in_row)
        )
        assert after is (BreakerState.OPEN if must_open else BreakerState.CLOSED)
        if must_open:
            self.outcomes = []


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
