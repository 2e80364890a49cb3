import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcast.services.drift.cuts import cuts_of, narrowed, ranks_of

RANKS, WIDTHS = ranks_of(50)


def test_ranks_fill_what_a_distance_is_taken_over_and_are_dense_at_the_ends() -> None:
    assert WIDTHS.sum() == pytest.approx(0.998)
    assert (np.diff(RANKS) > 0).all() and RANKS[0] > 0.001 and RANKS[-1] < 0.999
    assert WIDTHS[0] < 0.0005 and WIDTHS[len(WIDTHS) // 2] > 0.005


@given(
    values=st.lists(
        st.floats(allow_nan=False, allow_infinity=False, width=64)
        | st.integers(-3, 3).map(float)
        | st.sampled_from([0.1, np.inf, -np.inf, np.nan, 1e300, 5e-324]),
        max_size=80,
    ),
    bins=st.sampled_from([20, 250]),
)
@settings(max_examples=80, deadline=None)
def test_cuts_of_any_reference_are_in_order_and_within_each_other(values: list[float], bins: int) -> None:
    cut = cuts_of(np.array(values, dtype=np.float64), bins=bins, ranks=RANKS)
    for starts in (cut.bins, cut.groups, cut.fine):
        assert starts.dtype == np.float32 and (starts[1:] > starts[:-1]).all()
    assert np.isin(cut.groups, cut.bins).all() and np.isin(cut.bins, cut.fine).all()
    assert len(cut.bins) <= bins + 4
    assert cut.unit > 0 and np.isfinite(cut.origin)
    assert len(cut.bins) == 0 or np.isfinite(cut.quantiles).all()


def test_a_reference_of_few_rows_has_few_bins() -> None:
    x = np.random.default_rng(0).standard_normal(100)
    assert len(cuts_of(x, bins=250, ranks=RANKS).bins) == 19


def test_what_a_float32_column_holds_stays_as_it_is() -> None:
    x = np.arange(5, dtype=np.float32)
    assert narrowed(x, 0.0, 1.0) is x
    assert narrowed(np.array([1e300, -1e300, np.nan]), 0.0, 1.0).tolist()[:2] == [np.inf, -np.inf]


def test_steps_past_the_ends_reach_far() -> None:
    cut = cuts_of(np.random.default_rng(0).standard_normal(10_000), bins=250, ranks=RANKS)
    assert cut.fine[0] < -1_000 and cut.fine[-1] > 1_000
    assert (np.diff(cut.fine[(cut.fine > 3.5) & (cut.fine < 6)]) < 0.5).all()


def test_an_absurd_value_does_not_make_the_others_coarse() -> None:
    x = np.random.default_rng(0).standard_normal(10_000)
    x[:3] = 1e300, -1e300, 1e-300
    cut = cuts_of(x, bins=250, ranks=RANKS)
    assert (cut.origin, cut.unit) == (0.0, 1.0) and len(cut.bins) >= 249
