"""The graph scales, blanks and clips by itself, and zeros at the end of a row change nothing."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from meshcast.services.drift.model import CLIP, AutoEncoder, example_inputs  # noqa: E402


@pytest.fixture
def module() -> AutoEncoder:
    torch.manual_seed(0)
    module = AutoEncoder(12).eval()
    scale = torch.full((12,), 0.5)
    scale[4] = 0  # switched off
    module.set_scaling(torch.arange(12.0), scale, (scale > 0).float())
    return module


def run(module: AutoEncoder, rows: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        error, code = module(rows)
    return error, code


def same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> None:
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_zeros_at_the_end_and_columns_beyond_the_reference_change_nothing(module: AutoEncoder) -> None:
    (rows,) = example_inputs(5, 12)
    rows[:, 9:] = 0
    wanted = run(module, rows)
    same(run(module, rows[:, :9]), wanted)
    same(run(module, torch.cat([rows, torch.zeros(5, 1012)], dim=1)), wanted)
    same(run(module, torch.cat([rows, torch.full((5, 4), 7.0)], dim=1)), wanted)
    assert run(module, torch.empty(5, 0))[0].shape == (5,)


def test_infinities_and_outliers_are_clipped_and_nulls_count_for_nothing(module: AutoEncoder) -> None:
    (rows,) = example_inputs(3, 12)
    far, infinite = rows.clone(), rows.clone()
    far[:, 0], infinite[:, 0] = 3e38, float("inf")
    same(run(module, far), run(module, infinite))
    infinite[:, 4] = float("-inf")  # times the 0 of a column that is switched off
    assert all(bool(torch.isfinite(part).all()) for part in run(module, infinite))
    scaled, present = module.scaled(infinite)
    assert float(scaled.abs().max()) == CLIP and bool((present == 1).all())
    nulls = torch.full((2, 12), float("nan"))
    error, code = run(module, nulls)
    np.testing.assert_array_equal(error.numpy(), [0, 0])
    assert bool(torch.isfinite(code).all())


def test_the_error_is_the_mean_over_columns_that_are_not_null(module: AutoEncoder) -> None:
    (rows,) = example_inputs(4, 12)
    rows[:, 6:] = float("nan")
    x, _ = module.scaled(rows)
    with torch.no_grad():
        square = (module.decode(module.encode(x)) - x) ** 2
    seen = [0, 1, 2, 3, 5]
    torch.testing.assert_close(run(module, rows)[0], square[:, seen].mean(dim=1))


def test_lines_alone_are_principal_components(module: AutoEncoder) -> None:
    axes, _ = torch.linalg.qr(torch.randn(12, 2))
    axes[4] = 0
    module.set_lines(axes.T, torch.ones(12))
    x = torch.randn(6, 12)
    x[:, 4] = 0
    with torch.no_grad():
        found = module.decode(module.encode(x))
    wanted = 1 + (x - 1) @ axes @ axes.T
    keep = [at for at in range(12) if at != 4]
    torch.testing.assert_close(found[:, keep], wanted[:, keep], atol=1e-5, rtol=1e-5)
    assert bool((module.encode(x)[:, 2:] == 0).all())


def test_codes_are_given_in_standard_deviations(module: AutoEncoder) -> None:
    (rows,) = example_inputs(200, 12)
    with torch.no_grad():
        module.set_code_scaling(module.encode(module.scaled(rows)[0]))
    _, code = run(module, rows)
    torch.testing.assert_close(code.mean(dim=0), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(code.std(dim=0), torch.ones(8), atol=1e-3, rtol=0)
