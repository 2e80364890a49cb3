"""Server of a process: start, serve and drain in one `async with`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import grpc
import structlog
from prometheus_client import CollectorRegistry

from .call import Observer
from .errors import Precondition
from .health import SERVICE_NAME as HEALTH_SERVICE_NAME
from .health import Health, ServingStatus, add_health
from .interceptor import ServerInterceptor
from .load_meter import LoadMeter
from .metrics import KINDS, Metrics, MetricsServer, serve_metrics
from .reflection import SERVICE_NAMES as REFLECTION_SERVICE_NAMES
from .reflection import Descriptions, add_reflection
from .settings import RpcSettings
from .tls import TlsSettings, server_credentials

log = structlog.get_logger(__name__)

_LOOK_S = 0.01  # between two looks at the calls in flight while draining
_GRACE_MIN_S = 0.1  # for refusals that are on their way out
_SILENCE_S = 0.05  # without a word from any caller, after which none is about to ask again
_SILENCE_S_MAX = 0.5  # how long that is waited for: callers that keep coming never fall silent

Registrar = Callable[[grpc.aio.Server], None]
"""Adds a servicer to a server, as `lambda server: add_XServiceServicer_to_server(servicer, server)`."""


class PortInUse(Precondition):
    """The address cannot be listened on: another process has the port, or the host is not this machine's."""


class Server:
    """A gRPC server with health, metrics, errors and an ordered drain; use it as an async context manager.

    Entering starts it with the health name `""` as it stands: set it SERVING when calls would succeed. Leaving drains:
    health NOT_SERVING; `drain_delay_s` for watchers to leave; then `draining` is set, endless streams end, new calls
    are refused; calls in flight get `drain_s`, then they are cancelled and their callers see UNAVAILABLE.

    Args:
        settings: of the table `[rpc]`, with this process's port.
        services: registrars of the servicers.
        service_names: full names of the services, for reflection, metrics and health.
        health: states to serve; names of `service_names` that are not in it start as NOT_SERVING.
        registry: Prometheus registry; None makes one of the server's own.
        generic_handlers: handlers for methods without stubs, as the gateway's.
        tls: certificates; None, or settings without any, for plaintext.
        descriptions: files that reflection answers from; None for those that this process has imported.
        access: which calls get a log line.
        observers: told of every call, such as tracing.
        meter: of the load, which unary answers then tell (ORCA); None tells nothing.
    """

    def __init__(
        self,
        settings: RpcSettings,
        *,
        services: Sequence[Registrar] = (),
        service_names: Sequence[str] = (),
        health: Health | None = None,
        registry: CollectorRegistry | None = None,
        generic_handlers: Sequence[grpc.GenericRpcHandler] = (),
        tls: TlsSettings | None = None,
        descriptions: Descriptions | None = None,
        access: Literal["none", "errors", "all"] = "errors",
        observers: Sequence[Observer] = (),
        meter: LoadMeter | None = None,
    ) -> None:
        self.settings = settings
        self.health = health or Health()
        self.registry = registry or CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.interceptor = ServerInterceptor(
            self.metrics,
            access=access,
            observers=observers,
            control_message_bytes_max=settings.control_message_bytes_max,
            meter=meter,
        )
        self.draining = asyncio.Event()
        self.port = 0
        self.metrics_port: int | None = None
        self._services = tuple(services)
        self.service_names = tuple(service_names)
        self._generic_handlers = tuple(generic_handlers)
        self._tls = tls
        self._descriptions = descriptions
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._drains = asyncio.Lock()
        self._server: grpc.aio.Server | None = None
        self._metrics_server: MetricsServer | None = None
        self._signals: list[signal.Signals] = []

    @property
    def address(self) -> str:
        """`host:port` that the server listens on, once it is started."""
        return f"{_bracketed(self.settings.host)}:{self.port}"

    async def __aenter__(self) -> Self:
        for name in (HEALTH_SERVICE_NAME, *self.service_names):
            if self.health.status(name) is None:
                self.health.set(
                    name, ServingStatus.SERVING if name == HEALTH_SERVICE_NAME else ServingStatus.NOT_SERVING
                )
        server = grpc.aio.server(interceptors=[self.interceptor], options=server_options(self.settings))
        add_health(self.health, server)
        for add in self._services:
            add(server)
        if self._generic_handlers:
            server.add_generic_rpc_handlers(self._generic_handlers)
        if self.settings.reflection:
            add_reflection(server, self._listed, self._descriptions)
        for path, kind in _known_methods(self.service_names):
            self.metrics.method(path, kind)
        try:
            self.port = self._bind(server)
            if self.settings.metrics:
                self._metrics_server = serve_metrics(
                    self.registry, self.settings.host, self.settings.metrics_port_asked
                )
                self.metrics_port = self._metrics_server.port
            await server.start()
        except BaseException:
            await server.stop(None)
            await self._close_metrics()
            raise
        self._server = server
        log.info("serving", address=self.address, metrics_port=self.metrics_port, services=list(self.service_names))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.drain()
        finally:
            self._forget_signals()
            await self._close_metrics()

    async def wait(self) -> None:
        """Waits until SIGTERM or SIGINT arrives, or `stop` is called. A second signal cuts the drain short."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):  # not on this platform or thread
                loop.add_signal_handler(number, self._on_signal, number)
                self._signals.append(number)
        await self._stop.wait()

    def stop(self) -> None:
        """Ends `wait`; the drain follows when the `async with` block is left."""
        self._stop.set()

    async def drain(self) -> None:
        """Drains and stops the server, in order; a second caller waits for the first."""
        self._stop.set()
        async with self._drains:
            server, self._server = self._server, None
            if server is None:
                return
            try:
                await self._drain(server)
            except BaseException:
                await server.stop(None)
                raise
        log.info("drained", address=self.address, in_flight=self.interceptor.in_flight)

    async def _drain(self, server: grpc.aio.Server) -> None:
        self.health.shutdown()
        log.info("draining", address=self.address, in_flight=self.interceptor.in_flight)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_delay_s):
                await self._hurry.wait()
        self.interceptor.is_draining = True
        self.draining.set()
        self.health.close()
        until = time.monotonic() + self.settings.drain_s
        # Refusing while the last calls finish: one that lands on a server that stops would end CANCELLED instead.
        while self.interceptor.in_flight and time.monotonic() < until and not self._hurry.is_set():  # noqa: ASYNC110  # an event would cost every call
            await asyncio.sleep(_LOOK_S)
        await self._silence()
        grace_s = max(_GRACE_MIN_S, until - time.monotonic())
        stopping = asyncio.create_task(server.stop(grace_s), name="server-stop")
        await asyncio.sleep(_LOOK_S)  # callers are told to leave; only then do those that were refused learn of it
        self.interceptor.leaving.set()
        hurrying = asyncio.create_task(self._hurry.wait(), name="server-hurry")
        try:
            await asyncio.wait({stopping, hurrying}, return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                await server.stop(None)
            await stopping
        finally:
            hurrying.cancel()

    async def _silence(self) -> None:
        """Waits until every caller that asks again at once has a question here, and holds those questions.

        A caller whose answer has just gone out would otherwise ask while the transport closes, and end CANCELLED.
        """
        self.interceptor.is_closing = True
        until = time.perf_counter() + _SILENCE_S_MAX
        while not self._hurry.is_set():  # an event would cost every call
            now = time.perf_counter()
            if now >= min(until, self.interceptor.heard_at + _SILENCE_S):
                return
            await asyncio.sleep(_LOOK_S)

    def _listed(self) -> tuple[str, ...]:
        return (*self.service_names, HEALTH_SERVICE_NAME, *REFLECTION_SERVICE_NAMES)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stop.is_set():
            log.warning("second signal: the drain is cut short", signal=number.name)
            self._hurry.set()
        self._stop.set()

    def _forget_signals(self) -> None:
        for number in self._signals:
            asyncio.get_running_loop().remove_signal_handler(number)
        self._signals.clear()

    async def _close_metrics(self) -> None:
        metrics_server, self._metrics_server = self._metrics_server, None
        if metrics_server is not None:
            await asyncio.to_thread(metrics_server.close)  # its thread looks up twice a second

    def _bind(self, server: grpc.aio.Server) -> int:
        host, port = self.settings.host, self.settings.port
        address = f"{_bracketed(host)}:{port}"
        credentials = None if self._tls is None else server_credentials(self._tls)
        if port:
            _check_address(host, port)
        try:
            if credentials is not None:
                bound = server.add_secure_port(address, credentials)
            else:
                bound = server.add_insecure_port(address)
        except RuntimeError as error:
            _check_address(host, port)
            raise PortInUse(f"cannot listen on {address}: {error}", host=host, port=port) from error
        if credentials is None and not _is_loopback(host):
            log.warning(
                "listening beyond loopback without TLS: everyone who reaches the port may call; set [tls] or rpc.host",
                address=address,
            )
        return bound


def server_options(settings: RpcSettings) -> list[tuple[str, Any]]:
    """Channel arguments of grpc for a server with these settings."""
    options: list[tuple[str, Any]] = [
        ("grpc.so_reuseport", 0),  # else two processes share a port silently
        ("grpc.max_receive_message_length", settings.message_bytes_max),
        ("grpc.max_send_message_length", settings.message_bytes_max),
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        ("grpc.keepalive_time_ms", round(settings.keepalive_s * 1e3)),
        ("grpc.keepalive_timeout_ms", round(settings.keepalive_timeout_s * 1e3)),
        ("grpc.http2.ping_timeout_ms", round(settings.keepalive_timeout_s * 1e3)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", round(settings.ping_interval_min_s * 1e3)),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", round(settings.ping_interval_min_s * 1e3)),
        ("grpc.server_handshake_timeout_ms", round(settings.handshake_timeout_s * 1e3)),
    ]
    if settings.connection_age_max_s is not None:
        options += [
            ("grpc.max_connection_age_ms", round(settings.connection_age_max_s * 1e3)),
            ("grpc.max_connection_age_grace_ms", round(settings.connection_age_grace_s * 1e3)),
        ]
    return options


def _known_methods(service_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(path, kind) of every method whose contract this process has imported."""
    from google.protobuf import descriptor_pool

    for name in service_names:
        try:
            service = descriptor_pool.Default().FindServiceByName(name)
        except KeyError:
            continue
        for method in service.methods:
            yield f"/{name}/{method.name}", KINDS[method.client_streaming, method.server_streaming]


def _check_address(host: str, port: int) -> None:
    """Raises PortInUse with what is wrong with the address, found by trying it: grpc prints, and does not say."""
    way_out = "choose another address (rpc.host)"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as grpc binds: past connections do not count
            trial.bind((host.strip("[]"), port))
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            why, way_out = "another process has the port", "stop it, or choose another port (rpc.port, --port)"
        elif error.errno == errno.EACCES:
            way_out = "ports below 1024 need rights; choose another port (rpc.port, --port)"
        elif isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            way_out = "choose an address of this machine (rpc.host)"
        raise PortInUse(
            f"cannot listen on {_bracketed(host)}:{port}: {why}; {way_out}", host=host, port=port
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
