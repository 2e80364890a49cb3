"""Waiting room: calls that wait for their turn under a route's limit, by priority and then in order of arrival."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from .exchange import Priority

_FORGET_S = 1.0  # how long a priority's pace says anything about the next calls after the last of them has waited
_PACE_CALLS = 50  # that the pace is a mean of: where calls end in batches, many go at once and then none


class Waiter:
    """A call that waits.

    Attributes:
        priority: of the call.
        turn: True when the call may go, having a place under the limit; False when it was turned away.
        is_quiet: of a call that may go: whether little is under way beside it.
    """

    __slots__ = ("is_quiet", "priority", "turn")

    def __init__(self, priority: Priority, turn: asyncio.Future[bool]) -> None:
        self.priority = priority
        self.turn = turn
        self.is_quiet = False


class _Line:
    """Those who wait at one priority, and the pace at which they are let go."""

    __slots__ = ("emptied", "gap_s", "gaps", "last", "waiters")

    def __init__(self) -> None:
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        self.gap_s = 0.0
        self.gaps = 0
        self.last = 0.0
        self.emptied = -_FORGET_S

    def enter(self, waiter: Waiter, now: float) -> None:
        if not self.waiters:
            self.last = now
            if now - self.emptied > _FORGET_S:
                self.gap_s, self.gaps = 0.0, 0
        self.waiters[waiter] = None

    def remove(self, waiter: Waiter, now: float) -> None:
        del self.waiters[waiter]
        if not self.waiters:
            self.emptied = now

    def go(self, now: float) -> Waiter:
        """Takes the first out, as its turn has come."""
        waiter, _ = self.waiters.popitem(last=False)
        if self.gaps < _PACE_CALLS:
            self.gaps += 1
        self.gap_s += (now - self.last - self.gap_s) / self.gaps
        self.last = now
        if not self.waiters:
            self.emptied = now
        return waiter

    def give_up(self, now: float) -> None:
        """Takes note that the first in line has waited for nothing: the line is at least as slow as that."""
        self.gap_s = max(self.gap_s, now - self.last)
        self.gaps = self.gaps or 1

    def wait_s(self, now: float) -> float:
        """Seconds that one more would wait: as long as the first in line has waited for its turn, and for each before
        it the gap between those that went last. The first has nothing to go by."""
        return now - self.last + len(self.waiters) * self.gap_s if self.waiters else 0.0


class WaitingRoom:
    """A bounded number of waiting calls. All that matter more go before all that matter less.

    Args:
        waiting_max: calls that may wait.

    Attributes:
        waiting: calls that do.
    """

    __slots__ = ("_lines", "_waiting_max", "waiting")

    def __init__(self, waiting_max: int) -> None:
        self.waiting = 0
        self._waiting_max = waiting_max
        self._lines = {priority: _Line() for priority in Priority}

    def is_behind(self, priority: Priority) -> bool:
        """Whether a new call of this priority would have others before it."""
        return any(line.waiters for rank, line in self._lines.items() if rank <= priority)

    def wait_s(self, priority: Priority, now: float) -> float:
        """Seconds that a new call of this priority would wait, judged by how fast its line moves.

        Source: the idea of estimating a wait from the delays just seen, not from rates and lengths, is in Ibrahim and
        Whitt, Real-time delay estimation based on delay history (M&SOM 11(3), 2009).
        """
        return self._lines[priority].wait_s(now)

    def enter(self, waiter: Waiter, now: float) -> bool:
        """Takes a call in; where the room is full, the last one in line that matters less is turned away for it.

        Returns:
            False when the room is full and none matters less.
        """
        if self.waiting >= self._waiting_max:
            for rank in reversed(Priority):
                line = self._lines[rank]
                if rank <= waiter.priority:
                    return False
                if line.waiters:
                    last = next(reversed(line.waiters))
                    line.remove(last, now)
                    self.waiting -= 1
                    if not last.turn.done():  # else its caller has just left, and made room by that
                        last.turn.set_result(False)
                    break
            else:
                return False
        self._lines[waiter.priority].enter(waiter, now)
        self.waiting += 1
        return True

    def leave(self, waiter: Waiter, now: float, *, in_vain: bool) -> None:
        """Takes out a call that waits no longer.

        Args:
            waiter: the call.
            now: the time.
            in_vain: whether its time is over, which says something of its line's pace; its caller's leaving does not.
        """
        line = self._lines[waiter.priority]
        if waiter in line.waiters:
            if in_vain:
                line.give_up(now)
            line.remove(waiter, now)
            self.waiting -= 1

    def let_go(self, bounds: Sequence[int], in_flight: int, now: float) -> Waiter | None:
        """Takes out the call whose turn it is.

        Args:
            bounds: calls under way below which one of each priority may go; indexed by priority, none larger than that
                of a higher priority.
            in_flight: calls that are under way.
            now: the time.
        """
        for priority, line in self._lines.items():
            while line.waiters and (first := next(iter(line.waiters))).turn.done():
                line.remove(first, now)  # its caller has just left, and its own task has not run since
                self.waiting -= 1
            if line.waiters:
                if in_flight >= bounds[priority]:
                    return None
                self.waiting -= 1
                return line.go(now)
        return None
