"""Gateway process: settings to a serving gateway, and back down in order."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import structlog

from meshcast.api.gateway.v1 import gateway_pb2_grpc as pb_grpc
from meshcast.rpc import (
    ChannelSettings,
    Health,
    InvalidInput,
    LoadMeter,
    LogSettings,
    MeshError,
    Precondition,
    Registrar,
    RpcSettings,
    Server,
    TlsSettings,
    Tracing,
    TracingSettings,
    channel,
    load,
    run,
    setup_logs,
    setup_tracing,
)

from .admin import admin
from .asking import Mesh
from .backends import GATEWAY_SERVICE, Backends
from .endpoints import EndpointSource
from .http.settings import HttpSettings, door_is_installed
from .mesh_health import MeshHealth
from .metrics import GatewayMetrics
from .routing import RoutedServices
from .service import GatewayServicer
from .settings import GatewaySettings

if TYPE_CHECKING:
    from .http.door import HttpDoor

log = structlog.get_logger()

_TRACE_KEYS = frozenset({"traceparent", "tracestate"})
_TABLES: dict[str, type[Any]] = {
    "gateway": GatewaySettings,
    "rpc": RpcSettings,
    "channel": ChannelSettings,
    "tls": TlsSettings,
    "logs": LogSettings,
    "tracing": TracingSettings,
}


@asynccontextmanager
async def serving(
    settings: GatewaySettings,
    rpc: RpcSettings,
    *,
    channels: ChannelSettings | None = None,
    tls: TlsSettings | None = None,
    logs: LogSettings | None = None,
    tracing: Tracing | None = None,
    sources: Mapping[str, EndpointSource] | None = None,
    http_port: int | None = None,
) -> AsyncIterator[GatewayServer]:
    """A gateway that serves until the block is left, then drains: health, endless streams, calls in flight, channels.

    Args:
        settings: routes; its ports are not looked at, `rpc` has the port that is taken.
        rpc: of the gateway's own server.
        channels: of the channels to the replicas; retry and balancing are the gateway's own.
        tls: of the server and of the channels.
        logs: which calls get a log line.
        tracing: spans of the server and of the channels.
        sources: where each route's replicas are; a route that is not named has the settings' list.
        http_port: of the HTTP door, whose other settings are `settings.http`; 0 takes a free one, None opens none.

    Raises:
        InvalidInput: the settings ask for a baseline that is not installed.
        Precondition: the HTTP door's libraries are not installed.
        PortInUse: the address cannot be listened on.
    """
    tracing = tracing or Tracing()
    plain = replace(channels or ChannelSettings(), plain=True)

    def connect(endpoint: str, server_name: str) -> grpc.aio.Channel:
        own = replace(tls, server_name=tls.server_name or server_name) if tls is not None else None
        return channel(endpoint, settings=plain, tls=own, interceptors=tracing.client_interceptors)

    health = Health()
    own_metadata = _TRACE_KEYS if tracing.client_interceptors else frozenset[str]()
    async with Backends(
        settings, connect=connect, health=health, sources=sources, own_metadata=own_metadata
    ) as backends:
        mesh = Mesh(backends)
        await backends.wait_first_contact(settings.first_contact_s)
        routed = RoutedServices(mesh)

        def register(grpc_server: grpc.aio.Server) -> None:
            pb_grpc.add_GatewayServiceServicer_to_server(servicer, grpc_server)

        server = GatewayServer(
            rpc,
            services=[register],
            service_names=[GATEWAY_SERVICE, *backends.by_service],
            health=health,
            generic_handlers=[routed],
            tls=tls,
            descriptions=backends.contracts.descriptions,
            access=(logs or LogSettings()).access,
            observers=tracing.observers,
            meter=LoadMeter(limit_share=lambda: _limit_share(backends)),
        )
        servicer = GatewayServicer(
            mesh,
            draining=server.draining,
            default_deadline_s=rpc.default_deadline_s,
            health=MeshHealth(backends, in_flight=lambda: server.interceptor.in_flight),
        )
        GatewayMetrics(backends.by_name, server.registry)
        async with admin(settings.admin, rpc, tls=tls), server:
            ending = asyncio.create_task(_end_watches(server, backends, routed), name="end-watches")
            door = (
                nullcontext()
                if http_port is None
                else _door(settings, http_port, server, backends, register, routed, tls)
            )
            try:
                async with door as opened:
                    server.http_address = "" if opened is None else opened.address
                    try:
                        yield server
                    finally:
                        await server.drain()
            finally:
                ending.cancel()
                await asyncio.gather(ending, return_exceptions=True)


class GatewayServer(Server):
    """The gateway's server of gRPC.

    Attributes:
        http_address: of the HTTP door beside it, as in `http://127.0.0.1:8000`; empty where there is none.
    """

    http_address = ""


def _door(
    settings: GatewaySettings,
    port: int,
    server: Server,
    backends: Backends,
    register: Registrar,
    routed: RoutedServices,
    tls: TlsSettings | None,
) -> HttpDoor:
    """The HTTP door, whose libraries are only imported where it is opened."""
    try:
        from .http.door import HttpDoor
    except ImportError as error:
        raise Precondition(
            f"the HTTP door needs {error.name}: pip install 'meshcast[gateway]', or close it by gateway.http.port = ''"
        ) from error
    http = replace(settings.http, port=port)
    return HttpDoor(server, backends, register=register, handlers=routed, settings=http, tls=tls)


def _limit_share(backends: Backends) -> float:
    """Share of the calls that the fullest route may have under way; more than 1 where calls wait."""
    limits = [backend.load.limit for backend in backends.by_name.values()]
    return max((limit.share for limit in limits if limit is not None), default=0.0)


async def _end_watches(server: Server, backends: Backends, routed: RoutedServices) -> None:
    """Wakes the watchers of the mesh and of its services when the drain begins, so that they end."""
    await server.draining.wait()
    backends.wake()
    routed.ending.set()


async def serve(loaded: Mapping[str, Any], *, http_port: int | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Args:
        loaded: settings by table.
        http_port: of the HTTP door; 0 takes a free one, None opens none.

    Raises:
        Precondition: the HTTP door's libraries are not installed.
        PortInUse: the address cannot be listened on.
    """
    with setup_tracing(loaded["tracing"], "gateway") as tracing:
        setup_logs(loaded["logs"], service="gateway", processors=tracing.log_processors)
        if http_port is None and loaded["gateway"].http.port is not None and not door_is_installed():
            log.warning("no HTTP door: its libraries are missing", way_out="pip install 'meshcast[gateway]'")
        async with serving(
            loaded["gateway"],
            loaded["rpc"],
            channels=loaded["channel"],
            tls=loaded["tls"],
            logs=loaded["logs"],
            tracing=tracing,
            http_port=http_port,
        ) as server:
            log.info(
                "ready",
                port=server.port,
                metrics_port=server.metrics_port,
                address=server.address,
                http_address=server.http_address,
            )
            await server.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the gateway; returns the process's exit code: 0 after a drain, 2 for settings that cannot work."""
    parser = argparse.ArgumentParser(
        prog="python -m meshcast.gateway", description="Serves the whole mesh at one address, until SIGTERM."
    )
    parser.add_argument("--config", type=Path, help="settings file, as in meshcast.toml")
    parser.add_argument("--host", help="address to listen on, in place of rpc.host")
    parser.add_argument("--port", type=int, help="port to listen on, in place of gateway.port; 0 takes a free one")
    parser.add_argument("--metrics-port", type=int, help="port of /metrics; 0 takes a free one")
    parser.add_argument(
        "--http-port", help="port of the HTTP door, in place of gateway.http.port; 0 takes a free one, off"
    )
    options = parser.parse_args(arguments)
    try:
        loaded = load(_TABLES, path=options.config, environ=os.environ)
        loaded["rpc"] = _own_rpc(loaded["rpc"], loaded["gateway"], options)
        run(serve(loaded, http_port=_http_port(loaded["rpc"].port, loaded["gateway"], options.http_port)))
    except MeshError as error:
        print(f"gateway: {error.message}", file=sys.stderr)
        return 2
    return 0


def _own_rpc(rpc: RpcSettings, settings: GatewaySettings, options: argparse.Namespace) -> RpcSettings:
    """The table [rpc], which all processes share, with the gateway's own ports.

    Raises:
        InvalidInput: a port is none.
    """
    port = rpc.port or settings.port if options.port is None else options.port
    metrics_port = options.metrics_port
    if metrics_port is None:
        metrics_port = rpc.metrics_port
    if metrics_port is None:
        metrics_port = settings.metrics_port if port == settings.port else None
    for name, value in (("port", port), ("metrics_port", metrics_port or 0)):
        if not 0 <= value <= 65_535:
            raise InvalidInput(f"{name} must be 0 to 65535, is {value}", field=name)
    return replace(rpc, host=options.host or rpc.host, port=port, metrics_port=metrics_port)


def _http_port(port: int, settings: GatewaySettings, option: str | None) -> int | None:
    """Port of the HTTP door; None for none. A gateway that was moved from its port takes any free one, unless the
    door's own port was set.

    Raises:
        InvalidInput: the option is no port.
    """
    if option is None:
        if not door_is_installed():
            return None
        is_moved = port == 0 or port != settings.port
        return 0 if is_moved and settings.http.port == HttpSettings().port else settings.http.port
    if option in ("off", ""):
        return None
    if not option.isdigit() or int(option) > 65_535:
        raise InvalidInput(f"--http-port is 0 to 65535 or off, is {option!r}", field="http_port")
    return int(option)
