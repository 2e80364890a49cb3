"""Claims: planted effects are measured, chance is called chance, and neither time nor days nor tails make a claim."""

import numpy as np
import pytest
from numpy.typing import NDArray

from meshcast.services.analyzer.claims import Design, Finding, design_of, findings

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

DAY_S = 86_400.0


def design(outcome: Floats, *, time: Floats | None = None, channel: NDArray[np.int64] | None = None) -> Design:
    channels = np.zeros(len(outcome), dtype=np.int64) if channel is None else channel
    found = design_of(outcome, channels, None if time is None else np.floor(time / DAY_S), time)
    assert found is not None
    return found


def judged(made: Design, *masks: Mask, is_topic: bool = False, seed: int = 0) -> list[Finding | None]:
    return findings(made, masks, [is_topic] * len(masks), error_rate=0.05, seed=seed, check=lambda: None)


def one(made: Design, mask: Mask, *, is_topic: bool = False) -> Finding:
    found = judged(made, mask, is_topic=is_topic)[0]
    assert found is not None
    return found


def test_a_planted_effect_is_measured_with_its_unit_and_interval() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random(4_000) < 0.2
    found_design = design(100 + 10 * rng.standard_normal(4_000) + 5 * mask)
    found = one(found_design, mask)
    assert found.effect == pytest.approx(0.5, abs=0.1)
    assert found.lower < 0.5 < found.upper
    assert found.effect * found_design.unit == pytest.approx(5, abs=1)
    assert found.p_corrected < 0.05
    assert found.rows_with + found.rows_without == 4_000


def test_channels_and_their_levels_and_spreads_do_not_make_effects() -> None:
    rng = np.random.default_rng(1)
    channel = rng.integers(0, 5, 2_000)
    mask = rng.random(2_000) < 0.1 + 0.15 * channel
    outcome = 50.0 * channel + (1 + channel) * rng.standard_normal(2_000)
    assert abs(one(design(outcome, channel=channel), mask).effect) < 0.15


def test_a_channel_that_always_has_it_is_not_compared() -> None:
    rng = np.random.default_rng(2)
    channel = np.repeat([0, 1], 500)
    assert judged(design(rng.standard_normal(1_000), channel=channel), channel == 1) == [None]


@pytest.mark.parametrize("n", [30, 200, 1_000])
def test_a_trend_over_time_does_not_become_an_effect(n: int) -> None:
    rng = np.random.default_rng(3)
    claimed = []
    for _ in range(40):
        time = np.sort(rng.random(n)) * 100 * DAY_S
        late = rng.random(n) < time / time.max()
        made = design(rng.standard_normal(n) + 5 * time / time.max(), time=time)
        found = judged(made, late)[0]
        claimed.append(found is not None and found.p_value < 0.05)
    assert np.mean(claimed) <= 0.15


def test_days_that_are_good_or_bad_as_a_whole_do_not_become_effects() -> None:
    rng = np.random.default_rng(4)
    day = np.repeat(np.arange(105), 10)
    claimed = []
    for _ in range(100):
        made = design(
            rng.standard_normal(105)[day] + rng.standard_normal(len(day)), time=day.astype(np.float64) * DAY_S
        )
        claimed.append(one(made, day % 7 == 0).p_value < 0.05)
    assert np.mean(claimed) <= 0.12


@pytest.mark.parametrize(("days", "undated"), [(60, 2), (60, 150), (19, 0), (19, 2), (5, 100), (2, 0)])
def test_good_days_make_few_claims_where_days_are_few_or_some_unknown(days: int, undated: int) -> None:
    n, claimed = 600, 0
    for run in range(30):
        rng = np.random.default_rng(run)
        day = np.sort(rng.integers(0, days, n))
        masks = [(rng.random(days) < 0.25)[day] & (rng.random(n) < 0.9) for _ in range(10)]
        time = day * DAY_S + rng.random(n) * DAY_S
        time[rng.permutation(n)[:undated]] = np.nan
        found = judged(design(rng.standard_normal(days)[day] + rng.standard_normal(n), time=time), *masks)
        claimed += any(each is not None and each.p_corrected <= 0.05 for each in found)
    assert claimed <= 4


def test_what_is_the_days_own_cancels_out_where_days_are_few() -> None:
    rng = np.random.default_rng(9)
    day = np.repeat(np.arange(10), 60)
    mask = rng.random(600) < 0.05 + 0.09 * day
    made = design(10.0 * day + rng.standard_normal(600) + 0.6 * mask, time=day * DAY_S + rng.random(600))
    assert made.within_days
    found = one(made, mask)
    assert found.effect == pytest.approx(0.6, abs=0.2)
    assert found.p_corrected <= 0.05


def test_one_row_a_day_depends_on_no_other() -> None:
    rng = np.random.default_rng(10)
    mask = rng.random(200) < 0.4
    made = design(rng.standard_normal(200) + mask, time=np.arange(200).astype(np.float64) * DAY_S)
    assert made.by_day
    assert one(made, mask).p_corrected <= 0.05


def test_rows_of_unknown_time_have_days_of_their_own() -> None:
    day = np.repeat(np.arange(50.0), 4)
    time = day * DAY_S + np.tile(np.arange(4.0), 50)
    time[[3, 9, 100]] = np.nan
    made = design(np.random.default_rng(11).standard_normal(200), time=time)
    sizes = np.bincount(made.cluster)
    assert made.by_day
    assert (sizes[made.cluster[np.isin(made.rows, [3, 9, 100])]] == 1).all()
    assert made.dated_share == pytest.approx(197 / 200)


@pytest.mark.parametrize("kind", ["normal", "tails", "ties"])
def test_chance_is_claimed_in_few_reports_whatever_the_distribution(kind: str) -> None:
    rng = np.random.default_rng(5)
    masks = [rng.random(400) < share for share in np.linspace(0.05, 0.5, 20)]
    claimed = 0
    for run in range(100):
        noise = rng.standard_normal(400)
        outcome = {"normal": noise, "tails": rng.standard_cauchy(400), "ties": np.floor(np.abs(noise))}[kind]
        found = judged(design(outcome), *masks, is_topic=run % 2 == 0, seed=run)
        claimed += any(each is not None and each.p_corrected <= 0.05 for each in found)
    assert claimed <= 8


def test_few_rows_that_have_it_are_not_compared() -> None:
    mask = np.arange(100) < 9
    assert judged(design(np.random.default_rng(6).standard_normal(100)), mask, ~mask) == [None, None]


def test_outcomes_of_any_size_have_finite_figures() -> None:
    rng = np.random.default_rng(7)
    mask = rng.random(200) < 0.5
    for scale in (1e-300, 1e300):
        found_design = design(scale * rng.standard_normal(200))
        found = one(found_design, mask)
        assert np.isfinite([found.effect, found.lower, found.upper, found_design.unit]).all()


@pytest.mark.parametrize("outcome", [np.full(50, np.nan), np.zeros(50), np.array([1.0] + [np.nan] * 49)])
def test_outcomes_that_do_not_differ_have_no_design(outcome: Floats) -> None:
    assert design_of(outcome, np.zeros(50, dtype=np.int64), None, None) is None


def test_the_error_rate_is_divided_between_topics_and_all_else() -> None:
    rng = np.random.default_rng(8)
    mask = rng.random(500) < 0.3
    made = design(rng.standard_normal(500) + 0.2 * mask)
    topic, other = one(made, mask, is_topic=True), one(made, mask)
    assert topic.p_value == other.p_value
    assert topic.p_corrected == pytest.approx(2 * topic.p_value)
    assert other.p_corrected == pytest.approx(min(6 * other.p_value, 1))
