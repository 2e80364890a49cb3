"""What is said of forecasts: numbers as a person writes them, changes that mean something."""

from datetime import date

import numpy as np
import pytest

from meshcast.cli.forecast_table import SeriesForecast, number, percent, signed_share, week_change
from meshcast.client import Forecast
from meshcast.series import day_of


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (12.0, "12"),
        (1234.56, "1,235"),
        (692.57, "692.6"),
        (7.5, "7.500"),
        (-0.01234, "-0.01234"),
        (0.00001, "1e-05"),
        (999_999.0, "999,999"),
        (2_345_678.0, "2.35M"),
        (-3.9e10, "-39.00G"),
        (1e30, "1e+30"),
        (float("nan"), "-"),
    ],
)
def test_a_number_has_about_four_digits(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_change_that_rounds_to_nothing_has_no_sign() -> None:
    assert [signed_share(share) for share in (-0.0004, 0.0, 0.0004, 0.02, -0.5)] == [
        *("0.0%", "0.0%", "0.0%", "+2.0%", "-50.0%")
    ]


def test_levels_are_named_as_people_say_them() -> None:
    assert [percent(level) for level in (0.8, 0.95, 0.975, 0.29)] == ["80", "95", "97.5", "29"]


def told(value: list[float], median: list[float], *, missing: int | None = None) -> float | None:
    day = day_of(date(2026, 11, 1)) + np.arange(len(value))
    keep = np.arange(len(value)) != (-1 if missing is None else missing)
    forecast = Forecast(first_day=date(2026, 12, 1), median=np.array(median), intervals={}, quantiles={})
    return week_change(SeriesForecast(name="a", day=day[keep], value=np.array(value)[keep], forecast=forecast))


def test_whole_weeks_are_compared_and_nothing_else() -> None:
    assert told([1.0] * 3 + [2.0] * 7, [9.0] * 3 + [3.0] * 7) == pytest.approx(0.5)
    assert told([2.0] * 10, [3.0] * 6) is None
    assert told([2.0] * 10, [3.0] * 7, missing=5) is None
    assert told([0.0] * 10, [3.0] * 7) is None
