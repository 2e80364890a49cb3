"""Routed streams: the streaming half of routing. Numbered chunks are spread over replicas, all else goes to one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc.aio

from meshcast.rpc import FirstStatus, MeshError, end_call

from .backends import Backend, Backends
from .budget import Budget, budget, unreachable
from .contracts import Idempotency, MethodContract, MethodKind
from .forwarding import Context, callers_metadata, fail_as, pass_trailers
from .numbered import Numbered
from .relay import Pace, relay_both, relay_down, until
from .replica import Replica
from .spread import Spread

_OURS = "meshcast.api."
_ENDLESS = "Watch"  # what a stream's name begins with in our contracts if it goes on until somebody ends it

BackendOf = Callable[[bytes], Backend]
"""The route that answers a call whose first message is given; empty where it is not known."""


class RoutedStream:
    """The streams of one method.

    Args:
        backends: all routes.
        contract: of the method.
        backend_of: chooses the route.
        is_kept: whether its calls are kept ready on the replicas.
        needs_first: whether the route follows from the first message.
        ending: set when endless streams must end.
    """

    def __init__(
        self,
        backends: Backends,
        contract: MethodContract,
        backend_of: BackendOf,
        *,
        is_kept: bool,
        needs_first: bool,
        ending: asyncio.Event,
    ) -> None:
        self._settings = backends.settings
        self._own_metadata = backends.own_metadata
        self._path = contract.path
        self._kind = contract.kind
        self._service = contract.path[1:].rpartition("/")[0]
        self._has_receipt = contract.has_receipt
        self._backend_of = backend_of
        self._is_kept = is_kept
        self._needs_first = needs_first
        is_endless = self._service.startswith(_OURS) and contract.path.rpartition("/")[2].startswith(_ENDLESS)
        self._ending = ending if is_endless else None
        is_spread = self._settings.streams.spread and not needs_first and _may_be_spread(contract)
        self._numbered = Numbered(contract) if is_spread else None

    def handler(self) -> grpc.RpcMethodHandler[bytes, bytes]:
        """grpc's handler over encoded messages.

        Raises:
            ValueError: the method has no stream.
        """
        match self._kind:
            case MethodKind.SERVER_STREAM:
                return grpc.unary_stream_rpc_method_handler(self.server_stream)
            case MethodKind.CLIENT_STREAM:
                return grpc.stream_unary_rpc_method_handler(self.client_stream)
            case MethodKind.BIDI_STREAM:
                return grpc.stream_stream_rpc_method_handler(
                    self.bidi_stream if self._numbered is None else self.spread_stream
                )
        raise ValueError(f"{self._path} has no stream")

    async def server_stream(self, request: bytes, context: Context) -> None:
        """One message up, many down."""
        relay = self._relay(context, self._backend_of(request), context.write, request=request)
        await (relay if self._ending is None else until(self._ending, relay))

    async def client_stream(self, requests: Any, context: Context) -> bytes:
        """Many messages up, one down."""
        answers: list[bytes] = []

        async def keep(message: bytes) -> None:
            answers.append(message)

        await self._relay(context, self._backend_of(b""), keep, read=lambda: anext(requests, grpc.aio.EOF))
        if len(answers) != 1:
            raise ValueError(f"{self._path} answered {len(answers)} messages in place of one")
        return answers[0]

    async def bidi_stream(self, _requests: Any, context: Context) -> None:
        """Many messages both ways; also serves methods of unknown kind."""
        first: Any = None
        if self._needs_first:
            first = await context.read()
        await self._relay(context, self._backend_of(first or b""), context.write, read=context.read, first=first)

    async def spread_stream(self, _requests: Any, context: Context) -> None:
        """Numbered chunks, each answered by any replica, in their order."""
        assert self._numbered is not None
        backend = self._backend_of(b"")
        _, allowed = self._first(backend, context)
        spread = Spread(
            self._numbered,
            backend,
            context,
            self._settings.streams,
            metadata=callers_metadata(context, self._own_metadata),
            timeout_s=allowed.timeout_s,
            default_ms=allowed.default_ms,
            retry_after_s=self._settings.reconnect_s,
        )
        load, code = backend.load, "CANCELLED"
        load.in_flight += 1
        try:
            failure = await spread.run()
            if failure is not None:
                code = failure.code().name
                await self.fail(failure, context, backend, spread.failed_on)
            code = "OK"
        except MeshError as error:
            code = error.code.name
            raise
        finally:
            load.in_flight -= 1
            load.record(code)

    async def _relay(
        self,
        context: Context,
        backend: Backend,
        write: Callable[[bytes], Awaitable[None]],
        *,
        read: Callable[[], Awaitable[Any]] | None = None,
        request: bytes | None = None,
        first: Any = None,
    ) -> None:
        """Relays a call that streams to one replica.

        Args:
            context: of the caller's call.
            backend: that answers.
            write: takes the backend's messages.
            read: gives the caller's messages, then EOF; None where there is only one.
            request: the only message up; None where the caller streams.
            first: what was read of the caller's stream already; None when nothing was.
        """
        pace = Pace(time.perf_counter())
        replica, allowed = self._first(backend, context)
        load, code = backend.load, "CANCELLED"
        metadata = callers_metadata(context, self._own_metadata)
        fragment = replica.fragment(1, allowed.default_ms) if self._has_receipt else None
        if read is None:
            call = replica.unary_stream(self._path)(request, timeout=allowed.timeout_s, metadata=metadata)
        else:
            make = replica.stream if self._is_kept else replica.channel.stream_stream
            call = make(self._path)(timeout=allowed.timeout_s, metadata=metadata)
        status = FirstStatus(call)
        load.in_flight += 1
        replica.in_flight += 1
        try:
            if read is None:
                failure = await relay_down(call, context, write, status=status, fragment=fragment, pace=pace)
            else:
                failure = await relay_both(
                    call, context, read, write, status=status, fragment=fragment, pace=pace, first=first
                )
            if failure is not None:
                code = failure.code().name
                await self.fail(failure, context, backend, replica.endpoint)
            code = "OK"
            await pass_trailers(call, context)
        finally:
            end_call(call)  # an abandoned call would never be collected
            load.in_flight -= 1
            replica.in_flight -= 1
            load.record(code)

    def _first(self, backend: Backend, context: Context) -> tuple[Replica, Budget]:
        """The replica that takes a stream, and what it may take of the deadline; counts a stream that is refused."""
        try:
            allowed = budget(
                backend,
                context.time_remaining(),
                default_s=backend.settings.stream_s(self._path),
                margin_s=self._settings.deadline_margin_ms / 1e3,
            )
            replica = backend.pick(self._service)
            if replica is None:
                raise unreachable(backend, self._service, retry_after_s=self._settings.reconnect_s)
            backend.bulkhead.check(self._service)
        except MeshError as refusal:
            backend.load.record(refusal.code.name)
            raise
        return replica, allowed

    async def fail(self, error: grpc.aio.AioRpcError, context: Context, backend: Backend, endpoint: str) -> NoReturn:
        """Ends the caller's call as a replica has ended it, see `fail_as`."""
        await fail_as(
            error,
            context,
            backend=backend.name,
            endpoint=endpoint,
            service=self._service,
            retry_after_s=self._settings.reconnect_s,
        )


def _may_be_spread(contract: MethodContract) -> bool:
    """Whether chunks are numbered, and may be sent twice."""
    return contract.sequence_fields is not None and contract.idempotency is not Idempotency.UNKNOWN
