"""Reports over real gRPC: of windows that were observed, of rows in the request, of spans of time; kept and listed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.observations import pack_observations
from meshcast.rpc import InvalidInput, NotFound, Precondition, mesh_errors, prediction_id
from meshcast.services.drift import service

HOUR_US = 3_600_000_000
PNG = b"\x89PNG\r\n\x1a\n"


async def test_rows_are_compared_with_rows_and_nothing_is_kept(drift: Any, kit: Any) -> None:
    reference, window = pack_observations(kit.rows(1_000)), pack_observations(kit.rows(1_000, 1, shift=1))
    report = await drift.detect(reference=reference, observations=window, keeps=True)
    assert report.is_drift and report.p_value < 0.01 and report.severity >= pb.SEVERITY_LOW
    assert (report.subject, report.reference_version, report.reference_rows) == ("", 0, 1_000)
    assert (report.window.rows, report.window.number) == (1_000, 0)
    assert not report.HasField("evidence") and not report.HasField("onset")
    worst = report.features[0]
    assert (worst.name, worst.is_drifted) == ("x0", True)
    assert worst.effects.mean_shift_sd == pytest.approx(1, abs=0.2)
    assert worst.blame > 0.5 and worst.what
    assert sum(feature.blame for feature in report.features) == pytest.approx(1, abs=1e-6)
    assert report.summary and report.advice
    with mesh_errors():
        listed = await drift.stub.ListDriftReports(pb.ListDriftReportsRequest(), timeout=kit.CALL_S)
    assert not listed.reports


async def test_the_same_rows_are_no_drift(drift: Any, kit: Any) -> None:
    rows = pack_observations(kit.rows(1_000))
    report = await drift.detect(reference=rows, observations=rows)
    assert not report.is_drift and report.severity == pb.SEVERITY_NONE
    assert report.p_value > 0.5


async def test_rows_of_a_request_leave_the_subjects_evidence_alone(drift: Any, kit: Any) -> None:
    await drift.set_reference(kit.rows(1_000))
    await drift.observe(kit.chunk(kit.rows(250, 1), 1))
    before = await drift.describe()
    report = await drift.detect(subject="a", observations=pack_observations(kit.rows(500, 2, shift=2)))
    assert report.is_drift and report.features[0].name == "x0"
    assert await drift.describe() == before


async def test_the_last_closed_window_is_judged_by_the_evidence_so_far(drift: Any, kit: Any) -> None:
    await drift.set_reference(kit.rows(2_000))
    await drift.observe(*(kit.chunk(kit.rows(100, at), at) for at in range(1, 6)))
    quiet = await drift.detect(subject="a")
    assert (quiet.window.number, quiet.window.rows, quiet.is_drift) == (5, 100, False)
    assert quiet.HasField("evidence") and not quiet.HasField("p_value")
    assert quiet.evidence.log_value < quiet.evidence.log_threshold
    assert quiet.evidence.false_alarms_a_year == 0.5
    await drift.observe(*(kit.chunk(kit.rows(100, at, shift=2), at) for at in range(6, 21)))
    loud = await drift.detect(subject="a", features_max=1)
    assert loud.is_drift and [feature.name for feature in loud.features] == ["x0"]
    assert loud.features[0].is_drifted and loud.features[0].HasField("evidence")
    assert abs(loud.onset.window - 6) <= 1


async def test_a_report_before_the_first_window_has_closed_says_what_to_do(drift: Any, kit: Any) -> None:
    await drift.set_reference(kit.rows(1_000))
    await drift.observe(kit.chunk(kit.rows(60, 1), 1))
    with pytest.raises(Precondition, match="window") as caught:
        await drift.detect(subject="a")
    assert caught.value.reason == ErrorReason.ERROR_REASON_REPORT_UNKNOWN
    assert (await drift.detect(subject="a", all=pb.AllObserved())).window.rows == 60
    with pytest.raises(NotFound) as unknown:
        await drift.detect(subject="nobody")
    assert unknown.value.reason == ErrorReason.ERROR_REASON_SUBJECT_UNKNOWN


async def test_a_span_of_time_is_reported_to_the_bucket(drift: Any, kit: Any, now_us: int) -> None:
    await drift.set_reference(kit.rows(1_000))
    early, late = now_us - 6 * HOUR_US, now_us - 2 * HOUR_US
    await drift.observe(
        kit.chunk(kit.rows(300, 1, unix_us=early), 1), kit.chunk(kit.rows(200, 2, shift=3, unix_us=late), 2)
    )
    span = pb.TimeRange()
    span.start_time.FromMicroseconds(now_us - 4 * HOUR_US)
    report = await drift.detect(subject="a", range=span)
    assert report.window.rows == 200
    assert report.is_drift and report.HasField("p_value")
    assert (await drift.detect(subject="a", all=pb.AllObserved())).window.rows == 500
    span.start_time.FromMicroseconds(now_us + 60_000_000)
    with pytest.raises(Precondition):
        await drift.detect(subject="a", range=span)


async def test_a_repeated_request_has_the_same_report_id_and_is_kept_once(drift: Any, kit: Any) -> None:
    await drift.set_reference(kit.rows(1_000))
    window = pack_observations(kit.rows(500, 2))
    ids = [
        (await drift.detect(subject="a", observations=window, keeps=True, request_id="one")).report_id for _ in range(2)
    ]
    assert ids == [prediction_id("one")] * 2
    assert (await drift.detect(subject="a", observations=window)).report_id not in ids
    with mesh_errors():
        listed = await drift.stub.ListDriftReports(pb.ListDriftReportsRequest(subject="a"), timeout=kit.CALL_S)
    assert [report.report_id for report in listed.reports] == ids[:1]


async def test_plots_are_made_on_request_and_not_kept(drift: Any, kit: Any) -> None:
    await drift.set_reference(kit.rows(1_000))
    window = pack_observations(kit.rows(500, 2, shift=1))
    none = await drift.detect(subject="a", observations=window)
    assert not any(feature.plot_png for feature in none.features)
    some = await drift.detect(subject="a", observations=window, plots=["town", "x0"], keeps=True)
    plotted = {feature.name for feature in some.features if feature.plot_png.startswith(PNG)}
    assert plotted == {"town", "x0"}
    all_four = await drift.detect(subject="a", observations=window, plots=["*"])
    assert all(feature.plot_png.startswith(PNG) for feature in all_four.features)
    with mesh_errors():
        listed = await drift.stub.ListDriftReports(pb.ListDriftReportsRequest(full=True), timeout=kit.CALL_S)
    assert listed.reports[0].features and not any(one.plot_png for one in listed.reports[0].features)
    await drift.observe(kit.chunk(kit.rows(10), 1))
    with pytest.raises(InvalidInput) as caught:
        await drift.detect(subject="a", plots=["nobody"], all=pb.AllObserved())
    assert caught.value.violations[0].field == "plots[0]"


async def test_reports_are_listed_by_pages_newest_first(drift: Any, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "LISTED_AT_ONCE", 2)
    await drift.set_reference(kit.rows(1_000))
    ids = []
    for at in range(5):
        window = pack_observations(kit.rows(400, at, shift=2 if at == 3 else 0))
        report = await drift.detect(subject="a", observations=window, keeps=True, request_id=f"r{at}")
        ids.append(report.report_id)
    seen, token = [], ""
    while True:
        request = pb.ListDriftReportsRequest(subject="a", page_size=3, page_token=token)
        with mesh_errors():
            page = await drift.stub.ListDriftReports(request, timeout=kit.CALL_S)
        seen += [report.report_id for report in page.reports]
        assert all(len(report.features) <= 3 for report in page.reports)
        token = page.next_page_token
        if not token:
            break
    assert seen == ids[::-1]
    with mesh_errors():
        whole = await drift.stub.ListDriftReports(pb.ListDriftReportsRequest(page_size=5), timeout=kit.CALL_S)
    assert ([report.report_id for report in whole.reports], whole.next_page_token) == (seen, "")
    with mesh_errors():
        drifts = await drift.stub.ListDriftReports(pb.ListDriftReportsRequest(drift_only=True), timeout=kit.CALL_S)
    assert [report.report_id for report in drifts.reports] == [ids[3]]
    with pytest.raises(InvalidInput) as caught, mesh_errors():
        await drift.stub.ListDriftReports(pb.ListDriftReportsRequest(page_token="made up"), timeout=kit.CALL_S)
    assert caught.value.violations[0].field == "page_token"


async def test_severity_follows_the_callers_importances(drift: Any, kit: Any) -> None:
    await drift.set_reference(kit.rows(1_000))
    window = pack_observations(kit.rows(1_000, 1, shift=1.5))
    report = await drift.detect(subject="a", observations=window, keeps=True)

    async def analyzed(**fields: Any) -> pb.AnalyzeDriftSeverityResponse:
        with mesh_errors():
            request = pb.AnalyzeDriftSeverityRequest(**fields)
            answer: pb.AnalyzeDriftSeverityResponse = await drift.stub.AnalyzeDriftSeverity(request, timeout=20)
        return answer

    plain = await analyzed(report_id=report.report_id)
    assert (plain.report_id, plain.severity) == (report.report_id, report.severity)
    assert plain.severity_score == pytest.approx(report.severity_score, abs=1e-6)
    worst = plain.parts[0]
    assert worst.name == "x0" and worst.advice
    assert worst.severity_score == pytest.approx(worst.effect * worst.importance * worst.evidence, abs=1e-6)
    by_subject = await analyzed(subject="a", features=[pb.FeatureOptions(name="x0", importance=0)])
    assert by_subject.report_id == report.report_id
    assert by_subject.severity_score < plain.severity_score
    with pytest.raises(NotFound) as caught:
        await analyzed(report_id="nothing")
    assert caught.value.reason == ErrorReason.ERROR_REASON_REPORT_UNKNOWN
    with pytest.raises(InvalidInput) as unknown:
        await analyzed(subject="a", features=[pb.FeatureOptions(name="nobody", importance=1)])
    assert unknown.value.violations[0].field == "features[0].name"


async def test_a_window_of_one_row_and_constant_columns_are_answered(drift: Any, kit: Any) -> None:
    reference = kit.rows(300)
    flat = type(reference)(300, {"c": np.ones(300, dtype=np.float32)}, {})
    one = type(reference)(1, {"c": np.full(1, 2, dtype=np.float32)}, {})
    for rows, window in ((reference, reference[:1]), (flat, one), (flat, flat[:1])):
        report = await drift.detect(reference=pack_observations(rows), observations=pack_observations(window))
        assert report.window.rows == 1 and report.summary


async def test_rows_with_other_columns_are_refused_by_their_names(drift: Any, kit: Any) -> None:
    await drift.set_reference(kit.rows())
    rows = kit.rows(50, 1)
    window = type(rows)(50, {"x0": rows.numeric["x0"], "other": rows.numeric["x1"]}, rows.categorical)
    for against in ({"subject": "a"}, {"reference": pack_observations(kit.rows())}):
        with pytest.raises(InvalidInput) as caught:
            await drift.detect(**against, observations=pack_observations(window))
        assert {one.field for one in caught.value.violations} == {
            "observations.x1",
            "observations.x2",
            "observations.other",
        }


async def test_the_autoencoder_has_its_say_about_rows_of_its_subject(drift: Any, kit: Any, drift_example: Any) -> None:
    usual = drift_example(400)
    numeric = {**usual.numeric, "recent_median": usual.numeric["recent_median"][::-1].copy() + np.float32(4)}
    odd = type(usual)(400, numeric, {})
    p_values = []
    for rows, wants in ((usual, False), (odd, False), (odd, True)):
        report = await drift.detect(
            subject="predictor", observations=pack_observations(rows), features_max=1, wants_row_errors=wants
        )
        tests = {test.name: test for test in report.joint_tests}
        assert tests["autoencoder_error"].is_present and tests["autoencoder_code"].is_present
        p_values.append(tests["autoencoder_error"].p_value)
    assert p_values[0] > 0.001 > p_values[1] and p_values[2] < 0.001
