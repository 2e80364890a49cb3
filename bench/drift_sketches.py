"""How exact the drift service's effect sizes are: those of tallies with sketches beside those of all values.

Prints JSON. References and windows of seven kinds of features are taken in by chunks, so that sketches are merged, and
compared with Kolmogorov-Smirnov, stability index and Wasserstein distance of the raw values. A window is as its
reference, or shifted a little, much, or out of the reference's range. With 1,000,000 rows and five seeds it takes about
two minutes on one core.

    OMP_NUM_THREADS=1 python bench/drift_sketches.py > drift_sketches.json
    python bench/drift_sketches.py --short

Each distance of raw values is taken by its definition: the distribution functions at every value; shares of the groups
that the reference's tenths cut; the quantile functions between .001 and .999 at every step of either.
"""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from processes import machine

from meshcast.observations import Observations
from meshcast.services.drift.effects import effects_of
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.tally import Tally

CHUNK = 10_000
W1_FROM, W1_TO = 0.001, 0.999

Floats = NDArray[np.float64]
Rng = np.random.Generator
Maker = Callable[[Rng, int], Floats]

_KS_MAX, _PSI_MAX, _W1_RELATIVE, _W1_OF_IQR = 0.005, 0.01, 0.03, 0.01


def _laden(share: float, shift: float) -> Maker:
    def make(rng: Rng, n: int) -> Floats:
        values = rng.standard_normal(n) + shift
        values[rng.random(n) < share] = np.nan
        return values

    return make


# The first of each is the reference's.
KINDS: dict[str, dict[str, Maker]] = {
    "normal": {
        "same": lambda rng, n: rng.standard_normal(n),
        "mean +0.1": lambda rng, n: rng.standard_normal(n) + 0.1,
        "mean +1": lambda rng, n: rng.standard_normal(n) + 1,
        "mean +20": lambda rng, n: rng.standard_normal(n) + 20,
        "spread x1.5": lambda rng, n: 1.5 * rng.standard_normal(n),
    },
    "lognormal, 1.5": {
        "same": lambda rng, n: rng.lognormal(0, 1.5, n),
        "x1.1": lambda rng, n: 1.1 * rng.lognormal(0, 1.5, n),
        "x10": lambda rng, n: 10 * rng.lognormal(0, 1.5, n),
        "1.8": lambda rng, n: rng.lognormal(0, 1.8, n),
    },
    "zipf, 3": {
        "same": lambda rng, n: rng.zipf(3, n).astype(np.float64),
        "2.8": lambda rng, n: rng.zipf(2.8, n).astype(np.float64),
        "2": lambda rng, n: rng.zipf(2, n).astype(np.float64),
        "+0.5": lambda rng, n: rng.zipf(3, n).astype(np.float64) + 0.5,
    },
    "constant": {
        "same": lambda rng, n: np.full(n, 0.1),
        "+1": lambda rng, n: np.full(n, 1.1),
        "a tenth at -3": lambda rng, n: np.where(rng.random(n) < 0.1, -3.0, 0.1),
        "noise": lambda rng, n: rng.standard_normal(n),
    },
    "two values": {
        "same": lambda rng, n: (rng.random(n) < 0.3).astype(np.float64),
        ".3 to .33": lambda rng, n: (rng.random(n) < 0.33).astype(np.float64),
        "a third value": lambda rng, n: rng.choice([0.0, 0.5, 1.0], n, p=[0.6, 0.1, 0.3]),
    },
    "half nulls": {
        "same": _laden(0.5, 0.0),
        "mean +0.2": _laden(0.5, 0.2),
        "nulls .9": _laden(0.9, 0.0),
    },
    "far from zero": {
        "same": lambda rng, n: 1.7e9 + rng.standard_normal(n),
        "mean +0.1": lambda rng, n: 1.7e9 + 0.1 + rng.standard_normal(n),
    },
}


def main() -> None:
    """Runs the benchmark and prints its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="few rows, one seed, to see that it runs")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the reference and of each window")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    rows, seeds = (50_000, 1) if options.short else (options.rows, options.seeds)
    cells: dict[str, dict[str, Any]] = {}
    for name, windows in KINDS.items():
        _tell(name)
        looks = [compared(windows, rows, seed) for seed in range(seeds)]
        cells[name] = {window: worst([look[window] for look in looks]) for window in windows}
    report: dict[str, Any] = {
        "benchmark": "drift_sketches",
        "short": options.short,
        "machine": machine(),
        "rows": rows,
        "seeds": seeds,
        "worst_of_seeds": cells,
        "targets": targets(cells),
    }
    print(json.dumps(report, indent=1, allow_nan=False))


def compared(windows: dict[str, Maker], rows: int, seed: int) -> dict[str, dict[str, float]]:
    """Each window's exact distances and how far those of tallies are off, with sketches and without."""
    rng = np.random.default_rng(seed)
    first, *_ = windows.values()
    before = first(rng, rows)
    layout = Layout.of(_table(before))
    reference = taken_in(layout, before)
    found = {}
    for name, maker in windows.items():
        after = maker(rng, rows)
        exact = (_ks(before, after), _psi(before, after), _w1(before, after))
        window = taken_in(layout, after)
        ours = _effects(layout, reference, window)
        window.sketches = None
        bare = _effects(layout, reference, window)
        allowed = max(_W1_RELATIVE * exact[2], _W1_OF_IQR * _iqr(before))
        found[name] = {
            "ks": exact[0],
            "psi": exact[1],
            "w1": exact[2],
            "ks_off": abs(ours[0] - exact[0]),
            "psi_off": abs(ours[1] - exact[1]),
            "w1_off": abs(ours[2] - exact[2]),
            "w1_allowed": allowed,
            "w1_off_of_allowed": _of(abs(ours[2] - exact[2]), allowed),
            "w1_off_of_allowed_without_sketches": _of(abs(bare[2] - exact[2]), allowed),
        }
    return found


def taken_in(layout: Layout, values: Floats) -> Tally:
    """Tally of values that come in chunks."""
    whole = layout.tally(_table(values[:0]))
    for start in range(0, len(values), CHUNK):
        whole.add(layout.tally(_table(values[start : start + CHUNK])))
    return whole


def worst(looks: list[dict[str, float]]) -> dict[str, float]:
    """Of each figure the largest."""
    return {name: float(f"{max(look[name] for look in looks):.4g}") for name in looks[0]}


def targets(cells: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Each target beside the worst of all cells, with the cell."""
    limits = {"ks_off": _KS_MAX, "psi_off": _PSI_MAX, "w1_off_of_allowed": 1.0}
    found = {}
    for name, limit in limits.items():
        value, cell = max(
            (one[name], f"{kind}: {window}") for kind, row in cells.items() for window, one in row.items()
        )
        found[name] = {"target": limit, "measured": value, "cell": cell, "met": value <= limit}
    return found


def _table(values: Floats) -> Observations:
    return Observations(rows=len(values), numeric={"x": values}, categorical={})


def _effects(layout: Layout, reference: Tally, window: Tally) -> tuple[float, float, float]:
    found = effects_of(layout, reference, window)
    return (
        float(found.kolmogorov_smirnov[0]),
        float(found.population_stability[0]),
        float(found.wasserstein[0]),
    )


def _ks(before: Floats, after: Floats) -> float:
    a, b = np.sort(before[~np.isnan(before)]), np.sort(after[~np.isnan(after)])
    every = np.concatenate([a, b])
    apart = np.searchsorted(a, every, "right") / len(a) - np.searchsorted(b, every, "right") / len(b)
    return float(np.abs(apart).max())


def _psi(before: Floats, after: Floats) -> float:
    a, b = np.sort(before[~np.isnan(before)]), after[~np.isnan(after)]
    tenths = a[[-(-g * len(a) // 10) - 1 for g in range(1, 10)]]
    edges, times = np.unique(tenths, return_counts=True)
    # A value that is two tenths or more is a group of its own.
    edges = np.union1d(edges, np.nextafter(edges[times >= 2], np.inf))
    p, q = (np.bincount(np.searchsorted(edges, x, "right"), minlength=len(edges) + 1) / len(x) for x in (a, b))
    used = (p > 0) | (q > 0)
    p, q = np.maximum(p, 0.5 / len(a))[used], np.maximum(q, 0.5 / len(b))[used]
    return float(((q - p) * np.log(q / p)).sum())


def _w1(before: Floats, after: Floats) -> float:
    a, b = np.sort(before[~np.isnan(before)]), np.sort(after[~np.isnan(after)])
    steps = np.concatenate([np.arange(len(a) + 1) / len(a), np.arange(len(b) + 1) / len(b), [W1_FROM, W1_TO]])
    steps = np.unique(np.clip(steps, W1_FROM, W1_TO))
    middle = (steps[1:] + steps[:-1]) / 2
    apart = a[np.ceil(middle * len(a)).astype(np.int64) - 1] - b[np.ceil(middle * len(b)).astype(np.int64) - 1]
    return float(np.abs(apart) @ np.diff(steps))


def _iqr(values: Floats) -> float:
    low, high = np.nanquantile(values, [0.25, 0.75])
    return float(high - low)


def _of(off: float, allowed: float) -> float:
    if allowed > 0:
        return off / allowed
    return 0.0 if off == 0 else 1e9


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
