"""What being watched costs: a predictor whose rows the drift service counts, beside one whose rows it does not.

Prints JSON. One drift service and three predictors run as processes of their own: without a tap, with the tap's default
share, and with every row observed. Client, predictors and drift service share the machine. Each round measures all
three in turns, the order turning from round to round, and the figures are medians of the rounds' ratios to the one
without a tap. First against a reference of the same rows, so that nothing drifts, then against one that they have left,
so that an alarm stands and every window is worth a report.

    python bench/drift_tap.py
    python bench/drift_tap.py --rounds 3 --seconds 0.5
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
from processes import Running, machine, model_service, predictor
from serving import asking, at_once, made_up_posts, streamed

from meshcast.client import History, MeshClient
from meshcast.posts import settled_history
from meshcast.rpc import run

DRIFT = "meshcast.api.drift.v1.DriftService"
SHARES = {"off": 0.0, "default": 0.1, "every_row": 1.0}
REFERENCE_ROWS = 4_000
CONCURRENCY = 8
RATIO_MIN = 0.95
"""Least throughput with the default share, by that without a tap."""


async def observed_rows(drift: MeshClient) -> int:
    """Rows that the drift service has counted of the predictors, since their reference was set."""
    return int((await drift.describe_drift("predictor")).references[0].observed_rows)


async def set_own_reference(drift: MeshClient, mesh: MeshClient, posts: Any, index: Any) -> None:
    """Makes rows as they are measured the reference, as the tap sent them."""
    async with asyncio.timeout(120):
        before = await observed_rows(drift)
        while await observed_rows(drift) < before + REFERENCE_ROWS:
            await streamed(mesh, posts, index, 256, 0.5)
    await drift.set_reference("predictor", recent_rows=REFERENCE_ROWS)


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    posts = made_up_posts()
    index = settled_history(posts)
    history = History(posts)
    results: dict[str, Any] = {}
    async with AsyncExitStack() as stack:

        def place(name: str) -> Path:
            own = folder / name
            own.mkdir()
            return own

        watcher: Running = await stack.enter_async_context(
            model_service("drift", DRIFT, place("drift"), {"MESHCAST_DRIFT_TRAINS_AUTOENCODER": "false"})
        )
        meshes: dict[str, MeshClient] = {}
        for name, share in SHARES.items():
            settings = {"MESHCAST_TAP_DRIFT": watcher.target, "MESHCAST_TAP_SHARE": str(share)}
            if arguments.backend != "auto":
                settings["MESHCAST_RUNTIME_BACKEND"] = arguments.backend
            running = await stack.enter_async_context(predictor(place(name), settings))
            meshes[name] = await stack.enter_async_context(MeshClient(running.target))
        drift = await stack.enter_async_context(MeshClient(watcher.target))
        for mesh in meshes.values():  # warm-up
            await streamed(mesh, posts, index, 256, 0.5)

        for world in ("quiet", "drifting"):
            if world == "quiet":
                await set_own_reference(drift, meshes["every_row"], posts, index)
            else:
                await drift.set_reference("predictor", recent_rows=REFERENCE_ROWS, importances={"posts_usable": 3})
                posts = made_up_posts(seed=12, scale=20.0)
                history = History(posts)
            results[world] = await rounds(arguments, meshes, drift, watcher, posts, index, history)
    return results


async def rounds(
    arguments: argparse.Namespace,
    meshes: dict[str, MeshClient],
    drift: MeshClient,
    watcher: Running,
    posts: Any,
    index: Any,
    history: History,
) -> dict[str, Any]:
    """Measures all predictors in turns."""
    stream: dict[str, list[float]] = {name: [] for name in meshes}
    unary: dict[str, list[dict[str, float]]] = {name: [] for name in meshes}
    names = list(meshes)
    process = psutil.Process(watcher.pid)
    seen, busy_s, began = await observed_rows(drift), sum(process.cpu_times()[:2]), asyncio.get_running_loop().time()
    for number in range(arguments.rounds):
        turn = names[number % len(names) :] + names[: number % len(names)]
        for name in (*turn, *reversed(turn)):  # there and back: what the machine does meanwhile falls on all alike
            stream[name].append(await streamed(meshes[name], posts, index, 256, arguments.seconds))
            ask = asking(meshes[name], history, posts)
            unary[name].append(await at_once(ask, CONCURRENCY, arguments.seconds))
    seen, busy_s = await observed_rows(drift) - seen, sum(process.cpu_times()[:2]) - busy_s
    alarm = (await drift.describe_drift("predictor")).references[0].HasField("alarm")
    result: dict[str, Any] = {
        "alarm_stands": alarm,
        "rows_observed": seen,
        "drift_service_cpu_share": round(busy_s / (asyncio.get_running_loop().time() - began), 3),
        "drift_service_rss_mb": round(process.memory_info().rss / 1e6),
    }
    for name in names:
        result[name] = {
            "stream_rows_per_s": round(statistics.median(stream[name])),
            "unary_per_s": round(statistics.median(one["per_s"] for one in unary[name])),
            "unary_p99_ms": round(statistics.median(one["p99_ms"] for one in unary[name]), 2),
            "stream_to_off": ratio(stream[name], stream["off"]),
            "unary_to_off": ratio([one["per_s"] for one in unary[name]], [one["per_s"] for one in unary["off"]]),
        }
    return result


def ratio(ours: list[float], base: list[float]) -> float:
    """Median over rounds of two measurements each, of one by the other."""
    pairs = [(ours[at] + ours[at + 1]) / (base[at] + base[at + 1]) for at in range(0, len(ours), 2)]
    return round(statistics.median(pairs), 3)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds (default: 9)")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of each figure in a round (default: 1)")
    parser.add_argument("--backend", default="onnxruntime/cpu/f32", help="back-end, or auto (default: onnxruntime)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meshcast-tap-") as folder:
        result = await measure(arguments, Path(folder))
    worst = min(world["default"][key] for world in result.values() for key in ("stream_to_off", "unary_to_off"))
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
                "is_met": worst >= RATIO_MIN,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    run(main())
