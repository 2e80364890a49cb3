import numpy as np
import pytest

torch = pytest.importorskip("torch")

from meshcast.services.forecaster import features  # noqa: E402
from meshcast.services.forecaster.features import HORIZON  # noqa: E402
from meshcast.services.forecaster.model import MEDIAN, ForecastModel, example_inputs  # noqa: E402
from meshcast.services.forecaster.signature import LEVELS, SIGNATURE  # noqa: E402
from meshcast.services.forecaster.train import quantiles_of, set_weights, shipped_weights  # noqa: E402

FIRST_DAY = 17_000


@pytest.fixture(scope="module")
def shipped() -> ForecastModel:
    module = ForecastModel()
    weights = shipped_weights()
    assert weights is not None
    set_weights(module, weights)
    return module.eval()


def forecast(module: ForecastModel, *series: np.ndarray, nonnegative: bool = True) -> np.ndarray:
    """Quantiles of series that all end the day before FIRST_DAY, (m, 90, 9)."""
    size = np.array([len(values) for values in series])
    stop = np.cumsum(size)
    day = np.concatenate([np.arange(FIRST_DAY - len(values), FIRST_DAY) for values in series])
    rows = len(series)
    inputs = features.tensors(
        day,
        np.concatenate(series),
        stop - size,
        stop,
        np.full(rows, FIRST_DAY),
        np.full(rows, nonnegative),
    )
    return np.asarray(quantiles_of(module, inputs))


def visits(days: int = 500, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    week = 1 + 0.4 * np.sin(np.arange(days) * 2 * np.pi / 7)
    return np.asarray(rng.poisson(200 * week * np.exp(np.arange(days) * 0.001)).astype(float))


def test_the_signature_is_that_of_the_graph() -> None:
    module = ForecastModel().eval()
    inputs = example_inputs(3)
    assert [tuple(x.shape[1:]) for x in inputs] == [spec.shape for spec in SIGNATURE.inputs]
    with torch.no_grad():
        assert tuple(module(*inputs).shape[1:]) == SIGNATURE.outputs[0].shape == (HORIZON, len(LEVELS))


@pytest.mark.parametrize("factor", [1e-9, 1e-3, 1e3, 1e9])
@pytest.mark.parametrize("nonnegative", [True, False])
def test_a_series_larger_by_a_factor_has_a_forecast_larger_by_it(
    shipped: ForecastModel, factor: float, nonnegative: bool
) -> None:
    values = visits()
    once, scaled = (forecast(shipped, k * values, nonnegative=nonnegative) for k in (1.0, factor))
    np.testing.assert_allclose(scaled / factor, once, rtol=2e-3, atol=1e-3 * values.mean())


@pytest.mark.parametrize("nonnegative", [True, False])
def test_odd_series_get_finite_ascending_quantiles(shipped: ForecastModel, nonnegative: bool) -> None:
    rng = np.random.default_rng(1)
    holes = np.full(14, np.nan)
    holes[[0, 3, 4, 9, 13]] = [3, 0, 7, 2, 5]
    odd = [
        np.zeros(60),
        np.full(60, 7.0),
        np.full(60, 1e12),
        np.full(60, 1e-6),
        holes,
        np.r_[np.zeros(59), 1e6],
        np.r_[np.full(59, 1e6), 0.0],
        np.exp(np.arange(112) / 4),
        rng.lognormal(0, 5, 400),
        np.array([1.0]),
        np.full(20, np.nan),
    ]
    quantiles = forecast(shipped, *odd, nonnegative=nonnegative)
    assert np.isfinite(quantiles).all()
    assert (np.diff(quantiles, axis=2) >= 0).all()
    if nonnegative:
        assert (quantiles >= 0).all()
    np.testing.assert_allclose(quantiles[0], 0.0, atol=0.02)
    for row, level in ((1, 7.0), (2, 1e12), (3, 1e-6)):
        np.testing.assert_allclose(quantiles[row], level, rtol=0.05)


def test_a_series_that_falls_below_zero_is_forecast_there(shipped: ForecastModel) -> None:
    rng = np.random.default_rng(2)
    quantiles = forecast(shipped, rng.normal(-50, 5, 200), nonnegative=False)
    assert (np.abs(quantiles[0, :14, MEDIAN] + 50) < 10).all()
    assert (quantiles[0, :, 0] < -50).all()


def test_a_weekly_season_goes_on(shipped: ForecastModel) -> None:
    values = 100 + 50 * (np.arange(200) % 7 == 0) + np.random.default_rng(3).normal(0, 1, 200)
    median = forecast(shipped, values)[0, :28, MEDIAN]
    peaks = (np.arange(200, 228) % 7) == 0
    assert median[peaks].min() > median[~peaks].max() + 25


def test_intervals_widen_with_their_level_and_the_median_lies_inside(shipped: ForecastModel) -> None:
    quantiles = forecast(shipped, visits())[0]
    assert (quantiles[:, 0] < quantiles[:, MEDIAN]).all()
    assert (quantiles[:, MEDIAN] < quantiles[:, -1]).all()


@pytest.mark.parametrize(("period", "history", "horizon"), [(12, 60, 18), (4, 24, 8), (1, 20, 6)])
def test_other_seasons_and_horizons_are_arguments(period: int, history: int, horizon: int) -> None:
    module = ForecastModel(history=history, horizon=horizon, period=period, units=16, hidden=16).eval()
    past = torch.rand(3, history) * 100
    nothing = torch.zeros(3, features.LAST_YEAR)
    with torch.no_grad():
        quantiles = module(past, torch.ones_like(past), nothing, nothing, torch.zeros(3, 2), torch.ones(3))
    assert quantiles.shape == (3, horizon, 9)
    assert torch.isfinite(quantiles).all()


def test_a_history_that_is_no_multiple_of_the_season_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple"):
        ForecastModel(history=100)


def test_factors_stretch_distances_and_keep_the_order(shipped: ForecastModel) -> None:
    module = ForecastModel(units=16, hidden=16).eval()
    inputs = example_inputs(2)
    with torch.no_grad():
        before = module(*inputs)
        module.set_factors(torch.full((HORIZON, 9), 2.0))
        after = module(*inputs)
        module.set_factors(torch.rand(HORIZON, 9) * 3)
        mixed = module(*inputs)
    torch.testing.assert_close(before[:, :, MEDIAN], after[:, :, MEDIAN])
    assert (after[:, :, 0] <= before[:, :, 0]).all() and (after[:, :, -1] >= before[:, :, -1]).all()
    assert (mixed.diff(dim=2) >= 0).all()
