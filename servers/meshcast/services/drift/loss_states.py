"""Loss states: what is known of each (subject, metric), moved by one request at a time and kept on disk."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from weakref import WeakValueDictionary

import structlog

from meshcast.rpc.errors import AlreadyExists, CorruptData, MeshError, Precondition
from meshcast.services.drift.changes import Changes
from meshcast.services.drift.held import HeldSubjects, to_its_end
from meshcast.services.drift.store import Store
from meshcast.services.drift.watched import LossUpdate

__all__ = ["METRICS_MAX", "Losses"]

log = structlog.get_logger()

METRICS_MAX = 1_024
"""(Subject, metric)s whose losses are remembered; one takes a few kilobytes."""


class Losses:
    """States of losses, for concurrent calls on one event loop.

    Args:
        held: whose worker moves them.
        store: where they are.
    """

    def __init__(self, held: HeldSubjects, store: Store) -> None:
        self._held, self._store = held, store
        self._unsaved: set[tuple[str, str]] = set()  # were moved when the disk failed: that is tried again first
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def move(
        self,
        subject: str,
        metric: str,
        update: Callable[[bytes | None], LossUpdate],
        *,
        request_id: str,
        digest: str,
    ) -> bytes:
        """Moves a state and brings it to the disk, as `Subjects.losses`."""
        key = f"losses {subject} {metric} {request_id}"
        lock = self._locks.setdefault((subject, metric), asyncio.Lock())
        with self._held.admitted():
            async with lock:
                if (subject, metric) in self._unsaved:
                    await self._held.saved()
                    self._unsaved.discard((subject, metric))
                answered = await self._store.answered(key) if request_id else None
                if answered is not None:
                    if answered[0] != digest:
                        raise AlreadyExists(
                            f"The request {request_id!r} has counted other losses; choose another request id.",
                            name=request_id,
                        )
                    return answered[1]
                state = await self._state(subject, metric)
                is_full = state is None and await self._store.metrics() + len(self._unsaved) >= METRICS_MAX
                version = await self._store.version(subject)

                def moved(changes: Changes) -> bytes:
                    found = update(state)
                    if found.state is None:
                        return found.answer
                    if is_full:
                        raise Precondition(
                            f"The losses of {METRICS_MAX} metrics are kept, which is the most. Go on with one of them "
                            "(`resets` begins it anew), or send losses without a subject."
                        )
                    changes.losses[subject, metric] = found.state
                    changes.alarms += [
                        replace(alarm, alarm_id=self._held.next_alarm_id(), reference_version=version)
                        for alarm in found.alarms
                    ]
                    if request_id:
                        changes.requests[key] = digest, found.answer
                    return found.answer

                return await to_its_end(self._done(moved, (subject, metric)))

    async def _done(self, moved: Callable[[Changes], bytes], key: tuple[str, str]) -> bytes:
        answer = await self._held.change(moved)
        try:
            await self._held.saved()  # the next one reads it from the disk
        except MeshError:
            self._unsaved.add(key)
            raise
        return answer

    async def _state(self, subject: str, metric: str) -> bytes | None:
        """The state of a metric; None where there is none yet, and no byte where it is damaged."""
        try:
            return await self._store.losses(subject, metric)
        except CorruptData as error:
            log.error("losses are damaged", subject=subject, metric=metric, why=error.message)
            return b""  # whoever reads it says that it is, and may begin anew
