"""Allowance: bounds extra tries to a share of the calls, with a small reserve for bursts."""

from __future__ import annotations


class Allowance:
    """A token bucket that is filled by calls: each adds a share of a token, each extra try takes one.

    Over any n calls there are at most `share * n + reserve` extra tries. It starts full.

    Source: the retry throttle of gRPC (proposal A6), with calls in place of successes.

    Args:
        share: extra tries a call, as in 0.08.
        reserve: most extra tries that may follow each other at once.
    """

    __slots__ = ("_reserve", "_share", "_tokens")

    def __init__(self, share: float, reserve: float) -> None:
        self._share = share
        self._reserve = reserve
        self._tokens = reserve

    def fill(self, keep: float = 0.0) -> float:
        """How full the bucket is above what is kept in it, 0 to 1.

        Args:
            keep: tokens that are not looked at.
        """
        room = self._reserve - keep
        return max(0.0, self._tokens - keep) / room if room > 0 else 0.0

    def earn(self) -> None:
        """Takes note of a call."""
        self._tokens = min(self._reserve, self._tokens + self._share)

    def spend(self, keep: float = 0.0) -> bool:
        """Takes a token for an extra try; False when there is none.

        Args:
            keep: tokens that must be left for more urgent ones.
        """
        if self._tokens < 1.0 + keep:
            return False
        self._tokens -= 1.0
        return True
