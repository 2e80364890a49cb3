"""Percentiles of the last values."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from meshcast.gateway.percentiles import Percentiles


def test_without_values_there_is_none() -> None:
    assert Percentiles().at(0.5) is None


@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=60), share=st.floats(0, 1))
def test_they_are_nearest_ranks_of_the_last_values(values: list[float], share: float) -> None:
    percentiles = Percentiles(20)
    for value in values:
        percentiles.add(value)
        percentiles.at(0.9)  # a look between changes nothing
    last = sorted(values[-20:])
    assert percentiles.at(share) == last[max(0, math.ceil(share * len(last)) - 1)]
    assert percentiles.added == len(values)
