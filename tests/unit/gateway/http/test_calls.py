"""Calls of the HTTP door without a connection: the outbox, the context, and how calls end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc.aio
import pytest

from meshcast.gateway.http.calls import Calls
from meshcast.gateway.http.context import DoorContext, Outbox
from meshcast.gateway.http.errors import CallFailed
from meshcast.rpc import NotFound, ServerInterceptor

UNARY, STREAM, UP = "/acme.Service/Ask", "/acme.Service/Watch", "/acme.Service/Tell"


class Handlers(grpc.GenericRpcHandler):
    """One method of each kind that HTTP has a way for; each does what its request says.

    Attributes:
        ended: set when a handler has ended, however it did.
    """

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    def service(self, details: Any) -> Any:
        """The method's handler."""
        return {
            UNARY: grpc.unary_unary_rpc_method_handler(self.ask, request_deserializer=bytes.decode),
            STREAM: grpc.unary_stream_rpc_method_handler(self.watch, response_serializer=str.encode),
            UP: grpc.stream_unary_rpc_method_handler(self.tell, request_deserializer=bytes.decode),
        }.get(details.method)

    async def ask(self, request: str, context: Any) -> bytes:
        """Answers, fails or waits."""
        try:
            if request == "fail":
                context.set_trailing_metadata((("x-tried", "once"),))
                raise NotFound("there is none")
            if request == "wait":
                await asyncio.Event().wait()
            await context.send_initial_metadata((("x-head", "1"),))
            return request.encode()
        finally:
            self.ended.set()

    async def watch(self, request: bytes, context: Any) -> AsyncIterator[str]:
        """Counts up, for ever or to three."""
        try:
            number = 0
            while request == b"ever" or number < 3:
                yield str(number)
                number += 1
        finally:
            self.ended.set()

    async def tell(self, requests: AsyncIterator[str], context: Any) -> bytes:
        """Puts the requests together."""
        return "".join([request async for request in requests]).encode()


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
def calls(handlers: Handlers) -> Calls:
    return Calls(ServerInterceptor(access="none"), [handlers])


async def test_a_call_is_answered_with_its_head(calls: Calls) -> None:
    context = DoorContext(metadata=(("x-key", "1"),), peer="ipv4:127.0.0.1:1")
    assert await calls.unary(UNARY, b"hello", context) == b"hello"
    assert (context.head, context.peer(), context.time_remaining()) == ((("x-head", "1"),), "ipv4:127.0.0.1:1", None)


async def test_a_failure_keeps_its_details_and_the_handlers_trailers(calls: Calls) -> None:
    with pytest.raises(CallFailed) as caught:
        await calls.unary(UNARY, b"fail", DoorContext())
    assert (caught.value.http_status, caught.value.message) == (404, "there is none")
    assert caught.value.trailers == (("x-tried", "once"),)


async def test_an_unknown_method_is_refused_as_by_grpc(calls: Calls) -> None:
    with pytest.raises(CallFailed) as caught:
        await calls.unary("/acme.Service/None", b"", DoorContext())
    assert caught.value.grpc_code is grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(CallFailed) as caught:
        async with aclosing(calls.server_stream("/acme.Service/None", b"", DoorContext())) as answers:
            await anext(answers)
    assert caught.value.grpc_code is grpc.StatusCode.UNIMPLEMENTED


async def test_the_deadline_ends_a_call(calls: Calls, handlers: Handlers) -> None:
    with pytest.raises(CallFailed) as caught:
        await calls.unary(UNARY, b"wait", DoorContext(timeout_s=0.01))
    assert caught.value.grpc_code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert handlers.ended.is_set()


async def test_a_stream_is_written_no_faster_than_it_is_read_and_ends_when_it_is_left(
    calls: Calls, handlers: Handlers
) -> None:
    async with aclosing(calls.server_stream(STREAM, b"ever", DoorContext())) as answers:
        assert [await anext(answers) for _ in range(2)] == [b"0", b"1"]
        for _ in range(10):
            await asyncio.sleep(0)
        assert not handlers.ended.is_set()
    assert handlers.ended.is_set()
    assert [message async for message in calls.server_stream(STREAM, b"", DoorContext())] == [b"0", b"1", b"2"]


async def test_requests_of_a_stream_reach_the_handler(calls: Calls) -> None:
    messages = [b"a", b"b", grpc.aio.EOF]

    async def read() -> Any:
        return messages.pop(0)

    assert await calls.client_stream(UP, read, DoorContext()) == b"ab"


async def test_calls_that_are_cut_off_end_unavailable_and_no_more_begin(calls: Calls, handlers: Handlers) -> None:
    async def ask() -> CallFailed:
        with pytest.raises(CallFailed) as caught:
            await calls.unary(UNARY, b"wait", DoorContext(timeout_s=60))
        return caught.value

    waiting = asyncio.create_task(ask(), name="test-ask")
    await asyncio.sleep(0)
    calls.cut_off()
    for failure in (await waiting, await ask()):
        assert (failure.http_status, failure.retry_after_s) == (503, 1)


async def test_an_outbox_has_room_for_one_message() -> None:
    outbox = Outbox()
    await outbox.put(1)
    second = asyncio.create_task(outbox.put(2), name="test-put")
    await asyncio.sleep(0)
    assert not second.done()
    assert await outbox.get() == 1
    await second
    outbox.close()
    assert [await outbox.get(), await outbox.get()] == [2, None]


async def test_a_context_without_streams_neither_reads_nor_writes() -> None:
    context = DoorContext(timeout_s=1e300)
    assert await context.read() is grpc.aio.EOF
    with pytest.raises(grpc.aio.UsageError):
        await context.write(b"")
    assert 0 < (context.time_remaining() or 0) < 4e7
