"""Trainer job: a child process that trains the autoencoder on a reference and installs it, and the parent's side of it.

    python -m meshcast.services.drift.trainer_job --reference FILE.npz --repository FOLDER --version 3

The child writes a JSON line whenever it has got further, and one at its end: `{"version": ...}` or `{"error": ...}`. It
ends when its standard input is closed, so that it never outlives the service that started it. The service itself never
imports torch.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import threading
import zipfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from meshcast.rpc.errors import Cancelled, CorruptData, DeadlineExceeded, Internal, MeshError

__all__ = ["TrainedVersion", "TrainerJob", "load_rows", "main", "save_rows", "why_not"]

log = structlog.get_logger()

_NEEDS = ("torch", "onnx", "onnxscript")
_NICE = 5
_STDERR_KEPT = 4_096
_LINE_BYTES_MAX = 1 << 16


def why_not() -> str:
    """Why no autoencoder can be trained here, with the way out; empty where it can."""
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if not missing:
        return ""
    return f"{', '.join(missing)} cannot be found: pip install 'meshcast[train]'"


def save_rows(file: Path, rows: NDArray[np.float32], columns: Sequence[str]) -> None:
    """Writes what a job trains on.

    Args:
        file: an `.npz`, without pickles.
        rows: shape (m, n), float32, as `features.matrix` gives them.
        columns: their names, n of them.
    """
    with file.open("wb") as opened:
        np.savez(opened, rows=rows, columns=np.array(columns, dtype=np.str_))


def load_rows(file: Path) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Rows and names of columns that `save_rows` wrote.

    Raises:
        CorruptData: the file is missing or is no such file.
    """
    try:
        # Opened here: of a damaged file numpy leaves its own handle open.
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            rows: NDArray[np.float32] = arrays["rows"].astype(np.float32, copy=False)
            columns = tuple(map(str, arrays["columns"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CorruptData(f"{file.name} holds no rows to train on: {error}") from error
    if rows.ndim != 2 or rows.shape[1] != len(columns):
        raise CorruptData(f"{file.name} holds {rows.shape} values under {len(columns)} names.")
    return rows, columns


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedVersion:
    """What a job gave.

    Attributes:
        version: of the model `drift`, in the repository.
        refused: back-ends that may not serve it, with the reason.
    """

    version: int
    refused: Mapping[str, str]


@dataclass(kw_only=True, eq=False)
class TrainerJob:
    """One child process that trains a version. `start` it, then `wait` for it; `cancel` may be called at any time.

    Attributes:
        reference: the file that `save_rows` wrote.
        repository: root of the repository that gets the version.
        version: its number; None takes the next one.
        options: fields of `TrainSettings` as text.
        timeout_s: longest time from start to end.
        environ: the child's whole environment; this process's own when None.
        doing: what the child is at, for a person.
        share: how far it is with that, 0 to 1.
    """

    reference: Path
    repository: Path
    version: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 600.0
    environ: Mapping[str, str] | None = None
    doing: str = ""
    share: float = 0.0
    _process: Process | None = None
    _cancelled: bool = False

    async def start(self) -> None:
        """Starts the child."""
        argv = ["--reference", str(self.reference), "--repository", str(self.repository)]
        if self.version is not None:
            argv += ["--version", str(self.version)]
        for name, value in self.options.items():
            argv += ["--set", f"{name}={value}"]
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, *argv),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=_LINE_BYTES_MAX,
            env={**(os.environ if self.environ is None else self.environ), **one_thread},
        )

    async def wait(self) -> TrainedVersion:
        """What came of it. The child is gone when this returns or raises, a cancelled wait too.

        Raises:
            DeadlineExceeded: it took longer than `timeout_s` and was ended.
            Cancelled: `cancel` was called.
            Internal: training failed; the log has what the child wrote.
        """
        process = self._process
        assert process is not None, "start it first"
        assert process.stderr is not None
        try:
            async with asyncio.timeout(self.timeout_s):
                async with asyncio.TaskGroup() as group:
                    outcome = group.create_task(self._heard(process), name="trainer:stdout")
                    complaint = group.create_task(_tail(process.stderr), name="trainer:stderr")
                await process.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(f"Training took longer than {self.timeout_s:g} s and was ended.") from error
        finally:
            await asyncio.shield(self._end())
        if self._cancelled:
            raise Cancelled("Training was cancelled.")
        found = outcome.result()
        if process.returncode != 0 or "version" not in found:
            log.warning("training failed", code=process.returncode, stderr=complaint.result())
            raise Internal(str(found.get("error") or f"Training ended with code {process.returncode}."))
        return TrainedVersion(version=int(found["version"]), refused=dict(found.get("refused", {})))

    async def cancel(self) -> None:
        """Ends the child at once; nothing of its version is installed unless it was already done."""
        self._cancelled = True
        await self._end()

    async def _heard(self, process: Process) -> dict[str, Any]:
        """The child's last line; those before it tell how far it is."""
        assert process.stdout is not None
        last: dict[str, Any] = {}
        async for line in process.stdout:
            with contextlib.suppress(ValueError):  # a library may print too
                said = json.loads(line)
                if isinstance(said, dict) and "doing" in said:
                    self.doing, self.share = str(said["doing"]), said["done"] / max(1, said["total"])
                elif isinstance(said, dict):
                    last = said
        return last

    async def _end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


async def _tail(stream: asyncio.StreamReader) -> str:
    kept = b""
    while part := await stream.read(_STDERR_KEPT):
        kept = (kept + part)[-_STDERR_KEPT:]
    return kept.decode("utf-8", "replace")


def main(argv: Sequence[str] | None = None) -> int:
    """The child: trains, installs, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="file of rows, as save_rows writes it")
    parser.add_argument("--repository", type=Path, required=True, help="root of the repository")
    parser.add_argument("--version", type=int, help="number of the new version; without it, the next one")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="field of TrainSettings")
    options = parser.parse_args(argv)
    try:
        from meshcast.services.drift.publish import train_rows

        rows, columns = load_rows(options.reference)
        published = train_rows(
            rows,
            options.repository,
            columns=columns,
            options=dict(one.split("=", 1) for one in options.set),
            progress=lambda doing, done, total: _say(doing=doing, done=done, total=total),
            version=options.version,
        )
    except MeshError as error:
        _say(error=error.message)
        return 1
    _say(version=published.version, refused=dict(published.refused))
    return 0


def _say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def _end_with_parent() -> None:
    """Ends this process when its standard input is closed, as it is when the one that started it is gone."""

    def watch() -> None:
        while os.read(0, 1):  # not through sys.stdin, whose lock would be held when this process ends by itself
            pass
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    _end_with_parent()
    sys.exit(main())
