"""What is left of a service at three times its capacity: with the gateway's limit, and without it beside that.

Prints JSON. Scripted predictors that answer one batch every 10 ms, and a gateway before them, are processes of their
own. Callers without a pause find their peak first; then calls arrive at random at three times that rate, whether others
are answered or not, with a mix of three priorities. An answer is good when it came within its call's deadline.

    python bench/gateway_overload.py
    python bench/gateway_overload.py --seconds 8 --peak-seconds 4    # half a minute, for CI
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from processes import PREDICTOR, machine, restartable_gateway

from meshcast.api.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.rpc import ChannelSettings, channel, from_rpc_error, run

sys.path.append(str(Path(__file__).parents[1] / "tests" / "faults"))

from backend_process import BackendProcess
from scripted_backend import Script, read_counts, reset

METHOD = f"/{PREDICTOR}/PredictEngagement"
MIX = {"high": 0.2, "normal": 0.4, "low": 0.4}
DEADLINES_S = {"high": 0.3, "normal": 1.0, "low": 1.0}
WAYS = {"with_limit": {}, "without_limit": {"MESHCAST_GATEWAY_LIMIT_CALLS_MAX": "0"}}
REQUEST = pb.PredictEngagementRequest(channel="bench").SerializeToString()
EXECUTED = ("begun", "executed", "executed_late", "wasted", "refused", "cancelled")


@dataclass(slots=True)
class Seen:
    """What became of the calls of one priority."""

    calls: int = 0
    latencies_s: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    refused_after_s: list[float] = field(default_factory=list)
    without_retry_info: int = 0

    def report(self, deadline_s: float) -> dict[str, Any]:
        """As JSON; times in milliseconds."""
        return {
            "deadline_ms": deadline_s * 1e3,
            "calls": self.calls,
            "answered": len(self.latencies_s),
            "answered_ms": {f"p{share}": _percentile_ms(self.latencies_s, share) for share in (50, 90, 99)},
            "codes": dict(self.codes.most_common()),
            "reasons": dict(self.reasons.most_common()),
            "refused_after_ms": {f"p{share}": _percentile_ms(self.refused_after_s, share) for share in (50, 99)},
            "refused_without_retry_info": self.without_retry_info,
        }


def _percentile_ms(seconds: list[float], percent: int) -> float | None:
    ordered = sorted(seconds)
    return round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] * 1e3, 1) if ordered else None


async def _one(ask: Any, request: bytes, priority: str, deadline_s: float, seen: Seen) -> None:
    began = time.perf_counter()
    seen.calls += 1
    try:
        await ask(request, timeout=deadline_s, metadata=(("meshcast-priority", priority),))
    except grpc.aio.AioRpcError as error:
        seen.codes[error.code().name] += 1
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            seen.refused_after_s.append(time.perf_counter() - began)
            refusal = from_rpc_error(error)
            seen.reasons[refusal.reason_name] += 1
            seen.without_retry_info += refusal.retry_after_s is None
    else:
        seen.codes["OK"] += 1
        seen.latencies_s.append(time.perf_counter() - began)


async def _peak_per_s(ask: Any, request: bytes, callers: int, seconds: float) -> float:
    """Answers a second to callers that ask again as soon as they are answered."""
    ends = time.perf_counter() + seconds
    seen = Seen()

    async def caller() -> None:
        while time.perf_counter() < ends:
            await _one(ask, request, "normal", 30.0, seen)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    if len(seen.latencies_s) < seen.calls:
        raise SystemExit(f"calls failed below capacity: {dict(seen.codes)}")
    return seen.calls / (time.perf_counter() - began)


async def _arrive(ask: Any, request: bytes, per_s: float, seconds: float) -> tuple[dict[str, Seen], float, float]:
    """Calls at random times; returns what became of them, the seconds until the last ended, and how late they were sent
    (99th percentile, in seconds)."""
    rng = random.Random(1)
    seen: dict[str, Seen] = defaultdict(Seen)
    lags: list[float] = []
    began = at = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        while (at := at + rng.expovariate(per_s)) < began + seconds:
            if (pause_s := at - time.perf_counter()) > 0:
                await asyncio.sleep(pause_s)
            lags.append(time.perf_counter() - at)
            priority = rng.choices(list(MIX), list(MIX.values()))[0]
            group.create_task(_one(ask, request, priority, DEADLINES_S[priority], seen[priority]))
    return seen, time.perf_counter() - began, sorted(lags)[len(lags) * 99 // 100]


async def _overload(to_gateway: grpc.aio.Channel, direct: list[grpc.aio.Channel], per_s: float, seconds: float) -> Any:
    """What callers and backends see of arrivals at so high a rate."""
    for one in direct:
        await reset(one)
    seen, took_s, lag_s = await _arrive(to_gateway.unary_unary(METHOD), REQUEST, per_s, seconds)
    counts = [await read_counts(one) for one in direct]
    mesh = gateway_pb2_grpc.GatewayServiceStub(to_gateway)
    health = (await mesh.ReadMeshHealth(gateway_pb2.ReadMeshHealthRequest(), timeout=5)).health
    route = next(service for service in health.services if service.name == "predictor")
    return {
        "arrivals_per_s": round(sum(each.calls for each in seen.values()) / seconds, 1),
        "good_per_s": round(sum(len(each.latencies_s) for each in seen.values()) / took_s, 1),
        "by_priority": {priority: seen[priority].report(DEADLINES_S[priority]) for priority in MIX},
        "backends": {name: sum(count[name] for count in counts) for name in EXECUTED},
        "hedges": route.counts.hedges,
        "limit_at_the_end": route.limit,
        "sent_late_ms_p99": round(lag_s * 1e3, 1),
    }


async def _measure(options: argparse.Namespace) -> dict[str, Any]:
    script = Script(batch_ms=options.batch_ms, batch_rows=options.batch_rows)
    plain = ChannelSettings(plain=True)
    async with AsyncExitStack() as stack:
        backends = [await stack.enter_async_context(BackendProcess(script)) for _ in range(options.backends)]
        addresses = [backend.address for backend in backends]
        direct = [await stack.enter_async_context(channel(address, settings=plain)) for address in addresses]
        ways: dict[str, grpc.aio.Channel] = {}
        peaks: dict[str, float] = {}
        for way, settings in WAYS.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            gateway = restartable_gateway(addresses, folder, settings)
            await gateway.start()
            stack.push_async_callback(gateway.end)
            ways[way] = await stack.enter_async_context(channel(gateway.target, settings=plain))
        for way, to_gateway in ways.items():
            ask: Any = to_gateway.unary_unary(METHOD)
            await _peak_per_s(ask, REQUEST, options.callers, 1.0)  # connections, and what is learnt at the start
            peaks[way] = await _peak_per_s(ask, REQUEST, options.callers, options.peak_seconds)
        peak_per_s = max(peaks.values())
        report: dict[str, Any] = {"peak_per_s": {way: round(peak, 1) for way, peak in peaks.items()}}
        for way, to_gateway in ways.items():
            seen = await _overload(to_gateway, direct, options.factor * peak_per_s, options.seconds)
            report[way] = {"good_share_of_peak": round(seen["good_per_s"] / peak_per_s, 3), **seen}
        return report


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of the overload")
    parser.add_argument("--peak-seconds", type=float, default=10.0, help="of the callers without a pause")
    parser.add_argument("--callers", type=int, default=16, help="of those")
    parser.add_argument("--factor", type=float, default=3.0, help="arrivals, as a multiple of the peak")
    parser.add_argument("--backends", type=int, default=2)
    parser.add_argument("--batch-ms", type=float, default=10.0, help="time of a backend's batch")
    parser.add_argument("--batch-rows", type=int, default=1, help="calls in it; the cores must be able to do the rest")
    options = parser.parse_args()
    report: dict[str, Any] = {
        "bench": "gateway_overload",
        "machine": machine(),
        "grpcio": grpc.__version__,
        "backends": {"number": options.backends, "batch_ms": options.batch_ms, "batch_rows": options.batch_rows},
        "mix": MIX,
    }
    print(json.dumps(report | run(_measure(options)), indent=2))


if __name__ == "__main__":
    main()
