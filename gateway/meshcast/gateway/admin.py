"""Admin port: channelz, gRPC's own account of channels, sockets and servers, on a port that is not the callers'."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import grpc.aio

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import Precondition, RpcSettings, Server, TlsSettings

CHANNELZ_SERVICE = "grpc.channelz.v1.Channelz"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminSettings:
    """Where the gateway tells of its own connections. The table `[gateway.admin]`."""

    port: int | None = None
    """Port of channelz; 0 takes any free one. Not set: nothing listens."""
    host: str = "127.0.0.1"
    """Address to listen on. Channelz tells the addresses of callers and replicas: keep it off the public net."""

    def __post_init__(self) -> None:
        """Raises ValueError for a port that is none."""
        if self.port is not None and not 0 <= self.port <= 65_535:
            raise ValueError(f"admin.port must be 0 to 65535, or not set; is {self.port}")


@asynccontextmanager
async def admin(settings: AdminSettings, rpc: RpcSettings, *, tls: TlsSettings | None) -> AsyncIterator[Server | None]:
    """The admin port, open until the block is left; None where the settings name no port.

    Args:
        settings: where it listens.
        rpc: of the gateway's own server, for all but address, metrics and drain.
        tls: certificates, those of the gateway's own server; None for plaintext.

    Raises:
        PortInUse: the address cannot be listened on.
        Precondition: the extra `gateway` is not installed.
    """
    if settings.port is None:
        yield None
        return
    own = replace(
        rpc, host=settings.host, port=settings.port, metrics=False, reflection=True, drain_delay_s=0.0, drain_s=0.0
    )
    async with Server(own, services=[_add_channelz()], service_names=[CHANNELZ_SERVICE], tls=tls) as server:
        yield server


def _add_channelz() -> Callable[[grpc.aio.Server], None]:
    try:
        from grpc_channelz.v1 import channelz
    except ModuleNotFoundError as error:
        command = "pip install 'meshcast[gateway]'"
        raise Precondition(
            f"gateway.admin.port is set, but grpcio-channelz is not installed: {command}",
            reason=ErrorReason.ERROR_REASON_EXTRA_MISSING,
            extra="gateway",
            command=command,
        ) from error
    add: Callable[[grpc.aio.Server], None] = channelz.add_channelz_servicer
    return add
