"""What the drift service costs to run: start, memory, streams of rows beside the counting itself, and reports.

Prints JSON. Rows are 64 normal columns of float32 from a fixed seed; the subject has a reference of 10,000 rows and no
autoencoder. *In-process* is `Layout.tally` of the same chunks, with sketches, in this process on one thread, in turns
with the stream; the load shares the machine with the service. A report is of a window of 10,000 rows that comes in the
request; with plots, of the four features to blame first.

    python bench/drift_service.py --out drift_service.json
    python bench/drift_service.py --short
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from processes import Running, machine, model_service
from services import memory_mib, start_s

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.api.drift.v1 import drift_pb2_grpc as pb_grpc
from meshcast.observations import Observations, pack_observations, unpack_observations
from meshcast.rpc import channel as open_channel
from meshcast.rpc import run
from meshcast.services.drift import SERVICE
from meshcast.services.drift.layout import Layout

COLUMNS, REFERENCE_ROWS = 64, 10_000
CHUNK_ROWS, CHUNKS = 8_192, 8
SUBJECT = "bench"
RSS_MIB_MAX = 350


def made_up_rows(rows: int, seed: int, *, shift: float = 0.0) -> Observations:
    """Rows of normal columns, the first one shifted by so many standard deviations."""
    values = np.random.default_rng(seed).normal(size=(COLUMNS, rows)).astype(np.float32)
    values[0] += shift
    return Observations(rows, {f"x{at:02}": values[at] for at in range(COLUMNS)}, {})


async def streamed(stub: pb_grpc.DriftServiceStub, chunks: Sequence[pb.Observations], seconds: float) -> float:
    """Rows per second of one stream of chunks, from its first message to its last answer."""
    begun = time.perf_counter()

    async def requests() -> AsyncIterator[pb.ObserveStreamRequest]:
        sequence = 0
        while time.perf_counter() - begun < seconds:
            sequence += 1
            yield pb.ObserveStreamRequest(
                sequence=sequence, subject=SUBJECT, observations=chunks[sequence % len(chunks)], stream_id=f"{begun}"
            )

    rows = 0
    async for answer in stub.ObserveStream(requests()):
        if answer.status.code:
            raise SystemExit(f"a chunk was refused: {answer.status.message}")
        rows += answer.rows
    return rows / (time.perf_counter() - begun)


def tallied(layout: Layout, chunks: Sequence[pb.Observations], seconds: float) -> float:
    """Rows per second of reading and counting the same chunks here."""
    begun, rows = time.perf_counter(), 0
    whole = layout.tally(unpack_observations(chunks[0], {}, "observations"))
    while time.perf_counter() - begun < seconds:
        for chunk in chunks:
            whole.add(layout.tally(unpack_observations(chunk, {}, "observations")))
            rows += chunk.rows
    return rows / (time.perf_counter() - begun)


async def reported(
    stub: pb_grpc.DriftServiceStub, request: pb.DetectDataDriftRequest, times: int
) -> dict[str, float | int]:
    """Milliseconds of reports, over the wire."""
    taken = []
    for _ in range(times + 1):
        begun = time.perf_counter()
        answer = await stub.DetectDataDrift(request, timeout=60)
        taken.append(1e3 * (time.perf_counter() - begun))
    return {
        "p50_ms": round(float(np.percentile(taken[1:], 50)), 1),
        "p95_ms": round(float(np.percentile(taken[1:], 95)), 1),
        "answer_kib": round(answer.ByteSize() / 1024),
    }


async def measure(running: Running, arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of one process."""
    reference = made_up_rows(REFERENCE_ROWS, 0)
    layout = Layout.of(reference)
    chunks = [pack_observations(made_up_rows(CHUNK_ROWS, seed)) for seed in range(1, CHUNKS + 1)]
    memory = {"idle": memory_mib(running)}
    async with open_channel(running.target) as channel:
        stub = pb_grpc.DriftServiceStub(channel)
        await stub.SetReference(
            pb.SetReferenceRequest(
                subject=SUBJECT,
                observations=pack_observations(reference),
                options=pb.DriftOptions(trains_autoencoder=False),
            ),
            timeout=60,
        )
        streams, alone = [], []
        await streamed(stub, chunks, min(1.0, arguments.seconds))
        for _ in range(arguments.rounds):
            alone.append(tallied(layout, chunks, arguments.seconds))
            streams.append(await streamed(stub, chunks, arguments.seconds))
        memory["after_streams"] = memory_mib(running)
        window = pack_observations(made_up_rows(REFERENCE_ROWS, 99, shift=0.1))
        plain = pb.DetectDataDriftRequest(subject=SUBJECT, observations=window)
        reports = {
            "given_window": await reported(stub, plain, arguments.reports),
            "last_window": await reported(stub, pb.DetectDataDriftRequest(subject=SUBJECT), arguments.reports),
            "with_four_plots": await reported(
                stub, pb.DetectDataDriftRequest(subject=SUBJECT, observations=window, plots=["*"]), arguments.reports
            ),
        }
        memory["after_reports"] = memory_mib(running)
    base = statistics.median(alone)
    return {
        "rss_mib": {name: round(value) for name, value in memory.items()},
        "rss_mib_max": RSS_MIB_MAX,
        "stream_rows_per_s": round(statistics.median(streams)),
        "in_process_rows_per_s": round(base),
        "stream_to_in_process": round(statistics.median(streams) / base, 3),
        "report_10000_x_64": reports,
    }


async def main() -> None:
    """Runs the benchmark and prints its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds; medians of them are printed (default: 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds of a stream in a round (default: 4)")
    parser.add_argument("--reports", type=int, default=20, help="reports of each kind (default: 20)")
    parser.add_argument("--short", action="store_true", help="a few seconds, for a test that it runs")
    parser.add_argument("--out", type=Path, help="file for the JSON, too")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.rounds, arguments.seconds, arguments.reports = 1, 0.5, 2
    settings = {
        "MESHCAST_RUNTIME_RUNS_MAX": "1",
        "MESHCAST_RUNTIME_THREADS_PER_RUN": "1",
        "MESHCAST_RUNTIME_CHOOSE_S": "0.05",
    }
    with tempfile.TemporaryDirectory(prefix="meshcast-drift-") as folder:
        cold = await start_s(SERVICE, Path(folder), settings)
        warm = [await start_s(SERVICE, Path(folder), settings) for _ in range(arguments.rounds)]
        async with model_service(SERVICE.name, SERVICE.service_name, Path(folder), settings) as running:
            found = await measure(running, arguments)
    result = {
        "bench": "drift_service",
        "machine": machine(),
        "rounds": arguments.rounds,
        "start_s": {"first": round(cold, 2), "warm": round(statistics.median(warm), 2)},
        **found,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    run(main())
