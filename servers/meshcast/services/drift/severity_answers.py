"""Answers about severity: a stored report's levels under importances of the caller's choice."""

from collections.abc import Mapping, Sequence

import numpy as np
from google.protobuf.message import DecodeError

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.rpc import CorruptData, InvalidInput, Violation
from meshcast.services.drift import words
from meshcast.services.drift.severity import Level, level_of, overall, relative_importance
from meshcast.services.drift.words import Change, Moved

__all__ = ["read_report", "severity_answer"]

_MIDDLE = 4  # place of the median among the quantiles that are told


def read_report(data: bytes) -> pb.DriftReport:
    """A stored report.

    Raises:
        CorruptData: it cannot be read.
    """
    try:
        return pb.DriftReport.FromString(data)
    except DecodeError as error:
        raise CorruptData("A stored report cannot be read.") from error


def severity_answer(report: pb.DriftReport, importances: Mapping[str, float]) -> pb.AnalyzeDriftSeverityResponse:
    """How bad the drift of a report is.

    Args:
        report: whole.
        importances: in place of those of the reference, by the feature's name.

    Raises:
        InvalidInput: an importance is of no feature of the report.
    """
    _require_features(report, importances)
    features = list(report.features)
    weights = np.array([importances.get(feature.name, feature.importance) for feature in features])
    relative = relative_importance(weights)
    effects = np.array([feature.effect for feature in features])
    certainty = np.array([feature.certainty for feature in features])
    drifted = np.array([feature.is_drifted for feature in features], dtype=np.bool_)
    scores = effects * relative * certainty
    found = overall(scores, drifted) if drifted.any() else report.severity_score
    level = level_of(found) if report.is_drift else Level.NONE
    answer = pb.AnalyzeDriftSeverityResponse(
        report_id=report.report_id,
        severity=pb.Severity.ValueType(level),
        severity_score=found if report.is_drift else 0.0,
    )
    for at in sorted(range(len(features)), key=lambda at: (-scores[at], -features[at].blame, at)):
        feature = features[at]
        own = level_of(float(scores[at])) if feature.is_drifted else Level.NONE
        answer.parts.add(
            name=feature.name,
            severity=pb.Severity.ValueType(own),
            severity_score=float(scores[at]),
            effect=feature.effect,
            importance=float(relative[at]),
            evidence=feature.certainty,
            blame=feature.blame,
            advice=words.advice_of_feature(_moved(feature), own),
        )
    answer.advice.extend(
        words.overall_advice(
            level,
            is_drift=report.is_drift,
            by_feature=[part.advice for part in answer.parts if part.advice],
            is_joint_only=report.is_drift and not drifted.any(),
            has_outputs=any(feature.role == pb.FEATURE_ROLE_OUTPUT for feature in features),
            is_subject=bool(report.subject),
        )
    )
    answer.summary = _summary(report, answer.parts, level, bool(importances))
    return answer


def _require_features(report: pb.DriftReport, importances: Mapping[str, float]) -> None:
    known = {feature.name for feature in report.features}
    found = [
        Violation(f"features[{at}].name", f"{name[:128]!r} is no feature of the report")
        for at, name in enumerate(importances)
        if name not in known
    ]
    if found:
        raise InvalidInput(f"{found[0].field} {found[0].description}", violations=found)


def _summary(report: pb.DriftReport, parts: Sequence[pb.SeverityPart], level: Level, is_weighed: bool) -> str:
    """One paragraph."""
    if not report.is_drift:
        return report.summary
    under = " under these importances" if is_weighed else ""
    worst = [part for part in parts if part.severity > pb.SEVERITY_NONE]
    if not worst:
        return f"The drift is of level {level.name}{under}: no single feature that counts moved far."
    first = worst[0]
    told = (
        f"“{first.name}” counts most: effect {words.number(first.effect)} x importance "
        f"{words.number(first.importance)} x evidence {words.number(first.evidence)} = "
        f"{words.number(first.severity_score)}."
    )
    rest = f" {words.counted(len(worst) - 1, 'further feature')} moved too." if len(worst) > 1 else ""
    return f"The drift is of level {level.name}{under}. {told}{rest}"


def _moved(feature: pb.FeatureDrift) -> Moved:
    """What words are made of, from a report."""
    before, after, effects = feature.reference, feature.window, feature.effects
    shares = [_shares(side) for side in (before, after)]
    changes = [
        (name, Change(shares[0].get(name, 0.0), shares[1].get(name, 0.0))) for name in {**shares[0], **shares[1]}
    ]
    changes.sort(key=lambda one: -abs((one[1].after or 0.0) - (one[1].before or 0.0)))
    return Moved(
        name=feature.name,
        is_number=feature.kind == pb.FEATURE_KIND_NUMERIC,
        is_output=feature.role == pb.FEATURE_ROLE_OUTPUT,
        mean=Change(_optional(before, "mean"), _optional(after, "mean")),
        spread=Change(_optional(before, "standard_deviation"), _optional(after, "standard_deviation")),
        median=Change(_median(before), _median(after)),
        nulls=Change(_share(before.nulls, before), _share(after.nulls, after)),
        infinite=Change(_share(before.infinities, before), _share(after.infinities, after)),
        unseen=_share(after.unseen, after),
        unseen_names=tuple(one.category for one in after.unseen_categories[:3]),
        categories=tuple(changes[:3]),
        mean_shift_sd=effects.mean_shift_sd if effects.HasField("mean_shift_sd") else None,
        wasserstein_sd=effects.wasserstein_sd if effects.HasField("wasserstein_sd") else None,
    )


def _optional(facts: pb.FeatureFacts, name: str) -> float | None:
    return float(getattr(facts, name)) if facts.HasField(name) else None  # type: ignore[arg-type]  # an optional one


def _median(facts: pb.FeatureFacts) -> float | None:
    return facts.quantiles[_MIDDLE] if len(facts.quantiles) > _MIDDLE else None


def _share(rows: int, facts: pb.FeatureFacts) -> float:
    return rows / max(facts.rows, 1)


def _shares(facts: pb.FeatureFacts) -> dict[str, float]:
    """Categories with their shares of the rows that are not null."""
    known = max(facts.rows - facts.nulls, 1)
    return {one.category: one.rows / known for one in facts.categories}
