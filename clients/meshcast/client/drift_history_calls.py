"""Calls to the drift service about what it has called: severities, reports, alarms, and descriptions of subjects."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import datetime

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.client.calls import Calls, answer_to, answers_to
from meshcast.client.drift_answers import DriftAlarm, DriftSeverity
from meshcast.client.drift_questions import feature_options, time_range
from meshcast.client.drift_reports import SEVERITIES, DriftReport, Severity
from meshcast.client.stream import backoff_s, may_resume
from meshcast.rpc import DeadlineExceeded, InvalidInput, MeshError, NotReady

PATIENCE_S = 60.0
"""Seconds for a server that is started again to come back, when none are given."""
_PAGE_REPORTS = 50


class DriftHistoryCalls(Calls):
    """What a client asks the drift service about the past, and hears from it."""

    async def analyze_drift_severity(
        self,
        report_id: str = "",
        *,
        subject: str = "",
        importances: Mapping[str, float] | None = None,
        timeout_s: float | None = None,
    ) -> DriftSeverity:
        """Says how bad a report's drift is and what to do.

        Args:
            report_id: a stored report; empty: the newest of `subject`.
            subject: a subject, where no report is named.
            importances: weights of features in place of those of the reference.
            timeout_s: deadline in seconds; None takes the client's.

        Raises:
            NotFound: there is no such report.
        """
        request = pb.AnalyzeDriftSeverityRequest(
            report_id=report_id, subject=subject, features=feature_options(importances)
        )
        call = self._open.drift.AnalyzeDriftSeverity(request, timeout=self._timeout(timeout_s))
        return DriftSeverity.of(await answer_to(call))

    async def list_drift_reports(
        self,
        subject: str = "",
        *,
        severity_min: Severity | None = None,
        drift_only: bool = False,
        start: datetime | None = None,
        end: datetime | None = None,
        full: bool = False,
        page_size: int = _PAGE_REPORTS,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[DriftReport, None]:
        """Stored reports, newest first, page by page as they are asked for.

        Args:
            subject: only of this one; empty: of all.
            severity_min: only of at least this level.
            drift_only: only where drift was called.
            start: only from this time on.
            end: only before this time.
            full: whole reports; else features only where they drifted, at most 3.
            page_size: reports that are fetched at a time, 1 to 200.
            timeout_s: deadline of a page, in seconds; None takes the client's.
        """
        if severity_min is not None and severity_min not in SEVERITIES:
            raise InvalidInput(f"severity_min must be one of {', '.join(SEVERITIES)}", field="severity_min")
        level = pb.SEVERITY_UNSPECIFIED
        if severity_min is not None:
            level = pb.Severity.Value(f"SEVERITY_{severity_min.upper()}")
        request = pb.ListDriftReportsRequest(
            subject=subject,
            severity_min=level,
            drift_only=drift_only,
            range=time_range(start, end) if start is not None or end is not None else None,
            page_size=page_size,
            full=full,
        )
        while True:
            call = self._open.drift.ListDriftReports(request, timeout=self._timeout(timeout_s))
            response = await answer_to(call)
            for report in response.reports:
                yield DriftReport.of(report, response.receipt)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    async def watch_drift(
        self,
        subject: str = "",
        *,
        cursor: int = -1,
        follow: bool = True,
        interval_s: float = 5.0,
        patience_s: float = PATIENCE_S,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[DriftAlarm, None]:
        """Alarms as they are raised; a stream that breaks or falls silent is opened again where it was.

        ```python
        async for alarm in mesh.watch_drift(cursor=last_seen):
            print(alarm.text)
            last_seen = alarm.alarm_id
        ```

        Args:
            subject: only of this one; empty: of all.
            cursor: alarms after this one come first. 0: all that are kept. -1: none but new ones.
            follow: wait for new ones; False: end behind those that are kept.
            interval_s: longest silence of the server, in seconds, 0.2 to 60.
            patience_s: seconds for a server that went away to come back.
            timeout_s: deadline of the whole, in seconds; None: none.

        Raises:
            NotReady: the server did not come back in time.
            DeadlineExceeded: after `timeout_s` seconds.
        """
        ends_at = None if timeout_s is None else time.monotonic() + timeout_s
        heard_at, failures = time.monotonic(), 0
        while True:
            failure: MeshError = NotReady("the server ended the stream of alarms")
            request = pb.WatchDriftRequest(subject=subject, cursor=cursor, interval_ms=round(interval_s * 1e3))
            left = None if ends_at is None else ends_at - time.monotonic()
            if left is not None and left <= 0:
                raise DeadlineExceeded("the time of watching is over", where="client")
            call = self._open.streaming_drift.WatchDrift(request, timeout=left)
            try:
                async with aclosing(answers_to(call)) as answers:
                    while True:
                        try:
                            async with asyncio.timeout(3 * interval_s + 5):
                                answer = await anext(answers)
                        except StopAsyncIteration:
                            break
                        except TimeoutError:
                            failure = NotReady("the server has fallen silent")
                            break
                        heard_at, failures = time.monotonic(), 0
                        cursor = answer.cursor
                        if answer.HasField("alarm"):
                            yield DriftAlarm.of(answer.alarm)
                        elif not follow:
                            return
            except MeshError as error:
                is_over = ends_at is None and isinstance(error, DeadlineExceeded)  # a gateway's own, after 30 days
                if not (is_over or may_resume(error)):
                    raise
                failure = error
            failures += 1
            if time.monotonic() - heard_at > patience_s:
                raise failure
            await asyncio.sleep(backoff_s(failures, failure))

    async def describe_drift(
        self, subject: str = "", *, version: int = 0, timeout_s: float | None = None
    ) -> pb.DescribeModelResponse:
        """Describes the autoencoder and the subjects.

        Args:
            subject: only this one, with its features; empty: all.
            version: of the autoencoder; 0 for the one that serves.
            timeout_s: deadline in seconds; None takes the client's.

        Raises:
            NotFound: there is no such subject or version.
        """
        request = pb.DescribeModelRequest(model_version=version, subject=subject)
        return await answer_to(self._open.drift.DescribeModel(request, timeout=self._timeout(timeout_s)))
