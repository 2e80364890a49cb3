"""How well change points are found: false ones in noise, planted ones, and those that people marked in real series.

Prints JSON. The price of a change was fixed on the simulations alone. The 18 series that five people each annotated
are scored as in the Turing Change Point Dataset, beside plain methods in the same run; without the data the
simulations are measured only, and the answer says so. With 1,000 series each it takes about 20 minutes on one core.

    python bench/change_points.py ../shared/data --series 1000 > change_points.json
    python bench/change_points.py --short

Scores: F1 with a margin of 5 and covering over all annotators, as in van den Burg and Williams, An Evaluation of Change
Point Detection Algorithms (arXiv 2003.06222), section 5.1, averaged over the series.
"""

import argparse
import json
import lzma
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from processes import machine

from meshcast.runtime.main import SWITCH_S
from meshcast.services.forecaster import changes

Floats = NDArray[np.float64]
Rng = np.random.Generator

_FILE = "change_points.json.xz"
_MARGIN = 5
_LOOK_S = 0.0005
_LENGTHS = (15, 30, 100, 300, 1_000)
_TARGETS = {"cover": 0.635, "f1": 0.660, "white_noise": 0.05, "random_walks": 0.20}
_NOISES: dict[str, Callable[[Rng, int], Floats]] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "t5": lambda rng, n: rng.standard_t(5, n) / np.sqrt(5 / 3),
    "t3": lambda rng, n: rng.standard_t(3, n) / np.sqrt(3),
    "lognormal": lambda rng, n: (np.exp(rng.standard_normal(n) / 2) - np.exp(1 / 8)) / 0.6039,
}


def main() -> None:
    """Runs the benchmark and prints its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=Path("../shared/data"), help=f"folder with {_FILE}")
    parser.add_argument("--short", action="store_true", help="few series of two lengths, to see that it runs")
    parser.add_argument("--series", type=int, default=300, help="simulated series of each length and noise")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    count = 20 if options.short else options.series
    lengths = (30, 200) if options.short else _LENGTHS
    file = options.data / _FILE
    report: dict[str, Any] = {
        "benchmark": "change_points",
        "short": options.short,
        "machine": machine(),
        "price": {kind: {str(n): round(changes.price(n, kind), 2) for n in lengths} for kind in ("level", "bend")},
        "annotated": annotated(file) if file.is_file() else f"No {_FILE} in {options.data}: simulations only.",
        "false_alarms": false_alarms(lengths, count, options.seed),
        "other_steady_noise": other_noise(lengths[-2:], max(count // 5, 10), options.seed),
        "power": power(max(count // 5, 10), options.seed),
        "seconds": timing(options.seed),
        "others_wait_ms": waiting(options.seed),
    }
    report["targets"] = targets(report)
    print(json.dumps(report, indent=1, allow_nan=False))


def found(values: Floats) -> list[int]:
    """Change points of a series of daily values, by position."""
    return [point.index for point in changes.find_changes(np.arange(len(values)), values).points]


def annotated(file: Path) -> dict[str, Any]:
    """Scores on the annotated series, beside no change, PELT and one change by least squares."""
    series = json.loads(lzma.decompress(file.read_bytes()))
    methods: dict[str, Callable[[Floats], list[int]]] = {
        "ours": lambda values: _on_known(values[0], found),
        "no change": lambda values: [],
        "PELT, l2, BIC": _pelt,
        "one change, least squares": _one_change,
    }
    report: dict[str, Any] = {}
    for name, method in methods.items():
        each: dict[str, dict[str, Any]] = {}
        for key, one in series.items():
            values = np.array(one["series"], dtype=np.float64)
            places = method(values)
            marks = list(one["annotations"].values())
            each[key] = {"cover": cover(marks, places, one["n_obs"]), "f1": f1(marks, places), "found": places}
        report[name] = {
            "cover": round(float(np.mean([score["cover"] for score in each.values()])), 4),
            "f1": round(float(np.mean([score["f1"] for score in each.values()])), 4),
        }
        if name == "ours":
            report[name]["series"] = {
                key: {"cover": round(s["cover"], 3), "f1": round(s["f1"], 3), "found": s["found"]}
                for key, s in each.items()
            }
    return report


def f1(marks: Sequence[Sequence[int]], places: Sequence[int]) -> float:
    """Harmonic mean of precision against all annotators' marks and mean recall; a change at 0 is given to everyone."""
    claimed = {0, *places}
    precision = _hits({0, *(mark for one in marks for mark in one)}, claimed) / len(claimed)
    recall = float(np.mean([_hits({0, *one}, claimed) / len({0, *one}) for one in marks]))
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def cover(marks: Sequence[Sequence[int]], places: Sequence[int], n: int) -> float:
    """Mean over annotators of how well their segments are covered by the found ones, weighed by length."""
    ours = _segments(places, n)
    total = 0.0
    for one in marks:
        for start, stop in _segments(one, n):
            overlap = [max(0, min(stop, b) - max(start, a)) / (max(stop, b) - min(start, a)) for a, b in ours]
            total += (stop - start) * max(overlap)
    return total / n / len(marks)


def false_alarms(lengths: Sequence[int], count: int, seed: int) -> dict[str, Any]:
    """Share of white-noise and random-walk series that get any change point."""
    report: dict[str, Any] = {"series_each": count}
    for kind, course in (("white_noise", lambda e: e), ("random_walks", np.cumsum)):
        cells: dict[str, dict[str, float]] = {}
        for name, noise in _NOISES.items():
            cells[name] = {}
            for n in lengths:
                rng = np.random.default_rng([seed, n, len(kind), *name.encode()])
                cells[name][str(n)] = float(np.mean([bool(found(course(noise(rng, n)))) for _ in range(count)]))
                _tell(f"{kind}, {name}, {n} days: {cells[name][str(n)]:.3f}")
        shares = [share for by_length in cells.values() for share in by_length.values()]
        report[kind] = {"mean": round(float(np.mean(shares)), 4), "worst": max(shares), "each": cells}
    return report


def other_noise(lengths: Sequence[int], count: int, seed: int) -> dict[str, Any]:
    """Share of other series without a planted change that get one: what the price was not fixed for."""
    rng = np.random.default_rng([seed, 1])

    def remembering(n: int, memory: float) -> Floats:
        values = np.zeros(n + 100)
        for at, shock in enumerate(rng.standard_normal(n + 99)):
            values[at + 1] = memory * values[at] + shock
        return values[100:]

    kinds: dict[str, Callable[[int], Floats]] = {
        "AR(1), 0.5": lambda n: remembering(n, 0.5),
        "AR(1), 0.9": lambda n: remembering(n, 0.9),
        "straight line in white noise": lambda n: rng.standard_normal(n) + np.arange(n) * 0.05,
        "random walk with drift": lambda n: np.cumsum(rng.standard_normal(n) + 0.2),
        "random walk of 0.1 under white noise": lambda n: (
            np.cumsum(0.1 * rng.standard_normal(n)) + rng.standard_normal(n)
        ),
        "random walk of 0.3 under white noise": lambda n: (
            np.cumsum(0.3 * rng.standard_normal(n)) + rng.standard_normal(n)
        ),
        "random walk, mean of 7 days": lambda n: np.convolve(
            np.cumsum(rng.standard_normal(n + 6)), np.ones(7) / 7, "valid"
        ),
    }
    return {
        name: {str(n): float(np.mean([bool(found(make(n))) for _ in range(count)])) for n in lengths}
        for name, make in kinds.items()
    }


def power(count: int, seed: int) -> dict[str, Any]:
    """Share of planted changes found within 5 days, and changes claimed a series."""
    rng = np.random.default_rng([seed, 2])
    report = {}
    for n in (60, 200):
        ramp = np.maximum(0, np.arange(n) - n // 2) / n
        step = (np.arange(n) >= n // 2).astype(np.float64)
        planted = {f"level, {size} sigma": size * step for size in (0.5, 1.0, 2.0, 4.0)}
        planted |= {f"bend, {2 * size} sigma at the end": 4 * size * ramp for size in (2.0, 4.0)}
        for name, course in planted.items():
            margin = _MARGIN if name.startswith("level") else n // 10
            answers = [found(course + rng.standard_normal(n)) for _ in range(count)]
            near = [any(abs(place - n // 2) <= margin for place in places) for places in answers]
            report[f"{name}, {n} days"] = {
                "any_found": float(np.mean([bool(places) for places in answers])),
                f"found_within_{margin}_days": float(np.mean(near)),
                "claimed_each": round(float(np.mean([len(places) for places in answers])), 2),
            }
    return report


def timing(seed: int) -> dict[str, float]:
    """Seconds for one series of steady noise, the first answer of the process left out; median of 5."""
    rng = np.random.default_rng([seed, 3])
    found(rng.standard_normal(100))
    report = {}
    for n in (100, 365, 1_000, 10_000):
        for name, course in (("white noise", lambda e: e), ("random walk", np.cumsum)):
            taken = []
            for _ in range(5):
                values = course(rng.standard_normal(n))
                started = time.perf_counter()
                found(values)
                taken.append(time.perf_counter() - started)
            report[f"{name}, {n} days"] = round(float(np.median(taken)), 4)
    return report


def waiting(seed: int) -> dict[str, float]:
    """Longest time that another thread waits for the interpreter while a series is searched; median of 5."""
    rng = np.random.default_rng([seed, 4])
    sys.setswitchinterval(SWITCH_S)
    report = {}
    for n in (100, 365, 1_000, 1_500, 10_000):
        waits = []
        for _ in range(5):
            values = rng.standard_normal(n)
            with ThreadPoolExecutor(1) as pool:
                search, gaps = pool.submit(found, values), [0.0]
                while not search.done():
                    started = time.perf_counter()
                    time.sleep(_LOOK_S)
                    gaps.append(time.perf_counter() - started - _LOOK_S)
            waits.append(max(gaps))
        report[f"{n} days"] = round(1_000 * float(np.median(waits)), 2)
    return report


def targets(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What was asked for, what came out, and whether that is enough; the worst length and noise counts."""
    measured: dict[str, float] = {
        kind: report["false_alarms"][kind]["worst"] for kind in ("white_noise", "random_walks")
    }
    if isinstance(report["annotated"], dict):
        measured |= {score: report["annotated"]["ours"][score] for score in ("cover", "f1")}
    return {
        name: {
            "target": _TARGETS[name],
            "measured": value,
            "met": value >= _TARGETS[name] if name in ("cover", "f1") else value <= _TARGETS[name],
        }
        for name, value in measured.items()
    }


def _hits(marks: set[int], claimed: set[int]) -> int:
    """Marks with a claim within the margin; each claim counts for one mark."""
    free = set(claimed)
    hits = 0
    for mark in sorted(marks):
        near = [(abs(mark - claim), claim) for claim in free if abs(mark - claim) <= _MARGIN]
        if near:
            hits += 1
            free.remove(min(near)[1])
    return hits


def _segments(places: Sequence[int], n: int) -> list[tuple[int, int]]:
    edges = [0, *sorted({place for place in places if 0 < place < n}), n]
    return list(pairwise(edges))


def _on_known(values: Floats, find: Callable[[Floats], list[int]]) -> list[int]:
    known = np.flatnonzero(np.isfinite(values))
    return [int(known[place]) for place in find(values[known])]


def _standardized(values: Floats) -> Floats:
    """All dimensions of a series as rows, missing values at the mean; shape (n, dimensions)."""
    spread = np.nanstd(values, axis=1, keepdims=True)
    scaled = (values - np.nanmean(values, axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)
    return np.asarray(np.nan_to_num(scaled).T)


def _pelt(values: Floats) -> list[int]:
    from ruptures import KernelCPD

    rows = _standardized(values)
    price = 2 * np.log(len(rows)) * rows.shape[1]
    return [int(place) for place in KernelCPD(kernel="linear", min_size=2).fit(rows).predict(pen=price)[:-1]]


def _one_change(values: Floats) -> list[int]:
    from ruptures import KernelCPD

    rows = _standardized(values)
    return [int(place) for place in KernelCPD(kernel="linear", min_size=2).fit(rows).predict(n_bkps=1)[:-1]]


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
