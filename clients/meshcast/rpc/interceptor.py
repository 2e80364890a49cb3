"""The one server interceptor: errors become statuses, calls are counted and logged, bugs are masked."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Literal

import grpc
import structlog

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason

from .call import Call, Context, Observer, enter_call
from .call_messages import CountingContext, Received, Unusable
from .errors import Internal, InvalidInput, MeshError, NotReady, Unimplemented
from .load_meter import FAULTS, LoadMeter
from .metrics import KINDS, MethodCounts, Metrics
from .status import head_message, message_too_large, trailers

log = structlog.get_logger(__name__)

QUIET_SERVICES = ("/grpc.health.v1.Health/", "/grpc.reflection.v1.", "/grpc.reflection.v1alpha.")
"""Prefixes of methods that are served while draining, and left out of access log and traces: probes, not work."""

BULK_SERVICES = ("/inference.",)
"""Prefixes of methods whose single messages are as large as others' streams: tensors of the Open Inference Protocol."""

REFUSAL_DELAY_S = 0.05
"""How long a draining server holds a refusal back; callers that follow health have left by then."""

_METHODS_KEPT = 4_096  # wrapped handlers that are remembered; more are wrapped anew at each call
_OK = grpc.StatusCode.OK
_CODES = {code.value[0]: code for code in grpc.StatusCode}
Handler = Callable[[Any, Any], Any]
Serializer = Callable[[Any], bytes]


class ServerInterceptor(grpc.aio.ServerInterceptor):
    """Errors, access log and metrics around every handler, of all four kinds, generators and read/write coroutines.

    - MeshError becomes its status with details; anything else is a bug: INTERNAL "internal error" with the request id,
      the traceback goes to the log only.
    - Bytes that are no message of the method's type become InvalidInput.
    - While `is_draining`, new calls are refused with NotReady; health and reflection go on. `leaving` is set when the
      server stops; from `is_closing` on, refusals wait for it. `heard_at`, on `time.perf_counter()`, is when a call
      last ended or was refused: its caller may be about to ask again.
    - CancelledError passes through.

    Args:
        metrics: where calls are counted; None counts into nothing.
        access: which calls get a log line; health and reflection never do, except for bugs.
        observers: told of every call but those of health and reflection.
        control_message_bytes_max: largest request of calls that do not stream their requests, in bytes, `BULK_SERVICES`
            left out; None for the transport's limit alone. The transport's limit holds for all.
        meter: counts the calls, and gives what is told of the load with every unary answer; None tells nothing.
    """

    def __init__(
        self,
        metrics: Metrics | None = None,
        *,
        access: Literal["none", "errors", "all"] = "errors",
        observers: Sequence[Observer] = (),
        control_message_bytes_max: int | None = None,
        meter: LoadMeter | None = None,
    ) -> None:
        self.metrics = metrics or Metrics()
        self.control_message_bytes_max = control_message_bytes_max
        self.meter = meter
        self.is_draining = False
        self.is_closing = False
        self.leaving = asyncio.Event()
        self.heard_at = float("-inf")
        self._parked = 0
        self._access = access
        self._observers = tuple(observers)
        self._wrapped: dict[str, tuple[Any, grpc.RpcMethodHandler[Any, Any]]] = {}

    @property
    def in_flight(self) -> int:
        """Calls that are being handled now, health and reflection left out."""
        return self.metrics.in_flight - self._parked

    async def refuse(self) -> None:
        """Refuses a call of a draining server: when it stops or, before it closes, `REFUSAL_DELAY_S` later.

        A caller that asks again without a pause is thereby waiting, not asking, at the moment in which the transport
        tells it to leave: a call that crosses that message would end CANCELLED, which callers must not retry.

        Raises:
            NotReady: DRAINING, always.
        """
        self._parked += 1
        self.heard_at = time.perf_counter()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFUSAL_DELAY_S):
                    await self.leaving.wait()
            if self.is_closing:
                await self.leaving.wait()
        finally:
            self._parked -= 1
        raise _draining()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler of a call, wrapped; a refusing one when nobody serves the method."""
        method: str = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None:
            return _unknown_method(method, self.metrics.unknown())
        kept = self._wrapped.get(method)
        if kept is not None and kept[0] is handler:
            return kept[1]
        wrapped = self._wrap(method, handler)
        if len(self._wrapped) < _METHODS_KEPT or method in self._wrapped:
            self._wrapped[method] = (handler, wrapped)
        return wrapped

    def _wrap(self, method: str, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        kind = (bool(handler.request_streaming), bool(handler.response_streaming))
        around = _Around(self, method, self.metrics.method(method, KINDS[kind]), handler)
        parse, serialize = around.deserializer(handler.request_deserializer, kind[0]), handler.response_serializer
        match kind:
            case (False, False):
                return grpc.unary_unary_rpc_method_handler(around.unary(handler.unary_unary, serialize, False), parse)
            case (True, False):
                return grpc.stream_unary_rpc_method_handler(around.unary(handler.stream_unary, serialize, True), parse)
            case (False, True):
                return grpc.unary_stream_rpc_method_handler(
                    around.stream(handler.unary_stream, False), parse, serialize
                )
            case _:
                return grpc.stream_stream_rpc_method_handler(
                    around.stream(handler.stream_stream, True), parse, serialize
                )


class _Around:
    """What happens around one method's handler; made once a method, so that a call itself costs little."""

    def __init__(self, owner: ServerInterceptor, method: str, counts: MethodCounts, handler: Any) -> None:
        self._owner = owner
        self._method = method
        self._counts = counts
        self._metrics = owner.metrics
        self._is_quiet = method.startswith(QUIET_SERVICES)
        self._meter = None if self._is_quiet else owner.meter
        self._observers = () if self._is_quiet else owner._observers
        self._logs_ok = owner._access == "all" and not self._is_quiet
        self._logs_errors = owner._access != "none" and not self._is_quiet

    def deserializer(self, parse: Callable[[bytes], Any] | None, is_streamed: bool) -> Callable[[bytes], Any] | None:
        """`parse`, but garbage becomes a marker: what grpc makes of an exception there tells callers of our inside."""
        limit = self._owner.control_message_bytes_max
        if is_streamed or self._method.startswith(BULK_SERVICES):
            limit = None
        if parse is None and limit is None:
            return None
        bytes_max = sys.maxsize if limit is None else limit

        def parse_or_mark(data: bytes) -> Any:
            if len(data) > bytes_max:
                return Unusable(message_too_large(len(data), bytes_max, "rpc.control_message_bytes_max"))
            try:
                return data if parse is None else parse(data)
            except Exception:
                return Unusable(_garbage(self._method))

        return parse_or_mark

    def unary(self, handler: Handler, serialize: Serializer | None, is_request_streamed: bool) -> Handler:
        """The handler of a call with one answer; it serializes by itself, so that a wrong answer is masked as well."""
        run = _as_coroutine(handler)
        counts, metrics, owner, meter = self._counts, self._metrics, self._owner, self._meter
        is_counted = not self._is_quiet

        async def answer(request: Any, context: Context) -> Any:
            call = Call(self._method, context)
            enter_call(call)
            counts.started += 1
            if is_counted:
                metrics.in_flight += 1
            states = [observer.begin(call) for observer in self._observers] if self._observers else ()
            code, failure, began = _OK, None, time.perf_counter()
            try:
                if owner.is_draining and is_counted:
                    await owner.refuse()
                if is_request_streamed:
                    request = Received(request, counts)
                else:
                    counts.received += 1
                    if type(request) is Unusable:
                        raise request.why
                response = await run(request, context)
                if response is None:
                    raise TypeError("the handler returned no response")
                if serialize is not None:
                    response = serialize(response)
                code = _code_of(context)
                counts.sent += 1
                if meter is not None and (told := meter.trailers()):
                    context.set_trailing_metadata((*(context.trailing_metadata() or ()), *told))
                return response
            except BaseException as error:
                failure = error
                code, refusal = self._judge(error, call, context)
                if refusal is None:
                    raise
                await _abort(context, refusal)
            finally:
                ended = time.perf_counter()
                if is_counted:
                    metrics.in_flight -= 1
                    owner.heard_at = ended
                self._finish(call, code, failure, states, ended - began)

        return answer

    def stream(self, handler: Handler, is_request_streamed: bool) -> Handler:
        """The handler of a call with many answers: a coroutine that writes them, whatever the handler is."""
        run = _as_writer(handler)
        counts, metrics, owner = self._counts, self._metrics, self._owner
        is_counted = not self._is_quiet

        async def answer(request: Any, context: Context) -> None:
            call = Call(self._method, context)
            enter_call(call)
            counts.started += 1
            if is_counted:
                metrics.in_flight += 1
            states = [observer.begin(call) for observer in self._observers] if self._observers else ()
            code, failure, began = _OK, None, time.perf_counter()
            try:
                if owner.is_draining and is_counted:
                    await owner.refuse()
                if is_request_streamed:
                    request = Received(request, counts)
                else:
                    counts.received += 1
                    if type(request) is Unusable:
                        raise request.why
                await run(request, context, counts)
                code = _code_of(context)
            except BaseException as error:
                failure = error
                code, refusal = self._judge(error, call, context)
                if refusal is None:
                    raise
                await _abort(context, refusal)
            finally:
                ended = time.perf_counter()
                if is_counted:
                    metrics.in_flight -= 1
                    owner.heard_at = ended
                self._finish(call, code, failure, states, ended - began)

        return answer

    def _judge(self, error: BaseException, call: Call, context: Context) -> tuple[grpc.StatusCode, MeshError | None]:
        """(code to count, what to tell the caller); None when the error must pass as it is."""
        if _is_cancelled(error):
            left_s = context.time_remaining()
            late = left_s is not None and left_s <= 0
            return (grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED), None
        if isinstance(error, grpc.aio.AbortError):
            return _code_of(context), None
        if not isinstance(error, Exception | asyncio.CancelledError):
            return grpc.StatusCode.UNKNOWN, None
        refusal = _refusal(error, context)
        if isinstance(refusal, Internal):
            # A peer's bug: its log has the traceback, under the id that it gave. Its words may be anything.
            request_id = refusal.facts.get("request_id") or call.request_id
            log.error("bug in a peer", method=self._method, request_id=request_id, error=refusal.message)
            refusal = Internal("internal error", request_id=request_id)
        elif refusal is None:
            request_id = call.request_id
            log.error("bug in a handler", method=self._method, request_id=request_id, exc_info=error, peer=call.peer())
            refusal = Internal("internal error", request_id=request_id)
        return refusal.code, refusal

    def _finish(
        self,
        call: Call,
        code: grpc.StatusCode,
        failure: BaseException | None,
        states: Sequence[Any],
        seconds: float,
    ) -> None:
        self._counts.finish(code, seconds)
        if self._meter is not None:
            self._meter.calls += 1
            self._meter.faults += code is not _OK and code in FAULTS
        if self._logs_ok or (self._logs_errors and code is not _OK):
            facts = {} if not isinstance(failure, MeshError) else {"error": failure.message, **failure.facts}
            log.info(
                "call",
                **facts
                | {
                    "method": self._method,
                    "code": code.name,
                    "duration_ms": round(seconds * 1e3, 3),
                    "peer": call.peer(),
                    "request_id": call.request_id,
                },
            )
        if states:
            for observer, state in zip(self._observers, states, strict=True):
                observer.end(state, call, code, failure)
        call.end()


def _as_coroutine(handler: Handler) -> Callable[[Any, Any], Awaitable[Any]]:
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004
        return handler

    async def threaded(request: Any, context: Context) -> Any:
        answer = await asyncio.to_thread(handler, request, context)
        return await answer if inspect.isawaitable(answer) else answer

    return threaded


def _as_writer(handler: Handler) -> Callable[[Any, Any, MethodCounts], Awaitable[None]]:
    if inspect.isasyncgenfunction(handler) or inspect.isasyncgenfunction(getattr(handler, "__call__", None)):  # noqa: B004

        async def generate(request: Any, context: Context, counts: MethodCounts) -> None:
            responses: AsyncGenerator[Any, None] = handler(request, context)
            write = context.write
            # Closed inside the call's own task, so that the generator's `finally` runs there.
            async with contextlib.aclosing(responses):
                async for response in responses:
                    await write(response)
                    counts.sent += 1

        return generate
    run = _as_coroutine(handler)

    async def write_itself(request: Any, context: Context, counts: MethodCounts) -> None:
        counting = CountingContext(context, counts)
        try:
            answer = await run(request, counting)
        except BaseException as error:
            if _is_cancelled(error):
                counting.give_up()
            else:
                await counting.settle()
            raise
        await counting.settle()
        if answer is not None:
            raise TypeError("a streaming handler must yield or write its responses, not return one")

    return write_itself


def _is_cancelled(error: BaseException) -> bool:
    """True when the call itself was cancelled. Else something that it awaits was cancelled, which is a bug of ours."""
    if not isinstance(error, asyncio.CancelledError):
        return False
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _refusal(error: BaseException, context: Context) -> MeshError | None:
    """The MeshError behind a handler's failure; None for a bug. A task group's failure is that of its first task."""
    if isinstance(error, MeshError):
        return error
    if isinstance(error, BaseExceptionGroup):
        refusals = [_refusal(part, context) for part in error.exceptions]
        return None if None in refusals else refusals[0]
    if isinstance(error, NotImplementedError) and _code_of(context) is grpc.StatusCode.UNIMPLEMENTED:
        return Unimplemented(  # what a generated servicer does for a method that it was not given
            "this server does not implement the method", reason=ErrorReason.ERROR_REASON_FEATURE_MISSING
        )
    return None


async def _abort(context: Context, error: MeshError) -> None:
    given = context.trailing_metadata() or ()
    await context.abort(error.code, head_message(error), (*given, *trailers(error)))


def _code_of(context: Context) -> grpc.StatusCode:
    code: Any = context.code()
    if isinstance(code, grpc.StatusCode):
        return code
    return _CODES.get(code or 0, grpc.StatusCode.UNKNOWN)


def _draining() -> NotReady:
    return NotReady(
        "the process is draining; ask another replica", reason=ErrorReason.ERROR_REASON_DRAINING, retry_after_s=1.0
    )


def _garbage(method: str) -> InvalidInput:
    return InvalidInput(f"the bytes are no request message of {method}; client and server use different contracts?")


def _unknown_method(method: str, counts: MethodCounts) -> grpc.RpcMethodHandler[Any, Any]:
    # A handler of the widest kind can refuse callers of every kind: it reads nothing before it aborts.
    async def refuse(request: Any, context: Context) -> None:
        counts.started += 1
        counts.finish(grpc.StatusCode.UNIMPLEMENTED, 0.0)
        await _abort(
            context,
            Unimplemented(
                f"nobody serves {method[:200]} here",
                reason=ErrorReason.ERROR_REASON_METHOD_UNKNOWN,
                method=method[:200],
            ),
        )

    return grpc.stream_stream_rpc_method_handler(refuse)
