"""Sending in the background: both sides go on at once, and the server's reason is never lost."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from meshcast.rpc import Precondition, mesh_errors, sending

PATH = "/meshcast.test.EchoService/Echo"


class Echo(grpc.GenericRpcHandler):
    """Answers every message with itself, or refuses when it is told to."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.stream_stream_rpc_method_handler(
            self.echo,
            request_deserializer=StringValue.FromString,
            response_serializer=StringValue.SerializeToString,
        )

    async def echo(self, requests: AsyncIterator[StringValue], context: Any) -> AsyncIterator[StringValue]:
        async for request in requests:
            if request.value == "refuse":
                raise Precondition("unloaded", why="on request")
            yield request


@pytest.fixture
async def call(serve: Any) -> AsyncIterator[Any]:
    """Opens calls of the method without requests."""
    server = await serve(lambda grpc_server: grpc_server.add_generic_rpc_handlers((Echo(),)))
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel.stream_stream(
            PATH, request_serializer=StringValue.SerializeToString, response_deserializer=StringValue.FromString
        )


async def words(*said: str) -> AsyncIterator[StringValue]:
    for word in said:
        yield StringValue(value=word)


async def test_answers_are_read_while_requests_are_sent(call: Any) -> None:
    came = asyncio.Event()

    async def source() -> AsyncIterator[StringValue]:
        yield StringValue(value="first")
        await came.wait()
        yield StringValue(value="second")

    opened, answers = call(timeout=10), []
    async with sending(opened, source()):
        async for answer in opened:
            answers.append(answer.value)
            came.set()
    assert answers == ["first", "second"]


async def test_the_servers_reason_comes_through_however_much_is_being_sent(call: Any) -> None:
    for _ in range(30):
        opened = call(timeout=10)
        with pytest.raises(Precondition) as caught, mesh_errors(opened):
            async with sending(opened, words("refuse", *["x" * 10_000] * 200)):
                async for _answer in opened:
                    pass
        assert caught.value.facts == {"why": "on request"}


async def test_an_error_of_the_source_is_raised_after_the_answers_before_it(call: Any) -> None:
    async def source() -> AsyncIterator[StringValue]:
        yield StringValue(value="first")
        raise ZeroDivisionError("mine")

    opened, answers = call(timeout=10), []
    with pytest.raises(ZeroDivisionError, match="mine"):
        async with sending(opened, source()):
            async for answer in opened:
                answers.append(answer.value)
    assert answers == ["first"]


async def test_a_reader_that_stops_early_leaves_no_task_behind(call: Any) -> None:
    opened = call(timeout=10)
    before = asyncio.all_tasks()
    async with sending(opened, words(*["x" * 10_000] * 10_000)):
        assert (await opened.read()).value
    assert asyncio.all_tasks() <= before | {
        task for task in asyncio.all_tasks() if task.get_name() != "stream-requests"
    }
    opened.cancel()
