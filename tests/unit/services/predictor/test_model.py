"""The module's answers are ordered, follow the channel's level, and do not depend on neighbours or padding."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from meshcast.services.predictor.features import HISTORY_FEATURES, PLANNED_FEATURES  # noqa: E402
from meshcast.services.predictor.model import LEVELS, EngagementModel, example_inputs  # noqa: E402


@pytest.fixture
def module() -> EngagementModel:
    torch.manual_seed(0)
    return EngagementModel().eval()


def test_it_is_a_two_layer_lstm_of_64_units_with_about_90_thousand_parameters(module: EngagementModel) -> None:
    assert (module.lstm.num_layers, module.lstm.hidden_size) == (2, 64)
    assert 60_000 <= sum(weights.numel() for weights in module.parameters()) <= 120_000


def test_answers_have_the_stated_shapes_and_quantiles_ascend(module: EngagementModel) -> None:
    history, mask, planned = example_inputs(9)
    module.set_calibration(
        interval_factors=torch.tensor([0.2, 3.0, 2.5, 0.1]), confidence_line=torch.tensor([1.5, -0.2])
    )
    point, quantiles, confidence = module(history, mask, 5 + planned)
    assert (point.shape, quantiles.shape, confidence.shape) == ((9,), (9, len(LEVELS)), (9,))
    assert bool((quantiles.diff(dim=1) >= 0).all())
    assert bool(((quantiles[:, 1] <= point) & (point <= quantiles[:, 2])).all())
    assert bool(((confidence > 0) & (confidence < 1)).all())


def test_answers_are_never_below_no_engagement_at_all(module: EngagementModel) -> None:
    history, mask, planned = example_inputs(4)
    point, quantiles, _ = module(history, mask, torch.zeros_like(planned))
    assert float(point.detach().min()) >= 0
    assert float(quantiles.detach().min()) >= 0


def test_a_channel_of_another_size_gets_the_same_answer_at_its_own_level(module: EngagementModel) -> None:
    history, mask, planned = example_inputs(5)
    planned = planned + 6
    levels = [k for k, name in enumerate(PLANNED_FEATURES) if "quantile" in name or name.endswith(("_mean", "_median"))]
    levels = [k for k in levels if PLANNED_FEATURES[k].startswith(("recent", "newest", "window"))]
    counts = [k for k, name in enumerate(HISTORY_FEATURES) if name.startswith("log_") and name[4:] in COUNTED]
    larger_history, larger_planned = history.clone(), planned.clone()
    larger_history[:, :, counts] += 7
    larger_planned[:, levels] += 7
    point, quantiles, confidence = module(history, mask, planned)
    larger = module(larger_history, mask, larger_planned)
    torch.testing.assert_close(larger[0], point + 7, atol=2e-5, rtol=0)
    torch.testing.assert_close(larger[1], quantiles + 7, atol=2e-5, rtol=0)
    torch.testing.assert_close(larger[2], confidence, atol=2e-5, rtol=0)


COUNTED = ("engagement", "views", "forwards", "replies", "reactions")


def test_what_stands_in_the_padding_does_not_matter(module: EngagementModel) -> None:
    history, mask, planned = example_inputs(3)
    mask[:, :4] = 0
    changed = history.clone()
    changed[:, :4] = 9
    for a, b in zip(module(history, mask, planned), module(changed, mask, planned), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_a_row_is_the_same_alone_as_in_a_batch(module: EngagementModel) -> None:
    inputs = example_inputs(7)
    together = module(*inputs)
    alone = module(*(column[3:4] for column in inputs))
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a[0], b[3], atol=1e-6, rtol=0)


def test_columns_that_never_vary_are_switched_off(module: EngagementModel) -> None:
    history, mask, planned = example_inputs(50)
    views, missing = HISTORY_FEATURES.index("log_views"), HISTORY_FEATURES.index("views_missing")
    history[:, :, views], history[:, :, missing] = 0, 1
    module.fit_scaling(history, mask, planned)
    before = module(history, mask, planned)
    history[:, :, views] = 5.0
    for a, b in zip(before, module(history, mask, planned), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)
    assert np.isfinite(before[0].detach().numpy()).all()
