"""What the gateway adds: a unary call's p50 and a stream's rows per second, direct and through it, in one run.

Prints JSON. Without targets it starts a stand-in for the predictor (same contract and message sizes; `--compute-ms`
burns one core for that long a chunk, as a model run does), a gateway and a bare relay (`bare_relay.py`), each a process
of its own. Blocks of calls alternate between the ways, and medians are compared, so that all see the same machine. Then
it asks a composite question of four scripted backends that take 20 ms each.

    python bench/gateway_overhead.py
    python bench/gateway_overhead.py --short
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
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from processes import machine

from meshcast.api.gateway.v1 import gateway_pb2 as composite
from meshcast.api.gateway.v1 import gateway_pb2_grpc as composite_grpc
from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.rpc import ChannelSettings, RpcSettings, Server, ServingStatus, channel, run

_SERVICE = "meshcast.api.predictor.v1.PredictorService"
_UNARY = f"/{_SERVICE}/PredictEngagement"
_STREAM = f"/{_SERVICE}/PredictEngagementStream"
_PARTS = {
    "predictor": _UNARY,
    "forecaster": "/meshcast.api.forecaster.v1.ForecasterService/ForecastGrowth",
    "analyzer": "/meshcast.api.analyzer.v1.AnalyzerService/AnalyzeContent",
    "drift": "/meshcast.api.drift.v1.DriftService/DetectDataDrift",
}
_BLOCK = 20  # calls one way before the next way has its turn: what disturbs the machine lasts longer
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


def _plain_port(line: str) -> int | None:
    return int(line.split()[1]) if line.startswith("port ") else None


def _json_port(line: str) -> int | None:
    """The port of a gateway's log line or of a scripted backend's first line."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return int(record["port"]) if record.get("event", "ready") == "ready" else None


@contextmanager
def _gateway(routes: Mapping[str, int]) -> Iterator[str]:
    """Address of a gateway before backends at these ports, by the names of their routes."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "meshcast.toml"
        tables = [f'[gateway.routes.{name}]\nendpoints = ["127.0.0.1:{port}"]\n' for name, port in routes.items()]
        config.write_text("".join(['[logs]\nformat = "json"\n[gateway.http]\nport = ""\n', *tables]), "utf-8")
        with _process(["-m", "meshcast.gateway", "--config", str(config), "--port", "0"], _json_port) as port:
            yield f"127.0.0.1:{port}"


@contextmanager
def _stand_ins(compute_ms: float) -> Iterator[dict[str, str]]:
    """Addresses of a stand-in predictor, and of a bare relay and a gateway before it."""
    here = Path(__file__).resolve()
    with _process([str(here), "--serve-stand-in", "--compute-ms", str(compute_ms)], _plain_port) as backend:
        direct = f"127.0.0.1:{backend}"
        with (
            _process([str(here.with_name("bare_relay.py")), direct], _plain_port) as relay,
            _gateway({"predictor": backend}) as gateway,
        ):
            yield {"direct": direct, "relay": f"127.0.0.1:{relay}", "gateway": gateway}


@contextmanager
def _scripted(latency_ms: float) -> Iterator[dict[str, str]]:
    """Addresses of a scripted backend for each of our services, by name, and of a gateway before them."""
    script = str(Path(__file__).resolve().parents[1] / "tests" / "faults" / "scripted_backend.py")
    with ExitStack() as stack:
        ports = {
            name: stack.enter_context(
                _process([script, "--service", name, "--latency-ms", str(latency_ms), "--drain-s", "1"], _json_port)
            )
            for name in _PARTS
        }
        gateway = stack.enter_context(_gateway(ports))
        yield {**{name: f"127.0.0.1:{port}" for name, port in ports.items()}, "gateway": gateway}


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


async def _unary_ms(ways: Mapping[str, grpc.aio.Channel], request: bytes, calls: int) -> dict[str, list[float]]:
    """Milliseconds of single calls one after the other; blocks of them alternate between the ways."""
    asks: dict[str, Any] = {way: to.unary_unary(_UNARY) for way, to in ways.items()}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(max(1, calls // _BLOCK)):
        for way, ask in asks.items():
            for _ in range(_BLOCK):
                began = time.perf_counter()
                await ask(request, timeout=10)
                times[way].append((time.perf_counter() - began) * 1e3)
    return times


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


async def _measure(options: argparse.Namespace, addresses: Mapping[str, str]) -> dict[str, Any]:
    request = options.request.read_bytes() if options.request else _request()
    chunk = options.chunk.read_bytes() if options.chunk else _chunk(options.rows)
    stream: dict[str, list[float]] = {way: [] for way in addresses}
    unary: dict[str, list[float]] = {way: [] for way in addresses}
    async with AsyncExitStack() as stack:
        ways = {
            way: await stack.enter_async_context(channel(address, settings=ChannelSettings(plain=True)))
            for way, address in addresses.items()
        }
        await _unary_ms(ways, request, 200)  # connections and caches
        for to in ways.values():
            await _stream_chunks_per_s(to, chunk, 20, options.window)
        for _ in range(options.rounds):
            for way, times in (await _unary_ms(ways, request, options.calls)).items():
                unary[way] += times
            for way, to in ways.items():
                stream[way].append(await _stream_chunks_per_s(to, chunk, options.chunks, options.window))
    unary_ms = {way: statistics.median(times) for way, times in unary.items()}
    rows_per_s = {way: statistics.median(rates) * options.rows for way, rates in stream.items()}
    added_ms = {way: unary_ms[way] - unary_ms["direct"] for way in unary_ms if way != "direct"}
    report: dict[str, Any] = {
        "unary_p50_ms": {way: round(value, 3) for way, value in unary_ms.items()},
        "unary_added_p50_ms": {way: round(value, 3) for way, value in added_ms.items()},
        "stream_rows_per_s": {way: round(value) for way, value in rows_per_s.items()},
        "stream_ratio": round(
            statistics.median(g / d for g, d in zip(stream["gateway"], stream["direct"], strict=True)), 3
        ),
        "chunk": {"rows": options.rows, "bytes": len(chunk), "window": options.window},
    }
    if "relay" in added_ms:
        report["unary_added_of_relay"] = round(added_ms["gateway"] / added_ms["relay"], 3)
    return report


async def _measure_fan_out(options: argparse.Namespace, addresses: Mapping[str, str]) -> dict[str, Any]:
    """A composite question to all parts, beside each part asked directly; in turns, one call at a time."""
    question = composite.PredictComprehensiveRequest()
    for field in ("engagement", "growth", "content", "drift"):
        getattr(question, field).SetInParent()
    times: dict[str, list[float]] = {name: [] for name in addresses}
    async with AsyncExitStack() as stack:
        channels = {
            name: await stack.enter_async_context(channel(address, settings=ChannelSettings(plain=True)))
            for name, address in addresses.items()
        }
        asks: dict[str, Any] = {name: channels[name].unary_unary(method) for name, method in _PARTS.items()}
        mesh: Any = composite_grpc.GatewayServiceStub(channels["gateway"])
        for count in range(options.fan_outs + 20):
            for name in addresses:
                began = time.perf_counter()
                if name == "gateway":
                    answers = [answer async for answer in mesh.PredictComprehensive(question, timeout=5)]
                    if len(answers[-1].summary.answered) != len(_PARTS):
                        raise SystemExit(f"parts failed: {answers}")
                else:
                    await asks[name](b"", timeout=5)
                if count >= 20:
                    times[name].append((time.perf_counter() - began) * 1e3)
    p50_ms = {name: statistics.median(taken) for name, taken in times.items()}
    slowest_ms = max(value for name, value in p50_ms.items() if name != "gateway")
    return {
        "parts": len(_PARTS),
        "latency_ms": options.latency_ms,
        "slowest_direct_p50_ms": round(slowest_ms, 3),
        "p50_ms": round(p50_ms["gateway"], 3),
        "bound_ms": round(1.1 * slowest_ms + 2.0, 3),
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
    parser.add_argument("--fan-outs", type=int, default=300, help="composite questions; 0 for none")
    parser.add_argument("--latency-ms", type=float, default=20.0, help="what each part of them takes")
    parser.add_argument("--short", action="store_true", help="a tenth of the calls, for a first look or a CI job")
    parser.add_argument("--serve-stand-in", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.short:
        options.rounds, options.calls, options.chunks, options.fan_outs = 3, 200, 60, 60
        options.compute_ms = options.compute_ms[:1]
    if options.serve_stand_in:
        run(_serve_stand_in(options.compute_ms[0]))
        return
    report: dict[str, Any] = {
        "bench": "gateway_overhead",
        "machine": machine(),
        "grpcio": grpc.__version__,
    }
    if options.direct and options.gateway:
        report["predictor"] = run(_measure(options, {"direct": options.direct, "gateway": options.gateway}))
    else:
        for compute_ms in options.compute_ms:
            with _stand_ins(compute_ms) as addresses:
                report[f"stand_in_{compute_ms:g}_ms"] = run(_measure(options, addresses))
        if options.fan_outs:
            with _scripted(options.latency_ms) as addresses:
                report["fan_out"] = run(_measure_fan_out(options, addresses))
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
