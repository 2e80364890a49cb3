"""What being watched costs: a predictor whose rows the drift service counts, beside one whose rows it does not.

Prints JSON. One drift service and predictors run as processes of their own: without a tap, with the tap's default
share, and with every row observed. Client, predictors and drift service share the machine. Each round measures all in
turns, there and back, the order turning from round to round, each after a while of the same load, so that what was
observed is counted while more is asked. A fourth predictor without a tap, `off_again`, tells how far two equal ones
come apart. Ratios are medians over rounds of the throughput with a tap by that without. The rows are made up, so they
are not those of the shipped predictor's reference: an alarm stands, and windows are worth reports, which is the dearer
case. What a row costs in processor time, the predictor's and the drift service's together, is told beside, since it
depends less on what else the machine does.

    python bench/drift_tap.py
    python bench/drift_tap.py --rounds 1 --seconds 1
    python bench/drift_tap.py --rounds 10 --only default off_again --kinds unary
"""

import argparse
import json
import os
import statistics
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
from made_up import made_up_posts
from processes import machine, model_service, predictor
from serving import asking, at_once, streamed

from meshcast.client import History, MeshClient
from meshcast.posts import settled_history
from meshcast.rpc import run

DRIFT = "meshcast.api.drift.v1.DriftService"
SHARES = {"off": 0.0, "default": 0.1, "every_row": 1.0, "off_again": 0.0}
CONCURRENCY = 8
LEAD_S = 2.5  # of the same load before each measurement: longer than rows gather before they are sent
RATIO_MIN = 0.95
"""Least throughput with the default share, by that without a tap."""


class Watched:
    """A predictor under measurement."""

    def __init__(self, mesh: MeshClient, process: psutil.Process, watcher: psutil.Process) -> None:
        self.mesh = mesh
        self.stream: list[float] = []
        self.unary: list[dict[str, float]] = []
        self.cpu_us: list[float] = []
        self.unary_cpu_us: list[float] = []
        self._processes = (process, watcher)

    def cpu_s(self) -> float:
        """Processor time of the predictor and of the drift service so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes)


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    posts = made_up_posts()
    index = settled_history(posts)
    history = History(posts)
    async with AsyncExitStack() as stack:

        def place(name: str) -> Path:
            own = folder / name
            own.mkdir()
            return own

        drift = await stack.enter_async_context(
            model_service("drift", DRIFT, place("drift"), {"MESHCAST_DRIFT_TRAINS_AUTOENCODER": "false"})
        )
        watcher = psutil.Process(drift.pid)
        served: dict[str, Watched] = {}
        for name in ("off", *arguments.only):
            share = SHARES[name]
            settings = {"MESHCAST_TAP_DRIFT": drift.target, "MESHCAST_TAP_SHARE": str(share)}
            if arguments.backend != "auto":
                settings["MESHCAST_RUNTIME_BACKEND"] = arguments.backend
            running = await stack.enter_async_context(predictor(place(name), settings))
            mesh = await stack.enter_async_context(MeshClient(running.target))
            served[name] = Watched(mesh, psutil.Process(running.pid), watcher)
            await streamed(mesh, posts, index, 256, 0.5)  # warm-up
        told = await stack.enter_async_context(MeshClient(drift.target))

        names = list(served)
        for number in range(arguments.rounds):
            turn = names[number % len(names) :] + names[: number % len(names)]
            for name in (*turn, *reversed(turn)):  # what the machine does meanwhile falls on all alike
                one = served[name]
                if "stream" in arguments.kinds:
                    await streamed(one.mesh, posts, index, 256, LEAD_S)
                    before = one.cpu_s()
                    one.stream.append(await streamed(one.mesh, posts, index, 256, arguments.seconds))
                    rows = max(8 * 256, int(arguments.seconds * 25_000) // 256 * 256)  # as `streamed` sends them
                    one.cpu_us.append((one.cpu_s() - before) / rows * 1e6)
                if "unary" in arguments.kinds:
                    ask = asking(one.mesh, history, posts)
                    await at_once(ask, CONCURRENCY, LEAD_S)
                    before = one.cpu_s()
                    one.unary.append(await at_once(ask, CONCURRENCY, arguments.seconds))
                    calls = one.unary[-1]["per_s"] * arguments.seconds
                    one.unary_cpu_us.append((one.cpu_s() - before) / calls * 1e6)
        subject = (await told.describe_drift("predictor")).references[0]
        result: dict[str, Any] = {
            "alarm_stands": subject.HasField("alarm"),
            "rows_observed": subject.observed_rows,
            "windows": subject.windows,
            "drift_service_rss_mb": round(watcher.memory_info().rss / 1e6),
        }
    off = served["off"]
    for name, one in served.items():
        result[name] = {}
        if one.stream:
            result[name] |= {
                "stream_rows_per_s": round(statistics.median(one.stream)),
                "stream_to_off": ratio(one.stream, off.stream),
                "stream_to_off_error": error(one.stream, off.stream),
                "cpu_us_per_row": round(statistics.median(one.cpu_us), 1),
            }
        if one.unary:
            result[name] |= {
                "unary_per_s": round(statistics.median(per_s(one))),
                "unary_p99_ms": round(statistics.median(each["p99_ms"] for each in one.unary), 2),
                "unary_to_off": ratio(per_s(one), per_s(off)),
                "unary_to_off_error": error(per_s(one), per_s(off)),
                "cpu_us_per_call": round(statistics.median(one.unary_cpu_us), 1),
            }
    return result


def ratio(ours: list[float], base: list[float]) -> float:
    """Median over rounds of two measurements each, of one by the other."""
    return round(statistics.median(pairs(ours, base)), 3)


def error(ours: list[float], base: list[float]) -> float | None:
    """Standard error of the mean of the same ratios; None of a single round."""
    each = pairs(ours, base)
    return round(statistics.stdev(each) / len(each) ** 0.5, 3) if len(each) > 1 else None


def pairs(ours: list[float], base: list[float]) -> list[float]:
    """The ratio of each round."""
    return [(ours[at] + ours[at + 1]) / (base[at] + base[at + 1]) for at in range(0, len(ours), 2)]


def per_s(one: Watched) -> list[float]:
    """Single calls a second of every measurement."""
    return [each["per_s"] for each in one.unary]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of about a minute each (default: 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds of each figure, about (default: 4)")
    watched = [name for name in SHARES if name != "off"]
    parser.add_argument("--only", nargs="+", choices=watched, default=watched, help="which to compare with no tap")
    kinds = ["stream", "unary"]
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds, help="what to measure (default: both)")
    parser.add_argument("--backend", default="onnxruntime/cpu/f32", help="back-end, or auto (default: onnxruntime)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meshcast-tap-") as folder:
        result = await measure(arguments, Path(folder))
    default = result.get("default", {})
    worst = min((value for key, value in default.items() if key.endswith("_to_off")), default=None)
    print(
        json.dumps(
            {
                "bench": "drift_tap",
                "machine": machine(),
                "cores_of_this_process": len(os.sched_getaffinity(0)),
                "shares": SHARES,
                **result,
                "least_ratio_at_default_share": worst,
                "goal": RATIO_MIN,
                "is_met": worst is not None and worst >= RATIO_MIN,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    run(main())
