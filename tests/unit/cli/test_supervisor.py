"""The supervisor over real processes: small Python programs that listen where they are told to."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meshcast.cli.keeper import Keeper, KeeperLimits, Part
from meshcast.cli.problem import ExitCode, Problem
from meshcast.cli.state import PartState, alive
from meshcast.cli.supervisor import Supervisor

# Listens on its port until SIGTERM, and writes what happened to it into the journal that all share.
LISTENER = """
import os, signal, socket, sys, time
name, journal, mode = sys.argv[1:4]
def note(what):
    with open(journal, "a") as file:
        file.write(f"{name} {what}\\n")
if mode == "broken":
    print("cannot find the model", flush=True)
    sys.exit(7)
def end(*_):
    note("drained")
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "stubborn" else end)
listener = socket.create_server(("127.0.0.1", 0))
with open(f"{journal}.{name}", "w") as file:
    file.write(str(listener.getsockname()[1]))
note("started")
while True:
    time.sleep(60)
"""


class Mesh:
    """Keepers over LISTENER programs, what they said, and the journal that the programs wrote."""

    def __init__(self, folder: Path, limits: KeeperLimits) -> None:
        self.folder = folder
        self.limits = limits
        self.journal = folder / "journal"
        self.said: list[str] = []
        self.states: list[PartState] = []

    def keeper(self, name: str, mode: str = "well") -> Keeper:
        part = Part(
            name=name,
            argv=(sys.executable, "-c", LISTENER, name, str(self.journal), mode),
            environ=dict(os.environ),
            address=name,
            health_service="service",
            metrics_port=0,
            log=self.folder / f"{name}.log",
        )
        return Keeper(part, limits=self.limits, probe=self.probe, changed=self.states.append, said=self.said.append)

    def port_file(self, name: str) -> Path:
        return Path(f"{self.journal}.{name}")

    def forget_port(self, name: str) -> None:
        """From here on nobody answers: the same silence as a frozen process's."""
        self.port_file(name).write_text("1")

    def port(self, name: str) -> int:
        return int(self.port_file(name).read_text())

    async def probe(self, address: str, service: str) -> str:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port(address))
        except (OSError, ValueError):
            return ""
        writer.close()
        return "SERVING"

    def lines(self) -> list[str]:
        return self.journal.read_text().splitlines()


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    limits = KeeperLimits(ready_s=20, poll_s=0.01, backoff_s=0.01, liveness_s=0.05, silent_max=2, drain_s=10)
    return Mesh(tmp_path, limits)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110  # another process's doing: there is no event to wait for
            await asyncio.sleep(0.01)


async def test_the_gateway_starts_last_and_drains_first(mesh: Mesh) -> None:
    stop, hurry, ready = asyncio.Event(), asyncio.Event(), asyncio.Event()
    supervisor = Supervisor(services=[mesh.keeper("a"), mesh.keeper("b")], gateway=mesh.keeper("gateway"))
    running = asyncio.create_task(supervisor.run(stop=stop, hurry=hurry, ready=ready.set))
    await asyncio.wait_for(ready.wait(), 20)
    stop.set()
    await asyncio.wait_for(running, 20)
    lines = mesh.lines()
    assert sorted(lines[:2]) == ["a started", "b started"]
    assert lines[2:4] == ["gateway started", "gateway drained"]
    assert sorted(lines[4:]) == ["a drained", "b drained"]
    assert {state.name: state.state for state in mesh.states} == {"a": "stopped", "b": "stopped", "gateway": "stopped"}


async def test_a_process_that_ends_is_started_again(mesh: Mesh) -> None:
    keeper = mesh.keeper("a")
    await keeper.start()
    keeping = asyncio.create_task(keeper.keep())
    first = keeper.state.pid
    os.kill(first, signal.SIGKILL)
    await until(lambda: keeper.state.state == "serving" and keeper.state.pid != first)
    assert keeper.state.restarts == 1
    assert "SIGKILL" in mesh.said[0]
    keeping.cancel()
    await keeper.stop(asyncio.Event())
    assert mesh.lines() == ["a started", "a started", "a drained"]


async def test_a_frozen_process_is_taken_for_dead(mesh: Mesh) -> None:
    keeper = mesh.keeper("a")
    await keeper.start()
    mesh.forget_port("a")
    keeping = asyncio.create_task(keeper.keep())
    await until(lambda: keeper.state.restarts == 1 and keeper.state.state == "serving")
    assert "answered nothing" in mesh.said[0]
    keeping.cancel()
    await keeper.stop(asyncio.Event())


async def test_a_process_that_never_comes_up_stops_the_start_and_shows_its_log(mesh: Mesh) -> None:
    supervisor = Supervisor(services=[mesh.keeper("a"), mesh.keeper("b", "broken")], gateway=mesh.keeper("gateway"))
    with pytest.raises(BaseExceptionGroup) as caught:
        await supervisor.run(stop=asyncio.Event(), hurry=asyncio.Event(), ready=lambda: None)
    (problem,) = caught.value.exceptions
    assert isinstance(problem, Problem)
    assert problem.exit_code is ExitCode.REFUSED
    assert "b ended with code 7" in problem.message
    assert "cannot find the model" in problem.details
    assert not any(alive(state.pid, state.birth) for state in mesh.states)


async def test_stop_during_the_start_ends_what_was_started(mesh: Mesh) -> None:
    stop = asyncio.Event()
    keeper = mesh.keeper("a")
    supervisor = Supervisor(services=[keeper], gateway=mesh.keeper("gateway"))
    running = asyncio.create_task(supervisor.run(stop=stop, hurry=asyncio.Event(), ready=lambda: None))
    await until(lambda: keeper.state.pid)
    stop.set()
    await asyncio.wait_for(running, 20)
    assert not any(alive(state.pid, state.birth) for state in mesh.states)


async def test_a_second_signal_ends_what_will_not_drain(mesh: Mesh) -> None:
    keeper, hurry = mesh.keeper("a", "stubborn"), asyncio.Event()
    await keeper.start()
    pid, birth = keeper.state.pid, keeper.state.birth
    stopping = asyncio.create_task(keeper.stop(hurry))
    await asyncio.sleep(0.05)
    assert alive(pid, birth)
    hurry.set()
    await asyncio.wait_for(stopping, 20)
    assert not alive(pid, birth)
