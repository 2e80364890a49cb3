"""Seasons: planted ones are found, chance makes none."""

import numpy as np
import pytest
from numpy.typing import NDArray

from meshcast.services.forecaster import seasons
from meshcast.services.forecaster.seasons import Season

Floats = NDArray[np.float64]

WEEK = np.array([0.0, 1.0, 2.0, 1.0, 0.0, -2.0, -2.0])
YEAR = 5 * np.sin(2 * np.pi * np.arange(12) / 12)


def known(season: Season | str) -> Season:
    assert isinstance(season, Season), season
    return season


def test_weekdays_are_those_of_the_calendar() -> None:
    day = np.array(["1970-01-01", "2024-02-29", "1969-12-31", "2026-11-22"], dtype="datetime64[D]").astype(np.int64)
    assert seasons.weekdays(day).tolist() == [3, 3, 2, 6]


@pytest.mark.parametrize("walk", [False, True])
@pytest.mark.parametrize("n", [14, 60])
def test_noise_claims_no_season_of_the_week_in_95_of_100_series(n: int, walk: bool) -> None:
    rng = np.random.default_rng(1)
    noises = [rng.standard_t(4, n) for _ in range(150)]
    claimed = [
        known(seasons.weekly_season(np.arange(n), np.cumsum(each) if walk else each)).is_present for each in noises
    ]
    assert np.mean(claimed) <= 0.05


def test_a_planted_week_is_found_with_missing_days_a_trend_and_a_spike() -> None:
    rng = np.random.default_rng(2)
    day = np.sort(rng.choice(np.arange(17_000, 17_120), 90, replace=False))
    values = WEEK[seasons.weekdays(day)] + 0.1 * (day - 17_000) + 0.5 * rng.standard_normal(90)
    values[40] += 100
    season = known(seasons.weekly_season(day, values))
    assert season.is_present
    assert season.effects == pytest.approx(tuple(WEEK), abs=0.5)
    assert 0.6 < season.strength < 1


def test_a_peak_on_every_sunday_is_no_outlier() -> None:
    rng = np.random.default_rng(3)
    day = np.arange(17_000, 17_070)
    season = known(seasons.weekly_season(day, 30.0 * (seasons.weekdays(day) == 6) + rng.standard_normal(70)))
    assert season.effects[6] - season.effects[0] == pytest.approx(30, abs=2)


def test_a_week_with_an_unseen_weekday_is_unknown_and_says_so() -> None:
    day = np.arange(17_000, 17_100)
    worked = day[seasons.weekdays(day) < 5]
    assert "weekday" in str(seasons.weekly_season(worked, np.ones(len(worked))))


def test_a_planted_year_is_found_and_less_than_two_years_are_refused() -> None:
    rng = np.random.default_rng(4)
    day = np.arange(15_000, 15_000 + 3 * 366)
    month = day.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % 12
    values = YEAR[month] + rng.standard_normal(len(day))
    season = known(seasons.yearly_season(day, values))
    assert season.is_present
    assert season.strength > 0.8
    assert season.effects == pytest.approx(tuple(YEAR), abs=1)
    assert "two years" in str(seasons.yearly_season(day[:700], values[:700]))


def test_noise_claims_no_season_of_the_year() -> None:
    rng = np.random.default_rng(5)
    day = np.arange(15_000, 15_800)
    claimed = [known(seasons.yearly_season(day, np.cumsum(rng.standard_normal(800)))).is_present for _ in range(40)]
    assert np.mean(claimed) <= 0.05


def test_a_years_effects_pass_from_month_to_month_without_steps() -> None:
    day = np.arange(15_000, 15_400)
    spread = seasons.spread_over_days(Season(tuple(YEAR), 1.0, 0.0), day)
    assert np.abs(np.diff(spread)).max() < 0.15
    first = int(np.datetime64("2011-07-16").astype(np.int64))
    assert spread[first - 15_000] == pytest.approx(YEAR[6], abs=0.1)
