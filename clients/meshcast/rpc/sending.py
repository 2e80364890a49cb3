"""Sending on a stream without losing the server's reason for ending it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

__all__ = ["send", "sending"]


async def send(call: Any, message: Any, data: bytes) -> bool:
    """Sends one message; False when the call has ended, of which reading it tells the reason.

    grpc.aio's own `write` puts INTERNAL "Internal error from Core" in the place of the status when the server ends the
    stream while a message is on its way (open grpc/grpc#36066), before the server's status has come or after, so that
    no caller of its public interface can have it back. The message therefore goes one layer below. Where that is not to
    be had (calls through client interceptors), its own `write` is used, and `mesh_errors(call)` restores what it can.

    Args:
        call: that streams its requests.
        message: as `write` takes it.
        data: the same, serialized.
    """
    inner = getattr(call, "_cython_call", None)
    try:
        if inner is None:
            await call.write(message)
        else:
            await call.wait_for_connection()
            await inner.send_serialized_message(data)
    except (grpc.RpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
        return False
    except Exception as error:
        if not any(kind.__name__ == "InternalError" for kind in type(error).__mro__):  # cygrpc's has no public name
            raise
        return False
    return True


@asynccontextmanager
async def sending(call: Any, messages: AsyncIterable[Any]) -> AsyncIterator[None]:
    """Sends messages while the block reads the answers, so that neither side waits for the other.

    Handed to grpc as an iterator, messages would be written by grpc.aio itself, which loses the server's status.

    Args:
        call: that streams its requests, made without them.
        messages: what to send, protobuf messages. When the source fails, the server is told that nothing follows, and
            its error is raised at the end of the block.
    """
    task = asyncio.create_task(_send_all(call, messages), name="stream-requests")
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _send_all(call: Any, messages: AsyncIterable[Any]) -> None:
    try:
        async for message in messages:
            if not await send(call, message, message.SerializeToString()):
                return
    except Exception:
        await call.done_writing()
        raise
    await call.done_writing()
