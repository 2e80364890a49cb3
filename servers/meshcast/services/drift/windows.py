"""Windows of a subject: rows are taken in the order in which they come, and cut by number and by the time they span."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.services.drift.evidence import YEAR_US

__all__ = ["FUTURE_US", "Cut", "WindowClock", "future_rule", "given_span"]

FUTURE_US = 86_400_000_000
"""How far in the future a row's time may be: a day, which a clock of another time zone is not past.

Rows that are further ahead are refused. Up to a day ahead counts as now, so that no clock can stop the subject's."""

Times = NDArray[np.int64]


class Cut(NamedTuple):
    """Rows that go into one window, `start` to just before `stop`.

    `ends_before` is true where the window that was open closes before these rows, `ends_after` where it closes behind
    them; `clock` is the state behind them, before that.
    """

    start: int
    stop: int
    ends_before: bool
    ends_after: bool
    clock: "WindowClock"


@dataclass(frozen=True, slots=True)
class WindowClock:
    """Where a subject's windows stand. Times are effective: they never go back, and are never ahead of the server's.

    Attributes:
        rows: of the open window.
        opened_us: time of its first row; meaningless while it has none.
        latest_us: time of the last row of all; None before the first.
        closed_us: time of the last row of the window that closed last; None before the first.
    """

    rows: int = 0
    opened_us: int = 0
    latest_us: int | None = None
    closed_us: int | None = None

    def cuts(self, rows: int, unix_us: Times | None, now_us: int, *, rows_max: int, span_us: int) -> Iterator[Cut]:
        """The rows of a chunk, cut at the windows' ends.

        Args:
            rows: of the chunk.
            unix_us: shape (rows,), when each happened; None: now.
            now_us: the server's time, microseconds since 1970.
            rows_max: rows of a window; it closes behind them.
            span_us: a window closes before the first row that is so much later than its first.
        """
        clock = self
        times = np.array([now_us]) if unix_us is None else np.minimum(unix_us, now_us)
        if clock.latest_us is not None:
            times = np.maximum(times, clock.latest_us)
        times = np.maximum.accumulate(times)
        start = 0
        while start < rows:
            first_us = int(times[start if unix_us is not None else 0])
            ends_before = clock.rows > 0 and first_us - clock.opened_us >= span_us
            if ends_before:
                clock = clock.closed()
            opened_us = clock.opened_us if clock.rows else first_us
            stop = min(rows, start + rows_max - clock.rows)
            if unix_us is not None:
                stop = max(start + 1, min(stop, int(np.searchsorted(times, opened_us + span_us, side="left"))))
            last_us = int(times[stop - 1]) if unix_us is not None else first_us
            clock = replace(clock, rows=clock.rows + stop - start, opened_us=opened_us, latest_us=last_us)
            ends_after = clock.rows >= rows_max
            yield Cut(start, stop, ends_before, ends_after, clock)
            if ends_after:
                clock = clock.closed()
            start = stop

    def closed(self) -> "WindowClock":
        """The state once the open window has closed."""
        return WindowClock(0, 0, self.latest_us, self.latest_us)

    def elapsed_years(self) -> float:
        """Time that the open window counts for, 0 or more: since the window before it ended, or since its first row."""
        assert self.latest_us is not None
        since_us = self.opened_us if self.closed_us is None else self.closed_us
        return (self.latest_us - since_us) / YEAR_US


def future_rule(unix_us: Times | None, now_us: int) -> str | None:
    """The rule that times break which are too far in the future; None where none is."""
    if unix_us is None or not len(unix_us) or int(unix_us.max()) <= now_us + FUTURE_US:
        return None
    row = int(np.argmax(unix_us > now_us + FUTURE_US))
    days = (int(unix_us[row]) - now_us) / 86_400e6
    return f"must be at most one day ahead of the server's clock, is {days:.4g} days ahead at row {row}"


def given_span(unix_us: Times | None) -> tuple[int, int] | None:
    """First and last of times as they were given; None where there are none."""
    return (int(unix_us.min()), int(unix_us.max())) if unix_us is not None and len(unix_us) else None
