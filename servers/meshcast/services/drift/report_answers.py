"""Answers out of reports: what a comparison comes to as the message of the contract, whole or cut down."""

from collections.abc import Mapping

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.services.drift.alarms import BLAMED_MAX, Judgement
from meshcast.services.drift.answers import KINDS, ROLES, timestamp
from meshcast.services.drift.comparison import Comparison
from meshcast.services.drift.facts import feature_facts
from meshcast.services.drift.history import StoredReport
from meshcast.services.drift.report import FeatureDrift, JointTest, Report

__all__ = ["LISTED_FEATURES_MAX", "add_plots", "judgement_of", "listed_report", "report_message", "stored"]

LISTED_FEATURES_MAX = 3
"""Features of a report in a list, unless whole reports are wanted; of the contract."""


def report_message(
    report: Report, comparison: Comparison, *, report_id: str, made_us: int, features_max: int = 0
) -> pb.DriftReport:
    """A report, without plots.

    Args:
        report: what the comparison came to.
        comparison: what was compared.
        report_id: of the report.
        made_us: when it was made, microseconds since 1970.
        features_max: features at most, those to blame first; 0 for all.
    """
    reference = comparison.reference
    message = pb.DriftReport(
        report_id=report_id,
        subject=reference.subject,
        reference_version=reference.version,
        made_time=timestamp(made_us),
        window=pb.Window(
            rows=comparison.window.rows,
            start_time=timestamp(comparison.start_us),
            end_time=timestamp(comparison.end_us),
            number=comparison.number,
        ),
        reference_rows=reference.tally.rows,
        is_drift=report.is_drift,
        severity=pb.Severity.ValueType(report.severity),
        severity_score=report.severity_score,
        joint_tests=[_joint_test(test, comparison) for test in report.joint_tests],
        p_value=report.p_value,
        summary=report.summary,
        advice=report.advice,
        notes=report.notes,
    )
    if report.log_value is not None:
        message.evidence.CopyFrom(_evidence(report.log_value, comparison))
    if report.onset_window is not None:
        message.onset.CopyFrom(_onset(report.onset_window, comparison))
    features = report.features[:features_max] if features_max else report.features
    places = [feature.position for feature in features]
    before = feature_facts(reference.layout, reference.tally, places)
    after = feature_facts(reference.layout, comparison.window, places)
    for feature, was, now in zip(features, before, after, strict=True):
        message.features.append(_feature(feature, comparison, was, now))
    left = len(report.features) - len(features)
    if left:
        message.notes.append(f"{left} of {len(report.features)} features were left out, as was asked for.")
    return message


def add_plots(message: pb.DriftReport, plots: Mapping[str, bytes]) -> None:
    """Puts plots, PNG by the feature's name, into a report."""
    for feature in message.features:
        feature.plot_png = plots.get(feature.name, b"")


def listed_report(message: pb.DriftReport) -> pb.DriftReport:
    """A stored report as a list tells it: of its features the first that drifted."""
    short = pb.DriftReport()
    short.CopyFrom(message)
    drifted = [feature for feature in message.features if feature.is_drifted][:LISTED_FEATURES_MAX]
    del short.features[:]
    short.features.extend(drifted)
    return short


def stored(message: pb.DriftReport) -> StoredReport:
    """A report of a subject as the store keeps it."""
    return StoredReport(
        report_id=message.report_id,
        subject=message.subject,
        reference_version=message.reference_version,
        made_us=message.made_time.ToMicroseconds(),
        severity=message.severity,
        is_drift=message.is_drift,
        message=message.SerializeToString(deterministic=True),
    )


def judgement_of(report: Report, message: pb.DriftReport) -> Judgement:
    """What alarms and lists need of a report."""
    blamed = [(feature.feature.name, feature.blame) for feature in report.features if feature.blame > 0]
    return Judgement(
        severity=int(report.severity),
        severity_score=report.severity_score,
        is_drift=report.is_drift,
        blamed=tuple(blamed[:BLAMED_MAX]),
        onset_window=report.onset_window,
        text=report.sentence or report.summary,
        message=message.SerializeToString(deterministic=True),
    )


def _feature(
    feature: FeatureDrift, comparison: Comparison, before: pb.FeatureFacts, after: pb.FeatureFacts
) -> pb.FeatureDrift:
    message = pb.FeatureDrift(
        name=feature.feature.name,
        kind=KINDS[feature.feature.kind],
        role=ROLES[feature.feature.role],
        importance=feature.feature.importance,
        is_drifted=feature.is_drifted,
        blame=feature.blame,
        severity=pb.Severity.ValueType(feature.severity),
        severity_score=feature.severity_score,
        effect=feature.effect,
        certainty=feature.certainty,
        effects=pb.Effects(**{name: value for name, value in feature.effects.items() if value is not None}),
        tests=[pb.FeatureTest(name=one.name, statistic=one.statistic, p_value=one.p_value) for one in feature.tests],
        what=feature.what,
        reference=before,
        window=after,
    )
    if feature.log_value is not None:
        message.evidence.CopyFrom(_evidence(feature.log_value, comparison))
    if feature.onset_window is not None:
        message.onset.CopyFrom(_onset(feature.onset_window, comparison))
    return message


def _joint_test(test: JointTest, comparison: Comparison) -> pb.JointTest:
    message = pb.JointTest(
        name=test.name,
        is_present=test.is_present,
        why=test.why,
        statistic=test.statistic,
        p_value=test.p_value,
        what=test.what,
    )
    if test.log_value is not None:
        message.evidence.CopyFrom(_evidence(test.log_value, comparison))
    return message


def _evidence(log_value: float, comparison: Comparison) -> pb.Evidence:
    return pb.Evidence(
        log_value=log_value,
        log_threshold=comparison.log_threshold,
        false_alarms_a_year=comparison.reference.options.false_alarms_a_year,
    )


def _onset(window: int, comparison: Comparison) -> pb.Onset:
    return pb.Onset(window=window, start_time=timestamp(comparison.window_starts.get(window)))
