"""Questions to the forecaster: what requests become, and what they are refused for."""

import numpy as np
import pytest

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.columns import pack_positions
from meshcast.rpc import InvalidInput
from meshcast.series import pack_days
from meshcast.services.forecaster.prepare import prepare, prepare_together
from meshcast.services.forecaster.questions import (
    LEVELS_DEFAULT,
    actuals_question,
    asked_of,
    chunk_question,
    single_question,
)

TODAY = 17_000
DAYS = np.arange(TODAY - 60, TODAY, dtype=np.int64)
VALUES = np.linspace(10, 20, 60)


def request(**fields: object) -> pb.ForecastGrowthRequest:
    return pb.ForecastGrowthRequest(history_columns=pack_days(DAYS, VALUES), **fields)  # type: ignore[arg-type]


def chunk(**fields: object) -> pb.ForecastGrowthStreamRequest:
    whole: dict[str, object] = {
        "history": pack_days(DAYS, VALUES),
        "history_start": pack_positions(np.array([0, 0])),
        "history_stop": pack_positions(np.array([40, 60])),
    }
    return pb.ForecastGrowthStreamRequest(**(whole | fields))  # type: ignore[arg-type]


def fields_of(refused: pytest.ExceptionInfo[InvalidInput]) -> list[str]:
    return [violation.field for violation in refused.value.violations]


def test_a_request_that_asks_for_nothing_special_gets_thirty_days_and_two_levels() -> None:
    question, asked = single_question(request())
    assert (asked.horizon_days, asked.levels, asked.quantiles) == (30, LEVELS_DEFAULT, ())
    assert question.day.tolist() == DAYS.tolist()
    assert question.value.tolist() == VALUES.tolist()


def test_who_asks_for_quantiles_alone_gets_no_intervals() -> None:
    _, asked = single_question(request(quantiles=[0.9, 0.1, 0.9]))
    assert (asked.levels, asked.quantiles) == ((), (0.1, 0.9))


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"horizon_days": -1}, "horizon_days"),
        ({"horizon_days": 91}, "horizon_days"),
        ({"levels": [0.8, 0.0]}, "levels[1]"),
        ({"levels": [1.0]}, "levels[0]"),
        ({"levels": [float("nan")]}, "levels[0]"),
        ({"levels": [0.5] * 17}, "levels"),
        ({"quantiles": [0.001]}, "quantiles[0]"),
        ({"quantiles": [float("inf")]}, "quantiles[0]"),
        ({"quantiles": [0.5] * 33}, "quantiles"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"series": "x" * 257}, "series"),
        ({"history": [pb.DayValue(date="2016-01-01")]}, "history"),
    ],
)
def test_a_request_out_of_range_is_refused_by_the_name_of_its_field(fields: dict[str, object], at: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        single_question(request(**fields))
    assert fields_of(refused) == [at]


def test_a_date_that_is_none_names_its_row() -> None:
    with pytest.raises(InvalidInput) as refused:
        single_question(
            pb.ForecastGrowthRequest(history=[pb.DayValue(date="2016-01-01"), pb.DayValue(date="31.05.2016")])
        )
    assert fields_of(refused) == ["history[1].date"]


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"history_start": b"", "history_stop": b""}, "history_start"),
        ({"history_stop": pack_positions(np.array([40]))}, "history_stop"),
        ({"series": ["a"]}, "series"),
        ({"series": ["a", "x" * 257]}, "series[1]"),
        ({"nonnegative": [True, True, True]}, "nonnegative"),
        ({"row_request_ids": ["a"]}, "row_request_ids"),
        ({"horizon_days": 91}, "horizon_days"),
    ],
)
def test_a_chunk_out_of_range_is_refused_by_the_name_of_its_field(fields: dict[str, object], at: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        chunk_question(chunk(**fields), rows_max=100)
    assert fields_of(refused)[0] == at


def test_one_declaration_holds_for_every_row_of_a_chunk() -> None:
    for given, held in (([], [False, False]), ([True], [True, True]), ([False, True], [False, True])):
        question, _ = chunk_question(chunk(nonnegative=given), rows_max=100)
        assert question.nonnegative.tolist() == held


def test_questions_that_share_a_pass_get_what_each_would_get_alone() -> None:
    questions = [single_question(request())[0], chunk_question(chunk(), rows_max=100)[0]]
    for alone, together in zip(
        [prepare(question, TODAY) for question in questions], prepare_together(questions, TODAY), strict=True
    ):
        assert together.first_day.tolist() == alone.first_day.tolist()
        for name, tensor in alone.inputs.items():
            np.testing.assert_array_equal(together.inputs[name], tensor)


def test_a_bad_row_leaves_its_neighbours_sound() -> None:
    asked = chunk(history_stop=pack_positions(np.array([5, 60])))
    prepared = prepare(chunk_question(asked, rows_max=100)[0], TODAY)
    assert prepared.sound.tolist() == [1]
    assert list(prepared.violations) == [0]
    assert prepared.violations[0][0][0] == "history_start[0]"
    assert prepared.first_day.tolist() == [TODAY]


def test_a_read_back_is_asked_at_any_level() -> None:
    asked = asked_of([0.9], [])
    assert (asked.levels, asked.quantiles) == ((0.9,), ())
    with pytest.raises(InvalidInput):
        asked_of([2.0], [])


@pytest.mark.parametrize(
    ("asked", "at"),
    [
        (pb.RecordActualsRequest(actuals=[pb.DayValue(date="2016-01-01", value=1)]), "series"),
        (pb.RecordActualsRequest(series="a"), "actuals"),
        (pb.RecordActualsRequest(series="a", actuals=[pb.DayValue(date="2016-01-01")]), "actuals[0].value"),
        (
            pb.RecordActualsRequest(
                series="a", actuals=[pb.DayValue(date="2016-01-02", value=1), pb.DayValue(date="2016-01-02", value=1)]
            ),
            "actuals[1].date",
        ),
        (
            pb.RecordActualsRequest(series="a", actuals=[pb.DayValue(date="2016-01-02", value=float("inf"))]),
            "actuals[0].value",
        ),
        (
            pb.RecordActualsRequest(series="a", actual_columns=pack_days(DAYS[:2] + 1000, VALUES[:2])),
            "actual_columns.day[0]",
        ),
    ],
)
def test_actual_values_that_break_a_rule_name_their_row(asked: pb.RecordActualsRequest, at: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        actuals_question(asked, today=TODAY)
    assert fields_of(refused)[0] == at


def test_actual_values_of_a_single_day_will_do() -> None:
    day, value = actuals_question(
        pb.RecordActualsRequest(series="a", actuals=[pb.DayValue(date="2016-01-02", value=-3)]), today=TODAY
    )
    assert (day.tolist(), value.tolist()) == ([16_802], [-3.0])


def test_a_chunk_whose_answer_would_not_fit_is_told_how_many_rows_do() -> None:
    rows = 1024
    asked = chunk(
        history_start=pack_positions(np.zeros(rows, dtype=np.int64)),
        history_stop=pack_positions(np.full(rows, 60)),
        horizon_days=90,
        levels=[0.05 * k for k in range(1, 17)],
        quantiles=[0.01 * k for k in range(1, 33)],
    )
    with pytest.raises(InvalidInput, match="do not fit into an answer") as refused:
        chunk_question(asked, rows_max=1024)
    assert "send at most 672 rows" in refused.value.violations[0].description


def test_a_history_past_its_limit_is_refused_before_it_is_read() -> None:
    days = [pb.DayValue(date="not a date")] * 10_001
    with pytest.raises(InvalidInput) as refused:
        single_question(pb.ForecastGrowthRequest(history=days))
    assert "has 10001 days" in refused.value.violations[0].description


def test_a_question_at_fault_leaves_those_that_share_its_pass_as_they_are() -> None:
    good = single_question(request())[0]
    bad = single_question(pb.ForecastGrowthRequest(history_columns=pack_days(DAYS[:3], VALUES[:3])))[0]
    prepared = prepare_together([good, bad, good], TODAY)
    assert [bool(one.violations) for one in prepared] == [False, True, False]
    np.testing.assert_array_equal(prepared[2].inputs["history"], prepare(good, TODAY).inputs["history"])


@pytest.mark.parametrize("value", [1e-40, 1e31, float("inf")])
def test_a_value_that_the_graph_could_not_hold_is_refused(value: float) -> None:
    values = VALUES.copy()
    values[7] = value
    asked = single_question(pb.ForecastGrowthRequest(history_columns=pack_days(DAYS, values)))[0]
    assert prepare(asked, TODAY).violations[0][0][0] == "history_columns.value[7]"
