"""The interceptor on a real server: counts, logs, cancellation, deadlines, garbage and unknown methods."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.wrappers_pb2 import StringValue
from prometheus_client import CollectorRegistry

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import (
    ChannelSettings,
    Internal,
    InvalidInput,
    MeshError,
    NotReady,
    Overloaded,
    RpcSettings,
    Server,
    Unimplemented,
    channel,
    current_call,
    mesh_errors,
)

Serve = Callable[..., Awaitable[Server]]
KINDS = {
    "Unary": "unary",
    "ClientStream": "client_stream",
    "ServerStream": "server_stream",
    "BidiStream": "bidi_stream",
}
SERVICE = "meshcast.test.KindsService"
PLAIN = ChannelSettings(plain=True)


async def echo(text: str, context: object) -> str:
    return text


def raw(any_channel: grpc.aio.Channel) -> Any:
    """The channel for calls without codecs, whose messages are plain bytes."""
    return any_channel


async def until(is_true: Callable[[], Any]) -> None:
    """Waits for the server's side of something that the client has already seen."""
    async with asyncio.timeout(10):
        while not is_true():  # noqa: ASYNC110  # counts have no event to wait for
            await asyncio.sleep(0.005)


def sample(server: Server, name: str, kind: str, **labels: str) -> float:
    base = {"grpc_type": KINDS[kind], "grpc_service": SERVICE, "grpc_method": kind}
    return server.registry.get_sample_value(name, {**base, **labels}) or 0.0


@pytest.mark.parametrize("writes", [False, True], ids=["generator", "coroutine"])
@pytest.mark.parametrize(
    ("kind", "received", "sent"),
    [("Unary", 1, 1), ("ClientStream", 3, 1), ("ServerStream", 1, 2), ("BidiStream", 3, 3)],
)
async def test_calls_and_messages_of_every_kind_are_counted(
    serve: Serve, kinds_service: Any, ask: Any, kind: str, received: int, sent: int, writes: bool
) -> None:
    server = await serve(kinds_service(echo, writes=writes))
    async with channel(server.address, settings=PLAIN) as to_server:
        await ask(to_server, kind, ["a", "b", "c"])
    await until(lambda: sample(server, "grpc_server_handled_total", kind, grpc_code="OK"))
    assert sample(server, "grpc_server_started_total", kind) == 1
    assert sample(server, "grpc_server_msg_received_total", kind) == received
    assert sample(server, "grpc_server_msg_sent_total", kind) == sent
    assert server.interceptor.in_flight == 0


@pytest.mark.parametrize("writes", [False, True], ids=["generator", "coroutine"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_call_reaches_the_handler_and_is_counted_as_canceled(
    serve: Serve, kinds_service: Any, ask: Any, kind: str, writes: bool
) -> None:
    entered, released = asyncio.Event(), asyncio.Event()

    async def stall(text: str, context: object) -> str:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            released.set()
        return text

    server = await serve(kinds_service(stall, writes=writes))
    async with channel(server.address, settings=PLAIN) as to_server:
        asking = asyncio.create_task(ask(to_server, kind))
        await asyncio.wait_for(entered.wait(), 5)
        assert server.interceptor.in_flight == 1
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(released.wait(), 5)
    await until(lambda: sample(server, "grpc_server_handled_total", kind, grpc_code="Canceled"))
    assert server.interceptor.in_flight == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_passed_deadline_reaches_the_handler_and_is_counted_as_such(
    serve: Serve, kinds_service: Any, ask: Any, kind: str
) -> None:
    async def stall(text: str, context: object) -> str:
        await asyncio.Event().wait()
        return text

    server = await serve(kinds_service(stall))
    async with channel(server.address, settings=PLAIN) as to_server:
        with pytest.raises(MeshError) as caught, mesh_errors():
            await ask(to_server, kind, timeout=0.4)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: sample(server, "grpc_server_handled_total", kind, grpc_code="DeadlineExceeded"))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_future_inside_a_handler_is_a_bug_and_not_the_callers_cancel(
    serve: Serve, kinds_service: Any, ask: Any, kind: str
) -> None:
    async def await_cancelled(text: str, context: object) -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        future.cancel()
        return await future

    server = await serve(kinds_service(await_cancelled))
    async with channel(server.address, settings=PLAIN) as to_server:
        with pytest.raises(Internal, match="internal error"), mesh_errors():
            await ask(to_server, kind)


async def test_a_failure_in_a_task_group_is_the_failure_of_its_task(serve: Serve, kinds_service: Any, ask: Any) -> None:
    async def fail() -> None:
        raise NotReady("fox is loading", model="fox")

    async def fan_out(text: str, context: object) -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            group.create_task(asyncio.Event().wait())
        return text

    server = await serve(kinds_service(fan_out))
    async with channel(server.address, settings=PLAIN) as to_server:
        with pytest.raises(NotReady, match="fox is loading"), mesh_errors():
            await ask(to_server, "Unary")


@pytest.mark.parametrize("kind", KINDS)
async def test_bytes_that_are_no_message_are_the_callers_error(serve: Serve, kinds_service: Any, kind: str) -> None:
    server = await serve(kinds_service(echo))
    path, garbage = f"/{SERVICE}/{kind}", b"\xff\xff\xff"
    async with channel(server.address, settings=PLAIN) as to_server:
        with pytest.raises(InvalidInput) as caught, mesh_errors():
            match kind:
                case "Unary":
                    await raw(to_server).unary_unary(path)(garbage, timeout=5)
                case "ClientStream":
                    await raw(to_server).stream_unary(path)(iter([garbage]), timeout=5)
                case "ServerStream":
                    _ = [answer async for answer in raw(to_server).unary_stream(path)(garbage, timeout=5)]
                case _:
                    _ = [answer async for answer in raw(to_server).stream_stream(path)(iter([garbage]), timeout=5)]
    assert caught.value.reason == ErrorReason.ERROR_REASON_FIELD_INVALID


@pytest.mark.parametrize("kind", KINDS)
async def test_a_method_that_nobody_serves_is_refused_with_its_name_and_counted_as_one_series(
    serve: Serve, kind: str, ask: Any
) -> None:
    server = await serve()
    async with channel(server.address, settings=PLAIN) as to_server:
        with pytest.raises(Unimplemented) as caught, mesh_errors():
            await ask(to_server, kind)
    assert caught.value.reason == ErrorReason.ERROR_REASON_METHOD_UNKNOWN
    assert caught.value.facts == {"method": f"/{SERVICE}/{kind}"}
    labels = {"grpc_type": "bidi_stream", "grpc_service": "unknown", "grpc_method": "unknown"}
    assert server.registry.get_sample_value("grpc_server_started_total", labels) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_message_one_byte_over_the_limit_says_the_limit_and_the_server_serves_on(
    serve: Serve, kinds_service: Any, ask: Any, kind: str
) -> None:
    limit = 64 * 1024
    fits = "x" * (limit - StringValue(value="x" * 60_000).ByteSize() + 60_000)
    assert StringValue(value=fits).ByteSize() == limit
    settings = RpcSettings(metrics=False, drain_delay_s=0, message_bytes_max=limit)

    async def length(text: str, context: object) -> str:
        return str(len(text))

    server = await serve(kinds_service(length), settings=settings)
    async with channel(server.address, settings=PLAIN) as to_server:
        assert (await ask(to_server, kind, [fits]))[0] == str(len(fits))
        with pytest.raises(Overloaded) as caught, mesh_errors():
            await ask(to_server, kind, [fits + "x"])
        assert caught.value.reason == ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE
        assert caught.value.facts["limit_bytes"] == str(limit)
        assert caught.value.facts["setting"] == "rpc.message_bytes_max"
        assert (await ask(to_server, kind, [fits]))[0] == str(len(fits))


@pytest.mark.parametrize(
    ("path", "is_refused"),
    [("/a.B/Unary", True), ("/a.B/ServerStream", True), ("/a.B/BidiStream", False), ("/inference.I/Unary", False)],
)
async def test_calls_that_carry_no_bulk_data_have_a_smaller_limit(serve: Serve, path: str, is_refused: bool) -> None:
    async def whole(request: bytes, context: Any) -> bytes:
        return b"ok"

    async def stream(request: Any, context: Any) -> AsyncIterator[bytes]:
        if not isinstance(request, bytes):
            _ = [message async for message in request]
        yield b"ok"

    handlers: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(whole),
        "ServerStream": grpc.unary_stream_rpc_method_handler(stream),
        "BidiStream": grpc.stream_stream_rpc_method_handler(stream),
    }
    services = [grpc.method_handlers_generic_handler(name, handlers) for name in ("a.B", "inference.I")]
    settings = RpcSettings(metrics=False, drain_delay_s=0, control_message_bytes_max=1_000)
    server = await serve(generic_handlers=services, settings=settings)

    async def send(size: int) -> Any:
        with mesh_errors():
            if path.endswith("Unary"):
                return await raw(to_server).unary_unary(path)(b"x" * size, timeout=5)
            if path.endswith("ServerStream"):
                return [answer async for answer in raw(to_server).unary_stream(path)(b"x" * size, timeout=5)]
            return [answer async for answer in raw(to_server).stream_stream(path)(iter([b"x" * size]), timeout=5)]

    async with channel(server.address, settings=PLAIN) as to_server:
        await send(1_000)
        if not is_refused:
            await send(1_001)
            return
        with pytest.raises(Overloaded) as caught:
            await send(1_001)
    assert caught.value.facts == {
        "limit_bytes": "1000",
        "size_bytes": "1001",
        "setting": "rpc.control_message_bytes_max",
    }


@pytest.mark.parametrize("style", ["iterator", "write", "one answer"])
async def test_a_refusal_is_seen_by_a_caller_that_is_still_writing(serve: Serve, style: str) -> None:
    async def refuse(requests: Any, context: Any) -> bytes:
        raise InvalidInput("the first chunk has no sequence", field="sequence")

    async def refuse_stream(requests: Any, context: Any) -> AsyncIterator[bytes]:
        raise InvalidInput("the first chunk has no sequence", field="sequence")
        yield b""

    handlers: dict[str, Any] = {
        "Whole": grpc.stream_unary_rpc_method_handler(refuse),
        "Stream": grpc.stream_stream_rpc_method_handler(refuse_stream),
    }
    server = await serve(generic_handlers=[grpc.method_handlers_generic_handler("a.B", handlers)], access="none")

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 1_000

    async def send(to_server: Any) -> None:
        if style == "one answer":
            call = to_server.stream_unary("/a.B/Whole")(chunks(), timeout=10)
            with mesh_errors(call):
                await call
        elif style == "iterator":
            call = to_server.stream_stream("/a.B/Stream")(chunks(), timeout=10)
            with mesh_errors(call):
                _ = [answer async for answer in call]
        else:
            call = to_server.stream_stream("/a.B/Stream")(timeout=10)
            with mesh_errors(call):
                async for chunk in chunks():
                    await call.write(chunk)
                while await call.read() is not grpc.aio.EOF:
                    pass

    async with channel(server.address, settings=PLAIN) as to_server:
        for _ in range(100):
            with pytest.raises(InvalidInput) as caught:
                await send(to_server)
            assert caught.value.violations[0].field == "sequence"


async def test_a_peers_bug_is_passed_on_with_the_id_under_which_the_peer_logged_it(
    serve: Serve, kinds_service: Any, ask: Any
) -> None:
    async def relay(text: str, context: object) -> str:
        if text == "ours":
            raise Internal("internal error", request_id="theirs")
        raise Internal("secret words of a foreign peer")

    server = await serve(kinds_service(relay))
    async with channel(server.address, settings=PLAIN) as to_server:
        for text, request_id in (("ours", "theirs"), ("foreign", "mine")):
            with pytest.raises(Internal) as caught, mesh_errors():
                await ask(to_server, "Unary", [text], metadata=(("x-request-id", "mine"),))
            assert (caught.value.message, caught.value.facts) == ("internal error", {"request_id": request_id})


async def test_an_answer_over_the_clients_limit_names_the_clients_setting(
    serve: Serve, kinds_service: Any, ask: Any
) -> None:
    async def big(text: str, context: object) -> str:
        return "x" * 100_000

    server = await serve(kinds_service(big))
    settings = ChannelSettings(plain=True, message_bytes_max=50_000)
    async with channel(server.address, settings=settings) as to_server:
        with pytest.raises(Overloaded) as caught, mesh_errors():
            await ask(to_server, "Unary")
    assert caught.value.facts["setting"] == "channel.message_bytes_max"


async def test_a_generator_is_closed_inside_the_call_when_the_caller_leaves(serve: Serve) -> None:
    closed_in: list[object] = []

    async def endless(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield request
        finally:
            closed_in.append(current_call())

    handler: Any = grpc.unary_stream_rpc_method_handler(endless)
    server = await serve(
        generic_handlers=[grpc.method_handlers_generic_handler("a.B", {"C": handler})],
    )
    async with channel(server.address, settings=PLAIN) as to_server:
        call = raw(to_server).unary_stream("/a.B/C")(b"x")
        await call.read()
        call.cancel()
    await until(lambda: closed_in)
    assert closed_in[0] is not None


async def test_parallel_calls_know_their_own_request_id(serve: Serve, kinds_service: Any, ask: Any) -> None:
    async def who(text: str, context: object) -> str:
        await asyncio.sleep(0.01)
        call = current_call()
        assert call is not None
        return f"{text}={call.request_id}"

    server = await serve(kinds_service(who))
    async with channel(server.address, settings=PLAIN) as to_server:
        answers = await asyncio.gather(
            *(ask(to_server, "Unary", [f"{i}"], metadata=(("x-request-id", f"{i}"),)) for i in range(20))
        )
    assert [answer for (answer,) in answers] == [f"{i}={i}" for i in range(20)]


async def test_a_servicer_without_the_method_is_unimplemented_and_no_bug(serve: Serve) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    def bare(server: grpc.aio.Server) -> None:
        handler = grpc.unary_unary_rpc_method_handler(
            health_pb2_grpc.HealthServicer().Check,
            request_deserializer=health_pb2.HealthCheckRequest.FromString,
            response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("a.B", {"C": handler})])

    server = await serve(bare)
    async with channel(server.address, settings=PLAIN) as to_server:
        with pytest.raises(Unimplemented) as caught, mesh_errors():
            await raw(to_server).unary_unary("/a.B/C")(b"", timeout=5)
    assert caught.value.reason == ErrorReason.ERROR_REASON_FEATURE_MISSING


async def test_a_wrong_answer_of_a_handler_is_masked_too(serve: Serve) -> None:
    async def none(request: bytes, context: Any) -> None:
        return None

    async def wrong_type(request: bytes, context: Any) -> Any:
        return "secret"

    handlers: dict[str, Any] = {
        "None": grpc.unary_unary_rpc_method_handler(none),
        "WrongType": grpc.unary_unary_rpc_method_handler(wrong_type, response_serializer=StringValue.SerializeToString),
    }
    server = await serve(generic_handlers=[grpc.method_handlers_generic_handler("a.B", handlers)])
    async with channel(server.address, settings=PLAIN) as to_server:
        for method in handlers:
            with pytest.raises(Internal) as caught, mesh_errors():
                await raw(to_server).unary_unary(f"/a.B/{method}")(b"", timeout=5)
            assert "secret" not in caught.value.message
            assert "TypeError" not in caught.value.message


@pytest.mark.parametrize(
    ("access", "expected"), [("none", []), ("errors", ["NOT_FOUND"]), ("all", ["OK", "NOT_FOUND"])]
)
async def test_the_access_log_holds_the_calls_that_it_is_asked_for(
    serve: Serve, kinds_service: Any, ask: Any, access: str, expected: list[str]
) -> None:
    from meshcast.rpc import NotFound, probe

    async def find(text: str, context: object) -> str:
        if text == "missing":
            raise NotFound("no such fox", reason=ErrorReason.ERROR_REASON_MODEL_UNKNOWN, model="fox")
        return text

    with structlog.testing.capture_logs() as logged:
        server = await serve(kinds_service(find), access=access)
        async with channel(server.address, settings=PLAIN) as to_server:
            await ask(to_server, "Unary", ["there"])
            with pytest.raises(NotFound), mesh_errors():
                await ask(to_server, "Unary", ["missing"])
        await probe(server.address)
        await until(lambda: sample(server, "grpc_server_handled_total", "Unary", grpc_code="NotFound"))
    lines = [line for line in logged if line["event"] == "call"]
    assert [line["code"] for line in lines] == expected
    for line in lines:
        assert {"method", "code", "duration_ms", "peer", "request_id"} <= line.keys()
    if access != "none":
        assert lines[-1]["model"] == "fox"


async def test_a_bug_is_logged_once_with_traceback_and_the_id_that_the_caller_got(
    serve: Serve, kinds_service: Any, ask: Any
) -> None:
    async def bug(text: str, context: object) -> str:
        raise ValueError("secret db password")

    with structlog.testing.capture_logs() as logged:
        server = await serve(kinds_service(bug), access="none")
        async with channel(server.address, settings=PLAIN) as to_server:
            with pytest.raises(Internal) as caught, mesh_errors():
                await ask(to_server, "BidiStream")
    (line,) = [line for line in logged if line["log_level"] == "error"]
    assert isinstance(line["exc_info"], ValueError)
    assert line["request_id"] == caught.value.facts["request_id"]


async def test_known_methods_have_series_before_the_first_call(serve: Serve) -> None:
    import meshcast.api.predictor.v1.predictor_pb2 as pb

    name = pb.DESCRIPTOR.services_by_name["PredictorService"].full_name
    server = await serve(service_names=[name], registry=CollectorRegistry())
    labels = {"grpc_type": "unary", "grpc_service": name, "grpc_method": "PredictEngagement"}
    assert server.registry.get_sample_value("grpc_server_started_total", labels) == 0


@pytest.mark.parametrize("letter", ["x", "ж", "漢"])
async def test_an_error_of_any_length_and_language_arrives_with_its_details(serve: Serve, letter: str) -> None:
    async def refuse(request: bytes, context: Any) -> bytes:
        raise InvalidInput(letter * 5_000, violations=[(f"rows[{n}].text", letter * 300) for n in range(500)])

    handlers: dict[str, Any] = {"Ask": grpc.unary_unary_rpc_method_handler(refuse)}
    server = await serve(generic_handlers=[grpc.method_handlers_generic_handler("a.B", handlers)], access="none")
    async with channel(server.address, settings=PLAIN) as to_server:
        ask: Any = to_server.unary_unary("/a.B/Ask")
        for _ in range(30):  # trailers that are a little too large are refused at random
            with pytest.raises(InvalidInput) as caught, mesh_errors():
                await ask(b"", timeout=5)
            assert caught.value.violations
            assert caught.value.facts["violations_total"] == "500"
