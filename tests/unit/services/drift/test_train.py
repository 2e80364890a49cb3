"""Training finds how columns go together, leaves the held-out rows alone, and says clearly when it cannot."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")

from numpy.typing import NDArray

from meshcast.rpc import InvalidInput
from meshcast.services.drift.card import render_card
from meshcast.services.drift.features import learn_and_held_out
from meshcast.services.drift.signature import SIGNATURE
from meshcast.services.drift.train import Progress, TrainSettings, answers, scaling, train

QUICK = TrainSettings(epochs=4)


def reference(rows: int = 700, columns: int = 24) -> NDArray[np.float32]:
    """Rows that lie on a bent sheet of three dimensions, with noise, nulls, an outlier and a column that is still."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((rows, 3))
    found = np.tanh(hidden @ rng.standard_normal((3, columns))) + 0.2 * rng.standard_normal((rows, columns))
    found[rng.random(found.shape) < 0.02] = np.nan
    found[5, 2], found[:, 7] = np.inf, 4
    found[:, 3] *= 1e6
    return found.astype(np.float32)


def test_it_learns_what_goes_together_and_tells_how_it_goes() -> None:
    heard: list[Progress] = []
    rows = reference()
    trained = train(rows, settings=QUICK, progress=heard.append)
    test = trained.metrics["test"]
    assert test["error"] < 0.5 and test["error"] <= test["error_of_components"] * 1.1
    held_out = rows[trained.held_out]
    broken = np.random.default_rng(1).permuted(held_out, axis=0)
    assert answers(trained.module, broken)[0].mean() > 2 * answers(trained.module, held_out)[0].mean()
    np.testing.assert_array_equal(trained.held_out, learn_and_held_out(len(rows), 0)[1])
    assert SIGNATURE.check(trained.recorded) == 64
    assert trained.metrics["data"]["still"] == ["7"]
    assert json.loads(json.dumps(trained.metrics, allow_nan=False)) == trained.metrics
    assert sum(at.validation_error is not None for at in heard) == trained.metrics["recipe"]["epochs_run"] <= 4
    assert "700 rows of 24 columns" in render_card(trained.metrics)


def test_the_same_seed_gives_the_same_model_whatever_the_held_out_rows_are() -> None:
    rows = reference()
    first = train(rows, settings=QUICK)
    rows[first.held_out] = 0
    second = train(rows, settings=QUICK)
    for a, b in zip(answers(first.module, rows), answers(second.module, rows), strict=True):
        np.testing.assert_array_equal(a, b)


def test_scaling_bears_outliers_and_columns_of_nearly_one_value() -> None:
    rng = np.random.default_rng(0)
    rows = np.zeros((4_000, 5), dtype=np.float32)
    rows[:, 0] = rng.normal(5, 2, 4_000)
    rows[:100, 0] = 1e30
    rows[:40, 1] = 3
    rows[:, 2] = np.nan
    rows[:, 3] = np.inf
    rows[:, 4] = rng.integers(0, 2, 4_000)
    centre, scale, weight = scaling(rows)
    np.testing.assert_allclose([centre[0], scale[0]], [5, 0.5], rtol=0.1)
    assert scale[1] > 0 and np.isfinite([centre, scale, weight]).all()
    np.testing.assert_array_equal(scale[2:4], [0, 0])
    np.testing.assert_array_equal(weight[2:4], [0, 0])


def test_narrow_rows_are_squeezed_too() -> None:
    trained = train(reference(columns=24)[:, :3], settings=QUICK)
    assert trained.metrics["recipe"]["numbers"] == 1
    assert trained.metrics["test"]["error"] > 0.05


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (np.zeros((50, 4), dtype=np.float32), "too few rows: training needs 100, has 50"),
        (np.zeros((200, 4), dtype=np.float32), "no column varies"),
        (np.full((200, 4), np.nan, dtype=np.float32), "no column varies"),
        (np.zeros((200, 1_025), dtype=np.float32), "1 to 1,024 columns"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(rows: NDArray[np.float32], why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        train(rows)
