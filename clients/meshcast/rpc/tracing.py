"""Tracing across hops: OpenTelemetry spans around served and made calls, when `[tracing]` asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc
from structlog.typing import EventDict, Processor, WrappedLogger

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason

from .call import Call, Observer
from .errors import Precondition
from .interceptor import QUIET_SERVICES
from .settings import TracingSettings
from .status import answer_now

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Span, Tracer

_HEADERS = ("traceparent", "tracestate")
# Codes that are the server's fault; the others are answers that the caller has to deal with (OpenTelemetry's rule).
_SERVER_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


@dataclass(frozen=True, slots=True)
class Tracing:
    """What a process hangs into its server, its channels and its logs; all empty when tracing is off.

    Args:
        observers: for `Server(observers=)`.
        client_interceptors: for `channel(interceptors=)`.
        log_processors: for `setup_logs(processors=)`; adds `trace_id`.
        provider: the OpenTelemetry provider; None when tracing is off.
    """

    observers: tuple[Observer, ...] = ()
    client_interceptors: tuple[grpc.aio.ClientInterceptor, ...] = ()
    log_processors: tuple[Processor, ...] = ()
    provider: TracerProvider | None = None

    def close(self) -> None:
        """Sends what is left and stops the exporter; may take as long as the exporter's time limit."""
        if self.provider is not None:
            self.provider.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def setup_tracing(settings: TracingSettings, service_name: str, *, processors: Sequence[SpanProcessor] = ()) -> Tracing:
    """Tracing for this process; nothing is made global.

    Args:
        settings: of the table `[tracing]`.
        service_name: `service.name` of the spans.
        processors: take the spans instead of an OTLP exporter.

    Raises:
        Precondition: the extra is not installed.
    """
    if not settings.enabled:
        return Tracing()
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    except ImportError as error:
        raise _extra_missing() from error
    provider = TracerProvider(
        resource=Resource.create({"service.name": service_name}),
        sampler=ParentBasedTraceIdRatio(settings.sample_ratio),
        shutdown_on_exit=False,
    )
    if not processors:
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        except ImportError as error:
            raise _extra_missing() from error
        exporter = OTLPSpanExporter(endpoint=settings.endpoint or None, insecure=settings.insecure or None)
        processors = [BatchSpanProcessor(exporter)]
    for processor in processors:
        provider.add_span_processor(processor)
    tracer = provider.get_tracer("meshcast.rpc")
    return Tracing(
        observers=(_ServerSpans(tracer),),
        client_interceptors=_client_interceptors(tracer),
        log_processors=(_add_trace_id,),
        provider=provider,
    )


class _ServerSpans:
    """A span around each served call, child of the caller's."""

    def __init__(self, tracer: Tracer) -> None:
        from opentelemetry import context, trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer, self._context, self._trace = tracer, context, trace
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, call: Call) -> Any:
        carrier = {key: value for key in _HEADERS if isinstance(value := call.metadata(key), str)}
        parent = self._propagator.extract(carrier)
        span = self._tracer.start_span(
            call.method.lstrip("/"), parent, self._trace.SpanKind.SERVER, _attributes(call.method)
        )
        return span, self._context.attach(self._trace.set_span_in_context(span))

    def end(self, state: Any, call: Call, code: grpc.StatusCode, error: BaseException | None) -> None:
        span, token = state
        self._context.detach(token)
        _end(span, code, is_fault=code in _SERVER_FAULTS)


class _ClientSpans:
    """A span around each call that is made, and its id in the call's metadata."""

    def __init__(self, tracer: Tracer) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer, self._trace = tracer, trace
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, details: Any) -> tuple[Any, Span | None]:
        """(details with the span's id, the span); no span for probes."""
        method = details.method if isinstance(details.method, str) else details.method.decode()
        if method.startswith(QUIET_SERVICES):
            return details, None
        span = self._tracer.start_span(
            method.lstrip("/"), kind=self._trace.SpanKind.CLIENT, attributes=_attributes(method)
        )
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._trace.set_span_in_context(span))
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *carrier.items())
        return details._replace(metadata=metadata), span

    async def whole(self, continuation: Any, details: Any, request: Any) -> Any:
        """Around a call with one answer."""
        details, span = self.begin(details)
        call = await continuation(details, request)
        if span is None:
            return call
        code = grpc.StatusCode.CANCELLED
        try:
            code = await call.code()
        except BaseException:
            call.cancel()  # grpc cancels this interceptor only, not the call below it
            raise
        finally:
            _end(span, code, is_fault=code is not grpc.StatusCode.OK)
        return call

    async def stream(self, continuation: Any, details: Any, request: Any) -> Any:
        """Around a call with many answers: the span ends when the call does."""
        details, span = self.begin(details)
        call = await continuation(details, request)
        if span is not None:
            call.add_done_callback(lambda ended: _end_stream(span, ended))
        return call


def _client_interceptors(tracer: Tracer) -> tuple[grpc.aio.ClientInterceptor, ...]:
    spans = _ClientSpans(tracer)

    # grpc.aio sorts an interceptor into the first kind that it is an instance of, hence four classes.
    class UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            return await spans.whole(continuation, client_call_details, request)

    class StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
        async def intercept_stream_unary(
            self, continuation: Any, client_call_details: Any, request_iterator: Any
        ) -> Any:
            # Not awaited here: with the write API the requests come after this call has been returned.
            return await spans.stream(continuation, client_call_details, request_iterator)

    class UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
        async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            return await spans.stream(continuation, client_call_details, request)

    class StreamStream(grpc.aio.StreamStreamClientInterceptor):
        async def intercept_stream_stream(
            self, continuation: Any, client_call_details: Any, request_iterator: Any
        ) -> Any:
            return await spans.stream(continuation, client_call_details, request_iterator)

    return UnaryUnary(), StreamUnary(), UnaryStream(), StreamStream()


def _attributes(method: str) -> dict[str, str]:
    service, _, name = method.lstrip("/").rpartition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}


def _end(span: Span, code: grpc.StatusCode, *, is_fault: bool) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("rpc.grpc.status_code", code.value[0])
    if is_fault:
        span.set_status(StatusCode.ERROR, code.name)
    span.end()


def _end_stream(span: Span, ended: Any) -> None:
    code = answer_now(ended.code()) or grpc.StatusCode.UNKNOWN
    _end(span, code, is_fault=code is not grpc.StatusCode.OK)


def _add_trace_id(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    from opentelemetry import trace

    identity = trace.get_current_span().get_span_context()
    if identity.is_valid:
        event["trace_id"] = trace.format_trace_id(identity.trace_id)
    return event


def _extra_missing() -> Precondition:
    command = "pip install 'meshcast[otel]'"
    return Precondition(
        f"[tracing] is enabled, but OpenTelemetry is not installed: {command}",
        reason=ErrorReason.ERROR_REASON_EXTRA_MISSING,
        extra="otel",
        command=command,
    )
