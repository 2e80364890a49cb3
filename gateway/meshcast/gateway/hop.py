"""Hop: one try of a call on a replica, within the deadline budget, and the next try where no replica had begun."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import grpc.aio

from meshcast.api.type.v1 import receipt_pb2
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import DeadlineExceeded, NotReady

from .backends import Backend
from .forwarding import Metadata, never_began
from .replica import Replica
from .settings import GatewaySettings


@dataclass(slots=True)
class Hop:
    """One try of a call on a replica.

    Attributes:
        replica: that is asked, or was asked last.
        attempts: tries so far, this one included.
        timeout_s: what the replica is given.
        default_ms: the route's deadline where the caller set none, else 0.
        metadata: what is passed on of the caller's metadata.
    """

    replica: Replica
    attempts: int
    timeout_s: float
    default_ms: int
    metadata: Metadata

    def receipt(self, elapsed_s: float) -> receipt_pb2.Receipt:
        """The gateway's receipt of a call that took `elapsed_s` seconds."""
        return receipt_pb2.Receipt(
            deadline_ms=self.default_ms,
            deadline_default=self.default_ms > 0,
            gateway=receipt_pb2.GatewayReceipt(
                attempts=self.attempts, endpoint=self.replica.endpoint, elapsed_us=int(elapsed_s * 1e6)
            ),
        )


def first_hop(
    backend: Backend,
    service: str,
    *,
    settings: GatewaySettings,
    remaining_s: float | None,
    default_s: float,
    metadata: Metadata,
) -> Hop:
    """Chooses the replica and the budget of a call's first try; counts the call when it is refused.

    Args:
        backend: the route.
        service: full name of the gRPC service.
        settings: of the gateway.
        remaining_s: what is left of the caller's deadline, in seconds; None when it set none.
        default_s: budget in that case.
        metadata: to be passed on.

    Raises:
        DeadlineExceeded: what is left is no more than the gateway's margin.
        NotReady: no replica can be reached.
    """
    if remaining_s is None:
        timeout_s, default_ms = default_s, round(default_s * 1e3)
    else:
        timeout_s, default_ms = remaining_s - settings.deadline_margin_ms / 1e3, 0
        if timeout_s <= 0:
            backend.load.record("DEADLINE_EXCEEDED")
            raise DeadlineExceeded(
                f"the deadline leaves {max(0.0, remaining_s) * 1e3:.1f} ms, too little to ask {backend.name}",
                where="gateway",
            )
    replica = backend.pick(service)
    if replica is None:
        backend.load.record("UNAVAILABLE")
        problems = "; ".join(f"{r.endpoint}: {r.problem}" for r in backend.replicas.values()) or "it has none"
        raise NotReady(
            f"no replica of {backend.name} can be reached ({problems})",
            reason=ErrorReason.ERROR_REASON_BACKEND_UNREACHABLE,
            retry_after_s=settings.reconnect_s,
            service=service,
        )
    return Hop(replica, 1, timeout_s, default_ms, metadata)


async def ask(backend: Backend, hop: Hop, service: str, path: str, request: bytes, started: float) -> tuple[Any, bytes]:
    """Makes a unary call over encoded messages; asks the next replica while none has begun with it.

    The call is counted in the route's load. `hop` names the last replica that was asked.

    Args:
        backend: the route.
        hop: the first try.
        service: full name of the gRPC service.
        path: the method, as in `/package.Service/Method`.
        request: the encoded request.
        started: when the request arrived, on `time.perf_counter()`.

    Returns:
        The finished call, for its metadata, and the encoded response.

    Raises:
        grpc.aio.AioRpcError: the last replica's failure.
    """
    load, code = backend.load, "CANCELLED"
    refused: list[Replica] = []
    load.in_flight += 1
    try:
        while True:
            replica = hop.replica
            replica.in_flight += 1
            try:
                call = replica.unary(path)(request, timeout=hop.timeout_s, metadata=hop.metadata)
                response = await call
                code = "OK"
                return call, response
            except grpc.aio.AioRpcError as error:
                code = error.code().name
                if not never_began(error):
                    raise
                refused.append(replica)
                other = backend.pick(service, avoid=refused)
                left_s = hop.timeout_s - (time.perf_counter() - started)
                if other is None or left_s <= 0:
                    raise
                code = "CANCELLED"
                hop.replica, hop.timeout_s = other, left_s
                hop.attempts += 1
            finally:
                replica.in_flight -= 1
    finally:
        load.in_flight -= 1
        load.record(code, time.perf_counter() - started)
