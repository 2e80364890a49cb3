"""Deadline of a call: a point in time that is passed as a value and only ever shrinks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc

from .errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the answer must be there.

    Args:
        at: seconds on `time.monotonic()`.
        default: True when the caller gave none and the route's default stands in.
        budget_s: seconds from the call's arrival to `at`.
    """

    at: float
    default: bool
    budget_s: float

    @classmethod
    def of(
        cls, context: grpc.aio.ServicerContext[Any, Any], *, default_s: float, max_s: float | None = None
    ) -> Deadline:
        """Deadline of the call behind a servicer's context.

        Args:
            context: of the running call.
            default_s: budget when the caller gave none.
            max_s: cap on the budget; None for no cap.
        """
        asked_s: float | None = context.time_remaining()
        budget_s = default_s if asked_s is None else asked_s
        if max_s is not None and budget_s > max_s:
            budget_s = max_s
        return cls(time.monotonic() + budget_s, asked_s is None, budget_s)

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Deadline that many seconds from now, as a caller sets it."""
        return cls(time.monotonic() + seconds, False, seconds)

    def remaining_s(self) -> float:
        """Seconds left, never negative: fit for a call's `timeout`."""
        return max(0.0, self.at - time.monotonic())

    @property
    def expired(self) -> bool:
        """True when no time is left."""
        return time.monotonic() >= self.at

    @asynccontextmanager
    async def enforced(self, *, where: str, advice: str = "") -> AsyncIterator[None]:
        """A block that is cancelled when the deadline passes.

        Args:
            where: what the block does, for the error's facts.
            advice: how the caller may ask so that it does not, for the error's message.

        Raises:
            DeadlineExceeded: it passed inside the block.
        """
        timeout = asyncio.timeout(self.remaining_s())
        try:
            async with timeout:
                yield
        except TimeoutError as error:
            if not timeout.expired():
                raise
            told = f"the deadline of {self.budget_s:.3g} s passed during {where}"
            raise DeadlineExceeded(f"{told}; {advice}" if advice else told, where=where) from error

    def shrink(self, margin_s: float) -> Deadline:
        """This deadline less what the caller of the next hop needs for itself, in seconds."""
        return replace(self, at=self.at - margin_s, budget_s=max(0.0, self.budget_s - margin_s))

    def require(self, margin_s: float = 0.0, *, where: str) -> None:
        """Checks that more than `margin_s` seconds are left.

        Args:
            margin_s: seconds that the work ahead needs.
            where: the step that would have come next, for the error's facts.

        Raises:
            DeadlineExceeded: too little time is left; nothing was done.
        """
        left_s = self.at - time.monotonic()
        if left_s <= margin_s:
            raise DeadlineExceeded(
                f"the deadline leaves {max(0.0, left_s) * 1e3:.1f} ms before {where}, too little to start it",
                where=where,
            )
