"""Mesh health: the state of every route and replica as a message, the one thing that consoles read."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

from meshcast.api.gateway.v1 import gateway_pb2 as pb

from .backends import Backend, Backends, state_of
from .counts import PipelineCounts
from .replica import Replica

_STATM = Path("/proc/self/statm")


class MeshHealth:
    """Tells the state of the mesh, as this gateway sees it.

    Args:
        backends: the routes.
        in_flight: gives the callers' calls and streams that are under way, health and reflection left out.
    """

    def __init__(self, backends: Backends, *, in_flight: Callable[[], int]) -> None:
        self._backends = backends
        self._in_flight = in_flight
        self._started_time = datetime.now(UTC)
        self._version = version("meshcast")

    def read(self) -> pb.MeshHealth:
        """The state of every route and replica now."""
        now = time.perf_counter()
        read_time = datetime.now(UTC)
        services = [_service(backend, now) for backend in self._backends.by_name.values()]
        health = pb.MeshHealth(
            serving=any(service.state == pb.SERVING_STATE_SERVING for service in services),
            services=services,
            meshcast_version=self._version,
            calls_in_flight=self._in_flight(),
            rss_bytes=rss_bytes(),
        )
        health.read_time.FromDatetime(read_time)
        health.started_time.FromDatetime(self._started_time)
        return health


def rss_bytes() -> int:
    """Resident memory of this process in bytes; 0 where the system does not tell, as outside of Linux."""
    try:
        return int(_STATM.read_text("ascii").split()[1]) * PAGESIZE
    except (OSError, ValueError, IndexError):
        return 0


def _service(backend: Backend, now: float) -> pb.ServiceHealth:
    load = backend.load
    return pb.ServiceHealth(
        name=backend.name,
        state=backend.state(),  # type: ignore[arg-type]  # State has the numbers of ServingState
        replicas=[_replica(backend, replica, now) for _, replica in sorted(backend.replicas.items())],
        calls_by_code=load.calls_by_code,
        calls_in_flight=load.in_flight,
        latency_ms_p50=load.latencies_ms.at(0.5),
        latency_ms_p90=load.latencies_ms.at(0.9),
        latency_ms_p99=load.latencies_ms.at(0.99),
        calls_per_s=load.recent.calls_per_s(now),
        error_share=load.recent.error_share(now),
        limit=0 if load.limit is None else load.limit.calls_max,
        calls_waiting=0 if load.limit is None else load.limit.waiting,
        counts=_counts(load.counts),
        chunks_in_flight=load.chunks_in_flight,
    )


def _counts(counts: PipelineCounts) -> pb.PipelineCounts:
    return pb.PipelineCounts(
        hedges=counts.hedges,
        hedges_won=counts.hedges_won,
        retries=counts.retries,
        cache_hits=counts.cache_hits,
        cache_misses=counts.cache_misses,
        shared=counts.shared,
        shed=counts.shed,
        broken=counts.broken,
        late=counts.late,
        fallbacks=counts.fallbacks,
        chunks_resent=counts.chunks_resent,
    )


def _replica(backend: Backend, replica: Replica, now: float) -> pb.ReplicaHealth:
    models: dict[str, Any] = dict(replica.models)
    health = pb.ReplicaHealth(
        endpoint=replica.endpoint,
        state=state_of(replica, backend.settings),  # type: ignore[arg-type]  # State has the numbers of ServingState
        models=models,
        problem=replica.problem,
        breaker=replica.breaker.state,  # type: ignore[arg-type]  # likewise
        calls_in_flight=replica.in_flight,
        tries_by_code=replica.tries,
        latency_ms_p50=replica.latencies_ms.at(0.5),
        latency_ms_p99=replica.latencies_ms.at(0.99),
    )
    health.changed_time.FromDatetime(replica.changed_time)
    if replica.report is not None:
        health.load.utilization = replica.report.application_utilization
        health.load.queue_rows = replica.report.named_metrics.get("queue_rows", 0.0)
        health.load.reported_time.FromDatetime(datetime.now(UTC) - timedelta(seconds=now - replica.reported_at))
    return health
