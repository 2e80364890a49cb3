"""Answers over HTTP that no library writes: JSON, and JSON by lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any, TypeVar

from meshcast.rpc import MeshError

from ..contracts import MethodKind
from .calls import Calls
from .context import DoorContext
from .errors import CallFailed
from .intake import Intake
from .metadata import from_headers, timeout_of, to_headers
from .methods import Method

Send = Callable[[Any], Awaitable[None]]
Header = tuple[bytes, bytes]
Result = TypeVar("Result")

_JSON = (b"content-type", b"application/json")
_LINES = (b"content-type", b"application/x-ndjson")


class Left(Exception):
    """The caller has left before its answer was there."""


async def send_body(send: Send, status: int, body: bytes, headers: Iterable[Header] = (_JSON,)) -> None:
    """Sends a whole answer."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send_json(send: Send, status: int, content: Any, headers: Iterable[Header] = ()) -> None:
    """Sends a whole answer in JSON."""
    await send_body(send, status, json.dumps(content, ensure_ascii=False).encode(), (_JSON, *headers))


async def send_failure(send: Send, failure: CallFailed, content: Any, status: int | None = None) -> None:
    """Sends a failure in JSON, with `Retry-After` where a retry may help.

    Args:
        send: ASGI's.
        failure: what is told.
        content: its form in JSON.
        status: of HTTP, where it is another than the failure's own.
    """
    later = failure.retry_after_s
    headers = [] if later is None else [(b"retry-after", str(later).encode())]
    await send_json(send, status or failure.http_status, content, headers)


def context_of(scope: Any) -> DoorContext:
    """The context of a request, from ASGI's.

    Raises:
        CallFailed: INVALID_ARGUMENT where a header cannot be read.
    """
    headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in scope["headers"]]
    client = scope.get("client")
    kind = "" if not client else "ipv6:[{}]:{}" if ":" in client[0] else "ipv4:{}:{}"
    try:
        return DoorContext(
            metadata=from_headers(headers),
            peer=kind.format(*client) if client else "",
            timeout_s=timeout_of(dict(headers)),
        )
    except MeshError as error:
        raise CallFailed.of(error) from error


async def while_there(intake: Intake, running: Awaitable[Result]) -> Result:
    """What is awaited, which is cancelled when the caller leaves. The body must be there.

    Raises:
        Left: the caller has left.
    """
    scope = asyncio.timeout(None)

    async def watch() -> None:
        await intake.until_left()
        if not scope.expired():
            scope.reschedule(asyncio.get_running_loop().time())

    watching = asyncio.create_task(watch(), name="http-watch")
    try:
        async with scope:
            return await running
    except TimeoutError:
        if not scope.expired():
            raise
        raise Left from None
    finally:
        watching.cancel()
        await asyncio.wait((watching,))


async def answer_lines(method: Method, calls: Calls, intake: Intake, context: DoorContext, send: Send) -> None:
    """Answers a request in plain JSON with a line of JSON for each message, as `curl -N` shows them.

    Each line is `{"result": message}`; a stream that fails ends with `{"error": {"code", "message", "details"}}`. One
    that fails before its first message fails as a single call does.

    Args:
        method: one request, many answers.
        calls: runs it.
        intake: of the request.
        context: of the call.
        send: ASGI's.

    Raises:
        CallFailed: before anything was sent.
        Left: the caller has left.
    """
    assert method.contract.kind is MethodKind.SERVER_STREAM
    message = await method.from_json(await intake.body())
    is_open = False

    async def start() -> None:
        nonlocal is_open
        if not is_open:
            is_open = True
            head = [(key.encode(), value.encode()) for key, value in to_headers(context.head)]
            await send({"type": "http.response.start", "status": 200, "headers": [_LINES, *head]})

    async def line(kind: bytes, content: bytes) -> None:
        await start()
        body = b'{"' + kind + b'":' + content + b"}\n"
        await send({"type": "http.response.body", "body": body, "more_body": True})

    async def write_all() -> None:
        try:
            async with aclosing(calls.server_stream(method.path, message, context)) as answers:
                async for answer in answers:
                    await line(b"result", await method.to_json(answer))
        except CallFailed as failure:
            if not is_open:
                raise
            await line(b"error", json.dumps(failure.to_json(), ensure_ascii=False).encode())
        await start()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    await while_there(intake, write_all())
