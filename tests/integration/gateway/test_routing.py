"""Routing: unary calls through the gateway to real servers that answer, fail, stall or are not there."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from meshcast.api.oip.v2 import grpc_service_pb2 as oip_pb
from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.gateway import RouteSettings, State
from meshcast.rpc import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidInput,
    NotFound,
    NotReady,
    Overloaded,
    ServingStatus,
    Unimplemented,
    channel,
    from_rpc_error,
    mesh_errors,
)

PREDICTOR = "meshcast.api.predictor.v1.PredictorService"
OIP = "inference.GRPCInferenceService"


def question(script: str = "") -> pb.PredictEngagementRequest:
    return pb.PredictEngagementRequest(request_id="r-1", channel=script)


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port


async def test_an_answer_comes_back_with_both_receipts_merged(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        answer = await gateway.predictor.PredictEngagement(question(), timeout=5)
    assert answer.prediction.log_engagement == 2.5
    assert (answer.receipt.prediction_id, answer.receipt.model) == ("r-1", "one")
    assert answer.receipt.notes == ["views missing"]
    assert (answer.receipt.gateway.endpoint, answer.receipt.gateway.attempts) == (replica.address, 1)
    assert answer.receipt.gateway.elapsed_us > 0
    assert not answer.receipt.deadline_default


async def test_without_the_gateway_there_is_no_gateway_receipt(run_predictor: Any) -> None:
    async with run_predictor() as replica, channel(replica.address) as direct:
        method: Any = direct.unary_unary(
            f"/{PREDICTOR}/PredictEngagement",
            pb.PredictEngagementRequest.SerializeToString,
            pb.PredictEngagementResponse.FromString,
        )
        answer = await method(question(), timeout=5)
    assert not answer.receipt.HasField("gateway")


async def test_a_call_without_deadline_gets_the_routes_and_the_receipt_says_so(
    run_predictor: Any, run_gateway: Any
) -> None:
    async with run_predictor() as replica:
        route = RouteSettings(services=(PREDICTOR,), endpoints=(replica.address,), default_deadline_s=2.0)
        async with run_gateway(routes={"predictor": route}) as gateway:
            answer = await gateway.predictor.PredictEngagement(question())
    assert (answer.receipt.deadline_ms, answer.receipt.deadline_default) == (2_000, True)
    assert 1.0 < replica.script.seconds_left[0] < 2.5  # the transport rounds up


async def test_a_replica_gets_what_is_left_less_the_gateways_margin(run_predictor: Any, run_gateway: Any) -> None:
    async with (
        run_predictor() as replica,
        run_gateway([replica.address], deadline_margin_ms=1_000.0) as gateway,
    ):
        await gateway.predictor.PredictEngagement(question(), timeout=5)
    assert 3.0 < replica.script.seconds_left[0] < 4.5  # the transport rounds up


async def test_a_hop_that_cannot_make_it_is_refused_at_once(run_predictor: Any, run_gateway: Any) -> None:
    async with (
        run_predictor() as replica,
        run_gateway([replica.address], deadline_margin_ms=5_000.0) as gateway,
    ):
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded) as caught, mesh_errors():
            await gateway.predictor.PredictEngagement(question(), timeout=4)
    assert time.monotonic() - began < 2.0
    assert caught.value.facts == {"where": "gateway"}
    assert replica.script.calls == 0


async def test_a_slow_replica_ends_as_deadline_exceeded(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica:
        route = RouteSettings(services=(PREDICTOR,), endpoints=(replica.address,), default_deadline_s=0.6)
        async with run_gateway(routes={"predictor": route}) as gateway:
            with pytest.raises(DeadlineExceeded) as caught, mesh_errors():
                await gateway.predictor.PredictEngagement(question("stall"))
            await asyncio.wait_for(replica.script.cancelled.wait(), 5)
    assert caught.value.facts == {"where": "predictor"}


async def test_a_replicas_rich_error_passes_untouched(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway, channel(replica.address) as one:
        errors = []
        for to in (one, gateway.channel):
            method: Any = to.unary_unary(f"/{PREDICTOR}/PredictEngagement")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(question("refuse").SerializeToString(), timeout=5)
            errors.append(caught.value)
    direct, routed = errors
    assert (routed.code(), routed.details()) == (direct.code(), direct.details())
    key = "grpc-status-details-bin"
    assert dict(routed.trailing_metadata())[key] == dict(direct.trailing_metadata())[key]
    error = from_rpc_error(routed)
    assert isinstance(error, InvalidInput)
    assert error.violations[0].field == "planned.hour_of_day"


async def test_a_replicas_bug_stays_masked(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        with pytest.raises(Internal) as caught, mesh_errors():
            await gateway.predictor.PredictEngagement(question("bug"), timeout=5, metadata=(("x-request-id", "mine"),))
    assert caught.value.message == "internal error"
    assert caught.value.facts["request_id"] == "mine"


async def test_a_dead_backend_is_unavailable_with_a_time_to_retry(run_gateway: Any) -> None:
    async with run_gateway([f"127.0.0.1:{free_port()}"]) as gateway:
        with pytest.raises(NotReady) as caught, mesh_errors():
            await gateway.predictor.PredictEngagement(question(), timeout=5)
    assert caught.value.reason == ErrorReason.ERROR_REASON_BACKEND_UNREACHABLE
    assert caught.value.facts == {"service": PREDICTOR}
    assert caught.value.retry_after_s == 0.05


async def test_a_backend_that_dies_under_a_call_is_unavailable(run_predictor: Any, run_gateway: Any) -> None:
    async with AsyncExitStack() as stack:
        replica = await stack.enter_async_context(run_predictor(drain_s=0.2))
        async with run_gateway([replica.address]) as gateway:
            call = gateway.predictor.PredictEngagement(question("stall"), timeout=20)
            await asyncio.wait_for(replica.script.began.wait(), 5)
            await stack.aclose()  # its drain of 0.2 s ends with the call cancelled
            with pytest.raises(NotReady) as caught, mesh_errors():
                await call
    assert caught.value.retry_after_s is not None


async def test_a_method_that_nobody_has_is_unimplemented(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        for path in (f"/{PREDICTOR}/Guess", "/acme.Nobody/Ask", "/nonsense"):
            method: Any = gateway.channel.unary_unary(path)
            with pytest.raises(Unimplemented) as caught, mesh_errors():
                await method(b"", timeout=5)
            assert caught.value.reason == ErrorReason.ERROR_REASON_METHOD_UNKNOWN
            assert caught.value.facts == {"method": path}


async def test_a_message_over_a_limit_is_refused_with_the_limits_name(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        method: Any = gateway.channel.unary_unary(f"/{PREDICTOR}/PredictEngagement")
        over = question().SerializeToString() + b"\x12" + b"\x80\x80\x80\x02" + b"a" * 4 * 1024 * 1024
        with pytest.raises(Overloaded) as caught, mesh_errors():
            await method(over, timeout=5)
        await gateway.predictor.PredictEngagement(question(), timeout=5)  # and goes on serving
    assert caught.value.reason == ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE
    assert caught.value.facts["setting"] == "rpc.control_message_bytes_max"
    assert replica.script.calls == 1


async def test_metadata_passes_but_for_what_belongs_to_a_hop(run_predictor: Any, run_gateway: Any) -> None:
    metadata = (("x-tenant", "acme"), ("x-token-bin", b"\x00\x01"), ("x-meshcast-principal", "root"))
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        call = gateway.predictor.PredictEngagement(question(), timeout=5, metadata=metadata)
        await call
        trailers = dict(await call.trailing_metadata())
    seen = replica.script.metadata[0]
    assert (seen["x-tenant"], seen["x-token-bin"]) == ("acme", b"\x00\x01")
    assert "x-meshcast-principal" not in seen
    assert trailers["x-served-by"] == "one"
    assert "endpoint-load-metrics-bin" not in trailers


async def test_a_caller_that_cancels_cancels_the_replicas_call(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        call = gateway.predictor.PredictEngagement(question("stall"), timeout=20)
        await asyncio.wait_for(replica.script.began.wait(), 5)
        call.cancel()
        await asyncio.wait_for(replica.script.cancelled.wait(), 5)


async def test_a_caller_whose_deadline_passes_frees_the_replica(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        with pytest.raises((DeadlineExceeded, Cancelled)), mesh_errors():
            await gateway.predictor.PredictEngagement(question("stall"), timeout=0.8)
        await asyncio.wait_for(replica.script.cancelled.wait(), 5)


async def test_calls_take_turns_on_the_replicas(run_predictor: Any, run_gateway: Any) -> None:
    async with (
        run_predictor("one") as one,
        run_predictor("two") as two,
        run_gateway([one.address, two.address]) as gateway,
    ):
        for _ in range(10):
            await gateway.predictor.PredictEngagement(question(), timeout=5)
    assert one.script.calls + two.script.calls == 10
    assert min(one.script.calls, two.script.calls) > 0  # how many each depends on how quick it was


async def test_a_replica_that_asks_for_no_traffic_gets_none(run_predictor: Any, run_gateway: Any) -> None:
    async with (
        run_predictor("one") as one,
        run_predictor("two") as two,
        run_gateway([one.address, two.address]) as gateway,
    ):
        one.health.set(PREDICTOR, ServingStatus.NOT_SERVING)
        await gateway.until(lambda mesh: [r.state for r in mesh.services[0].replicas].count(State.SERVING) == 1)
        for _ in range(4):
            await gateway.predictor.PredictEngagement(question(), timeout=5)
    assert (one.script.calls, two.script.calls) == (0, 4)


async def test_a_call_that_a_dead_replica_never_began_is_asked_elsewhere(run_predictor: Any, run_gateway: Any) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(run_predictor("one"))
        async with run_predictor("two") as two, run_gateway([one.address, two.address]) as gateway:
            await stack.aclose()  # its Watch ends at once, but calls may be under way by then
            for _ in range(20):
                answer = await gateway.predictor.PredictEngagement(question(), timeout=5)
                assert answer.receipt.model == "two"


async def test_a_draining_replica_costs_no_call(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor("two") as two:
        async with AsyncExitStack() as stack:
            one = await stack.enter_async_context(run_predictor("one"))
            async with run_gateway([one.address, two.address]) as gateway:
                one.server.interceptor.is_draining = True  # refuses before its health says so: the worst order
                answers = [await gateway.predictor.PredictEngagement(question(), timeout=5) for _ in range(6)]
    assert {answer.receipt.model for answer in answers} == {"two"}
    assert {answer.receipt.gateway.attempts for answer in answers} == {1, 2}


async def test_foreign_services_are_relayed_untouched(serve: Any, run_gateway: Any) -> None:
    async def echo(request: bytes, context: Any) -> bytes:
        return request

    handlers: dict[str, Any] = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    backend = await serve(
        lambda s: s.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("acme.EchoService", handlers)])
    )
    route = RouteSettings(services=("acme.EchoService",), endpoints=(backend.address,))
    async with run_gateway(routes={"echo": route}) as gateway:
        method: Any = gateway.channel.unary_unary("/acme.EchoService/Echo")
        assert await method(b"\x08\x01", timeout=5) == b"\x08\x01"


async def test_open_inference_requests_find_the_route_that_has_their_model(serve: Any, run_gateway: Any) -> None:
    def named(name: str) -> Any:
        async def unary(request: bytes, context: Any) -> bytes:
            return name.encode()

        async def stream(requests: Any, context: Any) -> Any:
            async for _ in requests:
                yield name.encode()

        async def index(request: bytes, context: Any) -> bytes:
            listed = oip_pb.RepositoryIndexResponse()
            listed.models.add(name=name, version="1", state="READY")
            return listed.SerializeToString()

        methods = ("ModelInfer", "ModelReady", "RepositoryModelLoad", "ServerLive")
        handlers: dict[str, Any] = {method: grpc.unary_unary_rpc_method_handler(unary) for method in methods}
        handlers["RepositoryIndex"] = grpc.unary_unary_rpc_method_handler(index)
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(stream)
        return lambda s: s.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(OIP, handlers)])

    routes = {}
    for name in ("cat", "dog"):
        server = await serve(named(name))
        server.health.set(f"model/{name}", ServingStatus.SERVING)
        routes[name] = RouteSettings(services=(OIP,), endpoints=(server.address,))
    async with run_gateway(routes=routes) as gateway:

        async def asked(method: str, request: bytes) -> bytes:
            call: Any = gateway.channel.unary_unary(f"/{OIP}/{method}")
            answer: bytes = await call(request, timeout=5)
            return answer

        await gateway.until(lambda mesh: all(service.replicas[0].models for service in mesh.services))
        assert await asked("ModelInfer", b"\x0a\x03dog\x12\x011") == b"dog"
        assert await asked("ModelReady", b"\x0a\x03cat") == b"cat"
        assert await asked("RepositoryModelLoad", b"\x0a\x03cat\x12\x03dog") == b"dog"
        assert await asked("ModelInfer", b"\x0a\x03fox") == b"cat"  # nobody has it: the first route says so itself
        assert await asked("ServerLive", b"") == b"cat"
        listed = oip_pb.RepositoryIndexResponse.FromString(await asked("RepositoryIndex", b""))
        assert [model.name for model in listed.models] == ["cat", "dog"]
        stream: Any = gateway.channel.stream_stream(f"/{OIP}/ModelStreamInfer")
        assert [answer async for answer in stream(iter([b"\x0a\x03dog"] * 3), timeout=5)] == [b"dog"] * 3


async def test_the_index_of_models_leaves_out_a_route_that_is_gone_and_fails_when_all_are(
    serve: Any, run_gateway: Any
) -> None:
    async def index(request: bytes, context: Any) -> bytes:
        listed = oip_pb.RepositoryIndexResponse()
        listed.models.add(name="dog")
        return listed.SerializeToString()

    handlers: dict[str, Any] = {"RepositoryIndex": grpc.unary_unary_rpc_method_handler(index)}
    server = await serve(lambda s: s.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(OIP, handlers)]))
    cat = RouteSettings(services=(OIP,), endpoints=("127.0.0.1:1",))
    dog = RouteSettings(services=(OIP,), endpoints=(server.address,))
    async with run_gateway(routes={"cat": cat, "dog": dog}) as gateway:
        method: Any = gateway.channel.unary_unary(f"/{OIP}/RepositoryIndex")
        listed = oip_pb.RepositoryIndexResponse.FromString(await method(b"", timeout=5))
        assert [model.name for model in listed.models] == ["dog"]
        await server.drain()
        await gateway.until(lambda mesh: not mesh.serving)
        with pytest.raises(NotReady), mesh_errors():
            await method(b"", timeout=5)


async def test_the_index_of_models_does_not_wait_for_a_route_that_restarts(serve: Any, run_gateway: Any) -> None:
    def lists(name: str) -> Any:
        async def index(request: bytes, context: Any) -> bytes:
            listed = oip_pb.RepositoryIndexResponse()
            listed.models.add(name=name)
            return listed.SerializeToString()

        handlers: dict[str, Any] = {"RepositoryIndex": grpc.unary_unary_rpc_method_handler(index)}
        return lambda s: s.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(OIP, handlers)])

    servers = {name: await serve(lists(name)) for name in ("cat", "dog")}
    routes = {name: RouteSettings(services=(OIP,), endpoints=(at.address,)) for name, at in servers.items()}
    async with run_gateway(routes=routes, restart_s=60.0) as gateway:
        await servers["cat"].drain()
        await gateway.until(lambda mesh: bool(mesh.services[0].replicas[0].problem))
        async with asyncio.timeout(10):
            answer = await gateway.channel.unary_unary(f"/{OIP}/RepositoryIndex")(b"", timeout=30)
        assert [model.name for model in oip_pb.RepositoryIndexResponse.FromString(answer).models] == ["dog"]


async def test_a_model_whose_route_was_never_reached_is_not_ready_rather_than_unknown(
    serve: Any, run_gateway: Any
) -> None:
    async def unknown(request: bytes, context: Any) -> bytes:
        raise NotFound("there is no such model here")

    handlers: dict[str, Any] = {"ModelReady": grpc.unary_unary_rpc_method_handler(unknown)}
    server = await serve(lambda s: s.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(OIP, handlers)]))
    cat = RouteSettings(services=(OIP,), endpoints=(server.address,))
    dog = RouteSettings(services=(OIP,), endpoints=("127.0.0.1:1",))
    async with run_gateway(routes={"cat": cat, "dog": dog}) as gateway:
        method: Any = gateway.channel.unary_unary(f"/{OIP}/ModelReady")
        with pytest.raises(NotReady, match="dog"), mesh_errors():
            await method(b"\x0a\x03dog", timeout=5)
        with pytest.raises(NotFound), mesh_errors():
            await method(b"\x0a\x03fox", timeout=5)
