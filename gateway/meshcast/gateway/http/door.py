"""The HTTP door: a listener beside gRPC's in the gateway's process, opened after it and closed after its drain."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from types import TracebackType
from typing import Any, Self

import structlog
from uvicorn.server import ServerState

from meshcast.rpc import PortInUse, Server, TlsSettings
from meshcast.rpc.health import SERVICE_NAME as HEALTH_SERVICE
from meshcast.rpc.health import add_health
from meshcast.rpc.tls import server_context

from ..backends import GATEWAY_SERVICE, Backends
from .access import Access, is_loopback
from .app import DoorApp
from .calls import Calls, Registered
from .methods import Methods
from .protocol import DoorConfig
from .settings import HttpSettings

log = structlog.get_logger()

_BACKLOG = 1_024
_LOOK_S = 0.005
_LAST_WORD_S = 1.0  # for answers that are on their way when the calls have ended


class HttpDoor:
    """Serves HTTP while it is entered. Enter it within the server's own block, and drain the server before it is left:
    refusals and the ends of calls then reach the callers.

    Args:
        server: gRPC's own, started; its interceptor wraps the calls, its address is the door's.
        backends: the routes.
        register: adds the gateway's servicer to a server.
        handlers: of the routed services.
        settings: of the door; its port is set.
        tls: certificates; None for plaintext.

    Attributes:
        port: that is listened on.
    """

    def __init__(
        self,
        server: Server,
        backends: Backends,
        *,
        register: Any,
        handlers: Any,
        settings: HttpSettings,
        tls: TlsSettings | None = None,
    ) -> None:
        registered: Any = Registered()
        register(registered)
        add_health(server.health, registered)
        self.port = 0
        self._host = server.settings.host
        self._settings = settings
        self._calls = Calls(server.interceptor, (*registered.handlers, handlers))
        self._tls = None if tls is None else server_context(tls)
        methods = Methods(backends, own=(GATEWAY_SERVICE, HEALTH_SERVICE), json_bytes_max=settings.json_bytes_max)
        access = Access(settings, is_loopback(self._host))
        app = DoorApp(methods, self._calls, settings, access, grpc_port=server.port)
        self._config = DoorConfig(app, settings)
        self._state = ServerState()
        self._listener: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """`http://host:port`, or `https`."""
        host = f"[{self._host}]" if ":" in self._host and not self._host.startswith("[") else self._host
        return f"{'http' if self._tls is None else 'https'}://{host}:{self.port}"

    async def __aenter__(self) -> Self:
        self._config.load()
        listening = _bound(self._host, self._settings.port or 0)
        self.port = listening.getsockname()[1]
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(
                self._connected,
                sock=listening,
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else self._settings.receive_s,
                backlog=_BACKLOG,
            )
        except BaseException:
            listening.close()
            raise
        log.info("serving http", address=self.address)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None
        self._listener.close()
        self._calls.cut_off()
        for connection in tuple(self._state.connections):
            connection.shutdown()  # at once where nothing is under way, else after the answer
        if self._state.tasks:
            _, late = await asyncio.wait(tuple(self._state.tasks), timeout=_LAST_WORD_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        until = time.monotonic() + _LAST_WORD_S
        for connection in tuple(self._state.connections):
            connection.transport.close()
        while self._state.connections and time.monotonic() < until:  # noqa: ASYNC110  # uvicorn tells nobody
            await asyncio.sleep(_LOOK_S)
        for connection in tuple(self._state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    def _connected(self) -> asyncio.Protocol:
        return self._config.http_protocol_class(  # type: ignore[call-arg]  # one of several classes
            config=self._config, server_state=self._state, app_state={}
        )


def _bound(host: str, port: int) -> socket.socket:
    """A socket that is bound there.

    Raises:
        PortInUse: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host.strip("[]"), port))
    except OSError as error:
        made.close()
        why = "another process has the port" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise PortInUse(
            f"cannot listen on {host}:{port} for HTTP: {why}; choose another port (gateway.http.port, --http-port)",
            host=host,
            port=port,
        ) from error
    return made
