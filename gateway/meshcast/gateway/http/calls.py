"""Calls over HTTP: runs the handlers that gRPC's own door runs, in the same wrapping, over a context of this door's.

One policy and one error table for both doors: metrics, log lines, masking, drain and deadlines are those of the one
server interceptor, and routing those of the one set of handlers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import grpc.aio

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import DeadlineExceeded, NotReady, ServerInterceptor
from meshcast.rpc.call_messages import Unusable

from .context import DoorContext, Outbox, Read, Requests
from .errors import CallFailed

Result = TypeVar("Result")
Request = bytes | Unusable


class _Details(NamedTuple):
    """What a generic handler is asked with."""

    method: str
    invocation_metadata: Any = ()


class Registered:
    """Collects the handlers that a registrar adds to a server, so that they can be run without one."""

    def __init__(self) -> None:
        self.handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Takes handlers, as a server does."""
        self.handlers.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Passes them over: the generic ones are the same."""


class Calls:
    """Runs calls over encoded messages.

    Args:
        interceptor: of the server whose door this is beside.
        handlers: those that the server has; the first that knows a method answers.
    """

    def __init__(self, interceptor: ServerInterceptor, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._interceptor = interceptor
        self._handlers = tuple(handlers)
        self._scopes: set[asyncio.Timeout] = set()
        self._is_over = False

    @property
    def is_draining(self) -> bool:
        """True from when new calls are refused."""
        return self._interceptor.is_draining

    def cut_off(self) -> None:
        """Ends the calls that are under way, which then fail as with a server that stops; further ones are refused."""
        self._is_over = True
        now = asyncio.get_running_loop().time()
        for scope in self._scopes:
            if not scope.expired():
                scope.reschedule(now)

    async def unary(self, path: str, request: Request, context: DoorContext) -> bytes:
        """One message each way.

        Raises:
            CallFailed: the handler has ended the call with a status.
        """
        handler = await self._handler(path)
        if handler.unary_unary is None:
            return await self._refused(handler, context)
        answer: bytes = await self._ended(handler.unary_unary(_parsed(handler, request), context), context)
        return answer

    async def client_stream(self, path: str, read: Read, context: DoorContext) -> bytes:
        """Many messages up, one down.

        Args:
            path: of the method.
            read: gives the next encoded message, then EOF.
            context: of the call.

        Raises:
            CallFailed: the handler has ended the call with a status.
        """
        handler = await self._handler(path)
        if handler.stream_unary is None:
            return await self._refused(handler, context)

        async def parsed() -> Any:
            message = await read()
            return message if message is grpc.aio.EOF else _parsed(handler, message)

        context.reads(parsed)
        answer: bytes = await self._ended(handler.stream_unary(Requests(parsed), context), context)
        return answer

    async def server_stream(self, path: str, request: Request, context: DoorContext) -> AsyncGenerator[bytes]:
        """One message up, many down. The handler runs in a task of its own, which ends with the generator.

        Raises:
            CallFailed: the handler has ended the call with a status.
        """
        handler = await self._handler(path)
        if handler.unary_stream is None:
            await self._refused(handler, context)
        outbox = Outbox()
        context.writes(outbox, handler.response_serializer)
        running = asyncio.create_task(
            self._ended(handler.unary_stream(_parsed(handler, request), context), context), name=f"http-stream:{path}"
        )
        running.add_done_callback(lambda _: outbox.close())
        try:
            while (message := await outbox.get()) is not None:
                yield message
            await running
        finally:
            running.cancel()
            await asyncio.wait((running,))
            if not running.cancelled():
                running.exception()  # it was told above, or nobody is there to be told

    async def _handler(self, path: str) -> Any:
        async def found(details: grpc.HandlerCallDetails) -> Any:
            for handlers in self._handlers:
                handler = handlers.service(details)
                if handler is not None:
                    return handler
            return None

        return await self._interceptor.intercept_service(found, _Details(path))  # type: ignore[arg-type]  # duck-typed

    async def _refused(self, handler: Any, context: DoorContext) -> bytes:
        """Runs what stands for a method that nobody serves, or that is of another kind than its contract says."""
        run: Callable[..., Awaitable[None]] | None = handler.stream_stream
        if run is not None:
            await self._ended(run(None, context), context)
        raise CallFailed.of(NotReady("the method's contract has just changed; ask again", retry_after_s=1.0))

    async def _ended(self, running: Awaitable[Result], context: DoorContext) -> Result:
        """What the handler returns; its end by an abort, the caller's deadline or the door's end becomes a failure."""
        scope = asyncio.timeout(0.0 if self._is_over else context.time_remaining())
        try:
            async with scope:
                self._scopes.add(scope)
                return await running
        except grpc.aio.AbortError:
            raise CallFailed.ended(context.code(), context.message, context.trailers) from None
        except TimeoutError:
            if not scope.expired():
                raise
            if not self._is_over:
                raise CallFailed.of(DeadlineExceeded("the deadline passed before the answer was there")) from None
            raise CallFailed.of(
                NotReady(
                    "the process has ended before the answer was there; ask another replica",
                    reason=ErrorReason.ERROR_REASON_DRAINING,
                    retry_after_s=1.0,
                )
            ) from None
        finally:
            self._scopes.discard(scope)


def _parsed(handler: Any, request: Request) -> Any:
    parse = handler.request_deserializer
    return request if parse is None or type(request) is Unusable else parse(request)
