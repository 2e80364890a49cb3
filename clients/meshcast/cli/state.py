"""What `meshcast up` leaves on disk: who runs, on which ports, since when, and where the logs are."""

import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from meshcast.cli.problem import ExitCode, Problem

__all__ = ["MeshState", "PartState", "RUNNING_WAY_OUT", "StateFolder", "alive", "birth_of"]


RUNNING_WAY_OUT = "`meshcast status` shows it, `meshcast down` stops it, --state-dir keeps a second one apart"


@dataclass(frozen=True, kw_only=True)
class PartState:
    """One process of the mesh.

    Attributes:
        name: as in `predictor`; `gateway` for the gateway.
        address: `host:port` of its gRPC port.
        metrics_port: port of its Prometheus metrics.
        pid: process id; 0 while it does not run.
        birth: mark of the process that had this pid, so that a recycled pid is never taken for it.
        state: starting, serving, restarting, stopped or failed.
        restarts: times it was started again.
        log: path of its log file.
        http_address: of its HTTP door, as in `http://127.0.0.1:8000`; empty without one.
    """

    name: str
    address: str
    metrics_port: int
    pid: int = 0
    birth: str = ""
    state: str = "starting"
    restarts: int = 0
    log: str = ""
    http_address: str = ""


@dataclass(frozen=True, kw_only=True)
class MeshState:
    """The mesh that runs from one state folder.

    Attributes:
        supervisor_pid: process id of `meshcast up`.
        supervisor_birth: its birth mark, as in PartState.
        config: path of the settings file that the processes read.
        parts: its processes, the gateway last.
        notes: what the settings say and `meshcast up` did not do, or did otherwise.
    """

    supervisor_pid: int
    supervisor_birth: str
    config: str
    parts: tuple[PartState, ...] = field(default=())
    notes: tuple[str, ...] = ()

    @property
    def is_running(self) -> bool:
        """True while its supervisor lives."""
        return alive(self.supervisor_pid, self.supervisor_birth)

    @property
    def is_serving(self) -> bool:
        """True when every process has said that it serves."""
        return bool(self.parts) and all(part.state == "serving" for part in self.parts)

    def part(self, name: str) -> PartState | None:
        """The process of this name; None when the mesh has none."""
        return next((part for part in self.parts if part.name == name), None)

    def with_part(self, changed: PartState) -> "MeshState":
        """The same mesh with one process as it is now."""
        return replace(self, parts=tuple(changed if part.name == changed.name else part for part in self.parts))


class StateFolder:
    """The folder that holds one mesh's state file, lock, effective settings and logs.

    Args:
        root: the state directory of this user; `mesh/` below it is ours.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "mesh"
        self.file = self.folder / "state.json"
        self.config = self.folder / "meshcast.toml"
        self.logs = self.folder / "logs"

    def read(self) -> MeshState | None:
        """The mesh that was last started from here; None when there was none.

        Raises:
            Problem: the file cannot be understood.
        """
        try:
            raw: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
            parts = tuple(PartState(**part) for part in raw.pop("parts"))
            notes = tuple(raw.pop("notes", ()))
            return MeshState(**raw, parts=parts, notes=notes)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Problem(
                f"{self.file}: not a state file that this version of meshcast wrote ({error})",
                exit_code=ExitCode.REFUSED,
                way_out="end its processes and remove the file",
            ) from error

    def running(self) -> MeshState | None:
        """The mesh that runs from here now; None when none does."""
        state = self.read()
        return state if state is not None and state.is_running else None

    def write(self, state: MeshState) -> None:
        """Replaces the state file in one step, so that a reader never sees half of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")
        fresh.replace(self.file)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds this folder for one supervisor.

        Raises:
            Problem: another supervisor holds it.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise Problem(
                    f"a mesh runs already from {self.root}",
                    exit_code=ExitCode.REFUSED,
                    way_out=RUNNING_WAY_OUT,
                ) from error
            yield


def birth_of(pid: int) -> str:
    """A mark that tells a process from a later one with the same id; empty when there is no such process."""
    try:
        # Field 22 counted after the name, which may hold spaces and brackets: clock ticks from boot to its start.
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        # A zombie has ended; only its parent has not looked yet.
        return "" if after_name[0] == "Z" else after_name[19]
    except OSError:
        if os.path.isdir("/proc/self"):
            return ""
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def alive(pid: int, birth: str) -> bool:
    """True while the process that had this id and birth mark lives."""
    return pid > 0 and birth != "" and birth_of(pid) == birth
