"""What the gateway's cache and its single flight save: a hit beside a miss, and equal calls at one time.

Prints JSON. A scripted predictor of a known latency and a gateway that keeps its answers are processes of their own.

    python bench/gateway_cache.py
    python bench/gateway_cache.py --calls 50    # seconds, for CI
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
from processes import PREDICTOR, machine, restartable_gateway

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.rpc import ChannelSettings, channel, run

sys.path.append(str(Path(__file__).parents[1] / "tests" / "faults"))

from backend_process import BackendProcess
from scripted_backend import Script, read_counts

METHOD = f"/{PREDICTOR}/PredictEngagement"
IDS = itertools.count()


def _question(channel_name: str, posts: int) -> bytes:
    """A request with an id of its own, which no cache may mind."""
    request = pb.PredictEngagementRequest(channel=channel_name, request_id=f"call-{next(IDS)}")
    request.history_columns.posts = posts
    request.history_columns.published_unix_s = bytes(8 * posts)
    for name in ("hour_of_day", "day_of_week", "content_length", "has_media", "forwards", "replies", "reactions"):
        setattr(request.history_columns, name, bytes(4 * posts))
    return request.SerializeToString()


async def _calls_ms(ask: Any, questions: list[bytes]) -> list[float]:
    times = []
    for question in questions:
        began = time.perf_counter()
        await ask(question, timeout=10)
        times.append((time.perf_counter() - began) * 1e3)
    return times


async def _measure(options: argparse.Namespace) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(BackendProcess(Script(latency_ms=options.latency_ms)))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        gateway = restartable_gateway([backend.address], folder)
        with (folder / "gateway.toml").open("a", encoding="utf-8") as config:
            config.write("cached_s = { PredictEngagement = 600.0 }\n")
        await gateway.start()
        stack.push_async_callback(gateway.end)
        plain = ChannelSettings(plain=True)
        to_gateway = await stack.enter_async_context(channel(gateway.target, settings=plain))
        direct = await stack.enter_async_context(channel(backend.address, settings=plain))
        ask: Any = to_gateway.unary_unary(METHOD)
        await _calls_ms(ask, [_question("warm-up", options.posts) for _ in range(100)])
        hits, misses = [], []
        for turn in range(options.calls):  # in turn, so that both see the same machine
            hits += await _calls_ms(ask, [_question("warm-up", options.posts)])
            misses += await _calls_ms(ask, [_question(f"channel {turn}", options.posts)])
        before = await read_counts(direct)
        began = time.perf_counter()
        answers = await asyncio.gather(
            *(ask(_question("together", options.posts), timeout=10) for _ in range(options.together))
        )
        took_ms = (time.perf_counter() - began) * 1e3
        after = await read_counts(direct)
    shared = [pb.PredictEngagementResponse.FromString(answer).receipt.gateway.from_cache for answer in answers]
    return {
        "backend_latency_ms": options.latency_ms,
        "request_bytes": len(_question("warm-up", options.posts)),
        "hit_ms": {"p50": round(statistics.median(hits), 3), "p99": round(sorted(hits)[len(hits) * 99 // 100], 3)},
        "miss_ms": {
            "p50": round(statistics.median(misses), 3),
            "p99": round(sorted(misses)[len(misses) * 99 // 100], 3),
        },
        "equal_calls_at_once": {
            "calls": options.together,
            "backend_calls": after["begun"] - before["begun"],
            "said_from_cache": sum(shared),
            "all_answered_ms": round(took_ms, 1),
        },
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=400, help="of each kind")
    parser.add_argument("--posts", type=int, default=24, help="in the history of a question")
    parser.add_argument("--together", type=int, default=64, help="equal calls at one time")
    parser.add_argument("--latency-ms", type=float, default=20.0, help="of the backend")
    options = parser.parse_args()
    report: dict[str, Any] = {"bench": "gateway_cache", "machine": machine(), "grpcio": grpc.__version__}
    print(json.dumps(report | run(_measure(options)), indent=2))


if __name__ == "__main__":
    main()
