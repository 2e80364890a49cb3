"""Ending calls early, of which grpc.aio's own `cancel` leaves up to a kilobyte behind each time.

When a task that waits for one of core's operations is cancelled, grpc.aio never frees what it had allocated for that
(seen with 1.85: 966 bytes for a unary call, 425 for a server stream before its first answer, 100 for a read).
`Call.cancel()` does so, and so does cancelling whoever awaits a call. Here the call alone is ended: core then finishes
its operations, and grpc frees them.
"""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["end_call", "finished", "wait_ended"]

_DETAILS = "Locally cancelled by application!"  # grpc's own words
_FINISH_S = 1.0  # core ends what a call waits for within milliseconds


def end_call(call: Any) -> None:
    """Ends a call where it has not ended; who waits for it wakes with a CancelledError soon.

    Where the layer below is not to be had (calls through client interceptors), grpc's own `cancel` is used.

    Args:
        call: of grpc.aio's client.
    """
    inner = getattr(call, "_cython_call", None)
    if inner is None:
        call.cancel()
    elif not inner.done():
        inner.cancel(_DETAILS)


async def wait_ended(call: Any) -> None:
    """Waits until the answer to a call is there, or its failure; ends the call when the wait is cancelled.

    Calls through client interceptors are not waited for: they are to be awaited as always.

    Args:
        call: of grpc.aio's client, with one answer. Awaiting it does not wait after that.
    """
    task = getattr(call, "_call_response", None)
    if task is None or task.done():
        return
    waiter = asyncio.get_running_loop().create_future()

    def wake(_task: object) -> None:
        if not waiter.done():
            waiter.set_result(None)

    task.add_done_callback(wake)
    try:
        await waiter
    except asyncio.CancelledError:
        end_call(call)
        raise


async def finished(*tasks: asyncio.Task[Any]) -> None:
    """Waits for tasks whose calls have been ended, so that they end by themselves; cancels those that do not soon.

    Args:
        tasks: whose results nobody wants.
    """
    if pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending, timeout=_FINISH_S)
        finally:
            for task in pending:
                task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
