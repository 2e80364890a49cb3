"""The delay before a second replica is asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcast.gateway.hedge import HedgeDelay, HedgeSettings

SETTINGS = HedgeSettings()


def delay(*latencies_s: float, settings: HedgeSettings = SETTINGS) -> HedgeDelay:
    made = HedgeDelay(settings)
    for latency_s in latencies_s:
        made.add(latency_s)
    return made


def test_while_little_is_known_it_is_the_first_delay_or_there_is_none() -> None:
    assert delay().seconds(1.0) == SETTINGS.first_delay_ms / 1e3
    assert delay(settings=HedgeSettings(first_delay_ms=0.0)).seconds(1.0) is None
    assert delay(*[0.01] * (SETTINGS.samples_min - 1)).seconds(1.0) == SETTINGS.first_delay_ms / 1e3


def test_it_is_the_ninetieth_percentile_while_the_allowance_is_full() -> None:
    assert delay(*(ms / 1e3 for ms in range(51, 151))).seconds(1.0) == pytest.approx(0.140)


def test_it_is_never_more_than_three_medians() -> None:
    assert delay(*[0.010] * 80, *[1.0] * 20).seconds(1.0) == pytest.approx(0.030)


def test_it_is_never_shorter_than_our_own_delays() -> None:
    assert delay(*[0.0005] * 100).seconds(1.0) == SETTINGS.delay_ms_min / 1e3


def test_it_moves_with_the_latencies() -> None:
    made = delay(*[0.010] * 300)
    assert made.seconds(1.0) == pytest.approx(0.010)
    for _ in range(300):
        made.add(0.050)
    assert made.seconds(1.0) == pytest.approx(0.050)


@given(latencies=st.lists(st.floats(0.001, 2.0), min_size=20, max_size=300), fill=st.floats(0, 1))
def test_the_less_is_left_of_the_allowance_the_longer_it_is_up_to_its_cap(latencies: list[float], fill: float) -> None:
    made = delay(*latencies)
    full, some, none = made.seconds(1.0), made.seconds(fill), made.seconds(0.0)
    assert full is not None and some is not None and none is not None
    last = sorted(latencies[-256:])
    assert full - 1e-9 <= some <= none + 1e-9
    assert none <= max(3 * last[(len(last) + 1) // 2 - 1], SETTINGS.delay_ms_min / 1e3) + 1e-9


@pytest.mark.parametrize(
    "changes",
    [{"share_max": 1.5}, {"percentile": 0.0}, {"burst": -1}, {"tries_max": 0}, {"delay_ms_min": -1.0}],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        HedgeSettings(**changes)  # type: ignore[arg-type]  # numbers as the fields want them
