"""Concurrency: how many calls of a route may be under way, learnt from how their latency follows their number.

Below the capacity of a service its latency does not depend on how many calls are under way; above it, each further call
only makes all wait longer. The limit follows the gradient of Netflix's and Envoy's limiters,

    limit ← limit · min(1, tolerance · base / latency) + √limit,

smoothed, a window at a time, and only while the limit is in use. Where it settles, `latency` is about `tolerance`
times `base`, so by Little's law about `tolerance` times the calls that the service works on at once are under way. A
tolerance of 2 is what BBR takes for the same product: enough for a service that answers in batches, of which one runs
while the next is filled. It begins low and grows by half a window until that does no good any more, as TCP does.

What differs from the sources is `base`. Netflix takes a long moving average, which under lasting overload drifts up
with the queue that it should reveal; Vegas and Envoy a minimum, which for requests of varying size is far below what an
unloaded service needs. Here it is the mean latency, of each method by itself, of calls that began while an eighth of
the limit or less was under way. Under lasting load the number is held at that eighth for a moment now and then, as BBR
does, so that there are such calls.

Source: Gradient2Limit and VegasLimit in https://github.com/Netflix/concurrency-limits; Envoy's adaptive concurrency,
https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/adaptive_concurrency_filter; Cardwell et al.
BBR: Congestion-Based Congestion Control (ACM Queue 14(5), 2016); Jacobson, Congestion Avoidance and Control (1988), for
the slow start and the expected time of a call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .exchange import Priority

_QUIET_SHARE = 0.125  # of the limit: with no more under way, latency is the service's own
_SMOOTHING = (0.2, 0.5)  # as Gradient2; more in windows that are long since calls are, as they are fewer
_GRADIENT_MIN = 0.5  # as Gradient2: what one window may ask for
_RATIO_MAX = 10.0  # one call counts as no more than this times its base, so that a single stall is no trend
_CUT = 0.9  # for windows in which the service refused calls or let deadlines pass
_GROWTH = 1.5  # of a window until the limit is too high for the first time
_WINDOW_CALLS = (3, 10)  # that a window has at least: one of a second, and any
_WINDOW_S = (0.05, 1.0)
_BASE_CALLS = 100  # memory of a base latency, in calls
_BASE_SURE = 50  # calls with fewer than which it gets the benefit of the doubt: its standard error, where that is large
_DIP_S = (2.0, 10.0)  # between dips, in seconds: while they lower a base, and else as BBR's window of its minimum ...
_DIP_LATENCIES = 50.0  # ... and in latencies at least, for services where ten seconds are a few calls
_DIP_CALLS = 10
_DIP_MEMORY = 10  # calls that a base counts for when a dip measures it anew
_DIP_MAX = (1.0, 4.0)  # longest time of one, in seconds and in latencies


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """How many calls of a route may be under way and wait; the table `[gateway.limit]`."""

    calls_initial: int = 32
    """Calls of a route under way before anything is known of it."""
    calls_min: int = 4
    """What the limit never falls below."""
    calls_max: int = 1_000
    """What it never rises above; 0 turns limits off."""
    tolerance: float = 2.0
    """Latency that is let be, as a multiple of that of a service with little to do."""
    headroom: float = 0.2
    """Share of the limit that calls of high priority may take beyond it, and that those of low priority must leave."""
    waiting_max: int = 1_024
    """Calls of a route that may wait for their turn."""
    wait_share: float = 0.5
    """Share of its remaining time that a call may wait."""

    def __post_init__(self) -> None:
        """Checks all values; raises ValueError naming the field."""
        if not 1 <= self.calls_min <= self.calls_initial:
            raise ValueError(f"limit.calls_min must be between 1 and calls_initial, is {self.calls_min}")
        if self.calls_max and not self.calls_initial <= self.calls_max:
            raise ValueError(f"limit.calls_max must be 0, or calls_initial or more, is {self.calls_max}")
        if not self.tolerance > 1:  # NaN is none
            raise ValueError(f"limit.tolerance must be more than 1, is {self.tolerance}")
        if not 0 <= self.headroom < 1:
            raise ValueError(f"limit.headroom must be 0 or more and less than 1, is {self.headroom}")
        if not self.waiting_max >= 0:
            raise ValueError(f"limit.waiting_max must be 0 or more, is {self.waiting_max}")
        if not 0 <= self.wait_share <= 1:
            raise ValueError(f"limit.wait_share must be between 0 and 1, is {self.wait_share}")


class Latency:
    """Latencies of one method of a route, in seconds.

    Attributes:
        base_s: mean of calls that began while little was under way; 0.0 before the first answer.
        recent_s: moving mean of all calls.
        deviation_s: moving mean of the distance from that.
    """

    __slots__ = ("base_calls", "base_s", "base_was_s", "deviation_s", "recent_s")

    def __init__(self) -> None:
        self.base_s = 0.0
        self.base_was_s = 0.0
        self.base_calls = 0
        self.recent_s = 0.0
        self.deviation_s = 0.0

    @property
    def expected_s(self) -> float:
        """What a call should be given, in seconds: the mean of late, and two mean deviations."""
        return self.recent_s + 2.0 * self.deviation_s

    def doubt(self) -> None:
        """Has the next quiet calls count for more than those that the base is from."""
        self.base_was_s = self.base_s
        self.base_calls = min(self.base_calls, _DIP_MEMORY)

    def add(self, latency_s: float, *, is_quiet: bool) -> None:
        """Takes an answer's latency.

        Args:
            latency_s: in seconds.
            is_quiet: whether the call began while little was under way.
        """
        if not self.base_s:
            self.base_s = self.recent_s = latency_s
            self.deviation_s = latency_s / 2
            self.base_calls = int(is_quiet)
            return
        error = latency_s - self.recent_s
        self.recent_s += error / 8
        self.deviation_s += (abs(error) - self.deviation_s) / 4
        if is_quiet:
            if self.base_calls < _BASE_CALLS:
                self.base_calls += 1
            self.base_s += (latency_s - self.base_s) / self.base_calls


class Concurrency:
    """The calls of one route that are under way, and how many may be.

    Args:
        settings: bounds and tolerance.
        now: the time, in seconds; like every `now`, on one clock that never goes back.

    Attributes:
        limit: calls that may be under way.
        bounds: calls under way below which one of each priority may begin, indexed by `Priority`.
        in_flight: calls that are under way.
        quiet_max: calls under way up to which a call counts as quiet.
    """

    __slots__ = (
        "_base_sum_s",
        "_calls",
        "_cut",
        "_dip_after_s",
        "_dip_calls",
        "_dip_since",
        "_is_slow_start",
        "_latencies",
        "_latency_s",
        "_latency_sum_s",
        "_peak",
        "_quiet_at",
        "_settings",
        "_window_s",
        "_window_since",
        "bounds",
        "in_flight",
        "limit",
        "quiet_max",
    )

    def __init__(self, settings: LimitSettings, now: float) -> None:
        self.limit = float(settings.calls_initial)
        self.in_flight = 0
        self.bounds: tuple[int, int, int, int] = (0, 0, 0, 0)
        self.quiet_max = 0
        self._settings = settings
        self._latencies: list[Latency] = []
        self._peak = 0
        self._calls = 0
        self._latency_sum_s = 0.0
        self._base_sum_s = 0.0
        self._cut = False
        self._window_since = now
        self._window_s = _WINDOW_S[0]
        self._latency_s = 0.0
        self._quiet_at = now
        self._dip_since: float | None = None
        self._dip_calls = 0
        self._dip_after_s = _DIP_S[0]
        self._is_slow_start = True
        self._set_bounds()

    def latency(self) -> Latency:
        """A new record of a method's latencies."""
        made = Latency()
        self._latencies.append(made)
        return made

    def begin(self) -> bool:
        """A call begins; True when little is under way beside it."""
        self.in_flight = in_flight = self.in_flight + 1
        if in_flight > self._peak:
            self._peak = in_flight
        return in_flight <= self.quiet_max

    def end(self) -> None:
        """A call has ended, whatever way."""
        self.in_flight -= 1

    def answered(self, latency: Latency, latency_s: float, now: float, *, is_quiet: bool) -> bool:
        """Takes the latency of an answer.

        Args:
            latency: of the method.
            latency_s: in seconds.
            now: the time.
            is_quiet: what `begin` said.

        Returns:
            True when the limit has been set anew.
        """
        if is_quiet:
            self._quiet_at = now
            if self._dip_since is not None:
                self._dip_calls += 1
        latency.add(latency_s, is_quiet=is_quiet)
        base_s = latency.base_s
        if latency.base_calls < _BASE_SURE:
            base_s *= 1.0 + 1.0 / math.sqrt(latency.base_calls or 1)
        self._calls += 1
        self._latency_sum_s += min(latency_s, _RATIO_MAX * base_s)
        self._base_sum_s += base_s
        age_s = now - self._window_since
        if age_s < self._window_s or self._calls < _WINDOW_CALLS[age_s < _WINDOW_S[1]]:
            return False
        self._close(now)
        return True

    def refused(self, now: float) -> bool:
        """The service has refused a call for its load, or let the deadline pass of one that had time.

        Args:
            now: the time.

        Returns:
            True when the limit has been set anew.
        """
        self._cut = True
        if now - self._window_since < self._window_s:
            return False
        self._close(now)
        return True

    def _close(self, now: float) -> None:
        """Sets the limit by what the window has shown, and begins the next."""
        settings = self._settings
        limit = self.limit
        is_used = 2 * self._peak >= limit and self._dip_since is None
        if self._base_sum_s and is_used:
            limit = self._followed(settings.tolerance * self._base_sum_s / self._latency_sum_s, now)
            if 4 * self._peak < 3 * self.limit:  # what was not needed is not raised
                limit = min(limit, self.limit)
        if self._cut:
            limit = min(limit, self.limit * _CUT)
            self._is_slow_start = False
        self.limit = max(float(settings.calls_min), min(float(settings.calls_max), limit))
        if self._calls:
            self._latency_s = self._latency_sum_s / self._calls
            self._window_s = max(_WINDOW_S[0], min(_WINDOW_S[1], self._latency_s))
        self._dip(now, is_used=is_used)
        self._window_since = now
        self._calls = 0
        self._latency_sum_s = self._base_sum_s = 0.0
        self._cut = False
        self._peak = self.in_flight
        self._set_bounds()

    def _followed(self, gradient: float, now: float) -> float:
        """The limit that follows from a window.

        Args:
            gradient: latency that is let be, by that of the window.
            now: its end.
        """
        limit = self.limit
        if gradient < 1.0:
            self._is_slow_start = False
        elif self._is_slow_start:
            return limit * _GROWTH
        target = limit * max(_GRADIENT_MIN, min(1.0, gradient)) + math.sqrt(limit)
        smoothing = max(_SMOOTHING[0], min(_SMOOTHING[1], now - self._window_since))
        return limit + smoothing * (target - limit)

    def _dip(self, now: float, *, is_used: bool) -> None:
        """Begins or ends the time in which little is let be under way, so that the bases are measured anew."""
        if self._dip_since is not None:
            longest_s = max(_DIP_MAX[0], _DIP_MAX[1] * self._latency_s)
            if self._dip_calls >= _DIP_CALLS or now - self._dip_since > longest_s:
                self._dip_since = None
                self._quiet_at = now
                has_helped = any(latency.base_s < 0.8 * latency.base_was_s for latency in self._latencies)
                self._dip_after_s = _DIP_S[0] if has_helped else _DIP_S[1]
        elif is_used and now - self._quiet_at > max(self._dip_after_s, _DIP_LATENCIES * self._latency_s):
            self._dip_since = now
            self._dip_calls = 0
            for latency in self._latencies:
                latency.doubt()

    def _set_bounds(self) -> None:
        settings, limit = self._settings, self.limit
        self.quiet_max = max(1, int(limit * _QUIET_SHARE))
        if limit <= settings.calls_min:
            self.quiet_max = settings.calls_min  # it can be no quieter: whatever is measured now is the base
        if self._dip_since is not None:
            self.bounds = (0, self.quiet_max, self.quiet_max, self.quiet_max)
            return
        room = limit * settings.headroom
        self.bounds = (0, math.ceil(limit + room), max(1, round(limit)), max(1, int(limit - room)))


assert [*Priority] == [1, 2, 3]  # what indexes the bounds
