"""Metrics of a server: the conventional `grpc_server_*` families, and an HTTP port that serves a registry."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from threading import Thread
from wsgiref.simple_server import WSGIServer

import grpc
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from .errors import NotReady

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of `grpc_server_handling_seconds`, in seconds; the last bucket, +Inf, is implied."""

METHODS_MAX = 512
"""Methods with series of their own; more are counted as `other`, so that no caller can blow the registry up."""

KINDS = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}
"""Label `grpc_type` by (request is streamed, response is streamed)."""

CODE_LABELS = {code: "".join(part.capitalize() for part in code.name.split("_")) for code in grpc.StatusCode}
CODE_LABELS[grpc.StatusCode.OK] = "OK"  # the other names follow Go's, as dashboards expect
CODE_LABELS[grpc.StatusCode.CANCELLED] = "Canceled"


class MethodCounts:
    """Counts of one method; plain numbers that only the server's event loop changes, read by the collector."""

    __slots__ = ("buckets", "handled", "kind", "method", "received", "seconds", "sent", "service", "started")

    def __init__(self, service: str, method: str, kind: str) -> None:
        self.service, self.method, self.kind = service, method, kind
        self.started = 0
        self.received = 0
        self.sent = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.handled: dict[grpc.StatusCode, int] = {grpc.StatusCode.OK: 0}

    def finish(self, code: grpc.StatusCode, seconds: float) -> None:
        """Counts the end of a call that took so many seconds."""
        self.handled[code] = self.handled.get(code, 0) + 1
        self.seconds += seconds
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1


class Metrics(Collector):
    """The `grpc_server_*` families of one server, in a registry.

    Counting is plain arithmetic on the event loop (about 1 us a call); the families are built when they are read.

    Args:
        registry: where the families appear; None leaves them out of any registry.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._methods: dict[str, MethodCounts] = {}
        self.in_flight = 0
        if registry is not None:
            registry.register(self)

    def method(self, path: str, kind: str) -> MethodCounts:
        """Counts of a method, which then appear in the families even before its first call.

        Args:
            path: `/package.Service/Method`.
            kind: label `grpc_type`.
        """
        counts = self._methods.get(path)
        if counts is None:
            if len(self._methods) >= METHODS_MAX:
                path, kind = "/other/other", "bidi_stream"
                if path in self._methods:
                    return self._methods[path]
            service, _, method = path.lstrip("/").rpartition("/")
            counts = self._methods[path] = MethodCounts(service, method, kind)
        return counts

    def unknown(self) -> MethodCounts:
        """Counts of calls to methods that nobody serves, as one series."""
        return self.method("/unknown/unknown", "bidi_stream")

    def collect(self) -> Iterable[Metric]:
        """The families as they stand; called by the registry."""
        labels = ["grpc_type", "grpc_service", "grpc_method"]
        started = CounterMetricFamily("grpc_server_started", "RPCs started on the server.", labels=labels)
        handled = CounterMetricFamily("grpc_server_handled", "RPCs completed, by code.", labels=[*labels, "grpc_code"])
        received = CounterMetricFamily("grpc_server_msg_received", "Messages received from callers.", labels=labels)
        sent = CounterMetricFamily("grpc_server_msg_sent", "Messages sent to callers.", labels=labels)
        seconds = HistogramMetricFamily(
            "grpc_server_handling_seconds", "Time from a call's arrival to its end, in seconds.", labels=labels
        )
        in_flight = GaugeMetricFamily("grpc_server_in_flight", "RPCs that are being handled now.")
        for counts in list(self._methods.values()):
            key = [counts.kind, counts.service, counts.method]
            started.add_metric(key, counts.started)
            received.add_metric(key, counts.received)
            sent.add_metric(key, counts.sent)
            for code, number in list(counts.handled.items()):
                handled.add_metric([*key, CODE_LABELS[code]], number)
            seconds.add_metric(key, list(cumulative(counts.buckets)), counts.seconds)
        in_flight.add_metric([], self.in_flight)
        return [started, handled, received, sent, seconds, in_flight]


class MetricsServer:
    """An HTTP port that serves a registry at `/metrics`, on a thread of its own; `close` ends it.

    Args:
        server: the HTTP server.
        thread: that runs it.
        host: address that it listens on.
    """

    def __init__(self, server: WSGIServer, thread: Thread, host: str) -> None:
        self._server, self._thread = server, thread
        self.host = host
        self.port: int = server.server_port

    def close(self) -> None:
        """Stops serving and frees the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


def serve_metrics(registry: CollectorRegistry, host: str, port: int) -> MetricsServer:
    """Serves the registry over HTTP until it is closed.

    Args:
        registry: what to serve.
        host: address to listen on.
        port: TCP port; 0 takes a free one, see `port` of the result.

    Raises:
        NotReady: the port cannot be taken.
    """
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise NotReady(
            f"cannot serve metrics on {host}:{port}: {error.strerror}; set rpc.metrics_port to a free port, or"
            " rpc.metrics to false"
        ) from error
    return MetricsServer(server, thread, host)


def cumulative(buckets: list[int]) -> Iterator[tuple[str, float]]:
    """Buckets of a histogram as Prometheus takes them: each bound of `BUCKETS_S`, then +Inf, with the sum up to it."""
    total = 0
    for bound, number in zip((*map(str, BUCKETS_S), "+Inf"), buckets, strict=True):
        total += number
        yield bound, total
