"""What every service costs to run: start, memory, single calls and streams beside the model itself, for each in turn.

Prints JSON. The services are those that are installed, and each is asked with its own example, so a service that joins
is measured without a line here. A start is from the process's first moment to SERVING, warm: the host has started it
before. *In-process* is the same session on the same tensors in this process, one run at a time on one thread, measured
in turns with the stream; the load shares the machine with the service.

    python bench/services.py
    python bench/services.py --service forecaster --seconds 1
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
from google.protobuf.message_factory import GetMessageClass
from processes import Running, machine, model_service
from sessions import open_session, rows_per_second, runs_of

from meshcast.api.oip.v2 import grpc_service_pb2 as oip
from meshcast.api.oip.v2 import grpc_service_pb2_grpc as oip_grpc
from meshcast.rpc import channel as open_channel
from meshcast.rpc import run
from meshcast.runtime import (
    ExampleCall,
    ServiceSpec,
    find_example,
    find_service,
    find_services,
)

CHUNK_ROWS = 256
UNDER_WAY = 8  # chunks that a stream's caller has sent and not got back
CALLERS = 8
REQUESTS = 64  # different single questions
MIB = 1024 * 1024


async def streamed(method: Any, chunk: Any, seconds: float) -> float:
    """Rows per second of one stream of chunks, from the first answer to the last."""
    room = asyncio.Semaphore(UNDER_WAY)
    end = time.perf_counter() + seconds

    async def chunks() -> AsyncIterator[Any]:
        sequence = 0
        while time.perf_counter() < end:
            await room.acquire()
            chunk.sequence = sequence
            yield chunk
            sequence += 1

    rows, first, last = 0, 0.0, 0.0
    async for answer in method(chunks()):
        if answer.status.code:
            raise SystemExit(f"a chunk was refused: {answer.status.message}")
        last = time.perf_counter()
        first, rows = (first, rows + CHUNK_ROWS) if first else (last, 0)
        room.release()
    return rows / (last - first)


async def called(method: Any, requests: list[Any], seconds: float, callers: int = CALLERS) -> list[float]:
    """Latencies in milliseconds of callers that ask without a pause."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        while (start := time.perf_counter()) < end:
            await method(requests[number % len(requests)])
            latencies.append(1e3 * (time.perf_counter() - start))
            number += callers

    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(caller(number))
    return latencies


def memory_mib(running: Running) -> float:
    """Resident memory of the process."""
    return float(psutil.Process(running.pid).memory_info().rss) / MIB


async def start_s(spec: ServiceSpec, folder: Path, settings: dict[str, str]) -> float:
    """Seconds from the start of a process to its SERVING."""
    begun = time.perf_counter()
    async with model_service(spec.name, spec.service_name, folder, settings):
        return time.perf_counter() - begun


async def measure(spec: ServiceSpec, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The figures of one service that ships a model."""
    shipped = spec.shipped
    assert shipped is not None
    example = find_example(spec)
    settings = {
        "MESHCAST_RUNTIME_RUNS_MAX": "1",
        "MESHCAST_RUNTIME_THREADS_PER_RUN": "1",
        "MESHCAST_RUNTIME_BACKEND": arguments.backend,
    }
    cold = await start_s(spec, folder, settings)
    warm = [await start_s(spec, folder, settings) for _ in range(arguments.rounds)]
    requests = [example.single.request(1, seed) for seed in range(REQUESTS)]
    async with (
        model_service(spec.name, spec.service_name, folder, settings) as running,
        open_channel(running.target) as channel,
    ):
        memory = {"after_start": memory_mib(running)}
        ready = await oip_grpc.GRPCInferenceServiceStub(channel).ModelMetadata(oip.ModelMetadataRequest(name=spec.name))
        single = method_of(channel, spec, example.single, streams=False)
        answer = await single(requests[0])
        session = open_session(shipped, spec.name, answer.receipt.backend, answer.receipt.model_version)
        latencies: list[list[float]] = []
        streams: list[float] = []
        alone: list[float] = []
        await called(single, requests, 0.5)  # warm-up
        for _ in range(arguments.rounds):
            latencies.append(await called(single, requests, arguments.seconds))
        memory["after_single_calls"] = memory_mib(running)
        if example.stream is not None:
            chunk = example.stream.request(CHUNK_ROWS, 0)
            runs = runs_of(spec.signature, example.stream.tensors(chunk))
            stream = method_of(channel, spec, example.stream, streams=True)
            await streamed(stream, chunk, 0.5)
            for _ in range(arguments.rounds):
                alone.append(rows_per_second(session, runs, arguments.seconds))
                streams.append(await streamed(stream, chunk, arguments.seconds))
                alone.append(rows_per_second(session, runs, arguments.seconds))
            memory["after_streams"] = memory_mib(running)
        session.close()
    result: dict[str, Any] = {
        "backend": answer.receipt.backend,
        "versions": list(ready.versions),
        "start_s": {"first": round(cold, 2), "warm": round(statistics.median(warm), 2)},
        "rss_mib": {name: round(value) for name, value in memory.items()},
        "single_calls_at_8": {
            "per_s": round(statistics.median(len(round_) for round_ in latencies) / arguments.seconds),
            "p50_ms": round(statistics.median(float(np.percentile(round_, 50)) for round_ in latencies), 2),
            "p99_ms": round(statistics.median(float(np.percentile(round_, 99)) for round_ in latencies), 2),
        },
    }
    if streams:
        base = statistics.median(alone)
        result |= {
            "in_process_rows_per_s": round(base),
            "stream_rows_per_s": round(statistics.median(streams)),
            "stream_to_in_process": round(statistics.median(streams) / base, 3),
        }
    return result


def method_of(channel: Any, spec: ServiceSpec, call: ExampleCall, *, streams: bool) -> Any:
    """The rpc of an example, from the service's stub."""
    request = type(call.bad())
    method = request.DESCRIPTOR.file.services_by_name[spec.service_name.rsplit(".", 1)[1]].methods_by_name[call.method]
    make = channel.stream_stream if streams else channel.unary_unary
    return make(
        f"/{spec.service_name}/{call.method}",
        request_serializer=request.SerializeToString,
        response_deserializer=GetMessageClass(cast(Any, method.output_type)).FromString,
    )


async def main() -> None:
    """Runs the benchmark and prints its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--service", action="append", choices=list(find_services()), help="only this one; may repeat")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; medians of them are printed (default: 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of each figure in a round (default: 2)")
    parser.add_argument("--backend", default="auto", help="back-end (default: auto, the fastest of the host)")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    for name in arguments.service or find_services():
        with tempfile.TemporaryDirectory(prefix=f"meshcast-{name}-") as folder:
            found[name] = await measure(find_service(name), arguments, Path(folder))
    print(json.dumps({"bench": "services", "machine": machine(), "rounds": arguments.rounds, **found}, indent=2))


if __name__ == "__main__":
    run(main())
