"""Watching: alarms from a cursor on, then new ones as they are raised, with signs of life between them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc import NotReady
from meshcast.services.drift.answers import alarm_message
from meshcast.services.drift.questions import WatchQuestion
from meshcast.services.drift.subjects import Subjects

__all__ = ["ALARMS_AT_ONCE", "watch"]

ALARMS_AT_ONCE = 100
"""Alarms that a watch reads at a time."""


async def watch(
    subjects: Subjects,
    question: WatchQuestion,
    write: Callable[[pb.WatchDriftResponse], Awaitable[None]],
    *,
    draining: asyncio.Event,
) -> None:
    """Sends alarms until the server drains or the caller goes away; a message at once says that the watch has begun.

    Args:
        subjects: whose alarms.
        question: which of them.
        write: sends one message.
        draining: set when the watch must end.

    Raises:
        NotReady: DRAINING.
    """
    newest, notes = subjects.newest_alarm_id, []
    cursor = newest if question.cursor < 0 else question.cursor
    if cursor > newest:  # the file is ahead of what this process has been told, or it is another file
        _, newest = await subjects.alarms(newest, limit=ALARMS_AT_ONCE)
    if cursor > newest:
        notes.append(f"cursor {cursor} is of another store: the newest alarm here is {newest}")
        cursor = newest
    end = asyncio.ensure_future(draining.wait())
    try:
        quiet_until = 0.0
        while not draining.is_set():
            alarms, cursor = await subjects.alarms(cursor, subject=question.subject, limit=ALARMS_AT_ONCE)
            messages = [pb.WatchDriftResponse(alarm=alarm_message(one), cursor=one.alarm_id) for one in alarms]
            if not messages and time.monotonic() >= quiet_until:
                messages.append(pb.WatchDriftResponse(cursor=cursor))
            for message in messages:
                message.receipt.notes.extend(notes)
                notes.clear()
                await write(message)
                quiet_until = time.monotonic() + question.interval_s
            if len(alarms) < ALARMS_AT_ONCE:
                await _wait(subjects, cursor, max(0.0, quiet_until - time.monotonic()), end)
    finally:
        end.cancel()
    raise NotReady(
        "The server drains: watch again from the last cursor.",
        reason=error_reason_pb2.ERROR_REASON_DRAINING,
        retry_after_s=1.0,
    )


async def _wait(subjects: Subjects, cursor: int, within_s: float, end: asyncio.Future[Any]) -> None:
    """Returns when there is an alarm after the cursor, when the time is over, or when the server drains."""
    alarm = asyncio.ensure_future(subjects.wait_for_alarm(cursor, within_s=within_s))
    try:
        await asyncio.wait({alarm, end}, return_when=asyncio.FIRST_COMPLETED)
        if alarm.done():
            alarm.result()
    finally:
        alarm.cancel()
        await asyncio.gather(alarm, return_exceptions=True)
