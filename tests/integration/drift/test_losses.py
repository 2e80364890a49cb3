"""Losses over real gRPC: watched from call to call, counted once, told to those who watch alarms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.rpc import AlreadyExists, InvalidInput, mesh_errors


def losses(rate: float, count: int, seed: int = 0) -> bytes:
    return (np.random.default_rng(seed).random(count) < rate).astype("<f4").tobytes()


async def watched(drift: Any, **fields: Any) -> pb.DetectPerformanceDriftResponse:
    """The answer to losses of the subject `a`, unless they are told otherwise."""
    fields = {"subject": "a", "metric": "error", "warm_up": 500, "losses_to_false_alarm": 10_000, **fields}
    with mesh_errors():
        request = pb.DetectPerformanceDriftRequest(**fields)
        answer: pb.DetectPerformanceDriftResponse = await drift.stub.DetectPerformanceDrift(request, timeout=20)
    return answer


async def test_losses_are_watched_from_call_to_call_and_alarms_are_sent(drift: Any) -> None:
    quiet = await watched(drift, losses_f32=losses(0.1, 3_000))
    assert (quiet.is_drift, quiet.losses) == (False, 3_000)
    risen = await watched(drift, losses_f32=losses(0.5, 1_000, 1))
    assert risen.is_drift and risen.losses == 4_000 and risen.severity >= pb.SEVERITY_HIGH
    assert risen.summary and risen.advice
    call = drift.stub.WatchDrift(pb.WatchDriftRequest(subject="a"), timeout=20)
    alarm = (await call.read()).alarm
    call.cancel()
    assert (alarm.source, alarm.kind) == (pb.ALARM_SOURCE_PERFORMANCE, pb.ALARM_KIND_RAISED)
    assert [one.name for one in alarm.blamed] == ["error"]
    assert alarm.position == risen.verdicts[0].alarms[0]
    stands = await watched(drift)
    assert stands.is_drift and stands.losses == 4_000
    other = await watched(drift, metric="other", losses_f32=losses(0.1, 10))
    assert other.losses == 10


async def test_the_same_request_is_not_counted_again(drift: Any) -> None:
    answers = [await watched(drift, losses_f32=losses(0.1, 700), request_id="one") for _ in range(2)]
    assert [answer.losses for answer in answers] == [700, 700]
    assert (await watched(drift)).losses == 700
    for other in ({"losses_f32": losses(0.1, 701)}, {"resets": True}, {"loss_max": 2.0}, {"baseline": 0.1}):
        with pytest.raises(AlreadyExists):
            await watched(drift, **{"losses_f32": losses(0.1, 700), "request_id": "one", **other})


async def test_losses_survive_the_process(start: Any) -> None:
    first = await start()
    before = await watched(first, losses_f32=losses(0.1, 1_234))
    await first.stop()
    again = await watched(await start())
    assert (again.losses, again.baseline, again.baseline_upper, again.recent) == (
        before.losses,
        before.baseline,
        before.baseline_upper,
        before.recent,
    )


async def test_losses_that_stand_alone_are_judged_and_forgotten(drift: Any) -> None:
    values = losses(0.1, 3_000) + losses(0.6, 1_000)
    for _ in range(2):
        answer = await watched(drift, subject="", losses_f32=values)
        assert answer.is_drift and answer.losses == 4_000
    call = drift.stub.WatchDrift(pb.WatchDriftRequest(), timeout=20)
    assert not (await call.read()).HasField("alarm")
    call.cancel()


async def test_comparators_run_beside(drift: Any) -> None:
    pytest.importorskip("river")
    values = losses(0.1, 3_000) + losses(0.6, 1_000)
    detectors = [pb.LOSS_DETECTOR_ADWIN, pb.LOSS_DETECTOR_PAGE_HINKLEY, pb.LOSS_DETECTOR_DDM]
    answer = await watched(drift, losses_f32=values, comparators=detectors)
    assert [verdict.detector for verdict in answer.verdicts] == [pb.LOSS_DETECTOR_SHIRYAEV_ROBERTS, *detectors]
    assert answer.verdicts[1].alarms[0] >= 3_000


async def test_losses_that_break_rules_are_refused_and_nothing_is_counted(drift: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        await watched(drift, losses=[0.5, 1.5, float("nan")])
    assert [one.field for one in caught.value.violations] == ["losses[1]", "losses[2]"]
    assert (await watched(drift)).losses == 0
