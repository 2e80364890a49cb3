"""Deadlines shrink, and say when they are the route's default."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from meshcast.rpc import Deadline, DeadlineExceeded


class Asked:
    """A context whose caller asked for so many seconds."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds

    def time_remaining(self) -> float | None:
        return self._seconds


def of(seconds: float | None, **options: Any) -> Deadline:
    return Deadline.of(Asked(seconds), **options)  # type: ignore[arg-type]  # the one method that is used


def test_a_caller_without_a_deadline_gets_the_default_and_the_receipt_can_say_so() -> None:
    deadline = of(None, default_s=5.0)
    assert deadline.default
    assert deadline.budget_s == 5.0
    assert 4.0 < deadline.remaining_s() <= 5.0


def test_a_callers_deadline_is_taken_and_capped() -> None:
    assert not of(2.0, default_s=5.0).default
    assert of(2.0, default_s=5.0).budget_s == 2.0
    assert of(200.0, default_s=5.0, max_s=30.0).budget_s == 30.0


def test_shrinking_moves_the_point_in_time() -> None:
    deadline = Deadline.after(10.0)
    shrunk = deadline.shrink(0.5)
    assert shrunk.at == deadline.at - 0.5
    assert shrunk.budget_s == 9.5


def test_a_passed_deadline_has_nothing_left_and_never_less() -> None:
    deadline = Deadline(time.monotonic() - 1.0, False, 1.0)
    assert deadline.expired
    assert deadline.remaining_s() == 0.0


def test_require_names_the_step_that_was_not_started() -> None:
    Deadline.after(10.0).require(1.0, where="the model run")
    with pytest.raises(DeadlineExceeded, match="the model run") as caught:
        Deadline.after(0.5).require(1.0, where="the model run")
    assert caught.value.facts == {"where": "the model run"}


async def test_a_block_is_cancelled_when_its_deadline_passes() -> None:
    with pytest.raises(DeadlineExceeded) as passed:
        async with Deadline.after(0.01).enforced(where="the wait"):
            await asyncio.Event().wait()
    assert passed.value.facts == {"where": "the wait"}


async def test_a_timeout_of_the_blocks_own_is_not_taken_for_the_deadline() -> None:
    with pytest.raises(TimeoutError):
        async with Deadline.after(5).enforced(where="the wait"):
            raise TimeoutError
