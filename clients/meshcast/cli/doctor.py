"""`meshcast doctor`: what is installed, what is missing, which ports are free, and what this host serves with."""

import json
import os
import platform
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from meshcast.cli.choices import HostChoice, host_choices
from meshcast.cli.mesh_places import door_note, empty_note, places_of
from meshcast.cli.mesh_plan import METRICS_OFFSET, installed_services, is_free
from meshcast.cli.problem import ExitCode, Problem, pip_line, translate
from meshcast.cli.settings import CliSettings, read_settings, state_folder
from meshcast.cli.state import MeshState
from meshcast.gateway.http.settings import LIBRARIES
from meshcast.rpc import MeshError

__all__ = ["Extra", "doctor", "print_extras"]

# What decides how fast models run; as /proc/cpuinfo names them.
CPU_FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")

# Tables that every model service reads and no other process: any one of them knows what is wrong there.
SHARED_TABLES = {"runtime", "tap", "logs", "tracing"}


@dataclass(frozen=True, kw_only=True)
class Extra:
    """One extra of the distribution: its packages with their versions, None where one is missing."""

    name: str
    packages: dict[str, str | None]

    @property
    def is_complete(self) -> bool:
        """True when nothing is missing."""
        return None not in self.packages.values()


@dataclass(frozen=True, kw_only=True)
class Port:
    """A port that the mesh wants: what for, and who has it: free, mesh or another process; or an endpoint that is not
    of this machine, whose replicas the mesh asks and does not start: elsewhere."""

    address: str
    purpose: str
    held_by: str


def doctor(*, config: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Prints the findings.

    Raises:
        Problem: the settings are wrong, or a base package is missing.
    """
    folder = state_folder(state_dir, config)
    running = folder.running()
    extras = _extras()
    wrong: Problem | None = None
    settings: CliSettings | None = None
    try:
        settings = read_settings(config)
        wrong = _servers_problem(settings.path, os.environ)
    except MeshError as error:
        wrong = translate(error)
    ports = [] if settings is None else _ports(settings, running)
    notes = [] if settings is None else _notes(settings)
    choices = host_choices(folder.root)
    cpu: dict[str, object] = {"name": _cpu_name(), "cores": os.cpu_count(), "features": _cpu_features()}
    services = sorted(installed_services())
    if as_json:
        document = {
            "meshcast": version("meshcast"),
            "python": platform.python_version(),
            "system": platform.platform(),
            "cpu": cpu,
            "extras": {extra.name: extra.packages for extra in extras},
            "services": services,
            "settings": {
                "file": None if settings is None or settings.path is None else str(settings.path),
                "problem": None if wrong is None else wrong.message,
                "notes": notes,
            },
            "ports": [asdict(port) for port in ports],
            "state": str(folder.root),
            "running": running is not None,
            "choices": [asdict(choice) for choice in choices],
        }
        print(json.dumps(document, indent=2))
    else:
        console = Console()
        _print_host(console, cpu, folder.root, services)
        print_extras(console, extras)
        _print_ports(console, ports, settings, wrong)
        for note in notes:
            console.print(note, style="yellow", highlight=False, markup=False, soft_wrap=True)
        _print_choices(console, choices)
    if wrong is not None:
        raise wrong
    base = next(extra for extra in extras if extra.name == "base")
    if not base.is_complete:
        raise Problem(
            "the installation is incomplete",
            exit_code=ExitCode.EXTRA_MISSING,
            way_out="pip install --force-reinstall meshcast",
        )


def _servers_problem(path: Path | None, environ: Mapping[str, str]) -> Problem | None:
    """What the services say of the tables that only they know; each that has a table of its own reads it."""
    tables = set() if path is None else set(tomllib.loads(path.read_text("utf-8")))
    tables |= {name.split("_")[1].lower() for name in environ if name.startswith("MESHCAST_") and name.count("_") > 1}
    installed = sorted(installed_services())
    asked = [name for name in installed if name in tables] or (installed[:1] if tables & SHARED_TABLES else [])
    given = [] if path is None else ["--config", str(path)]
    going = [
        subprocess.Popen(
            [sys.executable, "-m", "meshcast.services", name, "--check", *given],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in asked
    ]
    told = [
        (name, process.communicate()[1].strip(), process.returncode) for name, process in zip(asked, going, strict=True)
    ]
    wrong = [text.splitlines()[-1].removeprefix(f"{name}: ") for name, text, code in told if code == ExitCode.USAGE]
    return Problem(wrong[0]) if wrong else None


def _extras() -> list[Extra]:
    """The distribution's own list, so that no second one can differ from it."""
    found: dict[str, dict[str, str | None]] = {"base": {}}
    for requirement in requires("meshcast") or ():
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        extra = re.search(r"extra == ['\"]([^'\"]+)['\"]", requirement)
        assert name is not None
        if name[0] != "meshcast":  # an extra that is made of others lists nothing of its own for them
            found.setdefault(extra[1] if extra else "base", {})[name[0]] = _version(name[0])
    # What an older installation's list does not know is missing all the same.
    found.setdefault("gateway", {}).update({name: None for name in LIBRARIES if find_spec(name) is None})
    return [Extra(name=name, packages=packages) for name, packages in found.items()]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _ports(settings: CliSettings, running: MeshState | None) -> list[Port]:
    wanted = [("gateway", settings.gateway.port), ("gateway's metrics", settings.gateway.metrics_port)]
    wanted.append(("gateway's HTTP", settings.gateway.http.port or 0))
    elsewhere: list[Port] = []
    for name, route in settings.gateway.routes.items():
        places = places_of(route.endpoints, settings.rpc.host)
        for port in places.ports:
            wanted += [(name, port), (f"{name}'s metrics", port + METRICS_OFFSET)]
        elsewhere += [Port(address=endpoint, purpose=name, held_by="elsewhere") for endpoint in places.asked]
    ours = set()
    if running is not None:
        for part in running.parts:
            ours |= {int(part.address.rpartition(":")[2]), part.metrics_port}
            if part.http_address:
                ours.add(int(part.http_address.rpartition(":")[2]))
    host = settings.rpc.host
    return [
        Port(
            address=f"{host}:{port}",
            purpose=purpose,
            held_by="mesh" if port in ours else "free" if is_free(host, port) else "another process",
        )
        for purpose, port in wanted
        if port
    ] + elsewhere


def _notes(settings: CliSettings) -> list[str]:
    """What of the settings is not done, or done otherwise, a sentence each."""
    names = sorted({*settings.gateway.routes, *installed_services()})
    return [note for note in (*(empty_note(name, settings) for name in names), door_note(settings)) if note]


def _print_host(console: Console, cpu: dict[str, object], root: Path, services: list[str]) -> None:
    features = cpu["features"]
    assert isinstance(features, list)
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("meshcast", version("meshcast")),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("cpu", f"{cpu['name']}, {cpu['cores']} cores: {' '.join(features) or 'no known features'}"),
        ("state", str(root)),
        ("services", ", ".join(services) or "none"),
    ):
        table.add_row(f"[bold]{name}[/]", value)
    console.print(table)


def print_extras(console: Console, extras: list[Extra]) -> None:
    """Prints a row an extra; the developers' own only where all of it is installed."""
    table = Table("extra", "", "packages", title="Installed", title_justify="left")
    for extra in extras:
        if extra.name == "dev" and not extra.is_complete:
            continue  # who only uses the mesh lacks nothing; --json lists it
        shown = ", ".join(
            f"{name} {found}" if found is not None else f"[red]{name} missing[/]"
            for name, found in extra.packages.items()
        )
        missing = "" if extra.is_complete or extra.name == "base" else f"\n[cyan]{pip_line(extra.name)}[/]"
        # The pip line holds brackets, which rich would take for markup.
        missing = missing.replace("meshcast[", "meshcast\\[")
        table.add_row(extra.name, "[green]ok[/]" if extra.is_complete else "[yellow]-[/]", shown + missing)
    console.print(table)


def _print_ports(console: Console, ports: list[Port], settings: CliSettings | None, wrong: Problem | None) -> None:
    if wrong is not None:
        console.print(f"[red]settings are wrong:[/] {escape(str(wrong))}")
    if settings is None:
        return
    console.print(f"[bold]settings[/] {settings.path or 'no file: defaults and environment'}")
    colors = {"free": "green", "mesh": "cyan", "elsewhere": "yellow"}
    table = Table(title="Ports", title_justify="left")
    for heading in ("port", "for", "held by"):
        table.add_column(heading, overflow="fold")
    for port in ports:
        holder = "elsewhere: asked, not started" if port.held_by == "elsewhere" else port.held_by
        table.add_row(escape(port.address), port.purpose, f"[{colors.get(port.held_by, 'red')}]{holder}[/]")
    console.print(table)


def _print_choices(console: Console, choices: list[HostChoice]) -> None:
    if not choices:
        console.print("[bold]back-ends[/] none chosen yet: the first load of a model measures them")
        return
    table = Table(title="Back-ends chosen on this host", title_justify="left")
    for heading in ("model", "back-end", "measured, rows/s", "kept in"):
        table.add_column(heading, overflow="fold")
    for choice in choices:
        speeds = "\n".join(f"{name} {rate:,.0f}" for name, rate in choice.rows_per_s.items())
        table.add_row(choice.model, f"[green]{choice.backend}[/]", speeds, choice.file)
    console.print(table)


def _cpu_name() -> str:
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cpu_features() -> list[str]:
    flags = next((line.partition(":")[2].split() for line in _cpuinfo() if line.startswith("flags")), [])
    return [feature for feature in CPU_FEATURES if feature in flags]


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
