"""What a drift service knows after it was killed: verdicts, alarms and counts, beside those of one that was not.

Prints JSON. A stream of chunks has a shift in its middle third: an alarm is raised, stands, and is resolved. One
service counts all of it. Another is killed (`kill -9`) at random points of it, again and again, also while it writes;
each time it is started anew on the same state, and what was not answered is sent once more under the same stream's
name. Both must end with the same evidence, reports, alarms and counts, to the last bit. They begin with copies of one
state, since sketches of a reference are drawn at random.

    python bench/drift_restart.py --out drift_restart.json
    python bench/drift_restart.py --short
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import json_format
from processes import Running, machine, model_service

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.api.drift.v1 import drift_pb2_grpc as pb_grpc
from meshcast.observations import CategoryColumn, Observations, pack_observations
from meshcast.rpc import channel as open_channel
from meshcast.rpc import run
from meshcast.services.drift import SERVICE

SUBJECT, STREAM = "killed", "one"
CHUNK_ROWS, WINDOW_ROWS, REFERENCE_ROWS = 700, 500, 4_000
KILL_WITHIN_S = 0.08  # of an answer: as long as a few chunks and their way to the disk take
FIRST_US, ROW_US = 1_700_000_000_000_000, 9_000_000
SETTINGS = {
    "MESHCAST_RUNTIME_BACKEND": "onnxruntime/cpu/f32",
    "MESHCAST_RUNTIME_CHOOSE_S": "0.05",
    "MESHCAST_RUNTIME_RUNS_MAX": "1",
    "MESHCAST_RUNTIME_THREADS_PER_RUN": "1",
}


def made_up_rows(rows: int, seed: int, *, first: int = 0, shift: float = 0.0) -> Observations:
    """Rows of numbers and categories, one number shifted by so many standard deviations."""
    rng = np.random.default_rng(seed)
    numeric = {f"x{at}": rng.normal(size=rows).astype(np.float32) for at in range(6)}
    numeric["x2"] += np.float32(shift)
    town = CategoryColumn(rng.choice([-1, 0, 1, 2], rows, p=[0.05, 0.5, 0.3, 0.15]).astype(np.int32), ("a", "b", "c"))
    times = FIRST_US + ROW_US * np.arange(first, first + rows, dtype=np.int64)
    return Observations(rows, numeric, {"town": town}, times)


def stream_of(chunks: int) -> list[pb.ObserveStreamRequest]:
    """The chunks; those of the middle third are shifted."""
    return [
        pb.ObserveStreamRequest(
            sequence=at + 1,
            subject=SUBJECT,
            stream_id=STREAM,
            observations=pack_observations(
                made_up_rows(
                    CHUNK_ROWS,
                    1_000 + at,
                    first=at * CHUNK_ROWS,
                    shift=0.5 if chunks // 3 <= at < 2 * chunks // 3 else 0.0,
                )
            ),
        )
        for at in range(chunks)
    ]


async def prepare(folder: Path) -> None:
    """Makes a state in which the subject has a reference, and nothing was observed."""
    request = pb.SetReferenceRequest(
        request_id="reference",
        subject=SUBJECT,
        observations=pack_observations(made_up_rows(REFERENCE_ROWS, 0)),
        options=pb.DriftOptions(trains_autoencoder=False, window_rows=WINDOW_ROWS),
    )
    async with service(folder) as running, open_channel(running.target) as channel:
        await pb_grpc.DriftServiceStub(channel).SetReference(request, timeout=60)


async def send(stub: pb_grpc.DriftServiceStub, chunks: Sequence[pb.ObserveStreamRequest]) -> AsyncIterator[int]:
    """Sends chunks; yields the number of each that was answered."""
    async for answer in stub.ObserveStream(iter(chunks)):
        if answer.status.code:
            raise SystemExit(f"chunk {answer.sequence} was refused: {answer.status.message}")
        yield answer.sequence


async def known(stub: pb_grpc.DriftServiceStub) -> dict[str, Any]:
    """What the service knows, but for when it was that it got to know."""

    def plain(message: Any) -> Any:
        for field in ("receipt", "made_time", "raised_time", "set_time"):
            if field in message.DESCRIPTOR.fields_by_name:
                message.ClearField(field)
        return json_format.MessageToDict(message)

    described = await stub.DescribeModel(pb.DescribeModelRequest(subject=SUBJECT), timeout=60)
    reference = described.references[0]
    reference.alarm.ClearField("raised_time")
    reference.ClearField("state_bytes")  # of the sketches of all rows
    last = await stub.DetectDataDrift(pb.DetectDataDriftRequest(subject=SUBJECT), timeout=60)
    whole = await stub.DetectDataDrift(pb.DetectDataDriftRequest(subject=SUBJECT, all=pb.AllObserved()), timeout=60)
    listed = await stub.ListDriftReports(pb.ListDriftReportsRequest(subject=SUBJECT, page_size=200), timeout=60)
    alarms: list[Any] = []
    watch = stub.WatchDrift(pb.WatchDriftRequest(subject=SUBJECT, interval_ms=200), timeout=60)
    async for message in watch:
        if not message.HasField("alarm"):
            break
        alarms.append(plain(message.alarm))
    watch.cancel()
    counts = [
        {"rows": one.window.rows, "nulls": one.window.nulls, "mean": one.window.mean, "name": one.name}
        for one in sorted(whole.report.features, key=lambda one: one.name)
    ]
    last.report.ClearField("report_id")
    return {
        "subject": plain(reference),
        "last_window": plain(last.report),
        "reports": [plain(report) for report in listed.reports],
        "alarms": alarms,
        "counts": counts,
    }


async def unkilled(folder: Path, chunks: Sequence[pb.ObserveStreamRequest]) -> dict[str, Any]:
    """What a service knows that counted everything in one go."""
    async with service(folder) as running, open_channel(running.target) as channel:
        stub = pb_grpc.DriftServiceStub(channel)
        async for _ in send(stub, chunks):
            pass
        return await known(stub)


async def killed(
    folder: Path, chunks: Sequence[pb.ObserveStreamRequest], points: int, rng: np.random.Generator
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a service knows that was killed so many times, and what the kills were."""
    answered, kills, twice, starts_s = 0, 0, 0, []
    while True:
        begun = time.monotonic()
        async with service(folder) as running, open_channel(running.target) as channel:
            starts_s.append(time.monotonic() - begun)
            stub = pb_grpc.DriftServiceStub(channel)
            # So many answers on average that the kills are spread over all of the stream.
            left = (len(chunks) - answered) / max(1, points - kills + 1)
            kill_at = answered + int(rng.uniform(0, 2 * left)) if kills < points else len(chunks) + 1
            killing: asyncio.Task[None] | None = None
            with contextlib.suppress(grpc.aio.AioRpcError):
                if kill_at == answered:
                    killing = asyncio.create_task(kill(running, rng.uniform(0, KILL_WITHIN_S)))
                async for sequence in send(stub, chunks[answered:]):
                    answered = max(answered, sequence)
                    if sequence >= kill_at and killing is None:
                        killing = asyncio.create_task(kill(running, rng.uniform(0, KILL_WITHIN_S)))
            if killing is not None:
                await killing
                kills += 1
                twice += answered < len(chunks)
                continue
            if answered < len(chunks):
                raise SystemExit("the stream broke, and nobody had killed the service")
            facts = {
                "kills": kills,
                "kills_in_mid_stream": twice,
                "start_s_p50": round(float(np.median(starts_s)), 2),
            }
            return await known(stub), facts


async def kill(running: Running, after_s: float) -> None:
    """Ends a process as a power cut would, but for what the system had taken already."""
    await asyncio.sleep(after_s)
    running.process.kill()
    await asyncio.to_thread(running.process.wait)


def service(folder: Path) -> "contextlib.AbstractAsyncContextManager[Running]":
    """A drift service on the state in a folder."""
    folder.mkdir(exist_ok=True)
    return model_service(SERVICE.name, SERVICE.service_name, folder, SETTINGS)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values in lists and mappings, by their paths."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{path}/{key}")
    else:
        yield path, value


def differing(one: Any, other: Any) -> Iterator[str]:
    """What differs: its path and both values."""
    left, right = dict(leaves(one)), dict(leaves(other))
    for path in {**left, **right}:
        if left.get(path) != right.get(path):
            yield f"{path}: {left.get(path)} and {right.get(path)}"


async def main() -> None:
    """Runs the benchmark and prints its JSON; fails where the two differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=50, help="kills (default: 50)")
    parser.add_argument("--chunks", type=int, default=300, help="chunks of the stream (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="of the points")
    parser.add_argument("--short", action="store_true", help="3 kills, for a test that it runs")
    parser.add_argument("--out", type=Path, help="file for the JSON, too")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.points, arguments.chunks = 3, 45
    chunks = stream_of(arguments.chunks)
    with tempfile.TemporaryDirectory(prefix="meshcast-drift-") as folder:
        first, second = Path(folder) / "unkilled", Path(folder) / "killed"
        await prepare(first)
        await asyncio.to_thread(shutil.copytree, first, second)
        whole = await unkilled(first, chunks)
        broken, facts = await killed(second, chunks, arguments.points, np.random.default_rng(arguments.seed))
    differences = list(differing(whole, broken))
    result = {
        "bench": "drift_restart",
        "machine": machine(),
        "chunks": arguments.chunks,
        "rows": arguments.chunks * CHUNK_ROWS,
        "windows": whole["subject"].get("windows"),
        "alarms": [alarm["kind"] for alarm in whole["alarms"]],
        "reports": len(whole["reports"]),
        **facts,
        "values_compared": sum(1 for _ in leaves(whole)),
        "differences": differences[:20],
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", "utf-8")
    if differences:
        raise SystemExit(1)


if __name__ == "__main__":
    run(main())
