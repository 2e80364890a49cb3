"""Calls to the drift service from plain code."""

from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from numpy.typing import NDArray

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.client.calls import STREAM_TIMEOUT_S, WINDOW, Progress
from meshcast.client.drift_answers import DriftAlarm, DriftSeverity, ObservedChunk
from meshcast.client.drift_calls import REPORT_TIMEOUT_S
from meshcast.client.drift_history_calls import PATIENCE_S
from meshcast.client.drift_losses import PerformanceDrift
from meshcast.client.drift_questions import CHUNK_ROWS, DriftOptions, LossDetector, RowsLike
from meshcast.client.drift_references import Reference
from meshcast.client.drift_reports import DriftReport, Severity
from meshcast.client.priority import Priority
from meshcast.client.sync_calls import SyncCalls, Told


class SyncDriftCalls(SyncCalls):
    """What plain code asks the drift service."""

    def set_reference(
        self,
        subject: str,
        rows: RowsLike | Iterable[RowsLike] | None = None,
        *,
        draft: str | None = None,
        recent_rows: int | None = None,
        importances: Mapping[str, float] | None = None,
        outputs: Collection[str] = (),
        options: DriftOptions | None = None,
        progress: Progress | None = None,
        request_id: str | None = None,
        timeout_s: float = STREAM_TIMEOUT_S,
    ) -> Reference:
        """Makes rows the reference of a subject; see `MeshClient.set_reference`.

        Progress is told in the client's own thread.
        """
        return self._run(
            self._mesh.set_reference(
                subject,
                rows,
                draft=draft,
                recent_rows=recent_rows,
                importances=importances,
                outputs=outputs,
                options=options,
                request_id=request_id,
                timeout_s=timeout_s,
                progress=progress,
            )
        )

    def observe(
        self,
        subject: str,
        rows: RowsLike | Iterable[RowsLike],
        *,
        stream_id: str | None = None,
        is_reference: bool = False,
        wants_row_errors: bool = False,
        wants_refused: bool = False,
        chunk_rows: int = CHUNK_ROWS,
        window: int = WINDOW,
        progress: Progress | None = None,
        request_id: str | None = None,
        version: int = 0,
        priority: Priority = "low",
        timeout_s: float = STREAM_TIMEOUT_S,
    ) -> Generator[ObservedChunk, None, None]:
        """Sends rows that a subject observed, in order; see `MeshClient.observe`. Progress is told in this thread."""
        answers = self._mesh.observe(
            subject,
            rows,
            stream_id=stream_id,
            is_reference=is_reference,
            wants_row_errors=wants_row_errors,
            wants_refused=wants_refused,
            chunk_rows=chunk_rows,
            window=window,
            request_id=request_id,
            version=version,
            priority=priority,
            timeout_s=timeout_s,
            progress=(told := Told(progress)),
        )
        return self._each(answers, told.tell)

    def detect_data_drift(
        self,
        rows: RowsLike | None = None,
        *,
        subject: str | None = None,
        reference: RowsLike | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        everything: bool = False,
        importances: Mapping[str, float] | None = None,
        outputs: Collection[str] = (),
        false_alarm_chance: float | None = None,
        features_max: int = 0,
        plots: Sequence[str] = (),
        wants_row_errors: bool = False,
        keeps: bool = False,
        request_id: str | None = None,
        version: int = 0,
        priority: Priority = "normal",
        timeout_s: float = REPORT_TIMEOUT_S,
    ) -> DriftReport:
        """Compares a window with a reference and reports what moved; see `MeshClient.detect_data_drift`."""
        return self._run(
            self._mesh.detect_data_drift(
                rows,
                subject=subject,
                reference=reference,
                start=start,
                end=end,
                everything=everything,
                importances=importances,
                outputs=outputs,
                false_alarm_chance=false_alarm_chance,
                features_max=features_max,
                plots=plots,
                wants_row_errors=wants_row_errors,
                keeps=keeps,
                request_id=request_id,
                version=version,
                priority=priority,
                timeout_s=timeout_s,
            )
        )

    def detect_performance_drift(
        self,
        losses: Sequence[float] | NDArray[Any],
        *,
        subject: str = "",
        metric: str = "",
        loss_max: float = 1.0,
        baseline: float | None = None,
        warm_up: int = 0,
        losses_to_false_alarm: float = 0.0,
        comparators: Collection[LossDetector] = (),
        resets: bool = False,
        request_id: str | None = None,
        timeout_s: float = REPORT_TIMEOUT_S,
    ) -> PerformanceDrift:
        """Watches losses for a rise; see `MeshClient.detect_performance_drift`."""
        return self._run(
            self._mesh.detect_performance_drift(
                losses,
                subject=subject,
                metric=metric,
                loss_max=loss_max,
                baseline=baseline,
                warm_up=warm_up,
                losses_to_false_alarm=losses_to_false_alarm,
                comparators=comparators,
                resets=resets,
                request_id=request_id,
                timeout_s=timeout_s,
            )
        )

    def analyze_drift_severity(
        self,
        report_id: str = "",
        *,
        subject: str = "",
        importances: Mapping[str, float] | None = None,
        timeout_s: float | None = None,
    ) -> DriftSeverity:
        """Says how bad a report's drift is and what to do; see `MeshClient.analyze_drift_severity`."""
        return self._run(
            self._mesh.analyze_drift_severity(report_id, subject=subject, importances=importances, timeout_s=timeout_s)
        )

    def list_drift_reports(
        self,
        subject: str = "",
        *,
        severity_min: Severity | None = None,
        drift_only: bool = False,
        start: datetime | None = None,
        end: datetime | None = None,
        full: bool = False,
        page_size: int = 50,
        timeout_s: float | None = None,
    ) -> Generator[DriftReport, None, None]:
        """Stored reports, newest first; see `MeshClient.list_drift_reports`."""
        return self._each(
            self._mesh.list_drift_reports(
                subject,
                severity_min=severity_min,
                drift_only=drift_only,
                start=start,
                end=end,
                full=full,
                page_size=page_size,
                timeout_s=timeout_s,
            )
        )

    def watch_drift(
        self,
        subject: str = "",
        *,
        cursor: int = -1,
        follow: bool = True,
        interval_s: float = 5.0,
        patience_s: float = PATIENCE_S,
        timeout_s: float | None = None,
    ) -> Generator[DriftAlarm, None, None]:
        """Alarms as they are raised; see `MeshClient.watch_drift`."""
        return self._each(
            self._mesh.watch_drift(
                subject, cursor=cursor, follow=follow, interval_s=interval_s, patience_s=patience_s, timeout_s=timeout_s
            )
        )

    def describe_drift(
        self, subject: str = "", *, version: int = 0, timeout_s: float | None = None
    ) -> pb.DescribeModelResponse:
        """Describes the autoencoder and the subjects; see `MeshClient.describe_drift`."""
        return self._run(self._mesh.describe_drift(subject, version=version, timeout_s=timeout_s))
