"""The forecaster's baseline: weekday medians with intervals from their own errors, refused where the service would."""

from collections.abc import Callable
from datetime import UTC, date, datetime

import numpy as np
import pytest
from numpy.typing import NDArray

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.baselines import forecast_growth
from meshcast.baselines.forecaster import WeekdayForecast
from meshcast.rpc import InvalidInput
from meshcast.series import day_of, messages_from_days, pack_days
from meshcast.services.forecaster.prepare import violations_of
from meshcast.services.forecaster.questions import single_question

Request = pb.ForecastGrowthRequest
FIRST = day_of(date(2016, 2, 1))  # a Monday
NAN = float("nan")


def noisy(days: int, seed: int = 0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return 100.0 + 10.0 * (np.arange(days) % 7) + rng.normal(0.0, 5.0, days)


def question(days: int = 60, **fields: object) -> Request:
    day = np.arange(FIRST, FIRST + days)
    return Request(history=messages_from_days(day, noisy(days)), **fields)  # type: ignore[arg-type]  # by name


def answered(request: Request) -> pb.ForecastGrowthResponse | None:
    encoded = forecast_growth(request.SerializeToString())
    return None if encoded is None else pb.ForecastGrowthResponse.FromString(encoded)


def forecast(request: Request) -> pb.Forecast:
    answer = answered(request)
    assert answer is not None
    return answer.forecast


def is_refused_by_the_service(request: Request) -> bool:
    try:
        return bool(violations_of(single_question(request)[0], day_of(datetime.now(UTC).date())))
    except InvalidInput:
        return True


def test_a_weekday_is_the_median_of_its_last_four() -> None:
    day = np.arange(FIRST, FIRST + 70)
    value = np.tile(np.arange(7.0), 10)
    value[[-7, -14, -21]] = 50.0, 9.0, 9.0  # Mondays
    rule = WeekdayForecast(day, value)
    assert rule.median(8).tolist() == [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 9.0]
    assert rule.first_day == FIRST + 70


def test_missing_days_are_left_out_and_a_missing_weekday_is_as_the_others() -> None:
    day = np.arange(FIRST, FIRST + 70)
    value = np.tile(np.arange(7.0), 10)
    value[2::7] = NAN
    value[-3] = NAN
    assert WeekdayForecast(day, value).median(7).tolist() == [0.0, 1.0, 3.5, 3.0, 4.0, 5.0, 6.0]


def test_days_that_are_not_there_are_as_days_without_a_value() -> None:
    day = np.arange(FIRST, FIRST + 70)
    value = noisy(70)
    value[[5, 17, 44]] = NAN
    known = ~np.isnan(value)
    whole, cut = WeekdayForecast(day, value), WeekdayForecast(day[known], value[known])
    assert cut.median(30).tolist() == whole.median(30).tolist()
    assert cut.halves(0.8, 30).tolist() == whole.halves(0.8, 30).tolist()


def test_a_steady_week_is_forecast_without_doubt() -> None:
    rule = WeekdayForecast(np.arange(FIRST, FIRST + 70), np.tile(np.arange(7.0), 10))
    assert not rule.halves(0.95, 90).any()


def test_intervals_widen_with_level_and_with_time_where_errors_do() -> None:
    walk = np.random.default_rng(1).normal(size=400).cumsum()
    rule = WeekdayForecast(np.arange(FIRST, FIRST + 400), walk)
    narrow, wide = rule.halves(0.5, 90), rule.halves(0.9, 90)
    assert (narrow < wide).all()
    assert wide[:7].mean() < wide[35:42].mean()


def test_intervals_hold_their_level_on_the_next_day() -> None:
    hits = []
    for seed in range(300):
        value = noisy(120, seed)
        rule = WeekdayForecast(np.arange(FIRST, FIRST + 119), value[:-1])
        hits.append(abs(value[-1] - rule.median(1)[0]) <= rule.halves(0.8, 1)[0])
    assert abs(np.mean(hits) - 0.8) < 0.07


def test_fourteen_days_are_enough_and_their_later_weeks_are_less_sure() -> None:
    rule = WeekdayForecast(np.arange(FIRST, FIRST + 14), noisy(14))
    assert (rule.weeks, rule.errors) == (1, 7)
    halves = rule.halves(0.8, 28)
    assert halves[21] == pytest.approx(2.0 * halves[0])


def test_the_contracts_defaults_hold() -> None:
    answer = forecast(question())
    assert answer.first_date == "2016-04-01"
    assert len(answer.median) == 30
    assert [one.level for one in answer.intervals] == [0.8, 0.95]
    assert not answer.quantiles
    for one in answer.intervals:
        assert all(low < middle < high for low, middle, high in zip(one.lower, answer.median, one.upper, strict=True))


def test_horizon_levels_and_quantiles_are_those_asked_for() -> None:
    answer = forecast(question(horizon_days=3, levels=[0.9, 0.5, 0.9]))
    assert (len(answer.median), [one.level for one in answer.intervals]) == (3, [0.5, 0.9])
    answer = forecast(question(quantiles=[0.9, 0.5, 0.1]))
    assert ([one.level for one in answer.quantiles], len(answer.intervals)) == ([0.1, 0.5, 0.9], 0)
    low, middle, high = (list(one.values) for one in answer.quantiles)
    assert middle == list(answer.median)
    assert low < middle < high


def test_a_series_that_cannot_be_negative_is_never_forecast_below_0() -> None:
    day, value = np.arange(FIRST, FIRST + 60), np.tile([0.0, 1.0, 9.0, 0.0, 2.0], 12)
    request = Request(history=messages_from_days(day, value), nonnegative=True, quantiles=[0.01], levels=[0.95])
    answer = forecast(request)
    assert min(answer.intervals[0].lower) == 0.0 == min(answer.quantiles[0].values)
    request.nonnegative = False
    assert min(forecast(request).intervals[0].lower) < 0.0


def test_the_receipt_names_a_baseline_and_what_it_rests_on() -> None:
    answer = answered(question())
    assert answer is not None
    assert (answer.receipt.model, answer.receipt.model_version) == ("baseline/forecaster", 0)
    assert answer.receipt.prediction_id == ""
    (note,) = answer.receipt.notes
    assert note.startswith("statistical baseline") and "4 weeks" in note
    assert not answer.evidence


def test_both_forms_of_history_give_one_answer() -> None:
    columns = Request(history_columns=pack_days(np.arange(FIRST, FIRST + 60), noisy(60)))
    assert answered(columns) == answered(question())


def test_days_of_which_none_lie_a_week_apart_get_no_baseline() -> None:
    day = np.arange(FIRST, FIRST + 112)
    known = np.flatnonzero((np.arange(112) // 7) % 2 == 0)[::4]
    assert len(known) >= 14
    request = Request(history=messages_from_days(day[known], noisy(112)[known]))
    assert not is_refused_by_the_service(request)
    assert answered(request) is None


def test_a_version_that_must_answer_gets_no_baseline() -> None:
    assert answered(question(model_version=2)) is None


def test_bytes_that_are_no_request_get_none() -> None:
    assert forecast_growth(b"\xff\xff") is None
    assert forecast_growth(b"") is None


def with_a_date_that_is_none(request: Request) -> None:
    request.history[3].date = "2016-02-30"


def with_a_day_twice(request: Request) -> None:
    request.history[3].date = request.history[2].date


def with_a_value_that_is_too_large(request: Request) -> None:
    request.history[3].value = 1e31


def with_a_negative_value(request: Request) -> None:
    request.history[3].value = -1.0
    request.nonnegative = True


def with_a_day_of_the_future(request: Request) -> None:
    request.history[-1].date = "2999-01-01"


def with_too_few_days(request: Request) -> None:
    del request.history[13:]


def with_both_forms(request: Request) -> None:
    request.history_columns.CopyFrom(pack_days(np.arange(FIRST, FIRST + 60), noisy(60)))


def with_neither_form(request: Request) -> None:
    request.ClearField("history")


def with_too_long_a_horizon(request: Request) -> None:
    request.horizon_days = 91


def with_a_negative_horizon(request: Request) -> None:
    request.horizon_days = -1


def with_a_level_of_1(request: Request) -> None:
    request.levels.append(1.0)


def with_a_level_of_nan(request: Request) -> None:
    request.levels.append(NAN)


def with_a_quantile_too_far_out(request: Request) -> None:
    request.quantiles.append(0.999)


def with_too_many_levels(request: Request) -> None:
    request.levels.extend(np.linspace(0.1, 0.9, 17))


def with_too_many_quantiles(request: Request) -> None:
    request.quantiles.extend(np.linspace(0.1, 0.9, 33))


def with_a_long_name(request: Request) -> None:
    request.series = "x" * 257


def with_a_long_id(request: Request) -> None:
    request.request_id = "x" * 129


def with_columns_that_differ_in_length(request: Request) -> None:
    request.ClearField("history")
    request.history_columns.CopyFrom(pack_days(np.arange(FIRST, FIRST + 60), noisy(60)))
    request.history_columns.days = 61


@pytest.mark.parametrize(
    "change",
    [
        with_a_date_that_is_none,
        with_a_day_twice,
        with_a_value_that_is_too_large,
        with_a_negative_value,
        with_a_day_of_the_future,
        with_too_few_days,
        with_both_forms,
        with_neither_form,
        with_too_long_a_horizon,
        with_a_negative_horizon,
        with_a_level_of_1,
        with_a_level_of_nan,
        with_a_quantile_too_far_out,
        with_too_many_levels,
        with_too_many_quantiles,
        with_a_long_name,
        with_a_long_id,
        with_columns_that_differ_in_length,
    ],
)
def test_what_the_service_would_refuse_gets_no_baseline(change: Callable[[Request], None]) -> None:
    request = question()
    assert not is_refused_by_the_service(request)
    change(request)
    assert is_refused_by_the_service(request)
    assert answered(request) is None
