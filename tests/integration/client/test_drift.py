"""Calls to the drift service against a real server that counts what it gets, and goes away where it is told to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
import numpy as np
import pytest

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.api.drift.v1 import drift_pb2_grpc as pb_grpc
from meshcast.client import DriftOptions, MeshClient, SyncMeshClient
from meshcast.observations import CategoryColumn, Observations, unpack_observations
from meshcast.rpc import DeadlineExceeded, InvalidInput, NotFound, NotReady, RpcSettings, Server, to_item

Context = grpc.aio.ServicerContext[Any, Any]


def table(rows: int, *, columns: int = 2) -> Observations:
    """Rows that count up."""
    at = np.arange(rows)
    numeric = {f"x{column}": (at + column).astype(np.float32) for column in range(columns)}
    return Observations(rows, numeric, {"town": CategoryColumn((at % 3 - 1).astype(np.int32), ("a", "b"))})


@dataclass
class Drift(pb_grpc.DriftServiceServicer):
    """The servicer, and what it saw."""

    break_at: dict[int, int] = field(default_factory=dict)
    """How often the stream is to break when a chunk of this sequence arrives, after it was counted."""
    references: list[pb.SetReferenceRequest] = field(default_factory=list)
    detections: list[pb.DetectDataDriftRequest] = field(default_factory=list)
    losses: list[pb.DetectPerformanceDriftRequest] = field(default_factory=list)
    watches: list[pb.WatchDriftRequest] = field(default_factory=list)
    chunks: list[pb.ObserveStreamRequest] = field(default_factory=list)
    """Those that were counted."""
    last: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0

    async def SetReference(self, request: pb.SetReferenceRequest, context: Context) -> pb.SetReferenceResponse:
        self.references.append(request)
        rows = request.observations.rows or sum(one.observations.rows for one in self.chunks)
        feature = pb.ReferenceFeature(name="x0", kind=pb.FEATURE_KIND_NUMERIC, importance=3, smallest_shift_sd=0.2)
        return pb.SetReferenceResponse(
            reference=pb.ReferenceDescription(subject=request.subject, version=2, rows=rows, features=[feature])
        )

    async def ObserveStream(
        self, request_iterator: AsyncIterator[pb.ObserveStreamRequest], context: Context
    ) -> AsyncIterator[pb.ObserveStreamResponse]:
        async for request in request_iterator:
            is_duplicate = request.sequence <= self.last.get(request.stream_id, -1)
            answer = pb.ObserveStreamResponse(sequence=request.sequence, rows=request.observations.rows)
            if request.subject == "unknown":
                answer.status.CopyFrom(to_item(NotFound("no such subject")))
            elif is_duplicate:
                self.duplicates += 1
                answer.is_duplicate = True
            else:
                self.chunks.append(request)
                self.last[request.stream_id] = request.sequence
                answer.alarms.add(alarm_id=request.sequence, kind=pb.ALARM_KIND_RAISED, severity=pb.SEVERITY_HIGH)
                if request.wants_row_errors:
                    answer.row_errors = np.arange(request.observations.rows, dtype="<f4").tobytes()
            if self.break_at.get(request.sequence, 0) > 0:
                self.break_at[request.sequence] -= 1
                raise NotReady("the server goes away", retry_after_s=0.01)
            yield answer

    async def DetectDataDrift(self, request: pb.DetectDataDriftRequest, context: Context) -> pb.DetectDataDriftResponse:
        self.detections.append(request)
        report = pb.DriftReport(report_id="r1", is_drift=True, severity=pb.SEVERITY_CRITICAL, p_value=1e-9)
        report.made_time.FromJsonString("2015-07-01T00:00:00Z")
        effects = pb.Effects(kolmogorov_smirnov=0.5, mean_shift_sd=0.7)
        report.features.add(name="x0", kind=pb.FEATURE_KIND_NUMERIC, is_drifted=True, blame=1, effects=effects)
        report.features.add(name="town", kind=pb.FEATURE_KIND_CATEGORICAL)
        errors = np.arange(request.observations.rows, dtype="<f4").tobytes() if request.wants_row_errors else b""
        return pb.DetectDataDriftResponse(report=report, row_errors=errors)

    async def DetectPerformanceDrift(
        self, request: pb.DetectPerformanceDriftRequest, context: Context
    ) -> pb.DetectPerformanceDriftResponse:
        self.losses.append(request)
        verdict = pb.LossVerdict(detector=pb.LOSS_DETECTOR_SHIRYAEV_ROBERTS, alarms=[7], onset=5, log_threshold=2.0)
        return pb.DetectPerformanceDriftResponse(is_drift=True, verdicts=[verdict], baseline=0.1, losses=9)

    async def AnalyzeDriftSeverity(
        self, request: pb.AnalyzeDriftSeverityRequest, context: Context
    ) -> pb.AnalyzeDriftSeverityResponse:
        return pb.AnalyzeDriftSeverityResponse(
            report_id=request.report_id,
            severity=pb.SEVERITY_LOW,
            parts=[pb.SeverityPart(name="x0", severity=pb.SEVERITY_LOW, effect=0.5)],
        )

    async def ListDriftReports(
        self, request: pb.ListDriftReportsRequest, context: Context
    ) -> pb.ListDriftReportsResponse:
        first = int(request.page_token or "0")
        ids = [f"r{at}" for at in range(first, min(first + request.page_size, 5))]
        more = str(first + request.page_size) if first + request.page_size < 5 else ""
        return pb.ListDriftReportsResponse(
            reports=[pb.DriftReport(report_id=one, subject=request.subject) for one in ids], next_page_token=more
        )

    async def WatchDrift(self, request: pb.WatchDriftRequest, context: Context) -> AsyncIterator[pb.WatchDriftResponse]:
        self.watches.append(request)
        yield pb.WatchDriftResponse(cursor=max(request.cursor, 0))
        for at in range(request.cursor + 1, request.cursor + 3):
            yield pb.WatchDriftResponse(cursor=at, alarm=pb.DriftAlarm(alarm_id=at, kind=pb.ALARM_KIND_RESOLVED))
        if len(self.watches) == 2:
            raise DeadlineExceeded("nothing stays for ever")  # as a gateway says where the caller set no deadline
        raise NotReady("the server drains", retry_after_s=0.01)

    async def DescribeModel(self, request: pb.DescribeModelRequest, context: Context) -> pb.DescribeModelResponse:
        return pb.DescribeModelResponse(references=[pb.ReferenceDescription(subject=request.subject)])


@pytest.fixture
def drift() -> Drift:
    """The servicer behind `address`."""
    return Drift()


@pytest.fixture
async def address(serve: Callable[..., Awaitable[Server]], drift: Drift) -> str:
    """Address of a server that counts."""
    settings = RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=0.2)
    server = await serve(lambda server: pb_grpc.add_DriftServiceServicer_to_server(drift, server), settings=settings)
    return server.address


def counted(drift: Drift) -> Observations:
    """The rows that were counted, in their order."""
    violations: dict[str, str] = {}
    found = Observations.concat(
        [unpack_observations(one.observations, violations, "observations") for one in drift.chunks]
    )
    assert not violations
    return found


@pytest.mark.parametrize("window", [1, 4])
async def test_rows_are_counted_once_though_the_stream_breaks(address: str, drift: Drift, window: int) -> None:
    drift.break_at = {0: 1, 3: 2, 6: 1}
    told: list[tuple[int, int | None]] = []
    async with MeshClient(address) as mesh:
        answers = mesh.observe(
            "s", table(1_000), chunk_rows=130, window=window, progress=lambda done, total: told.append((done, total))
        )
        chunks = [chunk async for chunk in answers]
    np.testing.assert_array_equal(counted(drift).numeric["x0"], np.arange(1_000))
    np.testing.assert_array_equal(np.concatenate([chunk.rows for chunk in chunks]), np.arange(1_000))
    assert drift.duplicates >= 4 and sum(chunk.is_duplicate for chunk in chunks) >= 3
    assert {one.purpose for one in drift.chunks} == {pb.PURPOSE_WINDOW}
    assert len({one.stream_id for one in drift.chunks}) == 1 and drift.chunks[0].stream_id
    assert told[-1] == (1_000, 1_000)


async def test_a_stream_that_is_taken_up_again_by_its_id_counts_nothing_twice(address: str, drift: Drift) -> None:
    async with MeshClient(address) as mesh:
        async with aclosing(mesh.observe("s", table(90), chunk_rows=10, stream_id="run", window=1)) as answers:
            first = [await anext(answers) for _ in range(3)]
        again = [chunk async for chunk in mesh.observe("s", table(90), chunk_rows=10, stream_id="run")]
    assert not any(chunk.is_duplicate for chunk in first) and all(chunk.is_duplicate for chunk in again[:3])
    np.testing.assert_array_equal(counted(drift).numeric["x1"], np.arange(1, 91))


async def test_a_stream_that_fails_for_good_says_how_to_go_on(address: str, drift: Drift) -> None:
    drift.break_at = {3: 9}
    async with MeshClient(address) as mesh:
        with pytest.raises(NotReady, match=r"goes away; 30 rows were answered: .* stream_id='once/7'") as caught:
            _ = [chunk async for chunk in mesh.observe("s", table(90), chunk_rows=10, window=1, request_id="once/7")]
        assert (caught.value.facts["stream_id"], caught.value.facts["rows"]) == ("once/7", "30")
        drift.break_at = {}
        again = [chunk async for chunk in mesh.observe("s", table(90), chunk_rows=10, stream_id="once/7")]
        assert [chunk.is_duplicate for chunk in again] == [True] * 4 + [False] * 5
        drift.break_at = {0: 9}
        with pytest.raises(NotReady, match=r"the server goes away$"):
            await mesh.set_reference("s", iter([table(90)]))
    np.testing.assert_array_equal(counted(drift).numeric["x1"][:90], np.arange(1, 91))


async def test_parts_of_any_kind_are_sent_in_their_order(address: str, drift: Drift) -> None:
    parts = [table(30)[:7], table(30)[7:7], table(30)[7:]]

    async def later() -> AsyncIterator[Observations]:
        for part in parts:
            await asyncio.sleep(0)
            yield part

    async with MeshClient(address) as mesh:
        for rows in (parts, iter(parts), later()):
            drift.chunks.clear()
            chunks = [chunk async for chunk in mesh.observe("s", rows, chunk_rows=10, wants_row_errors=True)]
            assert [len(chunk) for chunk in chunks] == [7, 10, 10, 3]
            np.testing.assert_array_equal(counted(drift).numeric["x0"], np.arange(30))
            assert chunks[0].row_errors is not None and chunks[0].row_errors.tolist() == [*range(7)]
            assert chunks[1].alarms[0].severity == "high"


async def test_a_refused_chunk_is_raised_or_handed_over_where_that_is_wanted(address: str) -> None:
    async with MeshClient(address) as mesh:
        refused = mesh.observe("unknown", table(30), chunk_rows=10, wants_refused=True)
        chunks = [chunk async for chunk in refused]
        assert [type(chunk.error) for chunk in chunks] == [NotFound] * 3
        with pytest.raises(NotFound):
            _ = [chunk async for chunk in mesh.observe("unknown", table(30), chunk_rows=10)]
        with pytest.raises(InvalidInput, match="subject"):
            await anext(mesh.observe("", table(1)))
        with pytest.raises(InvalidInput, match="chunk_rows"):
            await anext(mesh.observe("s", table(1), chunk_rows=65_537))


async def test_few_rows_become_a_reference_in_one_call(address: str, drift: Drift) -> None:
    async with MeshClient(address) as mesh:
        reference = await mesh.set_reference(
            "s", table(50), importances={"x0": 3}, outputs=["x1"], options=DriftOptions(false_alarms_a_year=0.1)
        )
        await mesh.set_reference("s", recent_rows=10)
        await mesh.set_reference("s", draft="mine", request_id="again")
    assert (reference.rows, reference.version, reference.features[0].smallest_shift_sd) == (50, 2, 0.2)
    sent = drift.references[0]
    assert [(one.name, one.importance, one.role) for one in sent.features] == [
        ("x0", 3, pb.FEATURE_ROLE_UNSPECIFIED),
        ("x1", 0, pb.FEATURE_ROLE_OUTPUT),
    ]
    assert not sent.features[1].HasField("importance")
    assert sent.options.false_alarms_a_year == 0.1 and not sent.options.HasField("trains_autoencoder")
    assert [one.WhichOneof("source") for one in drift.references] == ["observations", "recent_rows", "draft"]
    assert not drift.chunks


async def test_many_rows_become_a_reference_by_a_draft(address: str, drift: Drift) -> None:
    rows = table(30_000, columns=40)
    async with MeshClient(address) as mesh:
        for given in (rows, iter([rows[:20_000], rows[20_000:]])):
            drift.chunks.clear()
            reference = await mesh.set_reference("s", given)
            draft = drift.references[-1].draft
            assert reference.rows == 30_000 and 1 <= len(draft) <= 64
            assert {(one.subject, one.purpose) for one in drift.chunks} == {(draft, pb.PURPOSE_REFERENCE)}
            assert max(one.ByteSize() for one in drift.chunks) < 9_000_000
            np.testing.assert_array_equal(counted(drift).numeric["x39"], np.arange(39, 30_039))


@pytest.mark.parametrize("arguments", [{}, {"draft": "a", "recent_rows": 3}])
async def test_a_reference_has_one_source(address: str, arguments: dict[str, Any]) -> None:
    async with MeshClient(address) as mesh:
        with pytest.raises(InvalidInput, match="exactly one"):
            await mesh.set_reference("s", **arguments)


async def test_a_report_is_a_value(address: str, drift: Drift) -> None:
    async with MeshClient(address) as mesh:
        report = await mesh.detect_data_drift(
            {"x0": [1.0, None, 3.0], "town": ["a", None, "b"], "is_new": [True, False, True]},
            reference=table(3),
            plots="*",
            wants_row_errors=True,
        )
        await mesh.detect_data_drift(subject="s", start=datetime(2015, 7, 1, tzinfo=UTC))
        await mesh.detect_data_drift(subject="s", everything=True)
        await mesh.detect_data_drift(subject="s")
    assert report.is_drift and report.severity == "critical" and report.made_at == datetime(2015, 7, 1, tzinfo=UTC)
    assert [one.name for one in report.drifted] == ["x0"] and report["town"].kind == "categorical"
    assert report["x0"].effects.mean_shift_sd == 0.7 and report["x0"].effects.wasserstein is None
    assert report.row_errors is not None and report.row_errors.tolist() == [0, 1, 2]
    sent = drift.detections[0]
    assert sent.WhichOneof("against") == "reference" and list(sent.plots) == ["*"]
    assert [one.name for one in sent.observations.numeric] == ["x0"]
    assert [(one.name, list(one.categories)) for one in sent.observations.categorical] == [
        ("town", ["a", "b"]),
        ("is_new", ["true", "false"]),
    ]
    assert [one.WhichOneof("window") for one in drift.detections[1:]] == ["range", "all", None]


async def test_a_question_that_contradicts_itself_is_refused_before_it_is_sent(address: str, drift: Drift) -> None:
    async with MeshClient(address) as mesh:
        for arguments in (
            {},
            {"subject": "s", "reference": table(2)},
            {"rows": table(2), "subject": "s", "everything": True},
            {"rows": {"x": [1], "y": [1, 2]}, "subject": "s"},
            {"rows": {"x": [{}]}, "subject": "s"},
            {"rows": table(2), "subject": "s", "importances": {"x0": -1}},
            {"rows": table(1_100_000), "subject": "s"},
        ):
            with pytest.raises(InvalidInput):
                await mesh.detect_data_drift(**arguments)
        with pytest.raises(InvalidInput, match="comparators"):
            await mesh.detect_performance_drift([0.0], comparators=["none"])  # type: ignore[list-item]  # on purpose
    assert not drift.detections


async def test_losses_severities_and_pages_of_reports(address: str, drift: Drift) -> None:
    async with MeshClient(address) as mesh:
        found = await mesh.detect_performance_drift([0, 1, 1], comparators=["adwin", "ddm"], baseline=0.1)
        assert found.is_drift and found.verdicts[0].alarms == (7,) and found.verdicts[0].onset == 5
        assert found.recent is None and found.baseline == 0.1
        assert np.frombuffer(drift.losses[0].losses_f32, dtype="<f4").tolist() == [0, 1, 1]
        severity = await mesh.analyze_drift_severity("r1", importances={"x0": 2})
        assert severity.parts[0].severity == "low"
        assert (await mesh.describe_drift("s")).references[0].subject == "s"
        reports = [report.report_id async for report in mesh.list_drift_reports("s", page_size=2)]
    assert reports == ["r0", "r1", "r2", "r3", "r4"]


async def test_a_watch_goes_on_behind_the_last_alarm(address: str, drift: Drift) -> None:
    async with MeshClient(address) as mesh:
        async with aclosing(mesh.watch_drift("s", cursor=10, interval_s=0.2)) as alarms:
            seen = [(await anext(alarms)).alarm_id for _ in range(7)]
        assert seen == [*range(11, 18)]
        assert [one.cursor for one in drift.watches] == [10, 12, 14, 16]
        drift.watches[:] = drift.watches[:1]
        with pytest.raises(DeadlineExceeded):
            _ = [alarm async for alarm in mesh.watch_drift("s", cursor=10, timeout_s=30)]
        with pytest.raises(NotReady):
            async with asyncio.timeout(10), MeshClient("127.0.0.1:1") as none:
                await anext(none.watch_drift(patience_s=0.0))


async def test_plain_code_asks_the_same(address: str) -> None:
    def asked() -> None:
        with SyncMeshClient(address) as mesh:
            told: list[int] = []
            chunks = list(mesh.observe("s", table(40), chunk_rows=10, progress=lambda done, _: told.append(done)))
            assert [len(chunk) for chunk in chunks] == [10] * 4 and told == [10, 20, 30, 40]
            assert mesh.set_reference("s", table(5)).rows == 5
            assert mesh.detect_data_drift(table(3), reference=table(4)).is_drift
            assert mesh.detect_performance_drift([1.0]).losses == 9
            assert mesh.analyze_drift_severity("r1").report_id == "r1"
            assert [one.report_id for one in mesh.list_drift_reports(page_size=3)] == ["r0", "r1", "r2", "r3", "r4"]
            alarms = mesh.watch_drift(cursor=4, interval_s=0.2)
            assert next(alarms).alarm_id == 5
            alarms.close()

    await asyncio.to_thread(asked)
