"""Questions out of requests: what they become, and which fields a bad one is refused by."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from google.protobuf import duration_pb2, timestamp_pb2

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.observations import CategoryColumn, Observations, pack_observations
from meshcast.rpc import InvalidInput
from meshcast.services.drift.loss_questions import LOSSES_MAX, performance_question
from meshcast.services.drift.questions import (
    CHUNK_ROWS_MAX,
    chunk_question,
    detect_question,
    list_question,
    reference_question,
    severity_question,
    subject_question,
    watch_question,
)
from meshcast.services.drift.settings import DriftSettings

SETTINGS = DriftSettings(features_max=8)


def rows(count: int = 3, columns: int = 2) -> pb.Observations:
    numeric = {f"x{at}": np.arange(count, dtype=np.float32) for at in range(columns)}
    town = CategoryColumn(np.zeros(count, dtype=np.int32), ("Oslo", "Rome"))
    return pack_observations(Observations(count, numeric, {"town": town}))


def fields_of(ask: Callable[..., Any], *arguments: Any) -> list[str]:
    """Fields that a request is refused by."""
    with pytest.raises(InvalidInput) as caught:
        ask(*arguments)
    assert all(violation.description for violation in caught.value.violations)
    assert caught.value.message.startswith(caught.value.violations[0].field)
    return [violation.field for violation in caught.value.violations]


# --- references ---


def test_a_reference_takes_the_settings_for_what_it_leaves_open() -> None:
    request = pb.SetReferenceRequest(subject="table.1-a_B", observations=rows())
    request.features.add(name="town", importance=0, role=pb.FEATURE_ROLE_OUTPUT)
    request.features.add(name="x0")
    question = reference_question(request, DriftSettings(window_rows=77, window_duration_s=60, false_alarms_a_year=2))
    assert isinstance(question.source, Observations)
    assert question.source.names == ("x0", "x1", "town")
    assert (question.features["town"].importance, question.features["town"].role) == (0.0, "output")
    assert (question.features["x0"].importance, question.features["x0"].role) == (1.0, "input")
    options = question.options
    assert (options.false_alarms_a_year, options.window_rows, options.window_us) == (2.0, 77, 60_000_000)
    assert options.trains_autoencoder
    request.options.trains_autoencoder = False
    request.options.window_rows = 5
    request.options.window_duration.FromSeconds(7)
    request.options.false_alarms_a_year = 0.25
    options = reference_question(request, SETTINGS).options
    assert (options.false_alarms_a_year, options.window_rows, options.window_us) == (0.25, 5, 7_000_000)
    assert not options.trains_autoencoder


def test_a_reference_comes_from_one_of_three_places() -> None:
    draft = pb.SetReferenceRequest(subject="a", draft="b")
    recent = pb.SetReferenceRequest(subject="a", recent_rows=500)
    assert (reference_question(draft, SETTINGS).source, reference_question(recent, SETTINGS).source) == ("b", 500)
    assert fields_of(reference_question, pb.SetReferenceRequest(subject="a"), SETTINGS) == ["source"]
    assert fields_of(reference_question, pb.SetReferenceRequest(subject="a", recent_rows=1), SETTINGS) == [
        "recent_rows"
    ]
    assert fields_of(reference_question, pb.SetReferenceRequest(subject="a", draft="/b"), SETTINGS) == ["draft"]


def test_every_field_at_fault_of_a_reference_is_named_at_once() -> None:
    request = pb.SetReferenceRequest(request_id="x" * 129, observations=rows(1))
    request.observations.numeric[1].name = "x0"
    request.observations.unix_us.extend([1, 2])
    request.features.add(name="nobody", importance=float("nan"))
    request.features.add(name="town", role=pb.FEATURE_ROLE_DERIVED)
    request.features.add(name="town", importance=1_001)
    request.features.add()
    request.options.false_alarms_a_year = 366
    request.options.window_rows = -1
    request.options.window_duration.FromSeconds(0)
    assert fields_of(reference_question, request, SETTINGS) == [
        "request_id",
        "subject",
        "observations.rows",
        "observations.numeric[1].name",
        "observations.unix_us",
        "features[0].name",
        "features[0].importance",
        "features[1].role",
        "features[2].name",
        "features[2].importance",
        "features[3].name",
        "options.false_alarms_a_year",
        "options.window_rows",
        "options.window_duration",
    ]


def test_a_refusal_names_no_more_than_fifty_fields() -> None:
    request = pb.SetReferenceRequest(subject="a", observations=rows())
    for _ in range(80):
        request.features.add(name="nobody")
    assert len(fields_of(reference_question, request, SETTINGS)) == 50


@pytest.mark.parametrize("subject", ["", "a b", "é", "x" * 65, "a/b", "a\n"])
def test_a_subject_is_a_plain_name(subject: str) -> None:
    request = pb.SetReferenceRequest(subject=subject, observations=rows())
    assert fields_of(reference_question, request, SETTINGS) == ["subject"]


def test_too_many_columns_are_refused_before_they_are_read_and_made_up_names_are_reserved() -> None:
    wide = pb.SetReferenceRequest(subject="a", observations=rows(columns=8))
    assert fields_of(reference_question, wide, SETTINGS) == ["observations"]
    none = pb.SetReferenceRequest(subject="a", observations=pb.Observations(rows=2))
    assert fields_of(reference_question, none, SETTINGS) == ["observations"]
    derived = pb.SetReferenceRequest(subject="a", observations=rows())
    derived.observations.numeric[1].name = "autoencoder.error"
    assert fields_of(reference_question, derived, SETTINGS) == ["observations.numeric[1].name"]


def test_times_outside_of_the_calendar_are_refused() -> None:
    request = pb.SetReferenceRequest(subject="a", observations=rows())
    request.observations.unix_us.extend([0, -62_135_596_800_000_001, 2**63 - 1])
    assert fields_of(reference_question, request, SETTINGS) == ["observations.unix_us[1]"]


# --- chunks ---


def test_a_chunk_is_rows_of_a_subject_or_of_a_draft() -> None:
    question = chunk_question(
        pb.ObserveStreamRequest(subject="a", observations=rows(), wants_row_errors=True), SETTINGS
    )
    assert (question.is_draft, question.wants_row_errors, len(question.observations)) == (False, True, 3)
    draft = pb.ObserveStreamRequest(subject="a", observations=rows(), purpose=pb.PURPOSE_REFERENCE)
    assert chunk_question(draft, SETTINGS).is_draft


def test_a_chunk_that_breaks_rules_is_refused_by_their_fields() -> None:
    request = pb.ObserveStreamRequest(stream_id="x" * 129, wants_row_errors=True, purpose=pb.PURPOSE_REFERENCE)
    assert fields_of(chunk_question, request, SETTINGS) == ["subject", "stream_id", "wants_row_errors", "observations"]
    unknown = pb.ObserveStreamRequest(subject="a", observations=rows(), purpose=9)  # type: ignore[arg-type]
    assert fields_of(chunk_question, unknown, SETTINGS) == ["purpose"]
    for count in (0, -1, CHUNK_ROWS_MAX + 1):
        wrong = pb.ObserveStreamRequest(subject="a", observations=pb.Observations(rows=count))
        assert fields_of(chunk_question, wrong, SETTINGS)[0] == "observations.rows"


# --- comparisons ---


def test_a_comparison_is_of_a_subject_or_of_rows() -> None:
    last = detect_question(pb.DetectDataDriftRequest(subject="a"), SETTINGS)
    assert (last.window, last.chance, last.features_max, last.plots) == ("last", 0.01, 0, ())
    given = detect_question(
        pb.DetectDataDriftRequest(subject="a", observations=rows(1), false_alarm_chance=0.5, plots=["*", "town", "*"]),
        SETTINGS,
    )
    assert (given.window, given.chance, given.plots) == ("given", 0.5, ("*", "town"))
    span = pb.TimeRange(start_time=timestamp_pb2.Timestamp(seconds=5))
    ranged = detect_question(pb.DetectDataDriftRequest(subject="a", range=span), SETTINGS)
    assert (ranged.window, ranged.start_us, ranged.end_us) == ("range", 5_000_000, None)
    assert detect_question(pb.DetectDataDriftRequest(subject="a", all=pb.AllObserved()), SETTINGS).window == "all"
    request = pb.DetectDataDriftRequest(reference=rows(), observations=rows())
    request.features.add(name="town", importance=3)
    question = detect_question(request, SETTINGS)
    assert question.reference is not None and question.features["town"].importance == 3


def test_a_comparison_that_breaks_rules_is_refused_by_their_fields() -> None:
    assert fields_of(detect_question, pb.DetectDataDriftRequest(), SETTINGS) == ["against"]
    request = pb.DetectDataDriftRequest(
        request_id="x" * 129,
        subject="a b",
        false_alarm_chance=0.6,
        features_max=-1,
        plots=["", "a"],
        wants_row_errors=True,
    )
    request.features.add(name="town")
    assert fields_of(detect_question, request, SETTINGS) == [
        "request_id",
        "subject",
        "features",
        "false_alarm_chance",
        "features_max",
        "plots[0]",
        "wants_row_errors",
    ]
    many = pb.DetectDataDriftRequest(subject="a", plots=["a"] * 17)
    assert fields_of(detect_question, many, SETTINGS) == ["plots"]


def test_a_reference_in_the_request_needs_a_window_beside_it_and_has_no_autoencoder() -> None:
    for request in (
        pb.DetectDataDriftRequest(reference=rows()),
        pb.DetectDataDriftRequest(reference=rows(), all=pb.AllObserved()),
    ):
        assert fields_of(detect_question, request, SETTINGS) == ["observations"]
    wants = pb.DetectDataDriftRequest(reference=rows(), observations=rows(), wants_row_errors=True, plots=["nobody"])
    assert fields_of(detect_question, wants, SETTINGS) == ["plots[0]", "wants_row_errors"]
    empty = pb.DetectDataDriftRequest(reference=rows(1), observations=rows(0))
    assert fields_of(detect_question, empty, SETTINGS)[:2] == ["reference.rows", "observations.rows"]


def test_a_span_of_time_ends_after_its_start() -> None:
    stamp = timestamp_pb2.Timestamp
    upside_down = pb.TimeRange(start_time=stamp(seconds=5), end_time=stamp(seconds=5))
    assert fields_of(detect_question, pb.DetectDataDriftRequest(subject="a", range=upside_down), SETTINGS) == [
        "range.end_time"
    ]
    nowhere = pb.TimeRange(start_time=stamp(seconds=2**60), end_time=stamp(nanos=-1))
    assert fields_of(list_question, pb.ListDriftReportsRequest(range=nowhere)) == ["range.start_time", "range.end_time"]
    eternal = pb.SetReferenceRequest(subject="a", draft="b")
    eternal.options.window_duration.CopyFrom(duration_pb2.Duration(seconds=2**60))
    assert fields_of(reference_question, eternal, SETTINGS) == ["options.window_duration"]


# --- losses ---


def test_losses_come_in_either_form_and_unset_fields_have_their_defaults() -> None:
    for fields in ({"losses": [0.0, 0.5, 1.0]}, {"losses_f32": np.array([0, 0.5, 1], dtype="<f4").tobytes()}):
        question = performance_question(pb.DetectPerformanceDriftRequest(**fields))
        np.testing.assert_array_equal(question.losses, [0.0, 0.5, 1.0])
        assert (question.metric, question.loss_max, question.baseline) == ("loss", 1.0, None)
        assert (question.warm_up, question.losses_to_false_alarm) == (2_000, 100_000.0)
    standing = performance_question(pb.DetectPerformanceDriftRequest(subject="a", metric="error", baseline=0.0))
    assert (len(standing.losses), standing.metric, standing.baseline) == (0, "error", 0.0)


def test_comparators_are_named_once_and_ours_runs_anyway() -> None:
    request = pb.DetectPerformanceDriftRequest(losses=[0, 1], comparators=[1, 4, 2, 4])  # type: ignore[list-item]
    question = performance_question(request)
    assert question.comparators == (pb.LOSS_DETECTOR_DDM, pb.LOSS_DETECTOR_ADWIN)


def test_losses_that_break_rules_are_refused_by_their_places() -> None:
    request = pb.DetectPerformanceDriftRequest(
        subject="a b",
        metric="x" * 129,
        losses=[0.5, 1.5, float("nan"), -1],
        baseline=2,
        warm_up=99,
        losses_to_false_alarm=5,
        comparators=[4, 0, 7],  # type: ignore[list-item]
    )
    assert fields_of(performance_question, request) == [
        "subject",
        "metric",
        "losses[1]",
        "losses[2]",
        "losses[3]",
        "baseline",
        "warm_up",
        "losses_to_false_alarm",
        "comparators[0]",
        "comparators[1]",
        "comparators[2]",
    ]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "losses"),
        ({"losses": [1.0], "losses_f32": b"\0\0\0\0"}, "losses"),
        ({"losses_f32": b"\0"}, "losses_f32"),
        ({"losses_f32": b"\0\0\0\0" * (LOSSES_MAX + 1)}, "losses_f32"),
        ({"losses": [1.0], "loss_max": -1.0}, "loss_max"),
        ({"losses": [1.0], "loss_max": float("inf")}, "loss_max"),
        ({"losses": [1.0], "baseline": float("nan")}, "baseline"),
    ],
)
def test_losses_that_cannot_be_read_are_refused(fields: dict[str, Any], field: str) -> None:
    assert fields_of(performance_question, pb.DetectPerformanceDriftRequest(**fields)) == [field]


# --- reports, alarms, descriptions ---


def test_a_severity_is_of_a_report_or_of_a_subject() -> None:
    request = pb.AnalyzeDriftSeverityRequest(report_id="r")
    request.features.add(name="town", importance=7)
    question = severity_question(request)
    assert (question.report_id, question.subject, dict(question.importances)) == ("r", "", {"town": 7.0})
    assert severity_question(pb.AnalyzeDriftSeverityRequest(subject="a")).subject == "a"
    assert fields_of(severity_question, pb.AnalyzeDriftSeverityRequest()) == ["report_id"]
    wrong = pb.AnalyzeDriftSeverityRequest(report_id="x" * 129, subject="/")
    assert fields_of(severity_question, wrong) == ["report_id", "subject"]


def test_a_list_has_a_page_of_fifty_unless_told_otherwise() -> None:
    question = list_question(pb.ListDriftReportsRequest(page_token="t", drift_only=True, severity_min=pb.SEVERITY_HIGH))
    assert (question.page_size, question.page_token, question.full) == (50, "t", False)
    assert (question.which.severity_min, question.which.drift_only, question.which.start_us) == (4, True, None)
    wrong = pb.ListDriftReportsRequest(subject="a b", page_size=201, severity_min=9)  # type: ignore[arg-type]
    assert fields_of(list_question, wrong) == ["subject", "severity_min", "page_size"]


def test_a_watch_begins_after_a_cursor() -> None:
    assert watch_question(pb.WatchDriftRequest(cursor=-1, interval_ms=200)) == ("", -1, 0.2)
    assert watch_question(pb.WatchDriftRequest(subject="a")) == ("a", 0, 10.0)
    wrong = pb.WatchDriftRequest(subject="a b", cursor=-2, interval_ms=199)
    assert fields_of(watch_question, wrong) == ["subject", "cursor", "interval_ms"]


def test_a_description_may_name_a_subject() -> None:
    assert (subject_question(""), subject_question("a")) == ("", "a")
    assert fields_of(subject_question, "a b") == ["subject"]
