"""Reports: what a comparison comes to, by feature and overall, in numbers and in words. Pure: no clock, no store."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.services.drift import words
from meshcast.services.drift.comparison import Comparison, GroupEvidence, GroupName
from meshcast.services.drift.effects import effects_of, tests_of
from meshcast.services.drift.joint import JointDrift
from meshcast.services.drift.layout import Feature
from meshcast.services.drift.severity import (
    CUTS,
    Level,
    effect_sizes,
    level_of,
    overall,
    relative_importance,
)
from meshcast.services.drift.telling import Told, known, moved_of, notes_of
from meshcast.services.drift.verdicts import ROWS_MIN, Verdict, verdict_of_evidence, verdict_of_window

__all__ = ["FeatureDrift", "JointTest", "Report", "SingleTest", "make_report"]

Vector = NDArray[np.float64]

_JOINT_ONLY = next(cut for cut, level in CUTS if level == Level.MODERATE)
_TESTS = ("kolmogorov_smirnov", "chi_squared", "nulls", "infinities", "unseen")
_AUTOENCODER: Mapping[str, str] = {
    "autoencoder_error": "how unusual rows are to the autoencoder",
    "autoencoder_code": "where rows lie in the autoencoder's code",
}
_ENERGY = "all columns together: how far rows are from those of the reference"
_OUTPUTS = "the distributions of a model's outputs"


class SingleTest(NamedTuple):
    """One test of one feature; `p_value` is not corrected for other features or tests."""

    name: str
    statistic: float
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDrift:
    """How one feature moved.

    Attributes:
        position: of the feature in the layout.
        feature: its name, kind, role and weight.
        is_drifted: whether drift is called for it.
        blame: its share of the whole drift.
        severity: its level.
        severity_score: effect x importance x evidence.
        effect: how far it moved, 0 to 1.
        importance: its weight by the largest, 0 to 1.
        certainty: how sure it is that it moved, 0 to 1.
        effects: by the contract's names; None where one does not apply.
        tests: single tests of this window.
        log_value: logarithm of its e-detector; None where no evidence over windows is held.
        onset_window: number of the window in which its drift began; None where none is called.
        what: what moved, in words.
        advice: what to do about it; empty where nothing is to be done.
    """

    position: int
    feature: Feature
    is_drifted: bool
    blame: float
    severity: Level
    severity_score: float
    effect: float
    importance: float
    certainty: float
    effects: Mapping[str, float | None]
    tests: tuple[SingleTest, ...]
    log_value: float | None
    onset_window: int | None
    what: str
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JointTest:
    """One test of all features together.

    Attributes:
        name: of the test.
        what: what it looks at, in words.
        why: it is absent, with the way out; empty where it is present.
        statistic: its statistic; 0 where evidence alone judges it.
        p_value: its p-value, not corrected for others; None where evidence over windows judges it.
        log_value: logarithm of its e-detector; None where no evidence over windows is held.
    """

    name: str
    what: str
    why: str = ""
    statistic: float = 0.0
    p_value: float | None = None
    log_value: float | None = None

    @property
    def is_present(self) -> bool:
        """Whether it is part of the report."""
        return not self.why


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a comparison comes to.

    Attributes:
        is_drift: whether drift is called.
        severity: level overall.
        severity_score: the same as a number, 0 to 1.
        features: those to blame first, then by severity.
        joint_tests: tests of all features together.
        log_value: logarithm of the evidence over windows, in alarms a year; None where the window stands alone.
        log_threshold: logarithm of the value at which an alarm is raised.
        p_value: of the window, all tests together; None where evidence over windows decides.
        onset_window: number of the window in which the drift began; None where none is called.
        summary: one paragraph for a person.
        sentence: the same in one sentence, for an alarm.
        advice: what to do, most important first.
        notes: what a reader should know.
    """

    is_drift: bool
    severity: Level
    severity_score: float
    features: tuple[FeatureDrift, ...]
    joint_tests: tuple[JointTest, ...]
    log_value: float | None
    log_threshold: float
    p_value: float | None
    onset_window: int | None
    summary: str
    sentence: str
    advice: tuple[str, ...]
    notes: tuple[str, ...]


def make_report(
    comparison: Comparison,
    *,
    blame: Vector,
    joint: JointDrift | None = None,
    false_alarm_chance: float = 0.01,
    why_no_joint: str = "",
) -> Report:
    """The report of a comparison.

    Args:
        comparison: reference, window, and the evidence over windows where the window is one of a subject.
        blame: shape (F,), shares of the blame of a window that stands alone; evidence over windows has its own.
        joint: the joint test; None where rows are not held or evidence over windows decides.
        false_alarm_chance: of calling drift where there is none, for a window that stands alone.
        why_no_joint: why there is no joint test, with the way out.
    """
    layout, reference, window = comparison.reference.layout, comparison.reference.tally, comparison.window
    groups = {group.name: group for group in comparison.groups}
    main = groups.get("features")
    effects = effects_of(layout, reference, window)
    tests = tests_of(layout, reference, window)
    p_values = np.stack([tests[name].p_value for name in _TESTS])
    p_values[_TESTS.index("infinities"), reference.infinities + window.infinities == 0] = np.nan  # few columns have any
    if main is None:
        judged = p_values.copy()
        judged[_TESTS.index("nulls"), reference.nulls + window.nulls == 0] = np.nan  # there is nothing to test
        verdict = verdict_of_window(judged, joint, false_alarm_chance, window.rows)
        shares = blame
    else:
        verdict = verdict_of_evidence(comparison, main)
        shares = main.step.blame
    sizes = effect_sizes(effects, layout.groups.max(axis=1) + 1, layout.singletons, reference.rows, window.rows)
    importances = np.array([feature.importance for feature in layout.features])
    weights = relative_importance(importances)
    scores = sizes * weights * verdict.certainty
    found = overall(scores, verdict.drifted)
    joint_tests = _joint_tests(comparison, joint, why_no_joint or "rows of this window are not held")
    is_fading = main is not None and (comparison.log_value or 0.0) < comparison.log_threshold
    is_joint_only = verdict.is_drift and not verdict.drifted.any() and not is_fading
    if is_joint_only:
        found = max(found, _JOINT_ONLY if main is None else _of_groups(comparison))
    level = level_of(found) if verdict.is_drift else Level.NONE
    order = sorted(range(len(layout)), key=lambda at: (-shares[at], -scores[at], at))
    statistics = np.stack([tests[name].statistic for name in _TESTS])
    told = Told.of(layout, reference, window, effects)
    features = tuple(
        _feature(at, told, main, verdict, float(shares[at]), float(sizes[at]), float(weights[at]), statistics, p_values)
        for at in order
    )
    onsets = [one.onset_window for one in features if one.onset_window]
    onset = min(onsets) if onsets and verdict.is_drift else None
    convincing = _convincing(joint_tests, groups, false_alarm_chance) if is_joint_only else []
    summary, sentence = _in_words(comparison, verdict, level, features, convincing, onset, is_fading=is_fading)
    return Report(
        is_drift=verdict.is_drift,
        severity=level,
        severity_score=found if verdict.is_drift else 0.0,
        features=features,
        joint_tests=joint_tests,
        log_value=comparison.log_value,
        log_threshold=comparison.log_threshold,
        p_value=verdict.p_value,
        onset_window=onset,
        summary=summary,
        sentence=sentence,
        advice=tuple(
            words.overall_advice(
                level,
                is_drift=verdict.is_drift,
                by_feature=[one.advice for one in features if one.is_drifted and one.advice],
                is_joint_only=is_joint_only,
                has_outputs=any(feature.role == "output" for feature in layout.features),
                is_subject=bool(comparison.reference.subject),
            )
        ),
        notes=tuple(notes_of(comparison, told, joint, false_alarm_chance, is_alone=main is None)),
    )


def _in_words(
    comparison: Comparison,
    verdict: Verdict,
    level: Level,
    features: tuple[FeatureDrift, ...],
    convincing: list[str],
    onset: int | None,
    *,
    is_fading: bool,
) -> tuple[str, str]:
    """The paragraph for a person, and the sentence of an alarm; that is empty where no drift is called."""
    drifted = [(one.feature.name, one.what) for one in features if one.is_drifted]
    is_alone = not comparison.groups
    summary = words.summary(
        level=level,
        is_drift=verdict.is_drift,
        is_too_small=is_alone and comparison.window.rows < ROWS_MIN,
        is_fading=is_fading,
        window_rows=comparison.window.rows,
        reference_rows=comparison.reference.tally.rows,
        drifted=drifted,
        features=len(features),
        joint=convincing,
        onset_window=onset,
        number_of_window=comparison.number,
        p_value=verdict.p_value,
        false_alarms_a_year=None if is_alone else float(np.exp(-comparison.log_threshold)),
    )
    if not verdict.is_drift:
        return summary, ""
    return summary, words.alarm_sentence(comparison.reference.subject or "The window", level, drifted, convincing)


def _of_groups(comparison: Comparison) -> float:
    """Severity of a drift that only derived columns show: the largest effect among them."""
    found = 0.0
    for group in comparison.groups:
        if group.name != "features":
            effects = effects_of(group.layout, group.reference, group.window)
            sizes = effect_sizes(
                effects,
                group.layout.groups.max(axis=1) + 1,
                group.layout.singletons,
                group.reference.rows,
                group.window.rows,
            )
            found = max(found, float(sizes[group.step.drifted].max(initial=0.0)))
    return found


def _joint_tests(comparison: Comparison, joint: JointDrift | None, why_no_joint: str) -> tuple[JointTest, ...]:
    """Tests of all features together: of this window alone, or by evidence, and those that are absent."""
    found: list[JointTest] = []
    groups = {group.name: group for group in comparison.groups}
    names = {finding.name for finding in joint.findings} if joint else set()
    if joint is not None:
        found += [
            JointTest(name=one.name, what=one.what, statistic=one.statistic, p_value=one.p_value)
            for one in joint.findings
        ]
    elif not groups:
        found.append(JointTest(name="energy", what=_ENERGY, why=why_no_joint))
    if main := groups.get("features"):
        outputs = np.array([feature.role == "output" for feature in main.layout.features])
        if outputs.any():
            log_value = _log_mean(main.step.by_feature[outputs])
            found.append(JointTest(name="outputs", what=_OUTPUTS, log_value=log_value))
        energy = groups.get("energy")
        if energy is not None:
            found.append(JointTest(name="energy", what=_ENERGY, log_value=_log_mean(energy.step.by_feature)))
        else:
            why = "the reference has too few rows to hold some out: give more"
            found.append(JointTest(name="energy", what=_ENERGY, why=why))
    if autoencoder := groups.get("autoencoder"):
        is_error = np.array([feature.name == "autoencoder.error" for feature in autoencoder.layout.features])
        for name, which in (("autoencoder_error", is_error), ("autoencoder_code", ~is_error)):
            log_value = _log_mean(autoencoder.step.by_feature[which])
            found.append(JointTest(name=name, what=_AUTOENCODER[name], log_value=log_value))
    else:
        found += [
            JointTest(name=name, what=what, why=_why_no_autoencoder(comparison))
            for name, what in _AUTOENCODER.items()
            if name not in names
        ]
    return tuple(found)


def _why_no_autoencoder(comparison: Comparison) -> str:
    reference = comparison.reference
    if not reference.subject:
        return "an autoencoder is trained for references of subjects only: set the reference of one (SetReference)"
    if reference.autoencoder.why:
        return reference.autoencoder.why
    if reference.autoencoder.state == "training":
        return "it is being trained: ask again once it is ready (DescribeModel)"
    if reference.autoencoder.state == "ready":
        return "this window's rows went without it"
    return "the reference has none: set it with `trains_autoencoder` where meshcast[train] is installed"


def _convincing(
    tests: tuple[JointTest, ...],
    groups: Mapping[GroupName, GroupEvidence],
    chance: float,
) -> list[str]:
    """What the joint tests look at that found something, in words."""
    if groups:
        found = [test for test in tests if test.log_value is not None and test.log_value > 0]
        return [test.what for test in sorted(found, key=lambda test: -(test.log_value or 0.0))[:1]]
    sure = [test for test in tests if test.p_value is not None and test.p_value <= chance]
    least = sorted((test for test in tests if test.p_value is not None), key=lambda test: test.p_value or 0.0)
    return [test.what for test in (sure or least[:1])]


def _feature(
    at: int,
    told: Told,
    main: GroupEvidence | None,
    verdict: Verdict,
    blame: float,
    size: float,
    weight: float,
    statistics: Vector,
    p_values: Vector,
) -> FeatureDrift:
    feature = told.layout.features[at]
    is_drifted, certainty = bool(verdict.drifted[at]), float(verdict.certainty[at])
    score = size * weight * certainty
    level = level_of(score) if is_drifted else Level.NONE
    moved = moved_of(at, told)
    effects = {name: known(values[at]) for name, values in told.effects._asdict().items()}
    onset = int(main.step.onset[at]) if main is not None and is_drifted else 0
    return FeatureDrift(
        position=at,
        feature=feature,
        is_drifted=is_drifted,
        blame=blame,
        severity=level,
        severity_score=score,
        effect=size,
        importance=weight,
        certainty=certainty,
        effects=effects,
        tests=tuple(
            SingleTest(name, float(statistics[row, at]), float(p_values[row, at]))
            for row, name in enumerate(_TESTS)
            if not np.isnan(p_values[row, at])
        ),
        log_value=None if main is None else float(main.step.by_feature[at]),
        onset_window=onset or None,
        what=words.what_moved(moved),
        advice=words.advice_of_feature(moved, level),
    )


def _log_mean(logs: Vector) -> float | None:
    """Logarithm of the mean of what logarithms are given of; None where there are none."""
    return float(np.logaddexp.reduce(logs) - np.log(len(logs))) if len(logs) else None
