"""What a report costs: 10,000 rows of 64 columns against a reference of as many, beside Evidently's data drift preset.

Prints JSON. Ours is a report as the service makes it: the window is counted, every feature gets its effects (KS, PSI,
Jensen-Shannon, Wasserstein), its tests, its blame and its words, and all columns are tested together by permutation;
the reference was counted before, as it is once for many windows, and what that costs is told beside it. Evidently
(0.7.23) runs its preset on data frames that are ready, in a child process with an environment of its own, which is
made with pip under out/evidently where it is missing; without it that part is left out, and the answer says so. Both
take turns, so that they see the same machine. `processor_p50` is time of the processor, which others on the machine
hardly lengthen. BLAS has one thread, as in services. The tables are independent normal columns with a null here and
there; an eighth of the columns of the window has moved.

    python bench/drift_report.py > drift_report.json     some minutes
    python bench/drift_report.py --short
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from processes import machine

from meshcast.observations import Observations
from meshcast.services.drift.bets import Bets
from meshcast.services.drift.blame import blame
from meshcast.services.drift.comparison import Comparison, Reference, WatchOptions
from meshcast.services.drift.joint import joint_drift
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.report import Report, make_report

EVIDENTLY = "0.7.23"
HOME = Path(__file__).resolve().parent.parent / "out" / "evidently"
ROWS, COLUMNS = 10_000, 64
GOAL_MS, GOAL_TIMES = 60.0, 50.0

_CHILD = """
import io, sys, time
import numpy as np, pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset
with np.load(io.BytesIO(sys.stdin.buffer.read(int(sys.argv[1])))) as tables:
    sides = [pd.DataFrame(tables[side], columns=[f"x{at}" for at in range(tables[side].shape[1])])
             for side in ("reference", "window")]
print("ready", flush=True)
for line in sys.stdin.buffer:
    begun, used = time.perf_counter(), time.process_time()
    Report([DataDriftPreset()]).run(sides[1], sides[0]).dict()
    print(time.perf_counter() - begun, time.process_time() - used, flush=True)
"""


def main() -> None:
    """Runs the benchmark and prints its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="few turns of few rows, to see that it runs")
    parser.add_argument("--turns", type=int, default=7, help="turns of Evidently; ours has ten in each")
    parser.add_argument("--without-evidently", action="store_true")
    options = parser.parse_args()
    if "OPENBLAS_NUM_THREADS" not in os.environ:  # as services set it, which must be done before numpy is imported
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    rows, turns = (1_000, 2) if options.short else (ROWS, options.turns)
    tables = {"reference": table(rows, 0, is_moved=False), "window": table(rows, 1, is_moved=True)}
    reference, window = (observations(tables[side]) for side in ("reference", "window"))
    held, bets, setting = hold(reference)
    other, why = (None, "left out by --without-evidently") if options.without_evidently else evidently(tables)
    parts: dict[str, list[float]] = {}
    theirs: list[tuple[float, float]] = []
    report = one_report(held, bets, window, {})  # the first one imports and allocates
    for _ in range(turns):
        for _ in range(10):
            report = one_report(held, bets, window, parts)
        if other is not None:
            theirs.append(other.turn())
    if other is not None:
        other.close()
    processor = [1_000 * seconds for seconds in parts.pop("processor")]
    whole = [1_000 * sum(times) for times in zip(*parts.values(), strict=True)]
    p50 = float(np.median(whole))
    answer: dict[str, Any] = {
        "benchmark": "drift_report",
        "short": options.short,
        "machine": machine(),
        "parameters": {"rows": rows, "columns": COLUMNS, "turns": turns, "reports": len(whole)},
        "report_ms": {
            "p50": round(p50, 2),
            "p90": round(float(np.quantile(whole, 0.9)), 2),
            "least": round(min(whole), 2),
            "processor_p50": round(float(np.median(processor)), 2),
            "parts_p50": {name: round(1_000 * float(np.median(times)), 2) for name, times in parts.items()},
        },
        "reference_once_ms": {name: round(1_000 * seconds, 1) for name, seconds in setting.items()},
        "found": {
            "is_drift": report.is_drift,
            "drifted": sorted(one.feature.name for one in report.features if one.is_drifted),
            "moved": [f"x{at}" for at in range(COLUMNS // 8)],
        },
        "evidently": f"absent: {why}",
    }
    times = None
    if theirs:
        wall, used = (float(np.median(column)) for column in zip(*theirs, strict=True))
        times = round(1_000 * wall / p50, 1)
        answer["evidently"] = {
            "version": EVIDENTLY,
            "s_p50": round(wall, 3),
            "s": [round(one[0], 3) for one in theirs],
            "processor_s_p50": round(used, 3),
            "times_ours_by_processor": round(1_000 * used / float(np.median(processor)), 1),
        }
    answer["targets"] = {
        "report_ms_p50": {"goal": GOAL_MS, "measured": round(p50, 2)},
        "times_faster_than_evidently": {"goal": GOAL_TIMES, "measured": times},
    }
    print(json.dumps(answer, indent=1, allow_nan=False))


def table(rows: int, seed: int, *, is_moved: bool) -> NDArray[np.float32]:
    """Shape (rows, 64), float32."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, COLUMNS)).astype(np.float32)
    if is_moved:
        values[:, : COLUMNS // 8] += np.float32(0.3)
    values[rng.random(rows) < 0.01, COLUMNS - 1] = np.nan
    return values


def observations(values: NDArray[np.float32]) -> Observations:
    """A table as columns."""
    return Observations(len(values), {f"x{at}": np.ascontiguousarray(column) for at, column in enumerate(values.T)}, {})


def hold(rows: Observations) -> tuple[Reference, Bets, dict[str, float]]:
    """The reference as a subject holds it, its bets, and the seconds that each part took."""
    begun = time.perf_counter()
    layout = Layout.of(rows)
    laid = time.perf_counter()
    tally = layout.tally(rows)
    counted = time.perf_counter()
    bets = Bets.against(layout, tally)
    seconds = {"layout": laid - begun, "tally": counted - laid, "bets": time.perf_counter() - counted}
    options = WatchOptions(false_alarms_a_year=1, window_rows=1_000, window_us=86_400_000_000, trains_autoencoder=False)
    sample = rows[:1_024]
    return (
        Reference(subject="", version=0, set_us=0, layout=layout, tally=tally, sample=sample, options=options),
        bets,
        seconds,
    )


def one_report(held: Reference, bets: Bets, window: Observations, parts: dict[str, list[float]]) -> Report:
    """One report; what each part took goes into `parts`, in seconds."""
    used = time.process_time()
    times = [time.perf_counter()]
    tally = held.layout.tally(window)
    times.append(time.perf_counter())
    joint = joint_drift(held.sample, window)
    times.append(time.perf_counter())
    shares = blame(bets, tally.counts)
    times.append(time.perf_counter())
    report = make_report(Comparison(reference=held, window=tally, window_starts={}), blame=shares, joint=joint)
    times.append(time.perf_counter())
    parts.setdefault("processor", []).append(time.process_time() - used)
    for name, seconds in zip(("count", "joint", "blame", "report"), np.diff(times).tolist(), strict=True):
        parts.setdefault(name, []).append(seconds)
    return report


class Other:
    """Evidently in a process of its own, with the tables in memory; `turn` runs its preset once and gives seconds."""

    def __init__(self, tables: dict[str, NDArray[np.float32]]) -> None:
        import io

        data = io.BytesIO()
        np.savez(data, allow_pickle=False, **tables)
        command = [str(HOME / "bin" / "python"), "-W", "ignore", "-c", _CHILD, str(len(data.getvalue()))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._write(data.getvalue())
        if self._line() != "ready":
            raise OSError("it did not start")
        self.turn()  # the first one imports more

    def turn(self) -> tuple[float, float]:
        """Seconds of one report, and seconds of the processor."""
        self._write(b"\n")
        line = self._line().split()
        if not line:
            raise OSError("it ended")
        return float(line[0]), float(line[1])

    def close(self) -> None:
        """Ends the process."""
        _pipe(self._process.stdin).close()
        self._process.wait(timeout=60)

    def _write(self, data: bytes) -> None:
        stdin = _pipe(self._process.stdin)
        stdin.write(data)
        stdin.flush()

    def _line(self) -> str:
        return _pipe(self._process.stdout).readline().decode().strip()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def evidently(tables: dict[str, NDArray[np.float32]]) -> tuple[Other | None, str]:
    """Evidently, ready, in its own environment; or None and why."""
    python = HOME / "bin" / "python"
    probe = [
        str(python),
        "-c",
        f"import importlib.metadata as m; assert m.version('evidently') == '{EVIDENTLY}'; import evidently",
    ]
    try:
        if not python.exists() or subprocess.run(probe, capture_output=True, check=False).returncode:
            print(f"making {HOME} with evidently {EVIDENTLY}", file=sys.stderr, flush=True)
            subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True, capture_output=True)
            # 0.7.23 uses a part of pandas that 3 no longer has
            install = [str(python), "-m", "pip", "install", "-q", f"evidently=={EVIDENTLY}", "pandas<3"]
            subprocess.run(install, check=True, capture_output=True, timeout=900)
        return Other(tables), ""
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"evidently {EVIDENTLY} could not be installed or run: {error}"


if __name__ == "__main__":
    main()
