"""Streams through the gateway: order, back-pressure, stalled readers, deaths and cancellation, for all call kinds."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.gateway import RouteSettings
from meshcast.rpc import Descriptions, InvalidInput, NotReady, channel, mesh_errors

KINDS_SERVICE = "meshcast.test.KindsService"
KINDS = ("Unary", "ClientStream", "ServerStream", "BidiStream")
EXPECTED = {"Unary": ["A"], "ClientStream": ["A B"], "ServerStream": ["A", "A"], "BidiStream": ["A", "B"]}


def chunk(sequence: int, script: str = "") -> pb.PredictEngagementStreamRequest:
    return pb.PredictEngagementStreamRequest(sequence=sequence, channel=script)


def kinds_descriptions() -> Descriptions:
    """Describes the KindsService of the shared fixtures, so that a backend's reflection tells its methods' kinds."""
    from google.protobuf import wrappers_pb2

    file = FileDescriptorProto(name="kinds.proto", package="meshcast.test", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    service = file.service.add(name="KindsService")
    for name in KINDS:
        service.method.add(
            name=name,
            input_type=".google.protobuf.StringValue",
            output_type=".google.protobuf.StringValue",
            client_streaming=name in ("ClientStream", "BidiStream"),
            server_streaming=name in ("ServerStream", "BidiStream"),
        )
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    descriptions = Descriptions()
    descriptions.add([wrappers, file])
    return descriptions


@pytest.mark.parametrize("is_described", [True, False], ids=["kinds known", "kinds unknown"])
@pytest.mark.parametrize("kind", KINDS)
async def test_every_call_kind_is_relayed_whether_it_is_known_or_not(
    serve: Any, run_gateway: Any, kinds_service: Any, ask: Any, kind: str, is_described: bool
) -> None:
    async def act(text: str, context: object) -> str:
        return text.upper()

    options = {"descriptions": kinds_descriptions()} if is_described else {}
    backend = await serve(kinds_service(act), **options)
    route = RouteSettings(services=(KINDS_SERVICE,), endpoints=(backend.address,))
    async with run_gateway(routes={"kinds": route}) as gateway:
        if is_described:
            await gateway.until_methods()
        assert await ask(gateway.channel, kind, ["a", "b"]) == EXPECTED[kind]


async def test_answers_come_in_order_each_with_the_gateways_receipt(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        call = gateway.predictor.PredictEngagementStream((chunk(n) for n in range(50)), timeout=10)
        answers = [answer async for answer in call]
    assert [answer.sequence for answer in answers] == [*range(50)]
    assert {(a.receipt.model, a.receipt.gateway.endpoint) for a in answers} == {("one", replica.address)}
    assert all(answer.receipt.gateway.elapsed_us > 0 for answer in answers)


async def test_a_stream_answers_while_the_caller_still_sends(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        call = gateway.predictor.PredictEngagementStream(timeout=10)
        for sequence in range(5):
            await call.write(chunk(sequence))
            assert (await call.read()).sequence == sequence
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_an_error_within_a_stream_passes_after_the_answers_before_it(
    run_predictor: Any, run_gateway: Any
) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        call = gateway.predictor.PredictEngagementStream(timeout=10)
        await call.write(chunk(1))
        assert (await call.read()).sequence == 1
        await call.write(chunk(2, "refuse"))
        with pytest.raises(InvalidInput) as caught, mesh_errors():
            await call.read()
    assert caught.value.violations[0].field == "planned.hour_of_day"


async def test_a_refusal_reaches_a_caller_that_still_writes(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        for _ in range(50):
            call = gateway.predictor.PredictEngagementStream(
                (chunk(n, "refuse" if n == 0 else "") for n in range(20)), timeout=10
            )
            with pytest.raises(InvalidInput) as caught, mesh_errors(call):
                _ = [answer async for answer in call]
            assert caught.value.facts["asked"] == "24"


async def test_a_reader_that_stalls_slows_its_own_stream_only(run_predictor: Any, run_gateway: Any) -> None:
    """64 answers of 1 MB are asked for and none is read: the replica is held up, and other callers are not."""
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        stalled = gateway.predictor.PredictEngagementStream((chunk(n, "large") for n in range(64)), timeout=30)
        await asyncio.wait_for(replica.script.began.wait(), 5)
        for _ in range(20):
            await gateway.predictor.PredictEngagement(pb.PredictEngagementRequest(), timeout=5)
        quick = gateway.predictor.PredictEngagementStream((chunk(n) for n in range(50)), timeout=10)
        assert [answer.sequence async for answer in quick] == [*range(50)]
        before = replica.script.taken - 50
        await asyncio.sleep(0.2)
        assert replica.script.taken - 50 - before <= 2  # it has come to rest
        assert before < 48  # and not because all was buffered
        assert sum([1 async for _ in stalled]) == 64  # nothing was lost


async def test_a_caller_that_cancels_a_stream_cancels_it_at_the_replica(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        call = gateway.predictor.PredictEngagementStream(timeout=20)
        await call.write(chunk(1, "stall"))
        await asyncio.wait_for(replica.script.began.wait(), 5)
        call.cancel()
        await asyncio.wait_for(replica.script.cancelled.wait(), 5)


async def test_a_caller_that_vanishes_frees_the_replica(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        vanishing = channel(gateway.server.address)
        method: Any = vanishing.stream_stream("/meshcast.api.predictor.v1.PredictorService/PredictEngagementStream")
        call = method(timeout=20)
        await call.write(chunk(1).SerializeToString())
        await call.read()
        await vanishing.close(None)
        await asyncio.wait_for(replica.script.ended.wait(), 5)


async def test_a_replica_that_dies_within_a_stream_ends_it_as_unavailable(run_predictor: Any, run_gateway: Any) -> None:
    async with AsyncExitStack() as stack:
        replica = await stack.enter_async_context(run_predictor(drain_s=0.1))
        async with run_gateway([replica.address]) as gateway:
            call = gateway.predictor.PredictEngagementStream(timeout=20)
            await call.write(chunk(1))
            assert (await call.read()).sequence == 1
            await stack.aclose()
            with pytest.raises(NotReady) as caught, mesh_errors():
                await call.read()
    assert caught.value.retry_after_s is not None


async def test_streams_that_are_cancelled_by_the_dozen_leave_nothing_behind(
    run_predictor: Any, run_gateway: Any
) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        for _ in range(30):
            call = gateway.predictor.PredictEngagementStream(timeout=20)
            await call.write(chunk(1))
            await call.read()
            call.cancel()
        await gateway.until(lambda mesh: mesh.services[0].calls_in_flight == 0)
        health = await gateway.health()
    assert health.services[0].calls_by_code["CANCELLED"] == 30
    assert replica.server.interceptor.in_flight == 0
