"""The supervisor: starts every process of the mesh in order, keeps them, and drains them with the gateway first."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from meshcast.cli.keeper import Keeper

__all__ = ["Supervisor"]


class Supervisor:
    """Runs model services and, once they serve, the gateway in front of them.

    Args:
        services: keepers of the model services; they start and drain together.
        gateway: keeper of the gateway; it starts last and drains first, so that no caller meets a missing back-end.
    """

    def __init__(self, *, services: Sequence[Keeper], gateway: Keeper) -> None:
        self._services = tuple(services)
        self._gateway = gateway

    async def run(self, *, stop: asyncio.Event, hurry: asyncio.Event, ready: Callable[[], None]) -> None:
        """Runs the mesh until `stop` is set, then drains it; `hurry` ends the drain at once.

        Args:
            stop: set to end the mesh.
            hurry: set to end what still drains.
            ready: called once, when everything serves.

        Raises:
            Problem: a process did not come up at first start; the others are drained.
        """
        try:
            await _until(stop, self._start_and_keep(ready))
        finally:
            await asyncio.shield(self._drain(hurry))

    async def _start_and_keep(self, ready: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as group:
            for service in self._services:
                group.create_task(service.start(), name=f"start:{service.part.name}")
        await self._gateway.start()
        ready()
        async with asyncio.TaskGroup() as group:
            for keeper in (*self._services, self._gateway):
                group.create_task(keeper.keep(), name=f"keep:{keeper.part.name}")

    async def _drain(self, hurry: asyncio.Event) -> None:
        await self._gateway.stop(hurry)
        async with asyncio.TaskGroup() as group:
            for service in self._services:
                group.create_task(service.stop(hurry), name=f"stop:{service.part.name}")


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` until it ends or `stop` is set, whichever is first; its error is raised."""
    working = asyncio.create_task(work, name="mesh")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        if not working.done():
            working.cancel()
        outcomes = await asyncio.gather(working, stopping, return_exceptions=True)
    if isinstance(outcomes[0], Exception):
        raise outcomes[0]
