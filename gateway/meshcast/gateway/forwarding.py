"""Forwarding: which metadata and which failures pass the gateway, and in what form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import grpc.aio

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import DeadlineExceeded, InvalidInput, MeshError, NotReady, from_rpc_error

from .exchange import PRIORITY_KEY, Priority

Context = grpc.aio.ServicerContext[Any, Any]
Metadata = tuple[tuple[str, str | bytes], ...]

_DETAILS = "grpc-status-details-bin"
# Written by each hop's own transport, or meant for the mesh alone; callers must not be able to set the latter.
_OF_THE_HOP = frozenset({"user-agent", "content-type", "te", "host", "endpoint-load-metrics-bin"})
_OF_THE_HOP_PREFIXES = ("grpc-", ":", "x-meshcast-")
_PASSED_BACK = frozenset({_DETAILS, "grpc-retry-pushback-ms"})
_PRIORITIES = tuple(priority.name.lower() for priority in Priority)
_NOT_CONNECTED = "failed to connect to all addresses"


def callers_metadata(context: Context, own: frozenset[str] = frozenset()) -> Metadata:
    """The caller's metadata that a backend may see.

    Args:
        context: of the caller's call.
        own: keys that the gateway's channels write themselves, as tracing does.

    Raises:
        InvalidInput: `meshcast-priority` is none of the three words.
    """
    kept = tuple(
        (key, value)
        for key, value in context.invocation_metadata() or ()
        if key not in _OF_THE_HOP and key not in own and not key.startswith(_OF_THE_HOP_PREFIXES)
    )
    for key, value in kept:
        if key == PRIORITY_KEY and value not in _PRIORITIES:
            words = f"{', '.join(_PRIORITIES[:-1])} or {_PRIORITIES[-1]}"
            raise InvalidInput(f"metadata {PRIORITY_KEY} must be {words}, is {value!r}", field=PRIORITY_KEY)
    return kept


def backends_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> Metadata:
    """The backend's metadata that a caller may see."""
    return tuple(
        (key, value)
        for key, value in metadata or ()
        if key in _PASSED_BACK or (key not in _OF_THE_HOP and not key.startswith(_OF_THE_HOP_PREFIXES))
    )


async def pass_head(call: Any, context: Context) -> None:
    """Passes the backend's initial metadata on; it must have arrived."""
    if kept := backends_metadata(await call.initial_metadata()):
        await context.send_initial_metadata(kept)


async def pass_trailers(call: Any, context: Context) -> None:
    """Passes the trailing metadata of a call that has ended well on."""
    if kept := backends_metadata(await call.trailing_metadata()):
        context.set_trailing_metadata(kept)


def never_began(error: grpc.aio.AioRpcError) -> bool:
    """True when no backend has begun with the call, so that another replica may be asked in its stead."""
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        return False
    if any(key == _DETAILS for key, _ in error.trailing_metadata() or ()):
        return from_rpc_error(error).reason == ErrorReason.ERROR_REASON_DRAINING
    # Core's own words. With details they are of a service that could not reach another, and has begun.
    return _NOT_CONNECTED in (error.details() or "")


def transport_failure(
    error: grpc.aio.AioRpcError, *, backend: str, endpoint: str, service: str, retry_after_s: float
) -> MeshError | None:
    """The error that a bare UNAVAILABLE or DEADLINE_EXCEEDED of the transport stands for, with the reason and the retry
    time that the mesh documents; None where a backend chose the status.

    Arguments as in `fail_as`.
    """
    if any(key == _DETAILS for key, _ in error.trailing_metadata() or ()):
        return None
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return NotReady(
            f"{backend} at {endpoint} cannot be reached ({error.details() or ''})",
            reason=ErrorReason.ERROR_REASON_BACKEND_UNREACHABLE,
            retry_after_s=retry_after_s,
            service=service,
        )
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"{backend} at {endpoint} did not answer in time", where=backend)
    return None


async def fail_as(
    error: grpc.aio.AioRpcError, context: Context, *, backend: str, endpoint: str, service: str, retry_after_s: float
) -> NoReturn:
    """Ends the caller's call as the backend's call has ended.

    A status with details, and any that a backend chose, passes untouched; for the transport's own, see
    `transport_failure`.

    Args:
        error: how the backend's call failed.
        context: of the caller's call.
        backend: the route's name.
        endpoint: the replica that was asked.
        service: full name of the gRPC service.
        retry_after_s: seconds after which a retry may find the backend again.
    """
    failure = transport_failure(error, backend=backend, endpoint=endpoint, service=service, retry_after_s=retry_after_s)
    if failure is not None:
        raise failure from error
    await context.abort(error.code(), error.details() or "", backends_metadata(error.trailing_metadata()))
