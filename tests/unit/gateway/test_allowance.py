"""The allowance of extra tries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshcast.gateway.allowance import Allowance


@given(wanted=st.lists(st.booleans(), max_size=500), share=st.floats(0, 1), reserve=st.integers(0, 20))
def test_extra_tries_never_exceed_the_share_and_the_reserve(wanted: list[bool], share: float, reserve: int) -> None:
    allowance = Allowance(share, reserve)
    spent = 0
    for calls, wants in enumerate(wanted, start=1):
        allowance.earn()
        spent += wants and allowance.spend()
        assert spent <= share * calls + reserve + 1e-9
        assert 0.0 <= allowance.fill() <= 1.0


def test_it_starts_full_and_fills_again_with_calls() -> None:
    allowance = Allowance(0.25, 2)
    assert [allowance.spend() for _ in range(3)] == [True, True, False]
    for _ in range(4):
        allowance.earn()
    assert [allowance.spend() for _ in range(2)] == [True, False]
