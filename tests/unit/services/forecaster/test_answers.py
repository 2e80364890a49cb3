"""Answers of the forecaster: fans of quantiles as messages, and what is said beside them."""

import numpy as np

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.columns import unpack_floats
from meshcast.series import pack_days
from meshcast.services.forecaster.answers import chunk_answer, forecast
from meshcast.services.forecaster.questions import Asked, Question, single_question
from meshcast.services.forecaster.remarks import receipt_notes, remarks

ASKED = Asked(horizon_days=3, levels=(0.8, 0.95), quantiles=(0.5, 0.99))


def fans(rows: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Fans around 10, 11, 12 with an outer quantile below 0."""
    offsets = np.array([-20, -6, -4, -2, 0, 2, 4, 6, 9], dtype=np.float32)
    return (10 + np.arange(3, dtype=np.float32)[None, :, None] + offsets) * np.ones((rows, 1, 1), dtype=np.float32)


def test_intervals_are_the_quantiles_at_their_ends() -> None:
    answer = forecast(fans(1)[0], 16_952, ASKED, nonnegative=False)
    assert answer.first_date == "2016-05-31"
    assert list(answer.median) == [10, 11, 12]
    assert [interval.level for interval in answer.intervals] == [0.8, 0.95]
    assert list(answer.intervals[0].lower) == [6, 7, 8]
    assert list(answer.intervals[0].upper) == [14, 15, 16]
    assert list(answer.intervals[1].lower) == [-10, -9, -8]
    assert list(answer.quantiles[0].values) == list(answer.median)
    assert all(np.array(answer.quantiles[1].values) > np.array(answer.intervals[1].upper))


def test_a_chunk_holds_nan_where_a_row_failed() -> None:
    sound = np.array([0, 2])
    answer = chunk_answer(fans(2), np.array([100, 200]), np.array([False, False]), sound, 3, ASKED)
    median = unpack_floats(answer.median, (3, 3), "median")
    lower = unpack_floats(answer.lower, (2, 3, 3), "lower")
    assert np.frombuffer(answer.first_day, "<i4").tolist() == [100, 0, 200]
    assert median[0].tolist() == [10, 11, 12]
    assert np.isnan(median[1]).all()
    assert np.isnan(lower[:, 1]).all()
    assert lower[0, 2].tolist() == [6, 7, 8]


def test_a_chunk_says_what_single_answers_say() -> None:
    chunk = chunk_answer(fans(1), np.array([5]), np.array([False]), np.array([0]), 1, ASKED)
    single = forecast(fans(1)[0], 5, ASKED, nonnegative=False)
    upper = unpack_floats(chunk.upper, (2, 1, 3), "upper")
    for at, interval in enumerate(single.intervals):
        assert upper[at, 0].tolist() == list(interval.upper)
    tail = unpack_floats(chunk.quantiles, (2, 1, 3), "quantiles")
    assert tail[1, 0].tolist() == list(single.quantiles[1].values)


def test_missing_days_are_counted_from_the_first_one_that_is_known() -> None:
    mask = np.zeros((1, 112), dtype=np.float32)
    mask[0, 100:] = 1
    assert receipt_notes({"history": mask, "mask": mask}) == []
    mask[0, 105:107] = 0
    assert receipt_notes({"history": mask, "mask": mask}) == [
        "2 of the last 112 days missing: left out, not taken as zero"
    ]


def question(day: list[int], value: list[float]) -> Question:
    columns = pack_days(np.array(day, dtype=np.int64), np.array(value, dtype=np.float64))
    return single_question(pb.ForecastGrowthRequest(history_columns=columns))[0]


def test_remarks_name_what_is_unusual() -> None:
    said = " ".join(text for _, text in remarks(question([*range(30), *range(40, 60)], [7.0] * 50)))
    assert "10 of the last 60 days have no value" in said
    assert "gap of 11 days" in said
    assert "looks at the last 112" in said
    assert "is 7 on every one" in said


def test_a_full_and_lively_series_has_no_remarks() -> None:
    day = list(range(400))
    assert remarks(question(day, [float(one % 7) + 1 for one in day])) == []


def test_a_running_total_is_told_to_be_forecast_by_its_growth() -> None:
    rises = np.arange(112, dtype=np.float32)[None]
    ones = np.ones((1, 112), dtype=np.float32)
    (note,) = receipt_notes({"history": rises, "mask": ones})
    assert "forecast its growth a day instead" in note
    assert any("never falls" in text for _, text in remarks(question(list(range(60)), [float(k) for k in range(60)])))
    falls_once = rises.copy()
    falls_once[0, 50] = 0
    assert receipt_notes({"history": falls_once, "mask": ones}) == []
