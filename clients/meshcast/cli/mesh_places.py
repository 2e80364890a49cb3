"""Places of a route's replicas: which of its endpoints are of this machine, and which are only asked."""

import ipaddress
import socket
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from meshcast.cli.problem import pip_line
from meshcast.cli.settings import CliSettings
from meshcast.gateway.endpoints import DNS, FILE
from meshcast.gateway.http.settings import LIBRARIES

__all__ = ["Places", "asked_note", "door_note", "empty_note", "is_here", "places_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """A route's endpoints, told apart.

    Attributes:
        ports: of those on this machine, each once; a process is started for each.
        asked: the others as they are written: addresses elsewhere, `dns:///`, `file:///`.
    """

    ports: tuple[int, ...] = ()
    asked: tuple[str, ...] = ()


def places_of(endpoints: Sequence[str], bind: str) -> Places:
    """Tells endpoints apart.

    Args:
        endpoints: of a route, as its settings have checked them.
        bind: address that the processes of this machine listen on.
    """
    ports: list[int] = []
    asked: list[str] = []
    for endpoint in endpoints:
        host, _, port = endpoint.rpartition(":")
        if "://" not in endpoint and port.isdigit() and is_here(host, bind):
            ports.append(int(port))
        else:
            asked.append(endpoint)
    return Places(ports=tuple(dict.fromkeys(ports)), asked=tuple(dict.fromkeys(asked)))


def is_here(host: str, bind: str) -> bool:
    """True where a name or address is one of this machine's.

    Args:
        host: as an endpoint has it; IPv6 in brackets.
        bind: address that the processes of this machine listen on.
    """
    bare = host.strip("[]")
    if bare in ("localhost", bind, socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return False  # a name, which may be of several machines
    if address.is_loopback:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((bare, 0))  # only a machine's own address can be bound
    except OSError:
        return False
    return True


def asked_note(name: str, endpoint: str) -> str:
    """What is done about a service's endpoint for which no process is started."""
    if endpoint.startswith(FILE):
        return f"{name}: {endpoint} is a list: what it names is asked, not started"
    if endpoint.startswith(DNS):
        return f"{name}: {endpoint} is a name: what is behind it is asked, not started"
    return f"{name}: {endpoint} is not of this machine: asked, not started"


def empty_note(name: str, settings: CliSettings) -> str:
    """What is done about a route whose settings hold an empty list of endpoints; empty where they hold none."""
    route = settings.gateway.routes.get(name)
    if route is None or (route.endpoints and not _is_empty_in_file(name, settings)):
        return ""
    if route.endpoints:
        return f"{name}: endpoints = [] means the default, {', '.join(route.endpoints)}"
    return f"{name}: its route names no endpoints: started on a free port"


def _is_empty_in_file(name: str, settings: CliSettings) -> bool:
    """True where the file says `endpoints = []`, which the gateway takes as the shipped route's own."""
    if settings.path is None:
        return False
    table = tomllib.loads(settings.path.read_text("utf-8"))
    for key in ("gateway", "routes", name):
        table = table.get(key, {})
    return table.get("endpoints") == []


def door_note(settings: CliSettings) -> str:
    """Why the gateway's HTTP door stays closed though a port is set for it; empty where it opens, or none is wanted."""
    missing = [library for library in LIBRARIES if find_spec(library) is None]
    if settings.gateway.http.port is None or not missing:
        return ""
    return f"no HTTP door: {', '.join(missing)} missing; {pip_line('gateway')} brings it"
