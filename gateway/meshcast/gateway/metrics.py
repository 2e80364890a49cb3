"""Metrics of the gateway: the `meshcast_gateway_*` families, built from plain numbers when they are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from meshcast.rpc.metrics import CODE_LABELS, cumulative

from .backends import Backend, state_of
from .breaker import BreakerState
from .counts import PipelineCounts
from .replica import Replica, State

_CODES = {code.name: label for code, label in CODE_LABELS.items()}
_PREFIX = "meshcast_gateway_"

COUNTS = {
    "hedges": "Second tries beside a first one that had not answered.",
    "hedges_won": "Hedges whose answer came first.",
    "retries": "Tries after one that had failed.",
    "cache_hits": "Answers from the cache.",
    "cache_misses": "Questions to cached methods that were not in the cache.",
    "shared": "Calls that shared the answer of an equal one under way.",
    "broken": "Calls refused because every replica's breaker was open.",
    "late": "Calls refused because their deadline could not be kept.",
    "chunks_resent": "Chunks sent to another replica since the first one was lost.",
}
"""Numbers of `PipelineCounts` that are a family each, with its help."""

KINDS = {
    "shed": ("priority", "Calls refused by the limit, by priority."),
    "fallbacks": ("fallback", "Degraded answers, by what stood in."),
}
"""Numbers of `PipelineCounts` that are counted by kind: the label of the kind, and the family's help."""


class GatewayMetrics(Collector):
    """The `meshcast_gateway_*` families of one gateway, in a registry.

    Nothing is counted here: the stages count into the routes' loads, on the event loop, and the families are built by
    the thread that reads them.

    Args:
        backends: the routes by name.
        registry: where the families appear.
    """

    def __init__(self, backends: Mapping[str, Backend], registry: CollectorRegistry) -> None:
        self._backends = backends
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """The families as they stand; called by the registry."""
        backends = [(name, backend) for name, backend in self._backends.items()]
        yield from _calls(backends)
        yield from _pipeline(backends)
        yield from _replicas(
            [(name, backend, replica) for name, backend in backends for replica in list(backend.replicas.values())]
        )


def _calls(backends: list[tuple[str, Backend]]) -> Iterator[Metric]:
    calls = CounterMetricFamily(_PREFIX + "calls", "Calls by route and code.", labels=["route", "grpc_code"])
    seconds = HistogramMetricFamily(
        _PREFIX + "latency_seconds", "Time of single calls from arrival to answer, in seconds.", labels=["route"]
    )
    in_flight = GaugeMetricFamily(_PREFIX + "in_flight", "Calls that are under way.", labels=["route"])
    chunks = GaugeMetricFamily(_PREFIX + "chunks_in_flight", "Chunks of streams under way.", labels=["route"])
    limit = GaugeMetricFamily(_PREFIX + "limit", "Calls that may be under way: the adaptive limit.", labels=["route"])
    waiting = GaugeMetricFamily(_PREFIX + "waiting", "Calls that wait for their turn.", labels=["route"])
    for name, backend in backends:
        load = backend.load
        for code, number in list(load.calls_by_code.items()):
            calls.add_metric([name, _CODES.get(code, code)], number)
        seconds.add_metric([name], list(cumulative(load.buckets)), load.seconds)
        in_flight.add_metric([name], load.in_flight)
        chunks.add_metric([name], load.chunks_in_flight)
        if load.limit is not None:
            limit.add_metric([name], load.limit.calls_max)
            waiting.add_metric([name], load.limit.waiting)
    yield from (calls, seconds, in_flight, chunks, limit, waiting)


def _pipeline(backends: list[tuple[str, Backend]]) -> Iterator[Metric]:
    counts: list[tuple[str, PipelineCounts]] = [(name, backend.load.counts) for name, backend in backends]
    for field, text in COUNTS.items():
        family = CounterMetricFamily(_PREFIX + field, text, labels=["route"])
        for name, numbers in counts:
            family.add_metric([name], getattr(numbers, field))
        yield family
    for field, (label, text) in KINDS.items():
        family = CounterMetricFamily(_PREFIX + field, text, labels=["route", label])
        for name, numbers in counts:
            for kind, number in list(getattr(numbers, field).items()):
                family.add_metric([name, kind], number)
        yield family


def _replicas(replicas: list[tuple[str, Backend, Replica]]) -> Iterator[Metric]:
    labels = ["route", "replica"]
    serving = GaugeMetricFamily(_PREFIX + "replica_serving", "1 where its health says SERVING, else 0.", labels=labels)
    in_flight = GaugeMetricFamily(_PREFIX + "replica_in_flight", "Calls and chunks under way on it.", labels=labels)
    tries = CounterMetricFamily(_PREFIX + "replica_tries", "Tries on it, by code.", labels=[*labels, "grpc_code"])
    breaker = GaugeMetricFamily(
        _PREFIX + "breaker", "1 for the state that its breaker is in, else 0.", labels=[*labels, "state"]
    )
    opened = CounterMetricFamily(_PREFIX + "breaker_opened", "How often its breaker has opened.", labels=labels)
    for name, backend, replica in replicas:
        key = [name, replica.endpoint]
        serving.add_metric(key, state_of(replica, backend.settings) == State.SERVING)
        in_flight.add_metric(key, replica.in_flight)
        for code, number in list(replica.tries.items()):
            tries.add_metric([*key, _CODES.get(code, code)], number)
        for state in BreakerState:
            breaker.add_metric([*key, state.name.lower()], replica.breaker.state is state)
        opened.add_metric(key, replica.breaker.opened)
    yield from (serving, in_flight, tries, breaker, opened)
