"""Hot swaps and a drain under load: what callers notice while versions of a real predictor come and go.

Prints JSON. Two versions that differ by more than 1e-2 are exported from torch (needs `meshcast[train]`), a predictor
serves them, and 8 callers ask single questions throughout:

1. closed loop: the capacity; then half of it, paced: the quiet p99;
2. at that pace, swap after swap over the Open Inference Protocol (`RepositoryModelLoad`): the p99 of the answers that
   were under way while a version loaded and warmed, and the server's RSS;
3. SIGTERM under closed-loop load: what every caller saw until the process was gone.

Every answer is computed again in this process by the version that its receipt names.

    python bench/swaps.py
    python bench/swaps.py --swaps 10 --quiet-s 3
"""

import argparse
import asyncio
import contextlib
import json
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from processes import machine, predictor

from meshcast.api.oip.v2 import grpc_service_pb2 as oip
from meshcast.api.oip.v2 import grpc_service_pb2_grpc as oip_grpc
from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.predictor.v1 import predictor_pb2_grpc as pb_grpc
from meshcast.api.type.v1 import error_reason_pb2
from meshcast.posts import PostTable, pack_posts
from meshcast.rpc import ChannelSettings, LogSettings, MeshError, NotReady, channel, mesh_errors, run, setup_logs

CALLERS = 8
QUESTIONS = 64
DAY_S = 86_400


@dataclass
class Seen:
    """What one call saw; times on `time.perf_counter()`."""

    question: int
    start: float
    end: float
    version: int = 0
    value: float = float("nan")
    backend: str = ""
    error: MeshError | None = None


@dataclass
class Load:
    """Callers of one phase."""

    stub: pb_grpc.PredictorServiceStub
    requests: list[pb.PredictEngagementRequest]
    seen: list[Seen] = field(default_factory=list)
    is_over: bool = False

    async def ask(self, number: int) -> Seen:
        """One call, its outcome noted."""
        at = number % len(self.requests)
        seen = Seen(at, time.perf_counter(), 0.0)
        try:
            with mesh_errors():
                answer = await self.stub.PredictEngagement(self.requests[at], timeout=5.0)
            seen.version, seen.value = answer.receipt.model_version, answer.prediction.log_engagement
            seen.backend = answer.receipt.backend
        except MeshError as error:
            seen.error = error
        seen.end = time.perf_counter()
        self.seen.append(seen)
        return seen

    async def closed(self, caller: int) -> None:
        """Asks without a pause."""
        number = caller
        while not self.is_over:
            if (await self.ask(number)).error is not None:
                await asyncio.sleep(0.01)
            number += CALLERS

    async def paced(self, caller: int, period_s: float) -> None:
        """Asks at fixed times, whether or not the last answer was slow; a late call counts from its own start."""
        number, due = caller, time.perf_counter() + period_s * caller / CALLERS
        while not self.is_over:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await self.ask(number)
            number += CALLERS
            due = max(due + period_s, time.perf_counter() - period_s)


def questions(posts: PostTable) -> list[pb.PredictEngagementRequest]:
    """Requests over one table; histories of 60 posts."""
    requests = []
    for number in range(QUESTIONS):
        history = posts[number : number + 60]
        request = pb.PredictEngagementRequest(request_id=f"swap-{number}", history_columns=pack_posts(history))
        request.planned.published_time.FromSeconds(int(history.published_unix_s[-1]) + 2 * DAY_S)
        request.planned.hour_of_day, request.planned.day_of_week = number % 24, number % 7
        request.planned.content_length = 10 * number
        requests.append(request)
    return requests


def made_up_posts() -> PostTable:
    """Posts of one channel, from a fixed seed; what they say does not matter here, only that it is answered alike."""
    rng, n = np.random.default_rng(7), QUESTIONS + 60
    return PostTable.of(
        {
            "published_unix_s": 1_400_000_000 + np.arange(n) * 7_200,
            "hour_of_day": np.arange(n) * 2 % 24,
            "day_of_week": np.arange(n) // 12 % 7,
            "content_length": rng.integers(0, 400, n),
            "has_media": rng.integers(0, 2, n),
            "forwards": rng.integers(0, 5_000, n),
            "replies": rng.integers(0, 500, n),
            "reactions": rng.integers(0, 20_000, n),
        }
    )


def tensors_of(requests: list[pb.PredictEngagementRequest]) -> dict[str, Any]:
    """The graph's inputs of all questions."""
    from meshcast.services.predictor.prepare import prepare
    from meshcast.services.predictor.questions import single_question

    parts = [prepare(single_question(request)).inputs for request in requests]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def export_versions(root: Path, inputs: dict[str, Any]) -> None:
    """Versions 1 and 2, of one architecture, with different weights."""
    import torch

    from meshcast.runtime import Repository
    from meshcast.runtime.export import export_model
    from meshcast.services.predictor import SIGNATURE
    from meshcast.services.predictor.model import EngagementModel

    for seed in (1, 2):
        torch.manual_seed(seed)
        model = EngagementModel().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)  # so that two seeds differ by far more than 1e-2
        with Repository(root).install("predictor", SIGNATURE) as staged:
            export_model(model, SIGNATURE, recorded=inputs, version_dir=staged.version_dir, meta_dir=staged.meta_dir)


def reproduced(root: Path, inputs: dict[str, Any], seen: list[Seen]) -> dict[str, Any]:
    """Every answer against the version that its receipt names, run here."""
    from sessions import open_session

    answered = [one for one in seen if one.error is None]
    worst, expected = 0.0, {}
    for version in sorted({one.version for one in answered}):
        backends = {one.backend for one in answered if one.version == version}
        for backend in backends:
            session = open_session(root, "predictor", backend, version)
            expected[version, backend] = session.run(inputs)["log_engagement"]
            session.close()
    for one in answered:
        worst = max(worst, abs(one.value - float(expected[one.version, one.backend][one.question])))
    values = {version: value for (version, _), value in expected.items()}
    between = float(np.abs(values[1] - values[2]).min()) if {1, 2} <= values.keys() else None
    return {
        "answers": len(answered),
        "max_error_log1p": worst,
        "min_difference_between_versions": between,
        "versions": sorted(values),
        "backends": sorted({backend for _, backend in expected}),
    }


def p99_ms(seen: list[Seen]) -> float:
    """99th percentile of the latency, milliseconds."""
    return round(float(np.percentile([(one.end - one.start) * 1e3 for one in seen], 99)), 3)


async def phase(load: Load, seconds: float, period_s: float | None = None) -> list[Seen]:
    """One stretch of load by all callers; None for a closed loop."""
    load.seen, load.is_over = [], False
    async with asyncio.TaskGroup() as group:
        for caller in range(CALLERS):
            group.create_task(load.closed(caller) if period_s is None else load.paced(caller, period_s))
        await asyncio.sleep(seconds)
        load.is_over = True
    return load.seen


async def swap(stub: oip_grpc.GRPCInferenceServiceStub, version: int) -> tuple[float, float]:
    """Makes a version the live one; when it began and ended."""
    request = oip.RepositoryModelLoadRequest(model_name="predictor")
    request.parameters["config"].string_param = json.dumps({"version_policy": {"specific": {"versions": [version]}}})
    start = time.perf_counter()
    with mesh_errors():
        await stub.RepositoryModelLoad(request, timeout=60.0)
    return start, time.perf_counter()


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    root = folder / "repository"
    requests = questions(made_up_posts())
    inputs = tensors_of(requests)
    export_versions(root, inputs)
    state = folder / "state"
    state.mkdir()
    settings = {"MESHCAST_RUNTIME_MODEL_REPOSITORY": str(root)} | dict(pair.split("=", 1) for pair in arguments.set)
    everything: list[Seen] = []
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(predictor(state, settings))
        line = await stack.enter_async_context(channel(server.target, settings=ChannelSettings(plain=True)))
        load = Load(pb_grpc.PredictorServiceStub(line), requests)
        control = oip_grpc.GRPCInferenceServiceStub(line)
        process = psutil.Process(server.pid)
        await swap(control, 1)
        await phase(load, 1.0)

        closed = await phase(load, arguments.quiet_s)
        capacity = len(closed) / arguments.quiet_s
        period_s = CALLERS / (capacity / 2)
        quiet_before = await phase(load, arguments.quiet_s, period_s)

        loads: list[tuple[float, float]] = []
        rss: list[int] = []
        load.seen, load.is_over = [], False
        async with asyncio.TaskGroup() as group:
            for caller in range(CALLERS):
                group.create_task(load.paced(caller, period_s))
            for number in range(arguments.swaps):
                loads.append(await swap(control, 2 - number % 2))
                await asyncio.sleep(0.05)
                rss.append(process.memory_info().rss)
            load.is_over = True
        swapped = load.seen
        quiet_after = await phase(load, arguments.quiet_s, period_s)

        load.seen, load.is_over = [], False
        async with asyncio.TaskGroup() as group:
            for caller in range(CALLERS):
                group.create_task(load.closed(caller))
            await asyncio.sleep(0.5)
            terminated = time.perf_counter()
            server.process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(server.process.wait, 30)
            load.is_over = True
        drained = load.seen
    everything = [*closed, *quiet_before, *swapped, *quiet_after, *drained]

    during = [one for one in swapped if any(one.start < end and one.end > start for start, end in loads)]
    quiet = [*quiet_before, *quiet_after]
    refused = [one for one in drained if one.error is not None]
    asked_for = [
        one
        for one in refused
        if one.end > terminated
        and isinstance(one.error, NotReady)
        and one.error.reason
        in (error_reason_pb2.ERROR_REASON_DRAINING, error_reason_pb2.ERROR_REASON_BACKEND_UNREACHABLE)
    ]
    load_ms = [(end - start) * 1e3 for start, end in loads]
    return {
        "callers": CALLERS,
        "swaps": len(loads),
        "capacity_per_s": round(capacity, 1),
        "load_ms_p50": round(float(np.median(load_ms)), 1),
        "not_ok_before_drain": sum(one.error is not None for one in [*closed, *quiet, *swapped])
        + sum(one.error is not None and one.start < terminated for one in drained),
        "answered_after_sigterm": sum(one.error is None and one.end > terminated for one in drained),
        "refused_after_sigterm": len(asked_for),
        "other_not_ok": [repr(one.error) for one in refused if one not in asked_for][:5],
        "exit_code": code,
        "reproduced": await asyncio.to_thread(reproduced, root, inputs, everything),
        "p99_ms_quiet": p99_ms(quiet),
        "p99_ms_quiet_before_and_after": [p99_ms(quiet_before), p99_ms(quiet_after)],
        "p99_ms_while_loading": p99_ms(during),
        "answers_while_loading": len(during),
        "p99_ratio": round(p99_ms(during) / p99_ms(quiet), 3),
        "rss_mib_after_swap_5": round(rss[min(4, len(rss) - 1)] / 2**20, 1),
        "rss_mib_after_last_swap": round(rss[-1] / 2**20, 1),
        "rss_ratio": round(rss[-1] / rss[min(4, len(rss) - 1)], 3),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=50, help="hot swaps (default: 50)")
    parser.add_argument("--quiet-s", type=float, default=8.0, help="seconds of each phase without swaps (default: 8)")
    parser.add_argument("--set", action="append", default=[], metavar="MESHCAST_X=Y", help="a setting of the server")
    arguments = parser.parse_args()
    setup_logs(LogSettings(level="warning"))
    with tempfile.TemporaryDirectory(prefix="meshcast-swaps-") as folder:
        result = await measure(arguments, Path(folder))
    print(json.dumps({"bench": "swaps", "machine": machine(), **result}, indent=2))


if __name__ == "__main__":
    run(main())
