"""The comparators of river find a rise in a child process, and say what is missing."""

import importlib.util

import numpy as np
import pytest
from numpy.typing import NDArray

from meshcast.rpc.errors import DeadlineExceeded, InvalidInput, Precondition
from meshcast.services.drift import comparators
from meshcast.services.drift.comparators import NAMES, Comparators

needs_river = pytest.mark.skipif(importlib.util.find_spec("river") is None, reason="river is not installed")


def risen(first: float = 0.1, then: float = 0.5) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.random(2_000) < first, rng.random(1_000) < then]).astype(np.float32)


@needs_river
@pytest.mark.slow
async def test_each_finds_a_rise_and_falls_are_left_out() -> None:
    found = await Comparators().alarms(risen(), NAMES)
    assert tuple(found) == NAMES
    assert all(any(2_000 <= at < 2_200 for at in alarms) for alarms in found.values())
    assert comparators.alarms_of("adwin", risen(0.5, 0.1).tolist()) == []


@needs_river
async def test_a_child_that_takes_too_long_is_ended() -> None:
    with pytest.raises(DeadlineExceeded):
        await Comparators(timeout_s=0.05).alarms(risen(), ["adwin"])


async def test_unknown_names_and_too_many_losses_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no comparator 'eddm'; known: adwin, page_hinkley, ddm"):
        await Comparators().alarms(risen(), ["adwin", "eddm"])
    with pytest.raises(InvalidInput, match="at most"):
        await Comparators().alarms(np.zeros(comparators.LOSSES_MAX + 1), ["adwin"])


async def test_without_river_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparators, "find_spec", lambda name: None)
    with pytest.raises(Precondition, match=r"pip install 'meshcast\[compare\]'"):
        await Comparators().alarms(risen(), ["adwin"])
