"""`meshcast up`: the whole mesh on this machine, one process a service, supervised until it is told to stop."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from meshcast.cli.keeper import Keeper, KeeperLimits
from meshcast.cli.mesh_plan import MeshPlan, check_ports, plan
from meshcast.cli.problem import ExitCode, Problem
from meshcast.cli.settings import CliSettings, log_to_stderr, read_settings, state_folder
from meshcast.cli.state import RUNNING_WAY_OUT, MeshState, PartState, StateFolder, alive, birth_of
from meshcast.cli.supervisor import Supervisor
from meshcast.rpc import MeshError, TlsSettings
from meshcast.rpc import probe as ask

__all__ = ["print_mesh", "up"]

PROBE_S = 1.0  # longest wait for one health answer; a process that is busy loading answers within milliseconds
POLL_S = 0.1


def up(
    *,
    config: Path | None,
    state_dir: Path | None,
    host: str | None,
    only: Sequence[str],
    ports: Sequence[str],
    free_ports: bool,
    detach: bool,
    ready_s: float,
) -> None:
    """Starts the mesh and keeps it until SIGINT or SIGTERM; detached, returns once it serves.

    Raises:
        Problem: a mesh runs already, a port is in use, or a process does not come up.
    """
    folder = state_folder(state_dir, config)
    if detach:
        # Put together anew: taken from the command line as typed, a `-dp` would detach again, for ever.
        words = ["--ready", str(ready_s), *(["--free-ports"] if free_ports else [])]
        for option, value in (("--config", config), ("--state-dir", state_dir), ("--host", host)):
            words += [] if value is None else [option, str(value)]
        for option, values in (("--only", only), ("--port", ports)):
            words += [word for value in values for word in (option, value)]
        _detach(folder, words, ready_s)
        return
    log_to_stderr()
    settings = read_settings(config)
    with folder.locked():
        _refuse_orphans(folder)
        planned = plan(
            settings,
            folder,
            host=host,
            only=only,
            ports=dict(map(_named_port, ports)),
            free_ports=free_ports,
            environ=os.environ,
        )
        check_ports(planned)
        asyncio.run(_run(planned, settings, folder, ready_s))


async def _run(planned: MeshPlan, settings: CliSettings, folder: StateFolder, ready_s: float) -> None:
    console = Console()
    limits = KeeperLimits(
        ready_s=ready_s,
        backoff_s=settings.up.backoff_s,
        backoff_s_max=settings.up.backoff_s_max,
        liveness_s=settings.up.liveness_s,
        silent_max=settings.up.silent_max,
        drain_s=settings.rpc.drain_delay_s + settings.rpc.drain_s + settings.up.drain_margin_s,
    )
    pid = os.getpid()
    state = MeshState(
        supervisor_pid=pid,
        supervisor_birth=birth_of(pid),
        config="" if settings.path is None else str(settings.path),
        notes=planned.notes,
    )

    def changed(part: PartState) -> None:
        nonlocal state
        state = state.with_part(part)
        folder.write(state)

    def said(sentence: str) -> None:
        console.print(f"[yellow]{time.strftime('%H:%M:%S')}[/yellow] {sentence}", highlight=False)

    async def probed(address: str, service: str) -> str:
        return await _probe(address, service, settings.tls)

    parts = (*planned.services, planned.gateway)
    keepers = [Keeper(part, limits=limits, probe=probed, changed=changed, said=said) for part in parts]
    state = replace(state, parts=tuple(one.state for one in keepers))
    folder.write(state)

    stop, hurry = asyncio.Event(), asyncio.Event()

    def asked_to_stop() -> None:
        if stop.is_set():
            hurry.set()
            return
        console.print("draining, the gateway first (again: end at once)")
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, asked_to_stop)

    def ready() -> None:
        print_mesh(console, state)
        console.print("[green]the mesh serves[/green]; Ctrl-C drains and stops it", highlight=False)

    console.print(f"starting {', '.join(part.name for part in parts)} …", highlight=False)
    supervisor = Supervisor(services=keepers[:-1], gateway=keepers[-1])
    await supervisor.run(stop=stop, hurry=hurry, ready=ready)
    console.print("[green]stopped[/green]")


async def _probe(address: str, service: str, tls: TlsSettings) -> str:
    try:
        return (await ask(address, service, timeout_s=PROBE_S, tls=tls)).name
    except MeshError:
        return ""


def print_mesh(console: Console, state: MeshState) -> None:
    """Prints where the processes of a mesh are, and what was not done of its settings."""
    table = Table()
    for heading in ("process", "gRPC", "metrics", "pid"):
        table.add_column(heading, overflow="fold")  # cut, it could not be copied
    for part in state.parts:
        table.add_row(part.name, part.address, str(part.metrics_port or "-"), str(part.pid))
    console.print(table)
    for part in state.parts:
        if part.http_address:
            console.print(f"HTTP: {part.http_address}", highlight=False, soft_wrap=True)
    for note in state.notes:
        console.print(note, style="yellow", highlight=False, markup=False, soft_wrap=True)
    logs = sorted({str(Path(part.log).parent) for part in state.parts})
    console.print(f"logs: {', '.join(logs)}", highlight=False, soft_wrap=True)


def _detach(folder: StateFolder, words: Sequence[str], ready_s: float) -> None:
    """Runs `meshcast up` with these options in a session of its own and waits until its mesh serves."""
    console = Console()
    running = folder.running()
    if running is not None:
        raise Problem(
            f"a mesh runs already from {folder.root}",
            exit_code=ExitCode.REFUSED,
            way_out=RUNNING_WAY_OUT,
        )
    folder.logs.mkdir(parents=True, exist_ok=True)
    log = folder.logs / "up.log"
    with open(log, "wb") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "meshcast.cli", "up", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    until = time.monotonic() + ready_s * 2  # services first, then the gateway
    try:
        while time.monotonic() < until:
            if supervisor.poll() is not None:
                tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise Problem(
                    "the mesh did not start",
                    exit_code=ExitCode(supervisor.returncode)
                    if supervisor.returncode in list(ExitCode)
                    else ExitCode.REFUSED,
                    details=tail[-16:],
                )
            state = folder.read()
            if state is not None and state.supervisor_pid == supervisor.pid and state.is_serving:
                print_mesh(console, state)
                console.print("[green]the mesh serves[/green]; `meshcast down` drains and stops it", highlight=False)
                return
            time.sleep(POLL_S)
    except BaseException:
        if supervisor.poll() is None:
            supervisor.terminate()
        raise
    supervisor.terminate()
    raise Problem(f"the mesh did not serve within {ready_s * 2:g} s", exit_code=ExitCode.REFUSED, way_out=f"read {log}")


def _refuse_orphans(folder: StateFolder) -> None:
    """Processes of a supervisor that was killed still hold their ports, and would be forgotten by a new state file."""
    state = folder.read()
    orphans = [part.name for part in state.parts if alive(part.pid, part.birth)] if state is not None else []
    if orphans:
        raise Problem(
            f"processes of an earlier mesh still run: {', '.join(orphans)}",
            exit_code=ExitCode.REFUSED,
            way_out="`meshcast down` drains them",
        )


def _named_port(word: str) -> tuple[str, int]:
    name, _, number = word.partition("=")
    if not (number.isascii() and number.isdigit()) or not 0 < int(number) < 65_536:
        raise Problem(f"--port {word!r} is not NAME=PORT", way_out="as in --port gateway=9001")
    return name, int(number)
