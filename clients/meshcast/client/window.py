"""Window: how many chunks of a stream are under way at a time, fixed or found by what it does to the rows a second."""

from __future__ import annotations

from typing import Protocol

__all__ = ["AdaptiveWindow", "FixedWindow", "Window"]

_GAIN = 1.03  # what a larger window must bring: less cannot be told from a busy machine
_LOSS = 0.98  # what a smaller one may cost
_LATE = 2.0  # answers so much later than ever are later than they need be
_FORGET = 1.001  # of the shortest wait, with each measurement: the mesh changes
_EPOCH_S = 0.5  # a measurement takes at least so long
_EPOCH_CHUNKS = 16  # and so many chunks
_HOLD_MAX = 32  # epochs without a trial at most
_OTHER = 1.25  # rates that differ so much are of another mesh: replicas came or went


class Window(Protocol):
    """How many chunks may be unanswered.

    Attributes:
        size: chunks.
        bytes_max: bytes of their messages, unless one alone has more.
    """

    size: int
    bytes_max: int

    def answered(self, rows: int, now: float) -> None:
        """Told of an answer.

        Args:
            rows: of the chunk.
            now: on any clock, in seconds.
        """
        ...

    def broken(self) -> None:
        """Told that the stream broke, so that the time until it goes on counts for nothing."""
        ...


class FixedWindow:
    """A window of one size."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.bytes_max = 2**62

    def answered(self, rows: int, now: float) -> None:
        """As `Window.answered`."""

    def broken(self) -> None:
        """As `Window.broken`."""


class AdaptiveWindow:
    """A window that climbs the hill of rows a second.

    It is measured in epochs. After one, a larger window is tried: it stays where it brings more rows a second, and the
    next larger one is tried; else the window goes back, and where answers come later than they need, a smaller one is
    tried, which stays where it costs nothing. The longer nothing helps, the rarer the trials, until the rate itself
    changes.

    Args:
        low: smallest size.
        high: largest size.
        start: size at first.
        bytes_max: bytes of the messages under way, unless one alone has more.
    """

    def __init__(self, *, low: int = 4, high: int = 64, start: int = 4, bytes_max: int = 16 * 1024 * 1024) -> None:
        self.size = min(max(start, low), high)
        self.bytes_max = bytes_max
        self._low = low
        self._high = high
        self._tried_from: tuple[int, float] | None = None
        self._is_growing = True
        self._hold = 0
        self._hold_next = 1
        self._wait_min = float("inf")  # seconds from a question to its answer, by Little's law
        self._wait_s = 0.0
        self._steady = 0.0
        self._skip = start
        self._began: float | None = None
        self._rows = 0
        self._chunks = 0

    def answered(self, rows: int, now: float) -> None:
        """As `Window.answered`."""
        if self._skip:  # chunks that were under way when the size changed
            self._skip -= 1
            return
        if self._began is None:
            self._began = now
            return
        self._rows += rows
        self._chunks += 1
        elapsed = now - self._began
        if elapsed >= _EPOCH_S and self._chunks >= max(_EPOCH_CHUNKS, 2 * self.size):
            rate = self._rows / elapsed
            self._wait_s = self.size * elapsed / self._chunks
            self._wait_min = min(self._wait_min * _FORGET, self._wait_s)
            self._restart(skip=0)
            self._began = now
            self._judge(rate)

    def broken(self) -> None:
        """As `Window.broken`."""
        self._restart(skip=self.size)

    def _judge(self, rate: float) -> None:
        if self._tried_from is None:
            steady, self._steady = self._steady, rate
            is_other = steady > 0 and not steady / _OTHER < rate < steady * _OTHER
            if is_other:
                self._is_growing, self._hold_next = rate > steady, 1
            if self._hold and not is_other:
                self._hold -= 1
            else:
                self._try(rate)
            return
        size, before = self._tried_from
        if rate >= before * (_GAIN if self.size > size else _LOSS):
            self._hold_next = 1
            self._try(rate)
            return
        self._tried_from = None
        self._steady = before
        self._is_growing = not self._is_growing
        self._hold, self._hold_next = self._hold_next, min(2 * self._hold_next, _HOLD_MAX)
        self._become(size)

    def _try(self, rate: float) -> None:
        """Tries the next size on the way; turns around where there is none."""
        for _ in range(2):
            step = max(1, self.size // 2) if self._is_growing else -max(1, self.size // 3)
            if not self._is_growing and self._wait_s < _LATE * self._wait_min:
                step = 0
            wanted = min(max(self.size + step, self._low), self._high)
            if wanted != self.size:
                self._tried_from = (self.size, rate)
                self._become(wanted)
                return
            self._is_growing = not self._is_growing
        self._tried_from = None

    def _become(self, size: int) -> None:
        self.size = size
        self._restart(skip=size)

    def _restart(self, skip: int) -> None:
        self._skip, self._began, self._rows, self._chunks = skip, None, 0, 0
