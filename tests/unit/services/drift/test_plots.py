import struct

import numpy as np
import pytest

from meshcast.observations import CategoryColumn, Observations
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.plots import plot_features


def png_size(data: bytes) -> tuple[int, int]:
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", data[16:24])
    return int(width), int(height)


def table(rows: int, seed: int, *, is_moved: bool) -> Observations:
    rng = np.random.default_rng(seed)
    infinite = rng.normal(size=rows)
    infinite[:3] = np.inf, -np.inf, np.nan
    names = tuple(f"$town_{at}" for at in range(30)) + ("new",) * is_moved
    return Observations(
        rows,
        {
            "normal": rng.normal(0.5 * is_moved, 1, rows),
            "tail": np.exp(rng.normal(0, 3, rows)) * (1e4 if is_moved else 1),
            "both tails": rng.normal(size=rows) ** 9,
            "constant": np.full(rows, 3.0 + is_moved),
            "flag": (rng.random(rows) < 0.3).astype(np.float32),
            "whole": rng.integers(0, 200, rows).astype(np.float64),
            "infinite": infinite,
            "only infinite": np.full(rows, np.inf),
            "void": np.full(rows, np.nan),
            "huge": rng.normal(size=rows) * 1e300,
        },
        {
            "town": CategoryColumn(rng.integers(0, len(names), rows).astype(np.int32), names),
            "一 $x_1$ " + "long " * 20: CategoryColumn(np.full(rows, -1, np.int32), ()),
        },
    )


@pytest.mark.parametrize("name", table(9, 0, is_moved=False).names)
def test_every_kind_of_column_has_a_picture(name: str) -> None:
    reference = table(600, 0, is_moved=False)
    layout = Layout.of(reference)
    sides = layout.tally(reference), layout.tally(table(200, 1, is_moved=True))
    at = layout.names.index(name)
    found = plot_features(layout, *sides, [at], what={at: "mean 1 to 2 (+$3_4$ sd)"})
    assert png_size(found[at]) == (792, 363)
    assert 4_000 < len(found[at]) < 80_000


@pytest.mark.parametrize("rows", [0, 1])
def test_hardly_any_rows_have_a_picture(rows: int) -> None:
    reference = table(600, 0, is_moved=False)
    layout = Layout.of(reference)
    window = layout.tally(table(9, 1, is_moved=False)[:rows])
    found = plot_features(layout, layout.tally(reference), window, [0, 10], what={})
    assert sorted(found) == [0, 10]


def test_sketches_are_not_needed() -> None:
    reference = table(600, 0, is_moved=False)
    layout = Layout.of(reference)
    window = layout.tally(table(200, 1, is_moved=True), sketches=False)
    assert png_size(plot_features(layout, layout.tally(reference), window, [1], what={})[1])
