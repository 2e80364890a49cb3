"""Health of a process by name: the registry that rooms write to, its grpc.health.v1 servicer, and a probe."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .channel import ChannelSettings, channel
from .errors import NotFound
from .status import mesh_errors

if TYPE_CHECKING:
    from .tls import TlsSettings

SERVICE_NAME = "grpc.health.v1.Health"


class ServingStatus(enum.IntEnum):
    """State of one health name; the numbers of grpc.health.v1."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


class Health:
    """States by name: `""` for the process, full service names, `model/<name>` and `model/<name>/<version>`.

    A name is SERVING only once a call to it would succeed. Belongs to the event loop of its server: call it from there.
    Writers never wait for watchers: a slow watcher skips to the newest state.
    """

    def __init__(self, names: Mapping[str, ServingStatus] | None = None) -> None:
        self._states: dict[str, ServingStatus] = {"": ServingStatus.NOT_SERVING, **(names or {})}
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._is_shut_down = False
        self._is_closed = False

    def set(self, name: str, status: ServingStatus) -> None:
        """Sets the state of a name, and adds the name when it is new. Ignored after `shutdown`."""
        if not self._is_shut_down and self._states.get(name) is not status:
            self._states[name] = status
            self._wake(name)

    def remove(self, name: str) -> None:
        """Forgets a name: Check says NOT_FOUND, watchers see SERVICE_UNKNOWN. Ignored after `shutdown`."""
        if not self._is_shut_down and self._states.pop(name, None) is not None:
            self._wake(name)

    def status(self, name: str) -> ServingStatus | None:
        """State of a name; None when there is no such name."""
        return self._states.get(name)

    def statuses(self) -> dict[str, ServingStatus]:
        """A copy of all states by name."""
        return dict(self._states)

    def shutdown(self) -> None:
        """Turns every name NOT_SERVING for good: the first step of a drain. Watches go on, so that they see it."""
        for name in self._states:
            self.set(name, ServingStatus.NOT_SERVING)
        self._is_shut_down = True

    def close(self) -> None:
        """Shuts down and ends every watch: endless streams would hold up the server's stop."""
        self.shutdown()
        self._is_closed = True
        for name in self._watchers:
            self._wake(name)

    async def watch(self, name: str) -> AsyncGenerator[ServingStatus, None]:
        """Yields the state of a name now and after each change, until `close`; SERVICE_UNKNOWN while there is none."""
        changed = asyncio.Event()
        self._watchers.setdefault(name, set()).add(changed)
        try:
            seen: ServingStatus | None = None
            while True:
                changed.clear()
                status = self._states.get(name, ServingStatus.SERVICE_UNKNOWN)
                if status is not seen:
                    seen = status
                    yield status
                    continue  # it may have changed while the reader was slow
                if self._is_closed:
                    return
                await changed.wait()
        finally:
            watchers = self._watchers[name]
            watchers.discard(changed)
            if not watchers:
                del self._watchers[name]

    def _wake(self, name: str) -> None:
        for changed in self._watchers.get(name, ()):
            changed.set()


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it ships no types
    """grpc.health.v1 over a `Health`: Check, Watch and List.

    The stock servicer lacks List and holds a lock while it writes to a watcher.
    """

    def __init__(self, health: Health) -> None:
        self._health = health

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        """State of one name; NOT_FOUND when there is no such name."""
        status = self._health.status(request.service)
        if status is None:
            raise NotFound(f"no health name {request.service!r}; List shows those there are")
        return health_pb2.HealthCheckResponse(status=status.value)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """State of one name, now and after each change."""
        async with contextlib.aclosing(self._health.watch(request.service)) as statuses:
            async for status in statuses:
                yield health_pb2.HealthCheckResponse(status=status.value)

    async def List(
        self, request: health_pb2.HealthListRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthListResponse:
        """State of every name."""
        statuses = {
            name: health_pb2.HealthCheckResponse(status=status.value)
            for name, status in self._health.statuses().items()
        }
        return health_pb2.HealthListResponse(statuses=statuses)


def add_health(health: Health, server: grpc.aio.Server) -> None:
    """Registers grpc.health.v1 over `health` on the server."""
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(health), server)


async def probe(
    target: str, service: str = "", *, timeout_s: float = 1.0, tls: TlsSettings | None = None
) -> ServingStatus:
    """State of a health name as a server reports it; SERVICE_UNKNOWN when the server knows no such name.

    Args:
        target: `host:port`.
        service: health name; empty for the process.
        timeout_s: seconds for connection and answer together.
        tls: how to reach a server with TLS; None for plaintext.

    Raises:
        NotReady: nobody answers there.
        DeadlineExceeded: no answer in time.
        Unimplemented: the server has no health service.
    """
    async with channel(target, settings=ChannelSettings(plain=True), tls=tls) as open_channel:
        stub = health_pb2_grpc.HealthStub(open_channel)
        try:
            with mesh_errors():
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except NotFound:
            return ServingStatus.SERVICE_UNKNOWN
        return ServingStatus(answer.status)
