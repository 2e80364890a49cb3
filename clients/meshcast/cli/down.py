"""`meshcast down`: drains the mesh that `meshcast up` started, also when its supervisor is gone."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from meshcast.cli.problem import ExitCode, Problem
from meshcast.cli.settings import state_folder
from meshcast.cli.state import MeshState, PartState, alive

__all__ = ["down"]

POLL_S = 0.05


def down(*, config: Path | None, state_dir: Path | None, timeout_s: float) -> None:
    """Stops the mesh and returns when every process has ended; nothing to stop is no error.

    Args:
        config: as given to `up`.
        state_dir: as given to `up`.
        timeout_s: longest wait for the drain.

    Raises:
        Problem: processes are left after `timeout_s`.
    """
    folder = state_folder(state_dir, config)
    state = folder.read()
    console = Console()
    if state is None or not (state.is_running or any(map(_lives, state.parts))):
        console.print("no mesh runs here")
        return
    began = time.monotonic()
    if state.is_running:
        os.kill(state.supervisor_pid, signal.SIGTERM)
        _wait(lambda: not state.is_running, began + timeout_s)
    else:
        console.print("[yellow]its supervisor is gone[/yellow]: draining its processes")
        _drain(state, began + timeout_s)
    left = [part.name for part in (folder.read() or state).parts if _lives(part)]
    if left or state.is_running:
        raise Problem(
            f"the mesh did not end within {timeout_s:g} s; left: {', '.join(left) or 'its supervisor'}",
            exit_code=ExitCode.REFUSED,
            way_out="`meshcast down` again, with a longer --timeout",
        )
    console.print(f"[green]drained[/green] and stopped in {time.monotonic() - began:.1f} s")


def _drain(state: MeshState, until: float) -> None:
    """The supervisor's own order: the gateway, then everything else together."""
    gateway = [part for part in state.parts if part.name == "gateway"]
    services = [part for part in state.parts if part.name != "gateway"]
    for wave in (gateway, services):
        living = [part for part in wave if _lives(part)]
        for part in living:
            os.kill(part.pid, signal.SIGTERM)
        _wait(lambda living=living: not any(map(_lives, living)), until)  # type: ignore[misc]  # bound per wave


def _lives(part: PartState) -> bool:
    return alive(part.pid, part.birth)


def _wait(done: Callable[[], bool], until: float) -> None:
    while not done() and time.monotonic() < until:
        time.sleep(POLL_S)
