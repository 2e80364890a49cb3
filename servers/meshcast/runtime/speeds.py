"""Speeds of back-ends on this host: measured on recorded rows, and kept by host and graph."""

import contextlib
import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import structlog

from meshcast.runtime.evidence import Recorded
from meshcast.runtime.session import Session, rows_from
from meshcast.runtime.signature import Arrays, Signature

__all__ = ["SpeedFile", "feeds", "host_fingerprint", "measure"]

log = structlog.get_logger()

SIZES = (1, 8, 64)  # batches that decide beside the largest: what single calls make at low, middling and high load


class SpeedFile:
    """Measured rows per second by back-end, in a file that a process on the same host finds again.

    Args:
        folder: where it lies; None: nothing is kept.
        key: whatever else tells one measurement from another, as the sum of the graph; the host is added here.
    """

    def __init__(self, folder: Path | None, key: str) -> None:
        name = hashlib.sha256(f"{host_fingerprint()} {key}".encode()).hexdigest()[:24]
        self._path = None if folder is None else folder / f"speeds-{name}.json"

    def read(self) -> dict[str, float]:
        """What was kept; empty where nothing was."""
        if self._path is None:
            return {}
        try:
            return {str(name): float(speed) for name, speed in json.loads(self._path.read_text("utf-8")).items()}
        except (OSError, ValueError, AttributeError):  # never written, or half: measure again
            return {}

    def write(self, speeds: Mapping[str, float]) -> None:
        """Keeps the speeds; a folder that cannot be written costs a measurement at the next start."""
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(dict(speeds)), "utf-8")
            temporary.replace(self._path)
        except OSError as error:
            log.warning("the measured speeds could not be kept", why=error.strerror)


def feeds(signature: Signature, recorded: Recorded, rows_max: int) -> list[Arrays]:
    """Batches whose times decide: single rows, middling and large batches; ragged rows short, middling and long.

    Args:
        signature: of the model.
        recorded: real rows.
        rows_max: largest batch in use.
    """
    inputs = recorded.inputs
    have = len(next(iter(inputs.values())))
    sizes = sorted({*SIZES, rows_max})
    if not signature.is_ragged:
        return [{name: values[np.arange(size) % have] for name, values in inputs.items()} for size in sizes]
    found = []
    for place in sorted({have // 4, have // 2, 3 * have // 4}):
        for size in sizes[:2]:
            pick, lengths = rows_from(signature, inputs, place, size)
            found.append(signature.at_lengths({name: values[pick] for name, values in inputs.items()}, lengths))
    return found


def measure(sessions: Sequence[tuple[Session, Sequence[Arrays]]], budget_s: float) -> list[float]:
    """Rows per second of each session: the geometric mean over its batches, so that each of them counts alike.

    The best time of several counts. They run in turns, so that strangers disturb all alike.

    Args:
        sessions: each with its batches.
        budget_s: most seconds, but three rounds are run anyhow.
    """
    best = [[float("inf")] * len(batches) for _, batches in sessions]
    end = time.perf_counter() + budget_s
    rounds = 0
    while rounds < 3 or (time.perf_counter() < end and rounds < 200):
        rounds += 1
        for times, (session, batches) in zip(best, sessions, strict=True):
            for place, batch in enumerate(batches):
                began = time.perf_counter()
                session.run(batch)
                times[place] = min(times[place], time.perf_counter() - began)
    return [
        math.exp(
            sum(math.log(len(next(iter(batch.values()))) / took) for batch, took in zip(batches, times, strict=True))
            / len(batches)
        )
        for times, (_, batches) in zip(best, sessions, strict=True)
    ]


def host_fingerprint() -> str:
    """A text that differs between hosts that may rank back-ends differently: processor, cores, library versions."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        processor = "|".join(sorted({line for line in lines if line.startswith(wanted)}))
    except OSError:  # not Linux
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = [f"{name} {_version(name)}" for name in ("onnxruntime", "onnxruntime-gpu", "openvino", "numpy")]
    with contextlib.suppress(OSError):  # no NVIDIA driver
        gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        versions += [line for gpu in gpus for line in gpu.read_text("utf-8").splitlines() if line.startswith("Model")]
    return hashlib.sha256("\n".join([processor, str(cores), *versions]).encode()).hexdigest()


def _version(distribution: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"
