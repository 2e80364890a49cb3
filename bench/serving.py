"""How near serving comes to the model itself: streams, single calls, coalescing and the gateway, as ratios of one run.

Prints JSON. A real predictor and a real gateway run as processes of their own; client and load share the machine with
them. *In-process* is the same session on the same tensors in this process, one run at a time on one thread, measured in
turns with everything else; what turning raw posts into tensors costs is a line of its own. Figures are medians of the
rounds, except where they say p50 or p99.

    python bench/serving.py
    python bench/serving.py --rounds 3 --seconds 0.5 --backend onnxruntime/cpu/f32
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
from made_up import made_up_posts
from numpy.typing import NDArray
from processes import gateway, machine, predictor
from sessions import open_session

from meshcast.client import History, MeshClient, PlannedPost
from meshcast.posts import HistoryIndex, PostTable, settled_history
from meshcast.rpc import run

CHUNKS = (64, 256, 1024)
CONCURRENCY = (1, 8, 64)


def tensors_of(posts: PostTable, index: HistoryIndex) -> dict[str, NDArray[np.float32]]:
    """The graph's inputs of the rows."""
    from meshcast.services.predictor.features import tensors

    return tensors(posts, posts.planned(index.row), index.start, index.stop)


def shipped() -> Path:
    """The repository that ships with the predictor."""
    from meshcast.services.predictor import SERVICE

    if SERVICE.shipped is None:
        raise SystemExit("no repository ships with the predictor; give one with --repository")
    return SERVICE.shipped


def rows_per_second(step: Callable[[], int], seconds: float) -> float:
    """Rows per second of a step that is repeated for a while."""
    rows, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        rows += step()
    return rows / elapsed


async def streamed(client: MeshClient, posts: PostTable, index: HistoryIndex, chunk_rows: int, seconds: float) -> float:
    """Rows per second of one stream, from the first answer to the last."""
    rows_wanted = max(8 * chunk_rows, int(seconds * 25_000) // chunk_rows * chunk_rows)
    rows = index[np.arange(rows_wanted) % len(index)]
    answered, first = 0, 0.0
    async for chunk in client.predict_posts(posts, rows, chunk_rows=chunk_rows, window=4):
        if not first:
            first = time.perf_counter()
        else:
            answered += len(chunk)
    return answered / (time.perf_counter() - first)


async def at_once(ask: Callable[[int], Awaitable[Any]], concurrency: int, seconds: float) -> dict[str, float]:
    """Calls per second and latency of callers that ask without a pause."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        while (start := time.perf_counter()) < end:
            await ask(number)
            latencies.append(time.perf_counter() - start)
            number += concurrency

    async with asyncio.TaskGroup() as group:
        for number in range(concurrency):
            group.create_task(caller(number))
    p50, p99 = np.percentile(np.array(latencies) * 1e3, [50, 99])
    return {"per_s": len(latencies) / seconds, "p50_ms": float(p50), "p99_ms": float(p99)}


def asking(client: MeshClient, history: History, posts: PostTable) -> Callable[[int], Awaitable[Any]]:
    """Single questions, each with its own plan and its own 60 posts of one table."""
    from datetime import UTC, datetime

    plans = []
    for number in range(512):
        when = datetime.fromtimestamp(int(posts.published_unix_s[number + 59]) + 2 * 86_400, UTC)
        plans.append((PlannedPost(published_at=when, content_length=number), history[number : number + 60]))

    def ask(number: int) -> Awaitable[Any]:
        plan, own = plans[number % len(plans)]
        return client.predict_engagement(plan, own)

    return ask


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    posts = made_up_posts()
    index = settled_history(posts)
    history = History(posts)
    tensors = tensors_of(posts, index[slice(0, 1024)])
    root = arguments.repository or shipped()
    settings = {
        "MESHCAST_RUNTIME_MODEL_REPOSITORY": str(root),
        "MESHCAST_RUNTIME_RUNS_MAX": str(arguments.runs),
        "MESHCAST_RUNTIME_THREADS_PER_RUN": "1",
        "MESHCAST_RUNTIME_BACKEND": arguments.backend,
    } | dict(pair.split("=", 1) for pair in arguments.set)
    samples: dict[str, list[float]] = {}
    details: dict[str, list[dict[str, float]]] = {}

    def note(name: str, value: float) -> None:
        samples.setdefault(name, []).append(value)

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(predictor(folder, settings))
        front = await stack.enter_async_context(gateway(server.target, folder))
        direct = await stack.enter_async_context(MeshClient(server.target))
        gathered = await stack.enter_async_context(MeshClient(server.target, coalesce=True))
        routed = await stack.enter_async_context(MeshClient(front.target))
        described = (await direct.describe_model()).model
        session = open_session(root, "predictor", described.backend, described.version)
        ask, ask_gathered, ask_routed = (asking(client, history, posts) for client in (direct, gathered, routed))

        def in_process_step(rows: int) -> Callable[[], int]:
            batch = {name: np.ascontiguousarray(values[:rows]) for name, values in tensors.items()}

            def step() -> int:
                session.run(batch)
                return rows

            return step

        part = index[slice(0, 256)]
        await streamed(direct, posts, index, 256, 0.5)  # warm-up, of the client too
        await at_once(ask, 8, 0.5)
        for _ in range(arguments.rounds):
            for rows in CHUNKS:
                note(f"in_process_{rows}", rows_per_second(in_process_step(min(rows, 256)), arguments.seconds))
                note(f"stream_{rows}", await streamed(direct, posts, index, rows, arguments.seconds))
                note(f"in_process_{rows}", rows_per_second(in_process_step(min(rows, 256)), arguments.seconds))
            note("gateway_stream_256", await streamed(routed, posts, index, 256, arguments.seconds))
            for concurrency in CONCURRENCY:
                details.setdefault(f"unary_{concurrency}", []).append(
                    await at_once(ask, concurrency, arguments.seconds)
                )
            details.setdefault("coalescing_64", []).append(await at_once(ask_gathered, 64, arguments.seconds))
            details.setdefault("coalescing_1", []).append(await at_once(ask_gathered, 1, arguments.seconds))
            details.setdefault("gateway_unary_1", []).append(await at_once(ask_routed, 1, arguments.seconds))
            details.setdefault("gateway_unary_64", []).append(await at_once(ask_routed, 64, arguments.seconds))
            note("features_256", rows_per_second(lambda: len(tensors_of(posts, part)["mask"]), arguments.seconds / 4))
        session.close()

    rate = {name: statistics.median(values) for name, values in samples.items()}
    calls = {
        name: {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        for name, rounds in details.items()
    }
    base = rate["in_process_256"]
    return {
        "backend": described.backend,
        "runs_at_once": arguments.runs,
        "rounds": arguments.rounds,
        "in_process_rows_per_s": {str(rows): round(rate[f"in_process_{rows}"]) for rows in CHUNKS},
        "features_us_per_row": round(1e6 / rate["features_256"], 2),
        "stream_rows_per_s": {str(rows): round(rate[f"stream_{rows}"]) for rows in CHUNKS},
        "stream_to_in_process": {
            str(rows): round(rate[f"stream_{rows}"] / rate[f"in_process_{rows}"], 3) for rows in CHUNKS
        },
        "gateway_stream_256_to_direct": round(rate["gateway_stream_256"] / rate["stream_256"], 3),
        "unary": {str(c): {key: round(v, 2) for key, v in calls[f"unary_{c}"].items()} for c in CONCURRENCY},
        "unary_to_in_process": {str(c): round(calls[f"unary_{c}"]["per_s"] / base, 4) for c in CONCURRENCY},
        "coalescing_64": {key: round(v, 2) for key, v in calls["coalescing_64"].items()},
        "coalescing_64_to_unary_64": round(calls["coalescing_64"]["per_s"] / calls["unary_64"]["per_s"], 2),
        "coalescing_64_to_in_process": round(calls["coalescing_64"]["per_s"] / base, 3),
        "coalescing_1_p50_ms": round(calls["coalescing_1"]["p50_ms"], 3),
        "gateway_added_p50_ms": round(calls["gateway_unary_1"]["p50_ms"] - calls["unary_1"]["p50_ms"], 3),
        "gateway_unary_64_to_direct": round(calls["gateway_unary_64"]["per_s"] / calls["unary_64"]["per_s"], 3),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds; medians of them are printed (default: 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of each figure in a round (default: 1)")
    parser.add_argument("--runs", type=int, default=1, help="runs at once in the server (default: 1)")
    parser.add_argument("--backend", default="onnxruntime/cpu/f32", help="back-end, or auto (default: onnxruntime)")
    parser.add_argument("--repository", type=Path, help="model repository (default: what ships with the predictor)")
    parser.add_argument("--set", action="append", default=[], metavar="MESHCAST_X=Y", help="a setting of the server")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meshcast-serving-") as folder:
        result = await measure(arguments, Path(folder))
    print(json.dumps({"bench": "serving", "machine": machine(), **result}, indent=2))


if __name__ == "__main__":
    run(main())
