"""Scores and baselines against figures worked out by hand and by numpy's own medians."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcast.cli.score import baselines, score
from meshcast.posts import HistoryIndex

NAN = float("nan")


@given(
    values=st.lists(st.one_of(st.just(NAN), st.floats(0, 20, allow_nan=False)), min_size=1, max_size=150),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_baselines_are_the_last_value_and_the_medians_of_what_is_known(
    values: list[float], data: st.DataObject
) -> None:
    stop = data.draw(st.integers(1, len(values)))
    start = data.draw(st.integers(max(0, stop - 100), stop - 1))
    engagement = np.array(values)
    index = HistoryIndex(row=np.array([0]), start=np.array([start]), stop=np.array([stop]))
    found = {name: guess[0] for name, guess in baselines(engagement, index).items()}
    history = engagement[start:stop]
    known = history[~np.isnan(history)]
    recent = history[-20:][~np.isnan(history[-20:])]
    expected = {
        "last value": known[-1] if len(known) else NAN,
        "median of last 20": np.median(recent) if len(recent) else NAN,
        "median of last 100": np.median(known) if len(known) else NAN,
    }
    assert found == pytest.approx(expected, nan_ok=True)


def test_rows_whose_engagement_is_unknown_do_not_count() -> None:
    found = score(
        actual=np.array([1.0, 2.0, NAN, 4.0]),
        predicted=np.array([1.5, 2.0, 3.0, NAN]),
        guesses={"last value": np.array([1.0, 4.0, 0.0, 0.0])},
        levels=np.array([0.5, 0.8]),
        lower=np.array([[1.2, 1.5, 0, 0], [0.0, 0.0, 0, 0]]),
        upper=np.array([[2.0, 2.5, 9, 9], [9.0, 9.0, 9, 9]]),
    )
    assert (found.rows, found.mae, dict(found.baseline_mae)) == (2, 0.25, {"last value": 1.0})
    assert dict(found.coverage) == {0.5: 0.5, 0.8: 1.0}


def test_nothing_known_is_nothing_scored() -> None:
    nothing = np.array([NAN])
    found = score(
        actual=nothing,
        predicted=nothing,
        guesses={},
        levels=np.array([]),
        lower=np.zeros((0, 1)),
        upper=np.zeros((0, 1)),
    )
    assert found.rows == 0
