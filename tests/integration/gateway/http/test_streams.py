"""Streams over HTTP: messages as they come, callers who leave, callers who do not read, deadlines and the drain."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

from meshcast.gateway import HttpSettings, RouteSettings

PREDICT = "/meshcast.api.predictor.v1.PredictorService/PredictEngagement"
COMPREHENSIVE = "/meshcast.api.gateway.v1.GatewayService/PredictComprehensive"
WATCH_MESH = "/meshcast.api.gateway.v1.GatewayService/WatchMesh"
WATCH_DRIFT = "/meshcast.api.drift.v1.DriftService/WatchDrift"
JSON = {"content-type": "application/json"}
CONNECT = {"content-type": "application/connect+json"}


async def test_a_watch_goes_on_until_its_caller_leaves(run_predictor: Any, open_door: Any, wire: Any) -> None:
    async with run_predictor() as replica, open_door([replica.address]) as door:
        async with asyncio.timeout(20), door.client.connected() as connection:
            await connection.send("POST", WATCH_MESH, wire.envelope(b'{"intervalMs": 200}'), CONNECT)
            status, headers = await connection.head()
            health = [json.loads(wire.envelopes(await connection.piece())[0][1]) for _ in range(3)]
        interceptor = door.gateway.server.interceptor
        async with asyncio.timeout(5):
            while interceptor.in_flight:  # noqa: ASYNC110  # a call that has ended tells nobody
                await asyncio.sleep(0.01)
    assert (status, headers["content-type"]) == (200, "application/connect+json")
    assert all(message["health"]["serving"] for message in health)


async def test_a_composite_answer_comes_in_parts(run_predictor: Any, open_door: Any, wire: Any) -> None:
    question = {"parts": ["PART_ENGAGEMENT", "PART_GROWTH"], "engagement": {}, "growth": {}}
    async with run_predictor() as replica, open_door([replica.address]) as door:
        lines = await door.ask("POST", COMPREHENSIVE, question)
        stream = await door.ask("POST", COMPREHENSIVE, wire.envelope(json.dumps(question).encode()), CONNECT)
    told = [json.loads(line)["result"] for line in lines.body.splitlines()]
    *messages, (flags, end) = wire.envelopes(stream.body)
    assert (flags, end) == (2, b"{}")
    for parts in (told, [json.loads(message) for _, message in messages]):
        assert {part.get("part") for part in parts[:-1]} == {"PART_ENGAGEMENT", "PART_GROWTH"}
        assert "summary" in parts[-1]


async def test_a_caller_that_leaves_cancels_the_service(run_predictor: Any, run_drift: Any, open_door: Any) -> None:
    async with (
        run_predictor() as replica,
        run_drift() as drift,
        open_door([replica.address], drifts=[drift.address]) as door,
        asyncio.timeout(20),
    ):
        for path, body, began, cancelled in (
            (PREDICT, b'{"channel": "stall"}', replica.script.began, replica.script.cancelled),
            (WATCH_DRIFT, b"{}", drift.script.watching, drift.script.cancelled),
        ):
            async with door.client.connected() as connection:
                await connection.send("POST", path, body, JSON)
                await began.wait()
            await cancelled.wait()
        # By the library's way as well: a stream of Connect.
        drift.script.watching.clear()
        drift.script.cancelled.clear()
        async with door.client.connected() as connection:
            await connection.send("POST", WATCH_DRIFT, b"\x00\x00\x00\x00\x02{}", CONNECT)
            await drift.script.watching.wait()
        await drift.script.cancelled.wait()


async def test_the_callers_deadline_ends_the_call(run_predictor: Any, open_door: Any, wire: Any) -> None:
    short = {"connect-timeout-ms": "500"}  # room for a first message on a busy machine
    async with run_predictor() as replica, open_door([replica.address]) as door:
        unary = await door.ask("POST", PREDICT, b'{"channel": "stall"}', JSON | short)
        lines = await door.ask("POST", WATCH_MESH, b"{}", JSON | short)
        stream = await door.ask("POST", WATCH_MESH, wire.envelope(b"{}"), CONNECT | short)
        await asyncio.wait_for(replica.script.cancelled.wait(), 5)
        web = await door.ask(
            "POST", WATCH_MESH, wire.envelope(b""), {"content-type": "application/grpc-web", "grpc-timeout": "500m"}
        )
    assert (unary.status, unary.json()["code"]) == (504, "deadline_exceeded")
    assert json.loads(lines.body.splitlines()[-1])["error"]["code"] == "deadline_exceeded"
    end = json.loads(wire.envelopes(stream.body)[-1][1])["error"]
    assert end["code"] == "deadline_exceeded"
    assert end["details"][0]["debug"]["reason"] == "ERROR_REASON_DEADLINE_PASSED"
    assert b"grpc-status: 4" in web.body


async def test_a_caller_that_does_not_read_holds_the_service_back_and_is_cut_off(
    run_drift: Any, open_door: Any
) -> None:
    settings = HttpSettings(stalled_s=0.3)
    async with (
        run_drift() as drift,
        open_door([], drifts=[drift.address], http=settings) as door,
        asyncio.timeout(30),
    ):
        async with door.client.connected() as connection:
            await connection.send("POST", WATCH_DRIFT, b"{}", JSON)
            await drift.script.watching.wait()
            connection.writer.transport.pause_reading()
            for number in range(200_000):
                drift.script.alarms.put_nowait(number)
            await drift.script.cancelled.wait()
            assert drift.script.alarms.qsize() > 0, "everything went out to a caller that reads nothing"


async def test_a_caller_that_reads_slowly_is_not_cut_off(serve_echo: Any, open_door: Any) -> None:
    loop = asyncio.get_running_loop()
    settings = HttpSettings(stalled_s=1.0)
    async with serve_echo() as backend:
        route = RouteSettings(services=("acme.EchoService",), endpoints=(backend.address,))
        async with open_door(routes={"echo": route}, http=settings) as door, asyncio.timeout(60):
            await door.gateway.until_methods()
            with socket.socket() as slow:
                slow.setblocking(False)
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 << 10)
                await loop.sock_connect(slow, (door.client.host, door.client.port))
                head = "POST /acme.EchoService/Echo HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
                body = b'{"text": "large"}'
                head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
                await loop.sock_sendall(slow, head.encode() + body)
                size, began = 0, loop.time()
                while piece := await loop.sock_recv(slow, 1 << 20):
                    size += len(piece)
                    await asyncio.sleep(len(piece) / (4 << 20))  # 4 MiB a second
    assert size > 12 << 20
    assert loop.time() - began > 2 * settings.stalled_s, "it was not slow"


async def test_a_stream_of_requests_has_one_answer(serve_echo: Any, open_door: Any, wire: Any) -> None:
    async with serve_echo() as backend:
        route = RouteSettings(services=("acme.EchoService",), endpoints=(backend.address,))
        async with open_door(routes={"echo": route}) as door:
            await door.gateway.until_methods()
            path = "/acme.EchoService/Merge"
            sent = [wire.envelope(b'{"text": "a"}'), wire.envelope(b'{"weight": 2.5}')]
            whole = await door.ask("POST", path, b"".join(sent), CONNECT)
            wrong = await door.ask("POST", path, sent[0] + wire.envelope(b'{"txt": 1}'), CONNECT)
            cut = await door.ask("POST", path, sent[0] + sent[1][:-2], CONNECT)
            plain = await door.ask("POST", path, {})
            async with asyncio.timeout(10), door.client.connected() as connection:
                await connection.send("POST", path, sent[0], CONNECT | {"content-length": "500"})
            interceptor = backend.interceptor
            async with asyncio.timeout(5):
                while interceptor.in_flight:  # noqa: ASYNC110  # a call that has ended tells nobody
                    await asyncio.sleep(0.01)
    assert len(wire.envelopes(whole.body)) == 2, whole.body
    (_, answer), (flags, _) = wire.envelopes(whole.body)
    assert (json.loads(answer), flags) == ({"text": "a", "weight": 2.5}, 2)
    for reply in (wrong, cut):
        assert json.loads(wire.envelopes(reply.body)[-1][1])["error"]["code"] == "invalid_argument"
    assert plain.status == 415


async def test_a_drain_refuses_new_calls_ends_watches_and_waits_for_the_rest(
    run_predictor: Any, open_door: Any, wire: Any
) -> None:
    async with run_predictor() as replica, open_door([replica.address], drain_delay_s=0.2) as door:
        async with (
            asyncio.timeout(20),
            door.client.connected() as watching,
            door.client.connected() as working,
            door.client.connected() as late,
        ):
            await watching.send("POST", WATCH_MESH, b"{}", JSON)
            await watching.head()
            await working.send("POST", PREDICT, b'{"channel": "slow"}', JSON)
            await replica.script.began.wait()
            draining = asyncio.create_task(door.gateway.server.drain(), name="test-drain")
            await door.gateway.server.draining.wait()
            await late.send("POST", PREDICT, b"{}", JSON)
            answered, refused = await working.reply(), await late.reply()
            pieces = []
            while piece := await watching.piece():
                pieces.append(piece)
            await draining
    assert answered.status == 200
    assert (refused.status, refused.headers["connection"]) == (503, "close")
    assert refused.json()["details"][0]["debug"]["reason"] == "ERROR_REASON_DRAINING"
    assert json.loads(pieces[-1])["error"]["code"] == "unavailable"


async def test_a_call_that_outlives_the_drain_ends_unavailable(run_predictor: Any, open_door: Any) -> None:
    async with run_predictor() as replica:
        async with asyncio.timeout(20):
            async with open_door([replica.address]) as door:
                connection = door.client.connected()
                opened = await connection.__aenter__()
                await opened.send("POST", PREDICT, b'{"channel": "stall"}', JSON)
                await replica.script.began.wait()
            reply = await opened.reply()
            await connection.__aexit__(None, None, None)
    assert (reply.status, reply.json()["code"]) == (503, "unavailable")
