"""Bounds of the HTTP door: sizes, slow and greedy peers, and pages that may not call."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest

from meshcast.gateway import HttpSettings

PREDICT = "/meshcast.api.predictor.v1.PredictorService/PredictEngagement"
JSON = {"content-type": "application/json"}
PROTO = {"content-type": "application/proto"}


async def test_what_is_too_large_is_refused_with_the_settings_name(run_predictor: Any, open_door: Any) -> None:
    http = HttpSettings(body_bytes_max=10_000, json_bytes_max=1_000, head_bytes_max=2_000)
    large = b'{"requestId": "' + b"r" * 2_000 + b'"}'
    async with run_predictor() as replica, open_door([replica.address], http=http) as door:
        text = await door.ask("POST", PREDICT, large, JSON)
        bomb = await door.ask("POST", PREDICT, gzip.compress(b" " * 50_000), PROTO | {"content-encoding": "gzip"})
        body = await door.ask("POST", PREDICT, b"x" * 20_000, PROTO)
        rest = await door.ask("POST", "/v2/models/m/infer", b"x" * 20_000)
        zipped = await door.ask(
            "POST", "/v2/models/m/infer", gzip.compress(b" " * 50_000), {"content-encoding": "gzip"}
        )
        head = await door.ask("GET", "/", b"", {"x-large": "y" * 3_000})
        metadata = await door.ask("GET", "/v2/health/live", b"", {"x-large": "y" * 1_000})
    assert [reply.status for reply in (text, body, bomb, rest, zipped, head)] == [429, 429, 429, 413, 413, 431]
    assert "gateway.http.json_bytes_max" in text.json()["message"]
    assert "gateway.http.body_bytes_max" in body.json()["message"]
    assert "gateway.http.body_bytes_max" in rest.json()["error"]
    assert body.headers["connection"] == "close", "what follows of the body must not be taken for a request"
    assert metadata.status == 200


async def test_all_bodies_together_are_bounded(run_predictor: Any, open_door: Any) -> None:
    http = HttpSettings(bodies_bytes_max=5_000)
    async with run_predictor() as replica, open_door([replica.address], http=http) as door:
        async with asyncio.timeout(20), door.client.connected() as first:
            await first.send("POST", PREDICT, b'{"channel": "stall", "requestId": "' + b"r" * 4_000 + b'"}', JSON)
            await replica.script.began.wait()
            refused = await door.ask("POST", PREDICT, b'{"requestId": "' + b"r" * 2_000 + b'"}', JSON)
        await asyncio.wait_for(replica.script.cancelled.wait(), 5)
        taken = await door.ask("POST", PREDICT, b'{"requestId": "' + b"r" * 2_000 + b'"}', JSON)
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert taken.status == 200


async def test_what_was_compressed_counts_as_held(run_predictor: Any, open_door: Any) -> None:
    http = HttpSettings(bodies_bytes_max=5_000)
    zipped = {"content-encoding": "gzip"}
    async with run_predictor() as replica, open_door([replica.address], http=http) as door:
        bomb = gzip.compress(b'{"requestId": "' + b"r" * 9_000 + b'"}')
        connect = await door.ask("POST", PREDICT, bomb, JSON | zipped)
        rest = await door.ask("POST", "/v2/models/m/infer", bomb, zipped)
        taken = await door.ask("POST", PREDICT, gzip.compress(b"{}"), JSON | zipped)
    for refused in (connect, rest):
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert b"bodies_bytes_max" in refused.body
    assert taken.status == 200


CHUNKED = f"POST {PREDICT} HTTP/1.1\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx: ", b"HTTP/1.1 431"),
        (CHUNKED + b"2\r\n{}\r\n0\r\nx: ", b""),
        (CHUNKED + b"2;x=", b""),
    ],
    ids=["header", "trailer", "chunk"],
)
async def test_one_endless_line_is_not_kept(run_predictor: Any, open_door: Any, body: bytes, status: bytes) -> None:
    http = HttpSettings(head_bytes_max=20_000)
    async with run_predictor() as replica, open_door([replica.address], http=http) as door:
        async with asyncio.timeout(20), door.client.connected() as connection:
            connection.writer.write(body)
            try:
                while not connection.reader.at_eof():
                    connection.writer.write(b"y" * 10_000)
                    await connection.writer.drain()
                    await asyncio.sleep(0)
                told = await connection.reader.read()
            except ConnectionError:
                return  # it was closed with more of it on its way
    assert told.startswith(status)


async def test_what_follows_a_body_is_no_header(run_predictor: Any, open_door: Any) -> None:
    body = b"2\r\n{}\r\n0\r\nx-tenant: seven\r\nhost: evil.example\r\n\r\n"
    async with run_predictor() as replica, open_door([replica.address]) as door:
        async with asyncio.timeout(20), door.client.connected() as connection:
            lines = ("host: 127.0.0.1", "content-type: application/json", "transfer-encoding: chunked", "", "")
            connection.writer.write(f"POST {PREDICT} HTTP/1.1\r\n".encode() + "\r\n".join(lines).encode() + body)
            assert (await connection.reply()).status == 200
            await connection.send("GET", "/v2/health/live")  # and the connection is kept
            assert (await connection.reply()).status == 200
    assert "x-tenant" not in replica.script.metadata[0]


async def test_a_slow_head_and_a_slow_body_are_not_waited_for(run_predictor: Any, open_door: Any) -> None:
    http = HttpSettings(receive_s=0.2)
    async with run_predictor() as replica, open_door([replica.address], http=http) as door:
        async with asyncio.timeout(20), door.client.connected() as head, door.client.connected() as body:
            head.writer.write(b"GET / HTTP/1.1\r\nhost: ")
            await body.send("POST", PREDICT, b"{", JSON | {"content-length": "20"})
            slow_head, slow_body = await head.reply(), await body.reply()
            assert await head.reader.read() == b"" == await body.reader.read(), "both connections are closed"
    assert (slow_head.status, slow_body.status) == (408, 504)


async def test_a_connection_without_a_request_is_closed_without_a_word(open_door: Any) -> None:
    async with open_door([], http=HttpSettings(idle_s=0.2)) as door:
        async with asyncio.timeout(20), door.client.connected() as connection:
            assert await connection.reader.read() == b""


async def test_one_connection_too_many_is_told_so(run_predictor: Any, open_door: Any) -> None:
    http = HttpSettings(connections_max=2)
    async with run_predictor() as replica, open_door([replica.address], http=http) as door:
        async with asyncio.timeout(20), door.client.connected() as one, door.client.connected() as two:
            for connection in (one, two):
                await connection.send("GET", "/v2/health/live")
                assert (await connection.reply()).status == 200
            async with door.client.connected() as three:
                assert (await three.reply()).status == 503
            await one.send("GET", "/v2/health/live")  # a connection is kept between its requests
            assert (await one.reply()).status == 200


async def test_what_is_no_request_is_refused_and_a_second_one_before_its_turn_is_not_read(
    run_predictor: Any, open_door: Any
) -> None:
    async with run_predictor() as replica, open_door([replica.address]) as door:
        async with asyncio.timeout(20):
            async with door.client.connected() as connection:
                connection.writer.write(b"\x16\x03\x01 hello\r\n\r\n")
                assert (await connection.reply()).status == 400
            async with door.client.connected() as connection:
                connection.writer.write(b"GET / HTTP/1.1\r\nhost: evil.example\r\nhost: 127.0.0.1\r\n\r\n")
                assert (await connection.reply()).status == 400
            async with door.client.connected() as connection:  # where a message ends is said once
                lines = (f"POST {PREDICT} HTTP/1.1", "content-length: 2", "transfer-encoding: chunked", "", "{}")
                connection.writer.write("\r\n".join(lines).encode())
                assert (await connection.reply()).status == 400
            async with door.client.connected() as connection:
                await connection.send("POST", PREDICT, b'{"channel": "slow"}', JSON)
                await connection.send("GET", "/v2/health/live")
                reply = await connection.reply()
                assert await connection.reader.read() == b""
            async with door.client.connected() as connection:  # what asks for another protocol is answered in this one
                await connection.send("GET", "/v2/health/live", b"", {"connection": "upgrade", "upgrade": "h2c"})
                upgrade = await connection.reply()
    assert (reply.status, reply.headers["connection"]) == (200, "close")
    assert upgrade.status == 200


@pytest.mark.parametrize(
    ("headers", "settings", "status"),
    [
        ({}, {}, 200),
        ({"host": "localhost:8000"}, {}, 200),
        ({"host": "[::1]:8000"}, {}, 200),
        ({"host": "evil.example:8000"}, {}, 403),
        ({"host": "mesh.example"}, {"allowed_hosts": ("mesh.example",)}, 200),
        ({"host": "mesh.example:80"}, {"allowed_hosts": ("*",)}, 200),
        ({"host": "localhost:8000", "origin": "http://localhost:8000"}, {}, 200),
        ({"host": "localhost", "origin": "https://localhost"}, {}, 200),
        ({"host": "LOCALHOST:8000"}, {}, 200),
        ({"host": "Mesh.Example"}, {"allowed_hosts": ("mesh.example",)}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "image"}, {}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-dest": "script"}, {"allowed_origins": ("*",)}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}, {}, 200),
        ({"sec-fetch-site": "same-origin", "sec-fetch-dest": "empty"}, {}, 200),
        ({"origin": "null"}, {}, 403),
        ({"origin": "https://evil.example"}, {}, 403),
        ({"origin": "https://board.example"}, {"allowed_origins": ("https://board.example",)}, 200),
        ({"origin": "https://any.example"}, {"allowed_origins": ("*",)}, 200),
    ],
)
async def test_only_pages_and_names_that_are_allowed_may_call(
    open_door: Any, headers: dict[str, str], settings: dict[str, Any], status: int
) -> None:
    async with open_door([], http=HttpSettings(**settings)) as door:
        reply = await door.ask("GET", "/v2/health/live", b"", headers)
        preflight = await door.ask("OPTIONS", PREDICT, b"", headers | {"access-control-request-method": "POST"})
    assert reply.status == status
    origin = headers.get("origin")
    shown = reply.headers.get("access-control-allow-origin")
    assert shown == (origin if status == 200 else None)
    assert preflight.status == (204 if status == 200 else 403)
    if shown:
        assert "connect-timeout-ms" in preflight.headers["access-control-allow-headers"]
        assert "grpc-status-details-bin" in reply.headers["access-control-expose-headers"]
