"""Counts of a batcher, and the `meshcast_batch_*` metric families over those of a process."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

__all__ = ["BatcherCounts", "BatcherMetrics"]

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper bounds of `meshcast_batch_rows`."""


class BatcherCounts:
    """What a batcher did; plain numbers that its event loop changes."""

    __slots__ = (
        "buckets",
        "cancelled",
        "compute_s",
        "executed_after_deadline",
        "expired",
        "mixed",
        "model",
        "queue_s",
        "refused",
        "rows",
        "runs",
    )

    def __init__(self, model: str) -> None:
        self.model = model
        self.runs = 0
        self.rows = 0
        self.mixed = 0  # runs that held rows of more than one door
        self.compute_s = 0.0
        self.queue_s = 0.0
        self.refused = 0  # rows refused because the queue was full
        self.expired = 0  # rows dropped because their deadline had passed
        self.cancelled = 0  # rows whose caller went away
        self.executed_after_deadline = 0  # rows computed for nothing; stays 0
        self.buckets = [0] * (len(ROWS) + 1)

    def run(self, rows: int, seconds: float, doors: int) -> None:
        """Counts one run."""
        self.runs += 1
        self.rows += rows
        self.compute_s += seconds
        self.mixed += doors > 1
        self.buckets[bisect_left(ROWS, rows)] += 1


class BatcherMetrics(Collector):
    """The `meshcast_batch_*` and `meshcast_queue_*` families.

    Args:
        counted: (counts, function that gives the rows in the queue) of each batcher.
    """

    def __init__(self, counted: Sequence[tuple[BatcherCounts, Callable[[], int]]]) -> None:
        self._counted = counted

    def collect(self) -> Iterable[Metric]:
        """The families as they stand; called by the registry."""
        label = ["model"]
        rows = HistogramMetricFamily("meshcast_batch_rows", "Rows of a model run.", labels=label)
        compute = CounterMetricFamily("meshcast_batch_compute_seconds", "Time of model runs.", labels=label)
        mixed = CounterMetricFamily("meshcast_batch_mixed", "Runs with rows of more than one door.", labels=label)
        queued = GaugeMetricFamily("meshcast_queue_rows", "Rows that wait for a run.", labels=label)
        waited = CounterMetricFamily("meshcast_queue_seconds", "Time of questions in the queue.", labels=label)
        dropped = CounterMetricFamily(
            "meshcast_queue_dropped_rows", "Rows that were not computed, by why.", labels=["model", "why"]
        )
        late = CounterMetricFamily(
            "meshcast_executed_after_deadline_rows", "Rows whose run began after their deadline.", labels=label
        )
        for counts, queued_rows in self._counted:
            key = [counts.model]
            total, buckets = 0, []
            for bound, number in zip((*map(str, ROWS), "+Inf"), counts.buckets, strict=True):
                total += number
                buckets.append((bound, float(total)))
            rows.add_metric(key, buckets, counts.rows)
            compute.add_metric(key, counts.compute_s)
            mixed.add_metric(key, counts.mixed)
            queued.add_metric(key, queued_rows())
            waited.add_metric(key, counts.queue_s)
            dropped.add_metric([counts.model, "queue_full"], counts.refused)
            dropped.add_metric([counts.model, "deadline"], counts.expired)
            dropped.add_metric([counts.model, "cancelled"], counts.cancelled)
            late.add_metric(key, counts.executed_after_deadline)
        return [rows, compute, mixed, queued, waited, dropped, late]
