"""What it costs to keep what was observed: bytes held, memory while rows go on and on, merging of shards, and pace.

Prints JSON. Rows are standard normal, float32, in chunks of 10,000; the chunks' times fill the last 30 days, so that
all time buckets are in use at the end. Paces are per second of this process's own time on a core; the whole run is in
seconds by the clock. A hundred million rows take about four minutes on one core.

    OMP_NUM_THREADS=1 python bench/drift_state.py > drift_state.json
    python bench/drift_state.py --short
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from processes import machine
from scipy import special

from meshcast.observations import Observations
from meshcast.services.drift.buckets import LEVELS, Buckets
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.tally import Tally

FEATURES = 64
CHUNK = 10_000
MIB = 1 << 20

_START_US = 1_790_000_000_000_000
_DAY_US = 86_400_000_000
_TARGETS = {
    "state_mib": 4.0,
    "state_with_buckets_mib": 10.0,
    "rss_growth_mib": 16.0,
    "rows_per_s_all": 150_000,
    "rows_per_s_bins": 300_000,
}


def main() -> None:
    """Runs the benchmark and prints its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a million rows, to see that it runs")
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = 1_000_000 if options.short else options.rows
    rng = np.random.default_rng(options.seed)
    layout = Layout.of(normal(rng, 10 * CHUNK))
    report: dict[str, Any] = {
        "benchmark": "drift_state",
        "short": options.short,
        "machine": machine(),
        "features": FEATURES,
        "rows": rows,
        "one_pass": one_pass(layout, rng, rows),
        "pace": pace(layout, rng, 0.5 if options.short else 3.0),
        "shards": shards(layout, rng, max(rows // 10, 64 * CHUNK)),
    }
    report["targets"] = targets(report)
    print(json.dumps(report, indent=1, allow_nan=False))


def normal(rng: np.random.Generator, rows: int, dtype: type = np.float32) -> Observations:
    """Rows of independent standard normal columns."""
    matrix: NDArray[Any] = rng.standard_normal((FEATURES, rows), dtype=np.float32).astype(dtype, copy=False)
    return Observations(rows=rows, numeric={f"f{at}": row for at, row in enumerate(matrix)}, categorical={})


def pace(layout: Layout, rng: np.random.Generator, look_s: float) -> dict[str, Any]:
    """Rows that one thread takes in a second of a core, by what is kept of them and by the size of chunks."""
    found: dict[str, Any] = {}
    for dtype in (np.float32, np.float64):
        for size in (1_000, CHUNK):
            chunk = normal(rng, size, dtype)
            whole, bins = layout.tally(chunk), layout.tally(chunk, sketches=False)
            buckets = Buckets(layout)

            def all_kept(chunk: Observations = chunk, whole: Tally = whole, buckets: Buckets = buckets) -> None:
                counted = layout.tally(chunk)
                whole.add(counted)
                buckets.add(chunk, _START_US, counted)

            def accumulators(chunk: Observations = chunk, whole: Tally = whole) -> None:
                whole.add(layout.tally(chunk))

            def bins_alone(chunk: Observations = chunk, bins: Tally = bins) -> None:
                bins.add(layout.tally(chunk, sketches=False))

            found[f"{np.dtype(dtype).name}, chunks of {size}"] = {
                "all_rows_per_s": _pace(accumulators, size, look_s),
                "all_and_buckets_rows_per_s": _pace(all_kept, size, look_s),
                "bins_rows_per_s": _pace(bins_alone, size, look_s),
            }
    return found


def one_pass(layout: Layout, rng: np.random.Generator, rows: int) -> dict[str, Any]:
    """Takes in all rows as a service does, and tells what is held on the way and at the end."""
    process = psutil.Process()
    whole, buckets = layout.tally(normal(rng, CHUNK)), Buckets(layout)
    chunks, early = rows // CHUNK, min(rows, 1_000_000) // CHUNK
    written: dict[tuple[int, int], bytes] = {}
    rss_early = rss_most = 0
    started = time.perf_counter()
    for at in range(chunks):
        chunk = normal(rng, CHUNK)
        counted = layout.tally(chunk)
        whole.add(counted)
        buckets.add(chunk, _time_us(at / chunks), counted)
        if at + 1 == early:
            rss_early = rss_most = process.memory_info().rss
        if at % 100 == 0:
            rss_most = max(rss_most, process.memory_info().rss)
            _tell(f"{at * CHUNK:,} rows, {rss_most / MIB:.1f} MiB")
    took_s = time.perf_counter() - started
    rss_most = max(rss_most, process.memory_info().rss)
    for key, data in buckets.changes().items():
        if data is not None:
            written[key] = data
    packed = len(whole.to_bytes())
    cells = sum(level.held for level in LEVELS) * whole.counts.size
    return {
        "seconds": round(took_s, 1),
        "seconds_cover": "making the rows, too",
        "rows_per_s": round(rows / took_s),
        "state_mib": round(whole.state_bytes / MIB, 3),
        "layout_mib": round(len(layout.to_bytes()) / MIB, 3),
        "buckets_held": len(buckets),
        "buckets_mib": round(buckets.state_bytes / MIB, 3),
        "buckets_mib_at_32_bits": round((cells * 4 + buckets.state_bytes - _counts_bytes(buckets)) / MIB, 3),
        "packed_state_mib": round(packed / MIB, 3),
        "packed_buckets_mib": round((sum(map(len, written.values())) + len(buckets.to_bytes())) / MIB, 3),
        "rss_after_first_million_mib": round(rss_early / MIB, 1),
        "rss_most_mib": round(rss_most / MIB, 1),
        "rss_growth_mib": round((rss_most - rss_early) / MIB, 2),
        "rank_error_max": _rank_error(layout, whole),
    }


def shards(layout: Layout, rng: np.random.Generator, rows: int) -> dict[str, Any]:
    """The same rows in one pass, and dealt to 64 shards that are packed, unpacked and merged."""
    whole: Tally | None = None
    parts: list[Tally | None] = [None] * 64
    for at in range(rows // CHUNK):
        chunk = normal(rng, CHUNK)
        whole = _added(whole, layout.tally(chunk))
        parts[at % 64] = _added(parts[at % 64], layout.tally(chunk))
    assert whole is not None
    started = time.perf_counter()
    merged: Tally | None = None
    for part in parts:
        if part is not None:
            merged = _added(merged, Tally.from_bytes(part.to_bytes()))
    assert merged is not None
    took_s = time.perf_counter() - started
    return {
        "rows": whole.rows,
        "bins_equal": bool((whole.counts == merged.counts).all() and whole.rows == merged.rows),
        "extremes_equal": bool((whole.extremes == merged.extremes).all()),
        "mean_differs_by": float(np.abs(whole.means - merged.means).max()),
        "deviation_differs_by": float(np.abs(whole.deviations - merged.deviations).max()),
        "rank_error_max_one_pass": _rank_error(layout, whole),
        "rank_error_max_merged": _rank_error(layout, merged),
        "merge_ms": round(1000 * took_s, 1),
    }


def targets(report: dict[str, Any]) -> dict[str, Any]:
    """Each target beside what was measured."""
    one, pace = report["one_pass"], report["pace"][f"float32, chunks of {CHUNK}"]
    measured = {
        "state_mib": one["state_mib"],
        "state_with_buckets_mib": round(one["state_mib"] + one["buckets_mib"], 3),
        "rss_growth_mib": one["rss_growth_mib"],
        "rows_per_s_all": pace["all_rows_per_s"],
        "rows_per_s_bins": pace["bins_rows_per_s"],
    }
    return {
        name: {"target": target, "measured": measured[name], "met": _met(name, measured[name], target)}
        for name, target in _TARGETS.items()
    }


def _met(name: str, measured: float, target: float) -> bool:
    return measured >= target if name.startswith("rows") else measured <= target


def _pace(call: Callable[[], None], size: int, look_s: float) -> int:
    call()
    calls, started = 0, time.process_time()
    while time.process_time() - started < look_s:
        call()
        calls += 1
    return round(calls * size / (time.process_time() - started))


def _time_us(share: float) -> int:
    """Time of a chunk by its place among all: half of them fill 29 days, a quarter 23 hours, a quarter the last one."""
    ages = np.interp(share, [0, 0.5, 0.75, 1], [29.5, 1.0, 1 / 24, 0])
    return _START_US - int(ages * _DAY_US)


def _added(whole: Tally | None, part: Tally) -> Tally:
    if whole is None:
        return part
    whole.add(part)
    return whole


def _counts_bytes(buckets: Buckets) -> int:
    """Bytes of the counts alone: all but seven numbers of 8 bytes a feature."""
    return buckets.state_bytes - len(buckets) * FEATURES * (3 + 2 + 2) * 8


def _rank_error(layout: Layout, tally: Tally) -> float:
    """Largest distance of a quantile's true rank from the asked one, over all features and 999 ranks."""
    ranks: NDArray[np.float64] = np.arange(1, 1_000) / 1_000
    return round(float(np.abs(special.ndtr(layout.quantiles(tally, ranks)) - ranks).max()), 5)


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
