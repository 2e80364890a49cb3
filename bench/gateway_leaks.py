"""What calls leave behind that end badly: tasks, and bytes a call, in the gateway and in the client.

Prints JSON. Services that answer a little and then stall, a gateway before them and the client run in three processes.
Calls of four kinds, many at a time, are cancelled by `end_call` (at once, on their way, or once they stall; grpc's own
`cancel` leaves up to a kilobyte in the client: `--own-cancel` shows it), or abandoned through our client, whose
`async with` or `for` is left early. After a warm-up the bytes in use are read by `mallinfo2` several times: `per_call`
is the slope of a line through these points. Python's own allocator is off (PYTHONMALLOC=malloc), so that its objects
count too.

    python bench/gateway_leaks.py
    python bench/gateway_leaks.py --calls 2000 --warm-up 1000 --bytes-max 1000    # a minute, for CI
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
import numpy as np
from made_up import made_up_posts
from processes import machine

from meshcast.api.drift.v1 import drift_pb2
from meshcast.api.gateway.v1 import gateway_pb2
from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.client import History, MeshClient, PlannedPost
from meshcast.gateway import GatewaySettings, RouteSettings, serving
from meshcast.posts import settled_history
from meshcast.rpc import (
    ChannelSettings,
    LogSettings,
    MeshError,
    RpcSettings,
    Server,
    ServingStatus,
    channel,
    end_call,
    run,
    setup_logs,
)

PREDICTOR = "meshcast.api.predictor.v1.PredictorService"
DRIFT = "meshcast.api.drift.v1.DriftService"
GATEWAY = "meshcast.api.gateway.v1.GatewayService"
KINDS = ("unary", "server_stream", "bidi", "comprehensive")
WAYS = ("cancelled", "abandoned")
BYTES_MAX = 64.0
_SETTLED_S = 30.0  # longest wait for the last calls to be gone
_STILL_LOOKS = 5
_QUIET = RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=1.0)
Context = grpc.aio.ServicerContext[Any, Any]
EndBadly = Callable[[int], Awaitable[None]]


class _Mallinfo(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def used_bytes() -> int:
    """Bytes in use of this process's C heap, all arenas and large blocks; Python's objects too where it uses that heap.

    Raises:
        OSError: the C library has no `mallinfo2` (it is glibc's, from 2.33).
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        raise OSError("this C library has no mallinfo2; glibc 2.33 or newer is needed")
    library.mallinfo2.restype = _Mallinfo
    info = library.mallinfo2()
    return int(info.uordblks) + int(info.hblkhd)


async def _measured(in_flight: Callable[[], int]) -> dict[str, Any]:
    """What this process holds, once no call is under way in it."""
    until, looks, tasks = time.monotonic() + _SETTLED_S, 0, 0
    while looks < _STILL_LOOKS and time.monotonic() < until:  # until nothing changes any more
        before, tasks = tasks, len(asyncio.all_tasks())
        looks = looks + 1 if tasks <= before and not in_flight() else 0
        await asyncio.sleep(0.1)
    gc.collect()
    names = Counter(task.get_name().split(":")[0].split("-")[0] for task in asyncio.all_tasks())
    return {"tasks": sum(names.values()), "names": names, "in_flight": in_flight(), "bytes": used_bytes()}


# The services, and the gateway: children of this program, which print what they hold at SIGUSR1.


class Stalling(grpc.GenericRpcHandler):
    """Methods of the services that are needed; each answers at most a little, then stalls until it is cancelled."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a method; None for others."""
        match handler_call_details.method.rpartition("/")[2]:
            case "ReadPrediction" | "PredictEngagement":
                return grpc.unary_unary_rpc_method_handler(self._stall)
            case "DetectDataDrift":
                return grpc.unary_unary_rpc_method_handler(self._answer)
            case "WatchDrift":
                return grpc.unary_stream_rpc_method_handler(self._watch)
            case "PredictEngagementStream":
                return grpc.stream_stream_rpc_method_handler(self._chunks)
        return None

    async def _stall(self, _request: bytes, _context: Context) -> bytes:
        await asyncio.Event().wait()
        return b""

    async def _answer(self, _request: bytes, _context: Context) -> bytes:
        return b""

    async def _watch(self, _request: bytes, context: Context) -> None:
        await context.write(drift_pb2.WatchDriftResponse(cursor=1).SerializeToString())
        await asyncio.Event().wait()

    async def _chunks(self, _requests: Any, context: Context) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            asked = pb.PredictEngagementStreamRequest.FromString(message)
            if asked.sequence % 4 == 3:
                await asyncio.Event().wait()
            rows = asked.planned.posts
            column = np.zeros(rows, "<f4").tobytes()
            answer = pb.PredictEngagementStreamResponse(
                sequence=asked.sequence,
                rows=rows,
                log_engagement=column,
                levels=[0.8],
                lower_log=column,
                upper_log=column,
                confidence=column,
                recent_median_log=column,
            )
            answer.receipt.prediction_id = asked.request_id
            await context.write(answer.SerializeToString())


async def _serve_services() -> None:
    servers = [Server(_QUIET, generic_handlers=[Stalling()], access="none") for _ in range(2)]
    for server in servers:
        for name in ("", PREDICTOR, DRIFT):
            server.health.set(name, ServingStatus.SERVING)
    async with servers[0], servers[1]:
        print(json.dumps({"addresses": [server.address for server in servers]}), flush=True)
        await _report(lambda: sum(server.interceptor.in_flight for server in servers))


async def _serve_gateway(addresses: tuple[str, ...]) -> None:
    settings = GatewaySettings(
        routes={
            "predictor": RouteSettings(services=(PREDICTOR,), endpoints=addresses),
            "drift": RouteSettings(services=(DRIFT,), endpoints=addresses[:1]),
        }
    )
    async with serving(settings, _QUIET, logs=LogSettings(access="none")) as server:
        print(json.dumps({"addresses": [server.address]}), flush=True)
        await _report(lambda: server.interceptor.in_flight)


async def _report(in_flight: Callable[[], int]) -> None:
    """Prints what the process holds at each SIGUSR1, until it is terminated."""
    asked, over = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, asked.set)

    def end() -> None:
        over.set()
        asked.set()

    loop.add_signal_handler(signal.SIGTERM, end)
    while not over.is_set():
        await asked.wait()
        asked.clear()
        if not over.is_set():
            print(json.dumps(await _measured(in_flight)), flush=True)


@dataclass
class Child:
    """A child of this program."""

    process: asyncio.subprocess.Process
    addresses: tuple[str, ...]

    async def measured(self) -> dict[str, Any]:
        """What it holds."""
        self.process.send_signal(signal.SIGUSR1)
        return await _line(self.process)


async def _line(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while True:
            line = await process.stdout.readline()
            if not line:
                raise SystemExit(f"a child has ended with {await process.wait()}")
            with suppress(ValueError):
                said: dict[str, Any] = json.loads(line)
                return said


@asynccontextmanager
async def child(*arguments: str) -> AsyncIterator[Child]:
    """A child that serves."""
    process = await asyncio.create_subprocess_exec(sys.executable, __file__, *arguments, stdout=subprocess.PIPE)
    try:
        yield Child(process, tuple((await _line(process))["addresses"]))
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


# The calls.


def cancelled_calls(to: grpc.aio.Channel, end: Callable[[Any], object]) -> dict[str, EndBadly]:
    """Calls that are cancelled: at once, on their way, or once their service stalls, in turn."""
    chunk = pb.PredictEngagementStreamRequest(planned=pb.PlannedPostColumns(posts=1))
    chunks = []
    for sequence in range(1, 5):
        chunk.sequence = sequence
        chunks.append(chunk.SerializeToString())
    both = gateway_pb2.PredictComprehensiveRequest(parts=[gateway_pb2.PART_ENGAGEMENT, gateway_pb2.PART_DRIFT])
    both.engagement.request_id, both.drift.subject = "leaks", "predictor"
    question = both.SerializeToString()
    unary: Any = to.unary_unary(f"/{PREDICTOR}/ReadPrediction")
    watch: Any = to.unary_stream(f"/{DRIFT}/WatchDrift")
    bidi: Any = to.stream_stream(f"/{PREDICTOR}/PredictEngagementStream")
    comprehensive: Any = to.unary_stream(f"/{GATEWAY}/PredictComprehensive")

    async def moment(number: int, read: Callable[[], Awaitable[Any]] | None) -> None:
        match number % 3:
            case 1:
                await asyncio.sleep(0.001 * (number % 4))
            case 2 if read is not None:
                await read()
            case 2:
                await asyncio.sleep(0.01)

    async def cancel_unary(number: int) -> None:
        call = unary(b"", timeout=60)
        await moment(number, None)
        end(call)
        await call.code()

    async def cancel_watch(number: int) -> None:
        call = watch(b"", timeout=60)
        await moment(number, call.read)
        end(call)
        await call.code()

    async def cancel_bidi(number: int) -> None:
        call = bidi(timeout=60)
        if number % 3:
            for encoded in chunks:
                await call.write(encoded)
        await moment(number, call.read)
        end(call)
        await call.code()

    async def cancel_comprehensive(number: int) -> None:
        call = comprehensive(question, timeout=60)
        await moment(number, call.read)
        end(call)
        await call.code()

    return dict(zip(KINDS, (cancel_unary, cancel_watch, cancel_bidi, cancel_comprehensive), strict=True))


def _own_cancel(call: Any) -> None:
    call.cancel()


def abandoned_calls(mesh: MeshClient) -> dict[str, EndBadly]:
    """Calls of our client that are left early."""
    posts = made_up_posts()
    rows = settled_history(posts)[:32]
    history = History(posts[:24])
    planned = PlannedPost(published_at=datetime(2026, 1, 1, tzinfo=UTC))

    async def leave_unary(number: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.002 * (1 + number % 5)):
                await mesh.read_prediction("leaks", timeout_s=60)

    async def leave_watch(_number: int) -> None:
        async with aclosing(mesh.watch_drift()) as alarms:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(alarms)

    async def leave_bidi(number: int) -> None:
        answers = mesh.predict_posts(posts, rows, chunk_rows=8, request_id="leaks", timeout_s=60)
        async with aclosing(answers):
            for _ in range(number % 3):
                await anext(answers)

    async def leave_comprehensive(_number: int) -> None:
        parts = mesh.predict_comprehensive(planned, history, drift="predictor", timeout_s=60)
        async with aclosing(parts):
            with suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await anext(parts)

    return dict(zip(KINDS, (leave_unary, leave_watch, leave_bidi, leave_comprehensive), strict=True))


async def end_badly(one: EndBadly, calls: int, parallel: int) -> int:
    """Makes so many calls, so many at a time; returns how many failed before they could be ended."""
    numbers = iter(range(calls))

    async def work() -> int:
        failed = 0
        for number in numbers:
            try:
                await one(number)
            except (MeshError, grpc.RpcError, asyncio.InvalidStateError):  # it has ended otherwise: no harm
                failed += 1
        return failed

    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(work(), name=f"calls:{number}") for number in range(parallel)]
    return sum(worker.result() for worker in workers)


def slope(points: list[tuple[int, int]]) -> float:
    """Bytes a call: of the line through (calls, bytes), by least squares."""
    calls, used = np.asarray(points, np.float64).T
    return float(np.polyfit(calls, used, 1)[0])


async def measure(
    one: EndBadly, gateway: Child, services: Child, options: argparse.Namespace, in_flight: Callable[[], int]
) -> dict[str, Any]:
    """Makes the calls and tells what they left behind."""

    async def held() -> dict[str, dict[str, Any]]:
        return {
            "client": await _measured(in_flight),
            "services": await services.measured(),
            "gateway": await gateway.measured(),
        }

    await end_badly(one, options.warm_up, options.parallel)
    first = last = await held()
    points: dict[str, list[tuple[int, int]]] = {who: [(0, what["bytes"])] for who, what in first.items()}
    seconds, made, failed = 0.0, 0, 0
    for part in range(options.points):
        calls = options.calls * (part + 1) // options.points - made
        began = time.perf_counter()
        failed += await end_badly(one, calls, options.parallel)
        seconds += time.perf_counter() - began
        made += calls
        last = await held()
        for who, what in last.items():
            points[who].append((made, what["bytes"]))
    report: dict[str, Any] = {"calls": made, "failed": failed, "calls_per_s": round(made / seconds)}
    for who, what in last.items():
        report[who] = {
            "per_call": round(slope(points[who]), 1),
            "grown_bytes": what["bytes"] - first[who]["bytes"],
            "tasks_left": what["tasks"] - first[who]["tasks"],
            "in_flight": what["in_flight"],
            "points": [used for _, used in points[who]],
        }
        if what["tasks"] > first[who]["tasks"]:
            report[who]["names"] = what["names"]
    return report


async def bench(options: argparse.Namespace) -> dict[str, Any]:
    """All kinds of calls, ended in all ways."""
    report: dict[str, Any] = {"bench": "gateway_leaks", "machine": machine(), "grpcio": grpc.__version__}
    async with child("--serve-services") as services, child("--serve-gateway", *services.addresses) as gateway:
        address = gateway.addresses[0]
        plain = ChannelSettings(plain=True)
        async with channel(address, settings=plain) as to, MeshClient(address, settings=plain) as mesh:
            everything = {
                "cancelled": cancelled_calls(to, _own_cancel if options.own_cancel else end_call),
                "abandoned": abandoned_calls(mesh),
            }
            for way in options.ways:
                for kind in options.kinds:
                    found = await measure(everything[way][kind], gateway, services, options, lambda: 0)
                    report[f"{way}_{kind}"] = found
                    print(f"{way} {kind}: {json.dumps(found)}", file=sys.stderr, flush=True)
    measured = [report[f"{way}_{kind}"] for way in options.ways for kind in options.kinds]
    report["worst"] = {
        who: {
            "per_call": max(one[who]["per_call"] for one in measured),
            "tasks_left": max(one[who]["tasks_left"] for one in measured),
        }
        for who in ("gateway", "client", "services")
    }
    report["bytes_max"] = options.bytes_max
    return report


def main() -> None:
    """Measures, prints, and exits with 1 where gateway or client keep more than they may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200_000, help="calls of each kind and way")
    parser.add_argument("--warm-up", type=int, default=20_000, help="calls before the first measure, likewise")
    parser.add_argument("--parallel", type=int, default=64, help="calls at a time")
    parser.add_argument("--points", type=int, default=8, help="measures after the first")
    parser.add_argument("--bytes-max", type=float, default=BYTES_MAX, help="bytes that a call may leave behind")
    parser.add_argument("--own-cancel", action="store_true", help="cancel by grpc's own `cancel`")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS)
    parser.add_argument("--serve-services", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--serve-gateway", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if os.environ.get("PYTHONMALLOC") != "malloc":
        os.environ["PYTHONMALLOC"] = "malloc"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    setup_logs(LogSettings(level="error"), service="leaks")
    if options.serve_services:
        run(_serve_services())
    elif options.serve_gateway:
        run(_serve_gateway(tuple(options.serve_gateway)))
    else:
        report = run(bench(options))
        print(json.dumps(report, indent=2))
        worst = report["worst"]
        if any(
            worst[who]["per_call"] > options.bytes_max or worst[who]["tasks_left"] > 0 for who in ("gateway", "client")
        ):
            sys.exit(1)


if __name__ == "__main__":
    main()
