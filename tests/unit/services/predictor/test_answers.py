"""What the graph gave is what the messages say."""

import numpy as np
import pytest

from meshcast.services.predictor.answers import COLUMNS, LEVELS, answer_columns, chunk_answer, prediction

QUANTILES = np.array([[1, 2, 4, 5], [2, 3, 5, 6]], np.float32)  # .025 .10 .90 .975
OUTPUTS = {
    "log_engagement": np.array([3, 4], np.float32),
    "quantiles": QUANTILES,
    "confidence": np.array([0.25, 0.75], np.float32),
}
MEDIAN = np.array([2.5, 3.5], np.float32)


def test_the_intervals_are_those_of_the_quantiles() -> None:
    answer = prediction(answer_columns(OUTPUTS, MEDIAN, np.arange(2), 2), 0)
    assert [(i.level, i.lower_log, i.upper_log) for i in answer.intervals] == [(0.8, 2, 4), (0.95, 1, 5)]
    assert answer.intervals[0].upper == pytest.approx(np.expm1(4))
    assert (answer.log_engagement, answer.confidence, answer.recent_median_log) == (3, 0.25, 2.5)
    assert answer.engagement == pytest.approx(np.expm1(3))


def test_rows_that_are_not_sound_hold_nan_and_the_others_keep_their_place() -> None:
    columns = answer_columns(OUTPUTS, MEDIAN, np.array([0, 2]), 3)
    assert set(columns) == set(COLUMNS)
    for name in COLUMNS:
        assert np.isnan(columns[name][1]) and not np.isnan(columns[name][[0, 2]]).any()
    assert columns["confidence"][2] == 0.75


def test_a_chunk_packs_level_after_level() -> None:
    answer = chunk_answer(answer_columns(OUTPUTS, MEDIAN, np.arange(2), 2), 2)
    assert tuple(answer.levels) == LEVELS
    assert np.frombuffer(answer.lower_log, "<f4").tolist() == [2, 3, 1, 2]
    assert np.frombuffer(answer.upper_log, "<f4").tolist() == [4, 5, 5, 6]
    assert np.frombuffer(answer.log_engagement, "<f4").tolist() == [3, 4]
