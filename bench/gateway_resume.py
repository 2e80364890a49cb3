"""A long stream through the gateway while replicas, gateway and client are killed: does each row stand once, and right?

Prints JSON. Two real predictors, a gateway and a client run as processes of their own; the client streams rows into a
sink. At random rows a replica, the gateway or the client gets SIGKILL and is started again after a random pause. In
the end the sink is read: as many rows as were asked for, in order, each with an id of its own, the post that was asked
about and the answer that the same session gives in this process, within 1e-5. Memory is the peak that the kernel kept
of each process (VmHWM), less what the gateway had before the stream, and the client once posts and rows were made.

    python bench/gateway_resume.py
    python bench/gateway_resume.py --rows 20000 --seeds 1 --kills 1    # a minute, for CI
"""

import argparse
import asyncio
import contextlib
import json
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from made_up import made_up_posts
from numpy.typing import NDArray
from processes import Restartable, machine, restartable_gateway, restartable_predictor

from meshcast.client import MeshClient
from meshcast.posts import HistoryIndex, PostTable, settled_history
from meshcast.rpc import ChannelSettings, run
from meshcast.sinks import SqliteSink, open_sink

BACKEND = "onnxruntime/cpu/f32"
VERSION = 1
TOLERANCE = 1e-5
POLL_S = 0.01


def questions(rows: int) -> tuple[PostTable, HistoryIndex]:
    """The posts, and as many rows over them as are wanted."""
    posts = made_up_posts()
    index = settled_history(posts)
    return posts, index[np.arange(rows) % len(index)]


async def client(arguments: argparse.Namespace) -> None:
    """The client's process: streams until every row stands, and says what it held before it began."""
    posts, rows = questions(arguments.rows)
    sink = open_sink(arguments.sink)
    sink.block_rows = arguments.block_rows
    async with MeshClient(arguments.client, settings=ChannelSettings(wait_for_ready=True)) as mesh:
        await mesh.describe_model(timeout_s=60.0)
        print(json.dumps({"idle_kib": memory_kib("self", "VmRSS")}), flush=True)
        stored = await mesh.predict_posts_into(sink, posts, rows, stream_id="bench")
    print(json.dumps({"rows": stored.rows, "resumes": stored.resumes}), flush=True)


def memory_kib(process: int | str, field: str) -> int:
    """A figure of a process's memory, KiB; 0 when it is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{process}/status", encoding="utf-8") as lines:
        return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)
    return 0


class Client:
    """The client's process, which can be killed and started again.

    Args:
        target: of the gateway.
        sink: path of the sink.
        arguments: of the program.
    """

    def __init__(self, target: str, sink: Path, arguments: argparse.Namespace) -> None:
        self._command = [sys.executable, __file__, "--client", target, "--sink", str(sink)]
        self._command += ["--rows", str(arguments.rows), "--block-rows", str(arguments.block_rows)]
        self.process: asyncio.subprocess.Process | None = None
        self.resumes = 0
        self.idle_kib: list[int] = []

    async def start(self) -> None:
        """Starts it."""
        self.process = await asyncio.create_subprocess_exec(*self._command, stdout=asyncio.subprocess.PIPE)

    def kill(self) -> None:
        """Ends it with SIGKILL."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()

    async def ended(self) -> bool:
        """Waits for its end; whether it ended with its work done.

        Raises:
            RuntimeError: it gave up.
        """
        assert self.process is not None and self.process.stdout is not None
        async for line in self.process.stdout:
            told = json.loads(line)
            self.resumes += told.get("resumes", 0)
            if "idle_kib" in told:
                self.idle_kib.append(told["idle_kib"])
        code = await self.process.wait()
        if code not in (0, -9):
            raise RuntimeError(f"the client ended with {code}")
        return code == 0


class Peaks:
    """The most memory that processes of one kind had above what they had before the stream."""

    def __init__(self) -> None:
        self.above_kib: dict[str, int] = {}

    def note(self, kind: str, pid: int, idle_kib: int) -> None:
        """Reads the peak of a process; of one that is gone nothing can be read."""
        above = memory_kib(pid, "VmHWM") - idle_kib
        self.above_kib[kind] = max(self.above_kib.get(kind, 0), above)


async def stream_once(seed: int, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One stream with its kills, from the first row to the last."""
    from serving import shipped

    rng = np.random.default_rng(seed)
    sink = folder / f"rows.{arguments.kind}"
    settings = {
        "MESHCAST_RUNTIME_MODEL_REPOSITORY": str(shipped()),
        "MESHCAST_RUNTIME_RUNS_MAX": "1",
        "MESHCAST_RUNTIME_THREADS_PER_RUN": "1",
        "MESHCAST_RUNTIME_BACKEND": BACKEND,
    }
    states = [folder / name for name in ("one", "two", "gateway")]
    for state in states:
        state.mkdir()
    replicas = [restartable_predictor(state, settings) for state in states[:2]]
    gateway = restartable_gateway([replica.target for replica in replicas], states[2])
    caller = Client(gateway.target, sink, arguments)
    peaks, kills = Peaks(), Counter[str]()
    async with AsyncExitStack() as stack:
        for process in (*replicas, gateway):
            stack.push_async_callback(process.end)
        stack.callback(caller.kill)
        await asyncio.gather(*(replica.start() for replica in replicas))
        await gateway.start()
        assert gateway.process is not None
        gateway_idle_kib = memory_kib(gateway.process.pid, "VmRSS")

        async def watch() -> None:
            while True:
                if gateway.process is not None:
                    peaks.note("gateway", gateway.process.pid, gateway_idle_kib)
                if caller.process is not None and caller.idle_kib:
                    peaks.note("client", caller.process.pid, min(caller.idle_kib))
                await asyncio.sleep(0.05)

        began = time.perf_counter()
        await caller.start()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch(), name="watch")
            killing = group.create_task(kill_at_random(rng, arguments, sink, replicas, gateway, caller, kills, group))
            while not await caller.ended():
                await asyncio.sleep(rng.uniform(0.0, arguments.pause_s))
                await caller.start()
            seconds = time.perf_counter() - began
            killing.cancel()
            watching.cancel()
    found = await asyncio.to_thread(verified, sink, arguments)
    return {
        "seed": seed,
        "seconds": round(seconds, 1),
        "rows_per_s": round(arguments.rows / seconds),
        "kills": dict(kills),
        "resumes_of_the_last_client": caller.resumes,
        "peak_above_idle_mib": {kind: round(kib / 1024, 1) for kind, kib in peaks.above_kib.items()},
        "idle_mib": {"gateway": round(gateway_idle_kib / 1024), "client": round(min(caller.idle_kib) / 1024)},
        "sink_mib": round(sink.stat().st_size / 2**20, 1),
        **found,
    }


async def kill_at_random(
    rng: np.random.Generator,
    arguments: argparse.Namespace,
    sink: Path,
    replicas: list[Restartable],
    gateway: Restartable,
    caller: Client,
    kills: Counter[str],
    group: asyncio.TaskGroup,
) -> None:
    """Kills as often as asked, each kind alike, in random order and at random rows."""
    victims = np.repeat(["replica", "gateway", "client"], arguments.kills)
    rng.shuffle(victims)
    rows = np.sort(rng.uniform(0.02, 0.75, len(victims))) * arguments.rows

    async def start_again(process: Restartable, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        try:
            await process.start()
        except RuntimeError:
            # Killed once more before it served: whoever did so starts it again.
            if process.process is None or process.process.returncode != -signal.SIGKILL:
                raise

    for victim, row in zip(victims.tolist(), rows.tolist(), strict=True):
        while stored_rows(sink) < row:  # noqa: ASYNC110  # another process writes it
            await asyncio.sleep(POLL_S)
        await asyncio.sleep(rng.uniform(0.0, 0.1))  # not only right after a commit
        kills[victim] += 1
        if victim == "client":
            caller.kill()
            continue
        process = gateway if victim == "gateway" else replicas[int(rng.integers(len(replicas)))]
        process.kill()
        again = group.create_task(start_again(process, rng.uniform(0.0, arguments.pause_s)), name=f"start:{victim}")
        if rng.random() < 0.5:  # else the next kill may come while this one is still away
            await again


def stored_rows(sink: Path) -> int:
    """Rows that the sink has committed, read beside the writer."""
    if sink.suffix == ".sqlite":
        with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{sink}?mode=ro", uri=True)) as database:
            found = database.execute("SELECT rows FROM meshcast_streams").fetchone()
            return int(found[0]) if found else 0
        return 0
    with contextlib.suppress(OSError, ValueError):
        return int(json.loads(sink.with_name(f".{sink.name}.journal").read_bytes())["rows"])
    return 0


def expected() -> NDArray[np.float32]:
    """What the same session answers in this process, by post; NaN where a post has no history."""
    from serving import shipped, tensors_of  # not at the top: the client's process needs no session
    from sessions import open_session

    posts = made_up_posts()
    index = settled_history(posts)
    session = open_session(shipped(), "predictor", BACKEND, VERSION)
    answers = np.full(len(posts), np.nan, dtype=np.float32)
    for first in range(0, len(index), 256):
        part = index[first : first + 256]
        answers[part.row] = session.run(tensors_of(posts, part))["log_engagement"]
    session.close()
    return answers


def verified(sink_path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """What stands in the sink, compared with what was asked for.

    Raises:
        SystemExit: a row is missing, twice, out of order, of another version or wrong.
    """
    wanted, (_, index) = expected(), questions(arguments.rows)
    rows, worst, ids, versions = 0, 0.0, set[bytes](), set[int]()
    for part in blocks_of(sink_path):
        n = len(part["row"])
        stop = rows + n
        faults = [
            not np.array_equal(np.asarray(part["row"]), np.arange(rows, stop)),
            not np.array_equal(np.asarray(part["post"]), index.row[rows:stop]),
            set(part["status"]) != {"OK"},
        ]
        if any(faults):
            raise SystemExit(
                f"rows {rows} to {stop} are not those that were asked for, once each and in order: {faults}"
            )
        error = np.abs(np.asarray(part["log_engagement"]) - wanted[index.row[rows:stop]])
        worst = max(worst, float(error.max()))
        ids.update(_short(text) for text in part["prediction_id"])
        versions.update(np.unique(np.asarray(part["model_version"])).tolist())
        rows = stop
    if rows != arguments.rows or len(ids) != rows or versions != {VERSION} or not worst <= TOLERANCE:
        raise SystemExit(f"{rows} rows with {len(ids)} ids of versions {versions}, off by up to {worst}")
    return {"rows": rows, "max_error_log1p": worst}


def _short(prediction_id: Any) -> bytes:
    chunk, _, row = str(prediction_id).partition(".")
    return bytes.fromhex(chunk)[:8] + int(row).to_bytes(2, "big")


def blocks_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a sink, block by block."""
    sink = SqliteSink(path, table="predictions") if path.suffix == ".sqlite" else open_sink(path)
    with closing(sink):
        sink.open(None)
        yield from sink.read()


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    seeds = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        with tempfile.TemporaryDirectory(prefix="meshcast-resume-") as folder:
            seeds.append(await stream_once(seed, arguments, Path(folder)))
        print(json.dumps(seeds[-1]), file=sys.stderr, flush=True)
    peaks = [one["peak_above_idle_mib"] for one in seeds]
    return {
        "rows": arguments.rows,
        "seeds": len(seeds),
        "kills_per_seed_of_each_kind": arguments.kills,
        "sink": arguments.kind,
        "exactly_once_in_order_and_right": True,  # else `verified` has ended the program
        "max_error_log1p": max(one["max_error_log1p"] for one in seeds),
        "seconds_p50": float(np.median([one["seconds"] for one in seeds])),
        "peak_above_idle_mib": {kind: max(one.get(kind, 0.0) for one in peaks) for kind in ("gateway", "client")},
        "by_seed": seeds,
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of each stream (default: 1,000,000)")
    parser.add_argument("--seeds", type=int, default=20, help="streams, each with its own kills (default: 20)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of the seeds (default: 0)")
    parser.add_argument("--kills", type=int, default=3, help="kills of each kind in a stream (default: 3)")
    parser.add_argument("--pause-s", type=float, default=1.0, help="longest pause before a restart (default: 1)")
    parser.add_argument("--kind", choices=["sqlite", "csv", "jsonl"], default="sqlite", help="sink (default: sqlite)")
    parser.add_argument(
        "--block-rows", type=int, default=0, help="rows of a commit (default: a hundredth, 8,192 at most)"
    )
    parser.add_argument("--client", metavar="TARGET", help=argparse.SUPPRESS)
    parser.add_argument("--sink", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.block_rows = arguments.block_rows or max(256, min(8_192, arguments.rows // 100))
    if arguments.client:
        await client(arguments)
        return
    result = await measure(arguments)
    print(json.dumps({"bench": "gateway_resume", "machine": machine(), **result}, indent=2))


if __name__ == "__main__":
    run(main())
