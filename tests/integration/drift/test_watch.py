"""Alarms over real gRPC: raised once, replayed from a cursor, followed live, and told apart from silence."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import InvalidInput, NotReady, mesh_errors

INTERVAL_MS = 200


async def drifted(drift: Any, kit: Any, subject: str = "a") -> list[pb.DriftAlarm]:
    """The alarms of a subject whose first column has moved far."""
    await drift.set_reference(kit.rows(2_000), subject=subject)
    chunks = [kit.chunk(kit.rows(100, at, shift=3), at, subject=subject) for at in range(1, 21)]
    return [alarm for answer in await drift.observe(*chunks) for alarm in answer.alarms]


async def first_alarms(drift: Any, count: int, **fields: Any) -> list[pb.WatchDriftResponse]:
    """The first messages with an alarm of a watch."""
    call = drift.stub.WatchDrift(pb.WatchDriftRequest(interval_ms=INTERVAL_MS, **fields), timeout=20)
    found: list[pb.WatchDriftResponse] = []
    with mesh_errors(call):
        async for message in call:
            if message.HasField("alarm"):
                found.append(message)
            if len(found) == count:
                call.cancel()
                break
    return found


async def test_an_alarm_is_raised_once_with_its_blame_and_its_report(drift: Any, kit: Any) -> None:
    raised = [alarm for alarm in await drifted(drift, kit) if alarm.kind == pb.ALARM_KIND_RAISED]
    (alarm,) = raised
    assert (alarm.subject, alarm.source, alarm.reference_version) == ("a", pb.ALARM_SOURCE_DATA, 1)
    assert alarm.blamed[0].name == "x0" and alarm.blamed[0].share > 0.5
    assert alarm.severity >= pb.SEVERITY_MODERATE and alarm.text
    assert alarm.onset.window <= alarm.position <= 20
    described = await drift.describe()
    assert described.alarm.kind in (pb.ALARM_KIND_RAISED, pb.ALARM_KIND_WORSENED)
    with mesh_errors():
        listed = await drift.stub.ListDriftReports(pb.ListDriftReportsRequest(subject="a", full=True), timeout=20)
    assert alarm.report_id in {report.report_id for report in listed.reports}


async def test_a_watch_replays_from_a_cursor_and_filters_by_subject(drift: Any, kit: Any) -> None:
    of_a, of_b = await drifted(drift, kit, "a"), await drifted(drift, kit, "b")
    everything = await first_alarms(drift, len(of_a) + len(of_b))
    assert [message.alarm for message in everything] == [*of_a, *of_b]
    assert [message.cursor for message in everything] == [alarm.alarm_id for alarm in (*of_a, *of_b)]
    rest = await first_alarms(drift, len(of_b), cursor=of_a[-1].alarm_id)
    assert [message.alarm for message in rest] == of_b
    only = await first_alarms(drift, len(of_b), subject="b")
    assert [message.alarm for message in only] == of_b


async def test_a_live_watch_is_told_of_an_alarm_that_is_raised_meanwhile(drift: Any, kit: Any) -> None:
    call = drift.stub.WatchDrift(pb.WatchDriftRequest(cursor=-1, interval_ms=INTERVAL_MS), timeout=20)
    first = await call.read()
    assert not first.HasField("alarm")  # the watch has begun
    alarms = await drifted(drift, kit)
    while not (message := await call.read()).HasField("alarm"):
        pass
    assert message.alarm == alarms[0]
    call.cancel()


async def test_silence_is_broken_by_signs_of_life_that_carry_the_cursor(drift: Any, kit: Any) -> None:
    alarms = await drifted(drift, kit)
    call = drift.stub.WatchDrift(pb.WatchDriftRequest(cursor=-1, subject="nobody", interval_ms=INTERVAL_MS), timeout=20)
    for _ in range(3):
        message = await call.read()
        assert not message.HasField("alarm")
        assert message.cursor == alarms[-1].alarm_id
    call.cancel()


async def test_a_cursor_of_another_store_is_told(drift: Any) -> None:
    call = drift.stub.WatchDrift(pb.WatchDriftRequest(cursor=57, interval_ms=INTERVAL_MS), timeout=20)
    message = await call.read()
    assert message.cursor == 0
    assert "57" in message.receipt.notes[0]
    call.cancel()


async def test_a_drain_ends_a_watch(drift: Any) -> None:
    call = drift.stub.WatchDrift(pb.WatchDriftRequest(), timeout=20)
    await call.read()
    drained = asyncio.create_task(drift.server.drain())
    with pytest.raises(NotReady) as caught, mesh_errors(call):
        while await call.read():
            pass
    await drained
    assert caught.value.reason == ErrorReason.ERROR_REASON_DRAINING


async def test_a_watch_that_breaks_rules_is_refused(drift: Any) -> None:
    call = drift.stub.WatchDrift(pb.WatchDriftRequest(cursor=-2, interval_ms=100), timeout=20)
    with pytest.raises(InvalidInput) as caught, mesh_errors(call):
        await call.read()
    assert [one.field for one in caught.value.violations] == ["cursor", "interval_ms"]
