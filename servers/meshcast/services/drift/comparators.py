"""Comparators of the e-detector of losses: ADWIN, Page-Hinkley and DDM, as the package river has them.

They run in a short-lived child process: importing river takes seconds and some 180 MB, which a serving process that is
seldom asked for them should not keep. The child reads losses as raw float32 from its standard input.

    python -m meshcast.services.drift.comparators adwin ddm < losses.f32
"""

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc.errors import DeadlineExceeded, Internal, InvalidInput, Precondition

__all__ = ["ALARMS_MAX", "NAMES", "Comparators", "alarms_of", "main"]

log = structlog.get_logger()

NAMES = ("adwin", "page_hinkley", "ddm")
"""The comparators by name, each with river's own settings; Page-Hinkley watches for rises alone."""

ALARMS_MAX = 1_000
"""Most alarms of one comparator that are told; the first ones."""

LOSSES_MAX = 1 << 20
"""Most losses of one run: 4 MiB of input."""


class Comparators:
    """Runs comparators, one child process at a time.

    Args:
        timeout_s: longest time of a call, waiting for another's child to end included.
        environ: the child's whole environment; this process's own when None.
    """

    def __init__(self, *, timeout_s: float = 30.0, environ: Mapping[str, str] | None = None) -> None:
        self._timeout_s = timeout_s
        self._environ = environ
        self._turn = asyncio.Semaphore(1)

    async def alarms(self, losses: NDArray[np.floating[Any]], names: Sequence[str]) -> dict[str, list[int]]:
        """Positions of the rises that each comparator finds, by its name, counted from 0; at most `ALARMS_MAX` of each.

        They begin with the first of these losses and keep nothing from call to call. An alarm of ADWIN at which the
        mean of its window falls is left out.

        Args:
            losses: shape (n,), 0 to 1, oldest first; of 0 and 1 for DDM.
            names: of `NAMES`.

        Raises:
            InvalidInput: a name is unknown, or there are too many losses.
            Precondition: EXTRA_MISSING, river is not installed.
            DeadlineExceeded: it took too long.
            Internal: the child failed; the log has what it wrote.
        """
        unknown = sorted(set(names) - set(NAMES))
        if unknown:
            raise InvalidInput(f"there is no comparator {unknown[0]!r}; known: {', '.join(NAMES)}", field="comparators")
        if len(losses) > LOSSES_MAX:
            raise InvalidInput(f"has {len(losses):,} losses, at most {LOSSES_MAX:,}", field="losses")
        if find_spec("river") is None:
            command = "pip install 'meshcast[compare]'"
            raise Precondition(
                f"the comparators need river, which is not installed: {command}",
                reason=ErrorReason.ERROR_REASON_EXTRA_MISSING,
                extra="compare",
                command=command,
            )
        try:
            async with asyncio.timeout(self._timeout_s), self._turn:
                return await self._run(np.asarray(losses, dtype="<f4").tobytes(), names)
        except TimeoutError as error:
            raise DeadlineExceeded(f"The comparators took longer than {self._timeout_s:g} s.") from error

    async def _run(self, sent: bytes, names: Sequence[str]) -> dict[str, list[int]]:
        child = await asyncio.create_subprocess_exec(
            # By its file, not by its name: what the package imports to serve takes longer than river.
            *(sys.executable, "-P", __file__, *names),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env={**(os.environ if self._environ is None else self._environ), "OMP_NUM_THREADS": "1"},
        )
        try:
            out, complaint = await child.communicate(sent)
        finally:
            await asyncio.shield(_ended(child))
        try:
            found = json.loads(out)
            return {name: [int(at) for at in found[name]] for name in names}
        except (ValueError, KeyError, TypeError) as error:
            log.warning(
                "comparators failed", code=child.returncode, stderr=complaint[-4_096:].decode("utf-8", "replace")
            )
            raise Internal("The comparators failed.") from error


async def _ended(child: Process) -> None:
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


def alarms_of(name: str, losses: Sequence[float]) -> list[int]:
    """Positions of the rises that one comparator finds, in this process; see `Comparators.alarms`."""
    from river import drift

    found = []
    if name == "adwin":
        adwin: Any = drift.ADWIN()  # type: ignore[no-untyped-call]  # river types some of its methods
        for at, loss in enumerate(losses):
            before = adwin.estimation
            adwin.update(loss)
            if adwin.drift_detected and adwin.estimation > before:
                found.append(at)
        return found
    detector: Any = drift.PageHinkley(mode="up") if name == "page_hinkley" else drift.binary.DDM()
    for at, loss in enumerate(losses):
        detector.update(loss)
        if detector.drift_detected:
            found.append(at)
    return found


def main(names: Sequence[str]) -> int:
    """The child: reads losses, prints alarms by name, and returns the exit code."""
    losses = np.frombuffer(sys.stdin.buffer.read(4 * LOSSES_MAX), dtype="<f4").astype(np.float64).tolist()
    print(json.dumps({name: alarms_of(name, losses)[:ALARMS_MAX] for name in names}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
