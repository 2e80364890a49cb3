from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from meshcast.rpc import InvalidInput  # noqa: E402
from meshcast.series import SeriesTable  # noqa: E402
from meshcast.services.forecaster import synthetic, train  # noqa: E402
from meshcast.services.forecaster.features import DAYS_BACK, HORIZON, INPUTS  # noqa: E402
from meshcast.services.forecaster.model import MEDIAN, ForecastModel  # noqa: E402
from meshcast.services.forecaster.panel import Panel, plain_forecasts, season_scale, windows_of  # noqa: E402
from meshcast.services.forecaster.publish import panel_of  # noqa: E402
from meshcast.services.forecaster.sampling import Sampler  # noqa: E402
from meshcast.services.forecaster.train import TrainSettings  # noqa: E402

QUICK = TrainSettings(
    steps=2, batch_rows=8, ahead=4, checks=1, synthetic_share=0.0, calibration_windows=60, test_windows=60
)


def weekly(days: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(100 + 40 * (np.arange(days) % 7 == 0) + rng.normal(0, 5, days))


def test_windows_of_a_part_never_see_past_its_end() -> None:
    panel = Panel.of([(16_000, np.arange(1.0, 401.0))], train_share=0.5, validate_share=0.25)
    validation = windows_of(panel, "validation")
    test = windows_of(panel, "test")
    assert np.nanmin(validation.target) >= 200 and np.nanmax(validation.target) == 300
    assert np.nanmin(test.target) >= 300 and np.nanmax(test.target) == 400
    newest = validation.inputs["history"][:, -1]
    np.testing.assert_array_equal(newest + 1, validation.target[:, 0])  # each target follows its history
    assert len(validation) == len(test) == 7


def test_training_windows_come_from_the_training_days_alone() -> None:
    values = np.r_[np.ones(300), np.full(100, 1e6)]
    panel = Panel.of([(16_000, values)], train_share=0.75)
    sampler = Sampler(panel, np.random.default_rng(0), synthetic_share=0.0)
    for _ in range(5):
        inputs, target = sampler(32)
        assert np.nanmax(np.abs(target)) < 1e3
        assert np.abs(inputs["history"]).max() < 1e3


def test_a_made_up_pool_is_finite_and_of_both_kinds() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(10_000, 20_000, 60)
    counts = synthetic.draw_counts(rng, 60, 200, first)
    signed = synthetic.draw_signed(rng, 60, 200, first)
    assert np.isfinite(counts).all() and counts.min() >= 0
    assert np.isfinite(signed).all() and signed.min() < 0
    again = synthetic.draw_counts(np.random.default_rng(0), 60, 200, np.zeros(60, np.int64))
    assert (again == synthetic.draw_counts(np.random.default_rng(0), 60, 200, np.zeros(60, np.int64))).all()


def test_the_season_scale_is_the_mean_change_since_a_week_before() -> None:
    assert season_scale(np.arange(20.0)) == 7.0
    assert np.isnan(season_scale(np.arange(7.0)))


def test_plain_forecasts_are_the_last_week_and_the_mean_of_four() -> None:
    values = np.arange(56.0)
    values[-3] = np.nan
    panel = Panel.of([(16_000, np.r_[values, np.zeros(14)])], train_share=0.0, validate_share=0.8)
    windows = windows_of(panel, "test")
    plain = plain_forecasts(windows)
    naive, mean = plain["seasonal naive"][0], plain["weekday mean of 4 weeks"][0]
    assert naive[:7].tolist() == [49, 50, 51, 52, 46, 54, 55]  # the missing day falls back a week
    assert mean[0] == np.mean([28, 35, 42, 49])
    assert mean[4] == np.mean([32, 39, 46])
    np.testing.assert_array_equal(mean[:7], mean[7:])


def test_factors_make_one_sided_coverage_hold_by_day_of_the_horizon() -> None:
    rng = np.random.default_rng(0)
    spread = np.where(np.arange(HORIZON) < 10, 1.0, 3.0)
    misses = (rng.normal(size=(4_000, HORIZON)) * spread).astype(np.float32)
    misses[rng.random(misses.shape) < 0.1] = np.nan
    offsets = np.broadcast_to(np.array([-2, -1.6, -1.3, -0.7, 0, 0.7, 1.3, 1.6, 2], np.float32), (4_000, HORIZON, 9))
    factors = train.factors_of(misses, offsets).numpy()
    for day in (0, 45, 89):
        known = ~np.isnan(misses[:, day])
        for k, level in ((0, 0.025), (2, 0.10), (6, 0.90), (8, 0.975)):
            below = (misses[known, day] <= offsets[0, day, k] * factors[day, k]).mean()
            assert abs(below - level) < 0.02


def test_training_improves_on_its_start_and_says_how_it_went() -> None:
    panel = Panel.of([(16_000 + k, weekly(300, k)) for k in range(4)])
    told: list[train.Progress] = []
    settings = replace(QUICK, steps=30, batch_rows=32, checks=3, from_scratch=True, learning_rate=3e-3, averaging=0.5)
    trained = train.train(panel, settings=settings, progress=told.append)
    assert [at.step for at in told if at.validation is not None] == [10, 20, 30]
    assert told[-1].loss < told[0].loss
    metrics = trained.metrics
    assert metrics["test"]["mase"]["model"] < metrics["test"]["mase"]["seasonal naive"]
    assert metrics["data"]["series"] == 4 and not metrics["recipe"]["started_from_shipped"]
    assert set(trained.recorded) == set(INPUTS) and not trained.module.training


def test_the_same_seed_gives_the_same_weights() -> None:
    panel = Panel.of([(16_000, weekly(200))])
    first, second = (train.weights_of(train.train(panel, settings=QUICK).module) for _ in range(2))
    for name, weights in first.items():
        np.testing.assert_array_equal(weights, second[name])


def test_the_weights_that_ship_are_kept_where_training_makes_them_worse() -> None:
    panel = Panel.of([(16_000, weekly(200))])
    trained = train.train(panel, settings=replace(QUICK, learning_rate=0.5, averaging=0.0))
    assert trained.metrics["recipe"]["started_from_shipped"]
    assert trained.metrics["recipe"]["best_step"] == 0


def test_scores_ignore_windows_without_a_scale() -> None:
    panel = Panel.of([(16_000, np.full(300, 5.0)), (16_000, weekly(300))])
    judged = train.judge(ForecastModel(units=16, hidden=16).eval(), windows_of(panel, "test"))
    assert judged["windows"] == len(windows_of(panel, "test")) // 2
    assert np.isfinite(judged["mase"]["model"])


@pytest.mark.parametrize(
    ("values", "message"), [(np.ones(30), "too short"), (np.full(300, 3.0), "every series is constant")]
)
def test_what_cannot_be_learnt_from_is_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        train.train(Panel.of([(16_000, values)]), settings=QUICK)


def test_a_table_becomes_a_panel_with_its_gaps() -> None:
    day = np.r_[np.arange(16_000, 16_100), np.arange(16_110, 16_160)]
    table = SeriesTable.of(
        np.r_[day, day[:20]], np.r_[np.arange(150.0), np.full(20, -1.0)], series=["a"] * 150 + ["short"] * 20
    )
    panel = panel_of(table, TrainSettings())
    assert len(panel) == 1 and len(panel.value) == 160
    assert np.isnan(panel.value[100:110]).all() and panel.value[110] == 100.0
    assert panel.nonnegative.tolist() == [True]
    with pytest.raises(InvalidInput, match="longest spans 20"):
        panel_of(table["short"], TrainSettings())


def test_joined_panels_keep_their_series_apart() -> None:
    one, two = Panel.of([(5, np.arange(3.0))], source=0), Panel.of([(9, -np.arange(4.0))], source=1)
    both = Panel.joined([one, two])
    assert both.start.tolist() == [0, 3] and both.stop.tolist() == [3, 7]
    assert both.source.tolist() == [0, 1] and both.nonnegative.tolist() == [True, False]
    assert both.first_day.tolist() == [5, 9]


def test_the_median_of_a_trained_module_is_its_point_forecast() -> None:
    panel = Panel.of([(16_000, weekly(600))])
    windows = windows_of(panel, "test")
    weights = train.shipped_weights()
    assert weights is not None
    module = ForecastModel()
    train.set_weights(module, weights)
    quantiles = train.quantiles_of(module.eval(), windows.inputs)
    assert quantiles.shape == (len(windows), HORIZON, 9) and windows.inputs["mask"].shape[1] <= DAYS_BACK
    gap = np.abs(quantiles[:, :14, MEDIAN] - windows.target[:, :14])
    assert gap.mean() < 8
