"""The plan of a local mesh: which processes, on which ports, with which settings."""

import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from meshcast.cli.keeper import Part
from meshcast.cli.mesh_places import Places, asked_note, door_note, empty_note, places_of
from meshcast.cli.problem import ExitCode, Problem
from meshcast.cli.settings import CliSettings, servers_setting
from meshcast.cli.state import StateFolder
from meshcast.gateway.http.settings import door_is_installed

__all__ = ["SERVICE_GROUP", "MeshPlan", "check_ports", "installed_services", "plan"]

SERVICE_GROUP = "meshcast.services"
"""Entry-point group by which model services are found; one may live in another distribution."""
DRIFT = "drift"
"""Service that sees what the models of the others are asked and answer."""
TAP = "MESHCAST_TAP_DRIFT"
"""Setting that tells them where it is."""
METRICS_OFFSET = 1000  # design.md: metrics at each gRPC port + 1000; the gateway's own are a setting


@dataclass(frozen=True, kw_only=True)
class MeshPlan:
    """What `meshcast up` is about to start.

    Attributes:
        services: the model services' processes.
        gateway: the gateway's.
        binds: what each port is for, as (host, port, process and purpose, setting that moves it).
        notes: what the settings say and `meshcast up` does not do, or does otherwise, a sentence each.
    """

    services: tuple[Part, ...]
    gateway: Part
    binds: tuple[tuple[str, int, str, str], ...]
    notes: tuple[str, ...] = ()


def installed_services() -> dict[str, EntryPoint]:
    """Model services by name, as installed distributions declare them."""
    return {entry.name: entry for entry in entry_points(group=SERVICE_GROUP)}


def plan(
    settings: CliSettings,
    folder: StateFolder,
    *,
    host: str | None,
    only: Sequence[str],
    ports: Mapping[str, int],
    free_ports: bool,
    environ: Mapping[str, str],
) -> MeshPlan:
    """Works out processes, ports and environments; starts nothing.

    A service's place is its route's endpoint; one whose route lists several endpoints of this machine gets as many
    processes. Endpoints that are not of this machine stay in the route, and nothing is started for them. A service
    without a route gets a free port and a route for this run.

    Args:
        settings: as read.
        folder: where state and logs go.
        host: address to bind; None takes the settings'.
        only: model services to start; empty takes the settings', and those empty take all.
        ports: wanted ports by process name.
        free_ports: True when every port that was not asked for by name may be any free one.
        environ: what the processes inherit.

    Raises:
        Problem: a name is unknown, the address is none of this machine, or one port is wanted for none or several.
    """
    installed = installed_services()
    wanted = list(only) or list(settings.up.services) or sorted(installed)
    unknown = [name for name in wanted if name not in installed]
    unknown += [name for name in ports if name != "gateway" and name not in wanted]
    if unknown:
        raise Problem(
            f"no model service {unknown[0]!r} is installed",
            way_out=f"installed are: {', '.join(sorted(installed)) or 'none'}",
        )
    bind = host or settings.rpc.host
    _check_host(bind)
    local = "127.0.0.1" if bind in ("0.0.0.0", "::", "") else bind
    shared = {"MESHCAST_RPC_HOST": bind, "MESHCAST_RUNTIME_STATE_DIR": str(folder.root)}
    config = [] if settings.path is None else ["--config", str(settings.path.absolute())]
    services: list[Part] = []
    binds: list[tuple[str, int, str, str]] = []
    routes: dict[str, str] = {}
    notes: list[str] = []
    numbers_of: dict[str, list[int]] = {}
    asked_of: dict[str, tuple[str, ...]] = {}
    for name in wanted:
        route = settings.gateway.routes.get(name)
        places = places_of(route.endpoints if route is not None else (), bind)
        numbers_of[name] = [port or _free_pair(bind) for port in _ports_of(name, places, ports, free_ports=free_ports)]
        asked_of[name] = places.asked
        notes += [empty_note(name, settings)] if empty_note(name, settings) else []
        notes += [asked_note(name, endpoint) for endpoint in places.asked]
    says_where = servers_setting("tap", "drift", settings.path) is not None  # which a variable would overrule
    tap = {TAP: f"{local}:{numbers_of[DRIFT][0]}"} if numbers_of.get(DRIFT) and not says_where else {}
    if asked_of.get(DRIFT) and not tap and not says_where and TAP not in environ:
        notes.append("drift: nothing tells it of the models' rows; tap.drift says where it is")
    for name, numbers in numbers_of.items():
        route = settings.gateway.routes.get(name)
        grpc_services = route.services if route is not None and route.services else _grpc_services(installed[name])
        for index, port in enumerate(numbers):
            label = name if len(numbers) == 1 else f"{name}-{index + 1}"
            metrics = port + METRICS_OFFSET
            services.append(
                Part(
                    name=label,
                    argv=(sys.executable, "-m", "meshcast.services", name, "--port", str(port), *config),
                    environ={
                        **({} if name == DRIFT else tap),
                        **environ,
                        **shared,
                        "MESHCAST_RPC_METRICS_PORT": str(metrics),
                    },
                    address=f"{local}:{port}",
                    health_service=(route.health if route is not None else "") or grpc_services[0],
                    metrics_port=metrics if settings.rpc.metrics else 0,
                    log=folder.logs / f"{label}.log",
                )
            )
            # One port by name moves one process; of several, each stands where its endpoint says.
            moved_by = f"--port {name}=PORT" if len(numbers) == 1 else f"gateway.routes.{name}.endpoints"
            binds.append((bind, port, label, moved_by))
            if settings.rpc.metrics:
                binds.append((bind, metrics, f"{label}'s metrics", f"{moved_by} (metrics: + {METRICS_OFFSET})"))
        prefix = f"MESHCAST_GATEWAY_ROUTES_{name.upper()}_"
        routes[f"{prefix}SERVICES"] = ",".join(grpc_services)
        routes[f"{prefix}ENDPOINTS"] = ",".join((*(f"{local}:{port}" for port in numbers), *asked_of[name]))
    port = ports.get("gateway", 0 if free_ports else settings.gateway.port) or _free_pair(bind)
    metrics = (port + METRICS_OFFSET) if free_ports or "gateway" in ports else settings.gateway.metrics_port
    http = _http_port(settings, bind, free_ports=free_ports)
    scheme = "http" if settings.tls.certificate is None else "https"
    gateway = Part(
        name="gateway",
        argv=(
            *(sys.executable, "-m", "meshcast.gateway"),
            *("--port", str(port), "--metrics-port", str(metrics), "--http-port", str(http or "off"), *config),
        ),
        environ={**environ, **shared, **routes},
        address=f"{local}:{port}",
        health_service="",
        metrics_port=metrics if settings.rpc.metrics else 0,
        log=folder.logs / "gateway.log",
        http_address=f"{scheme}://{local}:{http}" if http else "",
    )
    binds.append((bind, port, "gateway", "gateway.port, or --port gateway=PORT"))
    if http:
        binds.append((bind, http, "gateway's HTTP door", "gateway.http.port"))
    if settings.rpc.metrics:
        binds.append((bind, metrics, "gateway's metrics", "gateway.metrics_port"))
    notes += [door_note(settings)] if door_note(settings) else []
    return MeshPlan(services=tuple(services), gateway=gateway, binds=tuple(binds), notes=tuple(notes))


def check_ports(planned: MeshPlan) -> None:
    """Makes sure that every port can be bound, before anything is started.

    Raises:
        Problem: at least one cannot; names each with its purpose and the setting that moves it.
    """
    taken = []
    for host, port, purpose, setting in planned.binds:
        if not is_free(host, port):
            taken.append(f"{host}:{port} for {purpose} (moved by {setting})")
    if taken:
        raise Problem(
            "port in use" if len(taken) == 1 else f"{len(taken)} ports in use",
            exit_code=ExitCode.REFUSED,
            details=taken,
            way_out="`meshcast up --free-ports`, or name other ones; `meshcast doctor` shows who may hold them",
        )


def _check_host(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except OSError as error:
        raise Problem(
            f"cannot listen on {host}: {error.strerror}",
            way_out="give an address of this machine with --host or rpc.host, as in 127.0.0.1",
        ) from error


def is_free(host: str, port: int) -> bool:
    """True when a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a connection that lingers from the last run does not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _http_port(settings: CliSettings, host: str, *, free_ports: bool) -> int:
    """Port of the gateway's HTTP door; 0 for none, also where its libraries are not installed."""
    wanted = settings.gateway.http.port
    if wanted is None or not door_is_installed():
        return 0
    return wanted if wanted and not free_ports else _free_pair(host)


def _free_pair(host: str) -> int:
    """A free port whose metrics port is free too."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(100):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
            port = int(probe.getsockname()[1])
        if port + METRICS_OFFSET < 65_536 and is_free(host, port + METRICS_OFFSET):
            return port
    raise Problem("no free ports are left on this machine", exit_code=ExitCode.REFUSED)


def _ports_of(name: str, places: Places, ports: Mapping[str, int], *, free_ports: bool) -> list[int]:
    """Ports of the processes that a service gets; 0 for any free one.

    Raises:
        Problem: one port is wanted for several processes, or for none.
    """
    way_out = f"gateway.routes.{name}.endpoints of the settings says where its replicas are"
    if name in ports:
        if len(places.ports) > 1:
            raise Problem(
                f"--port {name}={ports[name]} moves one process, and {name} has {len(places.ports)}", way_out=way_out
            )
        if places.asked and not places.ports:
            raise Problem(f"--port {name}={ports[name]}: {name} is not started on this machine", way_out=way_out)
        return [ports[name]]
    if not places.ports:
        return [] if places.asked else [0]
    return [0] * len(places.ports) if free_ports else list(places.ports)


def _grpc_services(entry: EntryPoint) -> tuple[str, ...]:
    """Full names of a service that no route names; its package is imported only then."""
    spec = entry.load()
    return (str(spec.service_name),)
