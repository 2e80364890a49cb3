"""What the gateway adds: a unary call's p50 and a stream's rows per second, direct and through it, in one run.

Prints JSON. Without targets it starts a stand-in for the predictor (same contract and message sizes; `--compute-ms`
burns one core for that long a chunk, as a model run does) and a gateway, each a process of its own. Rounds alternate
between the two ways, and medians of the rounds are compared, so that both see the same machine.

    python bench/gateway_overhead.py
    python bench/gateway_overhead.py --direct 127.0.0.1:8101 --gateway 127.0.0.1:8001 --request a.bin --chunk b.bin
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from processes import machine

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.rpc import ChannelSettings, RpcSettings, Server, ServingStatus, channel, run

_SERVICE = "meshcast.api.predictor.v1.PredictorService"
_UNARY = f"/{_SERVICE}/PredictEngagement"
_STREAM = f"/{_SERVICE}/PredictEngagementStream"
_POSTS_BEFORE = 100  # settled posts that a chunk carries beside its rows


class StandIn:
    """Answers with messages of the predictor's size; spends `iterations` of a hash, off the loop, per chunk."""

    def __init__(self, iterations: int) -> None:
        self._iterations = iterations
        self._pool = ThreadPoolExecutor(1)

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the two methods that are measured."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "PredictEngagement": grpc.unary_unary_rpc_method_handler(
                self.PredictEngagement,
                pb.PredictEngagementRequest.FromString,
                pb.PredictEngagementResponse.SerializeToString,
            ),
            "PredictEngagementStream": grpc.stream_stream_rpc_method_handler(
                self.PredictEngagementStream,
                pb.PredictEngagementStreamRequest.FromString,
                pb.PredictEngagementStreamResponse.SerializeToString,
            ),
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, handlers)])

    async def PredictEngagement(
        self, request: pb.PredictEngagementRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.PredictEngagementResponse:
        """A prediction of the usual shape."""
        prediction = pb.Prediction(log_engagement=5.0, engagement=147.4, confidence=0.5, recent_median_log=5.1)
        for level in (0.8, 0.95):
            prediction.intervals.add(level=level, lower_log=4.0, upper_log=6.0, lower=53.6, upper=402.4)
        answer = pb.PredictEngagementResponse(prediction=prediction)
        answer.receipt.prediction_id = request.request_id
        return answer

    async def PredictEngagementStream(
        self,
        request_iterator: AsyncIterator[pb.PredictEngagementStreamRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[pb.PredictEngagementStreamResponse]:
        """Columns of the usual shape, one answer a chunk."""
        loop = asyncio.get_running_loop()
        async for request in request_iterator:
            if self._iterations:
                await loop.run_in_executor(self._pool, _burn, self._iterations)
            rows = request.planned.posts
            column = np.full(rows, 5.0, "<f4").tobytes()
            answer = pb.PredictEngagementStreamResponse(
                sequence=request.sequence,
                rows=rows,
                log_engagement=column,
                levels=[0.8, 0.95],
                lower_log=column * 2,
                upper_log=column * 2,
                confidence=column,
                recent_median_log=column,
            )
            answer.receipt.prediction_id = request.request_id
            yield answer


def _burn(iterations: int) -> None:
    hashlib.pbkdf2_hmac("sha256", b"", b"", iterations)  # lets go of the GIL, as a model run does


def _iterations_for(compute_ms: float) -> int:
    if not compute_ms:
        return 0
    began = time.perf_counter()
    _burn(200_000)
    return int(200_000 * compute_ms / 1e3 / (time.perf_counter() - began))


async def _serve_stand_in(compute_ms: float) -> None:
    server = Server(
        RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=1.0),
        services=[StandIn(_iterations_for(compute_ms)).register],
        service_names=[_SERVICE],
    )
    async with server:
        for name in ("", _SERVICE):
            server.health.set(name, ServingStatus.SERVING)
        print(f"port {server.port}", flush=True)
        await server.wait()


@contextmanager
def _process(arguments: list[str], port_of: Callable[[str], int | None]) -> Iterator[int]:
    """A child process, and the port that it prints."""
    child = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ
    )
    try:
        assert child.stdout is not None
        seen: list[str] = []
        for line in child.stdout:
            seen.append(line)
            port = port_of(line)
            if port is not None:
                yield port
                return
        raise SystemExit("the process ended early:\n" + "".join(seen))
    finally:
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=20)


def _stand_in_port(line: str) -> int | None:
    return int(line.split()[1]) if line.startswith("port ") else None


def _gateway_port(line: str) -> int | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return int(record["port"]) if record.get("event") == "ready" else None


@contextmanager
def _stand_ins(compute_ms: float) -> Iterator[tuple[str, str]]:
    """Addresses of a stand-in predictor and of a gateway before it."""
    here = str(Path(__file__).resolve())
    with _process([here, "--serve-stand-in", "--compute-ms", str(compute_ms)], _stand_in_port) as backend:
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "meshcast.toml"
            config.write_text(
                f'[logs]\nformat = "json"\n[gateway.routes.predictor]\nendpoints = ["127.0.0.1:{backend}"]\n', "utf-8"
            )
            with _process(["-m", "meshcast.gateway", "--config", str(config), "--port", "0"], _gateway_port) as port:
                yield f"127.0.0.1:{backend}", f"127.0.0.1:{port}"


def _request() -> bytes:
    request = pb.PredictEngagementRequest(request_id="bench", channel="bench")
    request.planned.published_time.FromSeconds(1_700_000_000)
    request.planned.hour_of_day, request.planned.day_of_week = 12, 3
    _fill(request.history_columns, 24)
    return request.SerializeToString()


def _chunk(rows: int) -> bytes:
    chunk = pb.PredictEngagementStreamRequest(request_id="bench", channel="bench")
    _fill(chunk.history, rows + _POSTS_BEFORE)
    planned = chunk.planned
    planned.posts = rows
    planned.published_unix_s = np.arange(rows, dtype="<i8").tobytes()
    for name in ("hour_of_day", "day_of_week", "content_length", "has_media"):
        setattr(planned, name, np.ones(rows, "<f4").tobytes())
    chunk.history_start = np.arange(rows, dtype="<i4").tobytes()
    chunk.history_stop = np.arange(_POSTS_BEFORE, rows + _POSTS_BEFORE, dtype="<i4").tobytes()
    return chunk.SerializeToString()


def _fill(columns: pb.PostColumns, posts: int) -> None:
    columns.posts = posts
    columns.published_unix_s = np.arange(posts, dtype="<i8").tobytes()
    names = ("hour_of_day", "day_of_week", "content_length", "has_media", "forwards", "replies", "reactions")
    for name in names:
        setattr(columns, name, np.ones(posts, "<f4").tobytes())


async def _unary_ms(to: grpc.aio.Channel, request: bytes, calls: int) -> float:
    ask: Any = to.unary_unary(_UNARY)
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        await ask(request, timeout=10)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


async def _stream_chunks_per_s(to: grpc.aio.Channel, chunk: bytes, chunks: int, window: int) -> float:
    """Chunks per second with at most `window` chunks under way, as the client sends them."""
    call: Any = to.stream_stream(_STREAM)(timeout=120)
    slots = asyncio.Semaphore(window)

    async def send() -> None:
        for _ in range(chunks):
            await slots.acquire()
            await call.write(chunk)
        await call.done_writing()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        for _ in range(chunks):
            if await call.read() is grpc.aio.EOF:
                raise SystemExit(f"the stream ended early: {await call.code()} {await call.details()}")
            slots.release()
    elapsed = time.perf_counter() - began
    await call.read()
    return chunks / elapsed


async def _measure(options: argparse.Namespace, direct: str, gateway: str) -> dict[str, Any]:
    request = options.request.read_bytes() if options.request else _request()
    chunk = options.chunk.read_bytes() if options.chunk else _chunk(options.rows)
    plain = ChannelSettings(plain=True)
    unary: dict[str, list[float]] = {"direct": [], "gateway": []}
    stream: dict[str, list[float]] = {"direct": [], "gateway": []}
    async with channel(direct, settings=plain) as one, channel(gateway, settings=plain) as other:
        ways = {"direct": one, "gateway": other}
        for to in ways.values():  # connections and caches
            await _unary_ms(to, request, 200)
            await _stream_chunks_per_s(to, chunk, 20, options.window)
        for _ in range(options.rounds):
            for way, to in ways.items():
                unary[way].append(await _unary_ms(to, request, options.calls))
            for way, to in ways.items():
                stream[way].append(await _stream_chunks_per_s(to, chunk, options.chunks, options.window))
    unary_ms = {way: statistics.median(times) for way, times in unary.items()}
    rows_per_s = {way: statistics.median(rates) * options.rows for way, rates in stream.items()}
    return {
        "unary_p50_ms": {way: round(value, 3) for way, value in unary_ms.items()},
        "unary_added_p50_ms": round(unary_ms["gateway"] - unary_ms["direct"], 3),
        "stream_rows_per_s": {way: round(value) for way, value in rows_per_s.items()},
        "stream_ratio": round(
            statistics.median(g / d for g, d in zip(stream["gateway"], stream["direct"], strict=True)), 3
        ),
        "chunk": {"rows": options.rows, "bytes": len(chunk), "window": options.window},
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--direct", help="address of a running predictor")
    parser.add_argument("--gateway", help="address of a running gateway before it")
    parser.add_argument("--request", type=Path, help="encoded PredictEngagementRequest to send")
    parser.add_argument("--chunk", type=Path, help="encoded PredictEngagementStreamRequest to send")
    parser.add_argument("--rows", type=int, default=256, help="rows of the chunk")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=400, help="unary calls a round")
    parser.add_argument("--chunks", type=int, default=150, help="chunks a round")
    parser.add_argument("--window", type=int, default=4, help="chunks under way at a time")
    parser.add_argument("--compute-ms", type=float, nargs="*", default=[0.0, 5.0], help="stand-in's compute per chunk")
    parser.add_argument("--serve-stand-in", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_stand_in:
        run(_serve_stand_in(options.compute_ms[0]))
        return
    report: dict[str, Any] = {
        "bench": "gateway_overhead",
        "machine": machine(),
        "grpcio": grpc.__version__,
    }
    if options.direct and options.gateway:
        report["predictor"] = run(_measure(options, options.direct, options.gateway))
    else:
        for compute_ms in options.compute_ms:
            with _stand_ins(compute_ms) as (direct, gateway):
                report[f"stand_in_{compute_ms:g}_ms"] = run(_measure(options, direct, gateway))
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
