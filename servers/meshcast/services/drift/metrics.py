"""Metrics of the subjects: how many there are, what they hold, and what waits for them."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from meshcast.services.drift.held import HeldSubjects

__all__ = ["SubjectMetrics"]


class SubjectMetrics(Collector):
    """The `meshcast_drift_*` families of the subjects.

    Args:
        held: the subjects.
    """

    def __init__(self, held: HeldSubjects) -> None:
        self._held = held

    def collect(self) -> Iterable[Metric]:
        """The families as they stand; called by the registry."""
        held = self._held
        return [
            GaugeMetricFamily("meshcast_drift_subjects", "Subjects that have a reference.", len(held.names)),
            GaugeMetricFamily("meshcast_drift_state_bytes", "State of subjects in memory.", held.state_bytes),
            GaugeMetricFamily("meshcast_drift_waiting_calls", "Calls that wait to be counted, or are.", held.waiting),
            CounterMetricFamily("meshcast_drift_observed_rows", "Rows that were counted.", held.observed_rows),
            CounterMetricFamily("meshcast_drift_alarms", "Alarms that were ever written.", held.newest_alarm_id),
        ]
