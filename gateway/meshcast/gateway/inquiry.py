"""Inquiry: finds out whether a replica that keeps silent is busy or gone, before its breaker hears of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from .breaker import Breaker, BreakerState, Outcome

PAUSE_S = 0.1  # between two questions, where nobody listens and each fails at once


class Inquiry:
    """Asks a replica something that a busy one answers at once, when a try has waited without a word for too long.

    While it asks, the picker passes the replica over where it can, so that no more calls run into a silence. An answer
    means that the replica is busy, and the tries that have led here say nothing; without one each of them is a failure,
    and so is the question, which is asked again until it is answered or the breaker has opened.

    Args:
        name: of its task.
        ask: asks, at most for a short time; returns whether the replica has said anything.
        is_reachable: whether the replica counts as reachable; where not, its health Watch does the asking.
        breaker: of the replica.

    Attributes:
        is_unanswered: whether the last question was not answered.
    """

    __slots__ = ("_ask", "_breaker", "_is_reachable", "_name", "_task", "_turns", "is_unanswered")

    def __init__(
        self, name: str, ask: Callable[[], Awaitable[bool]], is_reachable: Callable[[], bool], breaker: Breaker
    ) -> None:
        self.is_unanswered = False
        self._name = name
        self._ask = ask
        self._is_reachable = is_reachable
        self._breaker = breaker
        self._turns: list[int] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def is_under_way(self) -> bool:
        """True while it asks."""
        return self._task is not None

    def accuse(self, turn: int) -> None:
        """Begins, unless it is under way.

        Args:
            turn: of the breaker, of the try that waits; ended here, once the question is decided.
        """
        self._turns.append(turn)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"inquiry:{self._name}")

    async def close(self) -> None:
        """Ends it, with nothing found."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while True:
                turn = self._breaker.begin(time.perf_counter()) if self.is_unanswered else None
                is_answered = False
                try:
                    is_answered = await self._ask()
                finally:
                    if turn is not None:
                        self._turns.append(turn)
                self.is_unanswered = not is_answered
                self._judge(Outcome.IGNORED if is_answered else Outcome.FAILED)
                if is_answered or self._breaker.state is not BreakerState.CLOSED or not self._is_reachable():
                    return
                await asyncio.sleep(PAUSE_S)
        finally:
            self._judge(Outcome.IGNORED)
            self.is_unanswered = False
            self._task = None

    def _judge(self, outcome: Outcome) -> None:
        now = time.perf_counter()
        turns, self._turns = self._turns, []
        for turn in turns:
            self._breaker.end(turn, outcome, now)
