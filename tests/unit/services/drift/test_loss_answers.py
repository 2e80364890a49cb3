"""Answers about losses: what is called, what is told once, and what a metric keeps from call to call."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.rpc import CorruptData, InvalidInput
from meshcast.services.drift.loss_answers import loss_update
from meshcast.services.drift.loss_questions import performance_question
from meshcast.services.drift.watched import LossUpdate

Floats = Any


def losses(rate: float, count: int, seed: int = 0) -> Floats:
    return (np.random.default_rng(seed).random(count) < rate).astype(np.float64)


def update(
    values: Floats, state: bytes | None = None, found: Mapping[str, Sequence[int]] | None = None, **fields: Any
) -> tuple[LossUpdate, pb.DetectPerformanceDriftResponse]:
    fields = {"subject": "a", "metric": "error", "warm_up": 500, "losses_to_false_alarm": 10_000, **fields}
    question = performance_question(pb.DetectPerformanceDriftRequest(losses=values, **fields))
    made = loss_update(question, state, found or {}, 1_000)
    return made, pb.DetectPerformanceDriftResponse.FromString(made.answer)


def test_a_baseline_that_is_being_learnt_calls_nothing() -> None:
    made, answer = update(losses(0.1, 200))
    assert not answer.is_drift and answer.losses == 200 and not answer.HasField("baseline")
    assert "300 losses" in answer.summary and not made.alarms
    assert [verdict.detector for verdict in answer.verdicts] == [pb.LOSS_DETECTOR_SHIRYAEV_ROBERTS]


def test_a_rise_is_called_once_and_resolved_when_it_is_over() -> None:
    made, quiet = update(losses(0.1, 5_000))
    assert not quiet.is_drift and quiet.baseline == pytest.approx(0.1, abs=0.03)
    assert quiet.baseline_upper > quiet.baseline
    made, risen = update(losses(0.4, 1_500, 1), made.state)
    assert risen.is_drift and risen.severity >= pb.SEVERITY_HIGH
    assert risen.verdicts[0].alarms[0] >= 5_000
    (alarm,) = made.alarms
    assert (alarm.kind, alarm.source, alarm.subject, alarm.blamed) == ("raised", "performance", "a", (("error", 1.0),))
    assert alarm.onset_window == pytest.approx(5_000, abs=300)
    assert alarm.position in risen.verdicts[0].alarms and "error" in alarm.text and risen.advice
    made, still = update(losses(0.4, 1_500, 2), made.state)
    assert still.is_drift and not [one for one in made.alarms if one.kind == "raised"]
    made, over = update(losses(0.05, 4_000, 3), made.state)
    assert [one.kind for one in made.alarms] == ["resolved"]
    assert not over.is_drift and over.severity == pb.SEVERITY_NONE


def test_beginning_anew_forgets_the_losses_and_ends_the_alarm() -> None:
    made, _ = update(np.concatenate([losses(0.1, 3_000), losses(0.6, 1_000)]))
    assert [one.kind for one in made.alarms] == ["raised"]
    made, answer = update(losses(0.1, 100), made.state, resets=True)
    assert answer.losses == 100 and not answer.is_drift
    assert [one.kind for one in made.alarms] == ["resolved"]


def test_losses_without_a_subject_raise_nothing_for_others() -> None:
    made, answer = update(np.concatenate([losses(0.1, 3_000), losses(0.6, 1_000)]), subject="")
    assert answer.is_drift and not made.alarms


def test_where_a_metric_stands_is_told_without_new_losses() -> None:
    made, before = update(losses(0.1, 3_000))
    _, again = update([], made.state)
    assert (again.losses, again.recent, again.baseline) == (3_000, before.recent, before.baseline)


def test_comparators_are_told_beside_by_positions_of_the_subject() -> None:
    made, _ = update(losses(0.1, 1_000))
    _, answer = update(losses(0.1, 100), made.state, {"ddm": [3, 50]}, comparators=[pb.LOSS_DETECTOR_DDM])
    assert [verdict.detector for verdict in answer.verdicts] == [
        pb.LOSS_DETECTOR_SHIRYAEV_ROBERTS,
        pb.LOSS_DETECTOR_DDM,
    ]
    assert list(answer.verdicts[1].alarms) == [1_003, 1_050]
    assert not answer.verdicts[1].HasField("log_evidence")


def test_a_metric_keeps_what_it_was_begun_with_and_says_so() -> None:
    made, _ = update(losses(0.1, 1_000), baseline=0.12)
    _, answer = update(losses(0.1, 10), made.state, baseline=0.5, losses_to_false_alarm=500)
    assert answer.baseline == 0.12 and "baseline 0.12" in answer.notes[-1] and "10,000" in answer.notes[-1]
    with pytest.raises(InvalidInput) as caught:
        update(losses(0.1, 10), made.state, loss_max=5)
    assert caught.value.violations[0].field == "loss_max"


@pytest.mark.parametrize("state", [b"", b"DLM1", b"DLM1\x03rubbish", b"what is this"])
def test_a_damaged_state_is_told_and_can_be_begun_anew(state: bytes) -> None:
    with pytest.raises(CorruptData):
        update(losses(0.1, 10), state)
    _, answer = update(losses(0.1, 10), state, resets=True)
    assert answer.losses == 10


def test_asking_where_a_metric_stands_moves_nothing() -> None:
    made, _ = update(losses(0.1, 100))
    for state in (None, made.state):
        asked, answer = update([], state)
        assert asked.state is None and not asked.alarms
        assert answer.losses == (100 if state else 0)
    again, _ = update([], made.state, resets=True)
    assert again.state is not None


def test_a_rise_that_goes_on_is_one_alarm_of_one_onset() -> None:
    made, answer = update(np.concatenate([losses(0.1, 5_000), losses(0.4, 5_000, 1)]))
    ours = answer.verdicts[0]
    assert len(ours.alarms) == 1 and ours.onset == pytest.approx(5_000, abs=300)
    assert f"loss {ours.onset:,}." in answer.summary and made.alarms[0].onset_window == ours.onset
    made, later = update(losses(0.4, 5_000, 2), made.state)
    assert later.is_drift and not later.verdicts[0].alarms and later.verdicts[0].onset == ours.onset
    assert f"loss {ours.onset:,}." in later.summary
    made, _ = update(losses(0.05, 4_000, 3), made.state)
    _, anew = update(losses(0.4, 2_000, 4), made.state)
    assert len(anew.verdicts[0].alarms) == 1 and anew.verdicts[0].onset == pytest.approx(19_000, abs=300)


def test_a_rise_that_grows_is_told_as_worse() -> None:
    made, _ = update(np.concatenate([losses(0.1, 5_000), losses(0.2, 1_200, 1)]))
    made, _ = update(losses(0.9, 1_000, 2), made.state)
    assert [(one.kind, one.position) for one in made.alarms] == [("worsened", 7_199)]
