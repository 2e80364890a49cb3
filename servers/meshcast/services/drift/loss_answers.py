"""Answers about losses: what new losses made of a metric, as the message of the contract, its state and its alarms."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.rpc import CorruptData, InvalidInput
from meshcast.services.drift.alarms import Alarm, AlarmKind
from meshcast.services.drift.loss_questions import TO_FALSE_ALARM_DEFAULT, PerformanceQuestion
from meshcast.services.drift.losses import RECENT, LossAlarm, LossWatch
from meshcast.services.drift.severity import Level, level_of
from meshcast.services.drift.watched import LossUpdate
from meshcast.services.drift.words import number

__all__ = ["ALARMS_TOLD_MAX", "COMPARATORS", "loss_update"]

ALARMS_TOLD_MAX = 1_000
"""Positions of alarms that a verdict tells, of the contract."""

COMPARATORS: Mapping[pb.LossDetector.ValueType, str] = {
    pb.LOSS_DETECTOR_ADWIN: "adwin",
    pb.LOSS_DETECTOR_PAGE_HINKLEY: "page_hinkley",
    pb.LOSS_DETECTOR_DDM: "ddm",
}
"""Comparators by the contract's name."""

RISE_ANCHOR = 1 / 3
"""Rise in standard deviations of a loss of that mean which counts as a half: an error rate from .1 to .2."""

_DEVIATION_MIN = 0.05  # of the largest loss: where all was right, one loss in 400 is such a rise already
_MAGIC = b"DLM1"


class _Standing(NamedTuple):
    """The watch of a metric and the level that was last told of it; NONE where no alarm stands."""

    watch: LossWatch
    told: Level

    def to_bytes(self) -> bytes:
        return _MAGIC + bytes([self.told]) + self.watch.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> "_Standing":
        if data[: len(_MAGIC)] != _MAGIC or len(data) <= len(_MAGIC):
            raise CorruptData("The state of watched losses cannot be read; begin anew with `resets`.")
        return cls(LossWatch.from_bytes(data[len(_MAGIC) + 1 :]), Level(data[len(_MAGIC)]))


def loss_update(
    question: PerformanceQuestion, state: bytes | None, comparators: Mapping[str, Sequence[int]], now_us: int
) -> LossUpdate:
    """What the losses of a request make of their metric.

    Args:
        question: the request.
        state: of the metric; None where there is none yet.
        comparators: positions of each comparator's alarms in this request, by its name.
        now_us: the time, microseconds since 1970.

    Raises:
        InvalidInput: the metric was begun with another `loss_max`.
        CorruptData: the state is damaged.
    """
    was = None if state is None or question.resets else _Standing.from_bytes(state)
    watch = _new_watch(question) if was is None else was.watch
    if len(question.losses) and watch.loss_max != question.loss_max:
        raise InvalidInput(
            f"loss_max is {watch.loss_max:g} for this metric, not {question.loss_max:g}; `resets` begins anew",
            field="loss_max",
        )
    before = watch.losses
    alarms = watch.update(question.losses)
    is_drift = watch.is_raised or bool(alarms)
    score = _score(watch, is_drift)
    level = Level.NONE if not is_drift else max(level_of(score), Level.LOW)
    raised, told = _alarms(question, watch, alarms, level, _told(state), now_us)
    answer = _answer(question, watch, alarms, before, comparators, is_drift, level, score)
    answer.notes.extend(_notes(question, watch, was is not None))
    is_asked = not len(question.losses) and not question.resets
    kept = None if is_asked else _Standing(watch, told).to_bytes()
    return LossUpdate(state=kept, alarms=raised, answer=answer.SerializeToString())


def _told(state: bytes | None) -> Level:
    """The level that was told of a state, damaged or not."""
    if state is None or len(state) <= len(_MAGIC):
        return Level.NONE
    return next((level for level in Level if level == state[len(_MAGIC)]), Level.NONE)


def _new_watch(question: PerformanceQuestion) -> LossWatch:
    return LossWatch(
        loss_max=question.loss_max,
        baseline=question.baseline,
        warm_up=question.warm_up,
        losses_to_false_alarm=question.losses_to_false_alarm,
    )


def _score(watch: LossWatch, is_drift: bool) -> float:
    """Severity as a number: how far the recent losses are above the baseline, in standard deviations, if it is sure."""
    if watch.baseline is None or watch.recent is None:
        return 0.0
    mean = watch.baseline / watch.loss_max
    deviation = max(math.sqrt(max(mean * (1 - mean), 0.0)), _DEVIATION_MIN)
    rise = max(0.0, watch.recent / watch.loss_max - mean) / deviation
    evidence = 1.0 if is_drift else _share(watch) ** 2
    return rise / (rise + RISE_ANCHOR) * evidence


def _share(watch: LossWatch) -> float:
    """How far the evidence is on its way to an alarm, 0 to 1."""
    return float(np.clip(watch.log_value / watch.log_threshold, 0, 1)) if math.isfinite(watch.log_value) else 0.0


def _alarms(
    question: PerformanceQuestion, watch: LossWatch, alarms: Sequence[LossAlarm], level: Level, told: Level, now_us: int
) -> tuple[tuple[Alarm, ...], Level]:
    """What is to be told of this call, and the level that was told then."""
    if not question.subject:
        return (), Level.NONE
    newest = alarms[-1] if alarms else None
    onset = watch.onset if newest is not None or watch.is_raised else None

    def alarm(kind: AlarmKind, text: str) -> Alarm:
        return Alarm(
            subject=question.subject,
            kind=kind,
            source="performance",
            raised_us=now_us,
            severity=int(level),
            blamed=((question.metric, 1.0),),
            onset_window=onset,
            text=text,
            position=max(0, watch.losses - 1) if newest is None else newest.position,
        )

    if told == Level.NONE and newest is not None:
        return (alarm("raised", f"{_risen(question, watch)} since loss {onset:,}."),), level
    if told != Level.NONE and onset is not None and level > told:
        return (alarm("worsened", f"{_risen(question, watch)}, more than before."),), level
    if told != Level.NONE and onset is None:
        why = "it was begun anew" if question.resets else "the last losses are as they should be"
        return (
            alarm("resolved", f"“{question.metric}” of {question.subject} is no longer raised: {why}."),
        ), Level.NONE
    return (), told


def _risen(question: PerformanceQuestion, watch: LossWatch) -> str:
    of = f" of {question.subject}" if question.subject else ""
    return f"“{question.metric}”{of} has risen from {number(watch.baseline)} to {number(watch.recent)}"


def _answer(
    question: PerformanceQuestion,
    watch: LossWatch,
    alarms: Sequence[LossAlarm],
    before: int,
    comparators: Mapping[str, Sequence[int]],
    is_drift: bool,
    level: Level,
    score: float,
) -> pb.DetectPerformanceDriftResponse:
    answer = pb.DetectPerformanceDriftResponse(
        is_drift=is_drift,
        severity=pb.Severity.ValueType(level),
        severity_score=score,
        baseline=watch.baseline,
        baseline_upper=watch.baseline_upper,
        recent=watch.recent,
        losses=watch.losses,
        summary=_summary(question, watch, is_drift),
        advice=_advice(level, is_drift),
    )
    ours = answer.verdicts.add(
        detector=pb.LOSS_DETECTOR_SHIRYAEV_ROBERTS,
        alarms=[alarm.position for alarm in alarms[:ALARMS_TOLD_MAX]],
        onset=watch.onset if is_drift else None,
    )
    if watch.baseline is not None:
        ours.log_evidence, ours.log_threshold = watch.log_value, watch.log_threshold
    for detector in question.comparators:
        found = comparators[COMPARATORS[detector]][:ALARMS_TOLD_MAX]
        answer.verdicts.add(detector=detector, alarms=[before + position for position in found])
    return answer


def _losses(count: int) -> str:
    return "1 loss" if count == 1 else f"{count:,} losses"


def _summary(question: PerformanceQuestion, watch: LossWatch, is_drift: bool) -> str:
    if watch.baseline is None:
        left = watch.warm_up - watch.losses
        return f"The baseline is being learnt: {_losses(left)} more before anything can be called."
    if not is_drift:
        return (
            f"No rise is called: the last {_losses(min(watch.losses, RECENT))} have a mean of "
            f"{number(watch.recent)} against {number(watch.baseline)}."
        )
    text = f"{_risen(question, watch)}. The rise began at about loss {watch.onset:,}."
    return f"{text} Such an alarm is false once in {number(watch.losses_to_false_alarm)} losses at most, on average."


def _advice(level: Level, is_drift: bool) -> list[str]:
    if not is_drift:
        return []
    advice = ["See which inputs moved: DetectDataDrift on the rows of the same time."]
    if level >= Level.HIGH:
        advice.insert(0, "Do not rely on the model's answers until it was checked.")
    advice.append("Retrain with the newest labels, then begin anew with `resets`.")
    return advice


def _notes(question: PerformanceQuestion, watch: LossWatch, is_known: bool) -> list[str]:
    notes = []
    if watch.baseline is None:
        notes.append(f"{watch.losses} of the {watch.warm_up} losses that the baseline is learnt from are there")
    elif watch.losses < RECENT:
        notes.append(f"`recent` is the mean of {_losses(watch.losses)}: they are still few")
    if watch.bursts > 1:
        notes.append(f"losses came in bursts while the baseline was learnt: {watch.bursts:.1f} are counted as one")
    if is_known:
        kept = []
        if question.baseline is not None and watch.baseline is not None and question.baseline != watch.baseline:
            kept.append(f"baseline {number(watch.baseline)}")
        if question.losses_to_false_alarm not in (watch.losses_to_false_alarm, TO_FALSE_ALARM_DEFAULT):
            kept.append(f"losses_to_false_alarm {number(watch.losses_to_false_alarm)}")
        if kept:
            notes.append(f"the metric keeps what it was begun with: {', '.join(kept)}; `resets` begins anew")
    return notes
