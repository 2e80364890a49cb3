"""Batcher against the same session run directly, in one process and in turns: `python bench/batching.py` prints JSON.

`chunks`: rows/s of 256-row chunks through the batcher with 1, 2 and 4 submitted at once, over those of plain runs.
`singles`: one-row questions; time of the event loop's thread a question, and rows of a run.
`swap`: p99 of one-row questions while versions load, over the p99 between the loads, at half of the capacity.
"""

import asyncio
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from processes import machine

from meshcast.rpc import Deadline, LogSettings, run, setup_logs
from meshcast.runtime import LOW, Backend, Model, Recorded, Repository, RuntimeSettings, SessionOptions, find_service
from meshcast.runtime.candidates import open_candidate
from meshcast.runtime.main import SWITCH_S

CHUNK_ROWS = 256
CHUNKS = 12  # a round: short, so that strangers disturb both sides alike
ROUNDS = 24


async def main() -> None:
    load = round(os.getloadavg()[0], 2)  # of strangers, before this adds its own
    setup_logs(LogSettings(level="error"))
    sys.setswitchinterval(SWITCH_S)
    spec = find_service("predictor")
    assert spec.shipped is not None
    shipped = Repository(spec.shipped)
    version = shipped.versions(spec.name)[-1]
    paths = shipped.paths(spec.name, version)
    recorded = Recorded.load(paths.meta_dir / "recorded.npz").inputs
    have = len(next(iter(recorded.values())))
    chunk = {name: array[np.arange(CHUNK_ROWS) % have] for name, array in recorded.items()}
    singles = [{name: array[row : row + 1] for name, array in chunk.items()} for row in range(64)]
    backend = Backend(runtime="onnxruntime")
    direct = open_candidate(backend, paths, shipped.evidence(spec.name, version), spec.signature, SessionOptions())
    with tempfile.TemporaryDirectory() as folder:
        own = Repository(Path(folder) / "repository")

        def install() -> None:
            with own.install(spec.name, spec.signature) as staged:
                shutil.copytree(paths.version_dir, staged.version_dir, dirs_exist_ok=True)
                shutil.copytree(paths.meta_dir, staged.meta_dir, dirs_exist_ok=True)

        install()
        settings = RuntimeSettings(state_dir=Path(folder), backend="onnxruntime", runs_max=1)
        async with Model(name=spec.name, signature=spec.signature, repository=own, settings=settings) as model:
            await model.load()
            report: dict[str, Any] = {"machine": machine(), "load": load, "model": spec.name}
            report["chunks"] = [await chunks(model, direct, chunk, at_once) for at_once in (1, 2, 4)]
            report["singles"] = [await one_row(model, singles, at_once) for at_once in (1, 8, 64)]
            report["swap"] = await swaps(model, singles, install)
    direct.close()
    print(json.dumps(report, indent=2))


async def chunks(model: Model, direct: Any, chunk: dict[str, Any], at_once: int) -> dict[str, Any]:
    ratios, rates = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await closed_loop(CHUNKS, at_once, lambda _: submit(model, chunk, CHUNK_ROWS, LOW))
        through = time.perf_counter() - began
        began = time.perf_counter()
        for _ in range(CHUNKS):
            direct.run(chunk)
        ratios.append((time.perf_counter() - began) / through)
        rates.append(CHUNKS * CHUNK_ROWS / through)
    return {
        "at_once": at_once,
        "ratio_to_in_process": round(float(np.median(ratios)), 3),
        "rows_per_s": round(float(np.median(rates))),
    }


async def one_row(model: Model, singles: list[dict[str, Any]], at_once: int) -> dict[str, Any]:
    counts = model.batcher.counts
    best = float("inf")
    runs, rows = counts.runs, counts.rows
    for _ in range(ROUNDS):
        began = time.thread_time()
        await closed_loop(3000, at_once, lambda caller: submit(model, singles[caller], 1))
        best = min(best, (time.thread_time() - began) / 3000)
    return {
        "at_once": at_once,
        "loop_us": round(best * 1e6, 1),
        "rows_per_run": round((counts.rows - rows) / (counts.runs - runs), 1),
    }


async def swaps(model: Model, singles: list[dict[str, Any]], install: Any) -> dict[str, Any]:
    began = time.perf_counter()
    await closed_loop(20_000, 8, lambda caller: submit(model, singles[caller], 1))
    capacity = 20_000 / (time.perf_counter() - began)
    callers, done = 32, asyncio.Event()
    answered: list[tuple[float, float]] = []

    async def caller(row: int) -> None:
        due = time.perf_counter() + row / capacity
        while not done.is_set():
            due += callers / (capacity / 2)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await submit(model, singles[row], 1)
            answered.append((due, time.perf_counter() - due))

    windows: list[tuple[float, float, float]] = []
    async with asyncio.TaskGroup() as group:
        for row in range(callers):
            group.create_task(caller(row))
        for _ in range(30):
            await asyncio.to_thread(install)
            await asyncio.sleep(0.05)
            quiet = time.perf_counter()
            await asyncio.sleep(0.15)
            loading = time.perf_counter()
            await model.load()
            windows.append((quiet, loading, time.perf_counter()))
            await model.closed()
        done.set()
    due, took = np.array(answered).T
    is_quiet, is_loading = np.zeros(len(due), bool), np.zeros(len(due), bool)
    for quiet, loading, over in windows:
        is_quiet |= (due >= quiet) & (due < loading - 0.005)
        is_loading |= (due >= loading) & (due < over)
    calm, busy = (float(np.percentile(took[which], 99)) for which in (is_quiet, is_loading))
    return {
        "capacity_per_s": round(capacity),
        "load_ms": round(1e3 * float(np.mean([over - loading for _, loading, over in windows])), 1),
        "p99_quiet_ms": round(calm * 1e3, 2),
        "p99_loading_ms": round(busy * 1e3, 2),
        "ratio": round(busy / calm, 2),
    }


async def submit(model: Model, arrays: dict[str, Any], rows: int, priority: int = 1) -> None:
    await model.batcher.submit(arrays, rows=rows, deadline=Deadline.after(30.0), priority=priority)


async def closed_loop(questions: int, at_once: int, ask: Any) -> None:
    left = itertools.count()

    async def caller(number: int) -> None:
        while next(left) < questions:
            await ask(number)

    await asyncio.gather(*[caller(number) for number in range(at_once)])


if __name__ == "__main__":
    run(main())
