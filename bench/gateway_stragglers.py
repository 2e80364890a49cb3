"""What hedging does to the slowest calls, and what it costs: a share of a back-end's calls takes a second.

Prints JSON. Four scripted back-ends and two gateways, one with hedging and one without, are processes of their own;
rounds alternate between the gateways, so that both see the same machine. Extra tries are counted by the back-ends.

    python bench/gateway_stragglers.py
    python bench/gateway_stragglers.py --calls 600 --rounds 2    # half a minute, for CI
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
from processes import machine, restartable_gateway

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.rpc import ChannelSettings, channel, run

sys.path.append(str(Path(__file__).parents[1] / "tests" / "faults"))

from backend_process import BackendProcess
from scripted_backend import Script, read_counts

METHOD = "/meshcast.api.predictor.v1.PredictorService/PredictEngagement"
OFF = {"MESHCAST_GATEWAY_HEDGE_SHARE_MAX": "0", "MESHCAST_GATEWAY_HEDGE_BURST": "0"}
REPLICAS = 4
DEADLINE_S = 10.0


async def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Both ways: latencies in milliseconds and tries a call."""
    script = Script(latency_ms=options.latency_ms, straggler_share=options.share, straggler_ms=options.straggler_ms)
    ways: dict[str, dict[str, str]] = {"hedged": {}, "not_hedged": OFF}
    latencies_ms: dict[str, list[float]] = {way: [] for way in ways}
    tries = dict.fromkeys(ways, 0)
    async with AsyncExitStack() as stack:
        backends = [
            await stack.enter_async_context(BackendProcess(Script(**{**_fields(script), "seed": seed})))
            for seed in range(REPLICAS)
        ]
        plain = ChannelSettings(plain=True)
        counters = [await stack.enter_async_context(channel(each.address, settings=plain)) for each in backends]
        gateways: dict[str, grpc.aio.Channel] = {}
        for way, settings in ways.items():
            state = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            gateway = restartable_gateway([each.address for each in backends], state, settings)
            stack.push_async_callback(gateway.end)
            await gateway.start()
            gateways[way] = await stack.enter_async_context(channel(gateway.target, settings=plain))
        for to in gateways.values():
            await _calls(to, options.warm_up, options.callers)
        for _ in range(options.rounds):
            for way, to in gateways.items():
                before = await _begun(counters)
                latencies_ms[way] += await _calls(to, options.calls // options.rounds, options.callers)
                await asyncio.sleep(0.1)  # what was cancelled is counted by then
                tries[way] += await _begun(counters) - before
    return {way: _summary(latencies_ms[way], tries[way]) for way in ways}


def _fields(script: Script) -> dict[str, Any]:
    return {name: getattr(script, name) for name in script.__dataclass_fields__}


async def _begun(counters: list[grpc.aio.Channel]) -> int:
    return sum([(await read_counts(to))["begun"] for to in counters])


async def _calls(to: grpc.aio.Channel, calls: int, callers: int) -> list[float]:
    """Milliseconds of each of so many calls, made by so many callers one after the other."""
    ask: Any = to.unary_unary(METHOD)
    request = pb.PredictEngagementRequest(request_id="bench", channel="bench")
    request.planned.content_length = 100
    encoded = request.SerializeToString()
    left = iter(range(calls))
    took_ms: list[float] = []

    async def caller() -> None:
        for _ in left:
            began = time.perf_counter()
            await ask(encoded, timeout=DEADLINE_S)
            took_ms.append((time.perf_counter() - began) * 1e3)

    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(caller(), name=f"caller:{number}")
    return took_ms


def _summary(took_ms: list[float], tries: int) -> dict[str, float]:
    ordered = sorted(took_ms)

    def at(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return {
        "calls": len(ordered),
        "p50_ms": round(at(0.5), 2),
        "p90_ms": round(at(0.9), 2),
        "p99_ms": round(at(0.99), 2),
        "p999_ms": round(at(0.999), 2),
        "p99_bound_ms": round(3 * at(0.5) + 20, 2),
        "extra_tries_share": round(tries / len(ordered) - 1, 4),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=6_000, help="each way")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--warm-up", type=int, default=200, help="calls each way before")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--latency-ms", type=float, default=10.0)
    parser.add_argument("--share", type=float, default=0.05, help="of stragglers")
    parser.add_argument("--straggler-ms", type=float, default=1_000.0)
    options = parser.parse_args()
    report = {
        "bench": "gateway_stragglers",
        "machine": machine(),
        "grpcio": grpc.__version__,
        "latency_ms": options.latency_ms,
        "straggler_share": options.share,
        "straggler_ms": options.straggler_ms,
        "callers": options.callers,
        **run(measured(options)),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
