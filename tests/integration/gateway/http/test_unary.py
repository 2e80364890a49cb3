"""Single calls over HTTP: JSON, encoded messages, gRPC-Web and GET, through the gateway to a scripted service."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any
from urllib.parse import quote

import pytest

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.gateway import RouteSettings

PREDICT = "/meshcast.api.predictor.v1.PredictorService/PredictEngagement"
LIST = "/meshcast.api.gateway.v1.GatewayService/ListServices"
PROTO = {"content-type": "application/proto"}
WEB = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}


async def test_json_and_encoded_messages_get_the_answer_of_grpc(run_predictor: Any, open_door: Any, wire: Any) -> None:
    request = pb.PredictEngagementRequest(request_id="r1")
    async with run_predictor() as replica, open_door([replica.address]) as door:
        told = await door.ask("POST", PREDICT, {"requestId": "r1"})
        encoded = await door.ask("POST", PREDICT, request.SerializeToString(), PROTO)
        web = await door.ask("POST", PREDICT, wire.envelope(request.SerializeToString()), WEB)
        expected = await door.gateway.predictor.PredictEngagement(request, timeout=5)
    assert (told.status, told.headers["content-type"]) == (200, "application/json")
    assert told.json()["prediction"] == {"logEngagement": 2.5}
    assert told.json()["receipt"]["predictionId"] == "r1"
    (flags, message), (end_flags, end) = wire.envelopes(web.body)
    assert (flags, end_flags) == (0, 0x80) and b"grpc-status: 0\r\n" in end
    for body in (encoded.body, message):
        answer = pb.PredictEngagementResponse.FromString(body)
        assert answer.receipt.gateway.endpoint == replica.address
        answer.receipt.gateway.CopyFrom(expected.receipt.gateway)
        answer.receipt.ClearField("deadline_ms")  # these callers set none
        answer.receipt.ClearField("deadline_default")
        assert answer == expected


async def test_what_has_no_side_effects_can_be_asked_by_get(run_predictor: Any, open_door: Any) -> None:
    async with run_predictor() as replica, open_door([replica.address]) as door:
        told = await door.ask("GET", f"{LIST}?encoding=json&message={quote('{}')}")
        encoded = await door.ask(
            "GET", f"{LIST}?encoding=proto&base64=1&message={base64.urlsafe_b64encode(b'').decode()}"
        )
        refused = await door.ask("GET", f"{PREDICT}?encoding=json&message={quote('{}')}")
    assert told.json()["services"][0]["name"] == "predictor"
    assert encoded.status == 200
    assert refused.status == 405


async def test_a_compressed_request_is_read_and_the_answer_goes_out_plain(run_predictor: Any, open_door: Any) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip", "accept-encoding": "gzip, br"}
    async with run_predictor() as replica, open_door([replica.address]) as door:
        reply = await door.ask("POST", PREDICT, gzip.compress(b'{"requestId": "zipped"}'), headers)
    assert "content-encoding" not in reply.headers
    assert reply.json()["receipt"]["predictionId"] == "zipped"


async def test_metadata_and_deadline_reach_the_service_and_come_back(run_predictor: Any, open_door: Any) -> None:
    headers = {
        "content-type": "application/json",
        "connect-timeout-ms": "2000",
        "x-tenant": "seven",
        "x-key-bin": base64.b64encode(b"\x00\xff").decode().rstrip("="),
        "cookie": "secret=1",
        "grpc-retry": "no",
        "x-meshcast-own": "no",
        "bad!name": "no",
    }
    async with run_predictor() as replica, open_door([replica.address]) as door:
        reply = await door.ask("POST", PREDICT, b"{}", headers)
        (metadata,), (left_s,) = replica.script.metadata, replica.script.seconds_left
    assert metadata["x-tenant"] == "seven" and metadata["x-key-bin"] == b"\x00\xff"
    assert not {"cookie", "grpc-retry", "x-meshcast-own", "bad!name"} & metadata.keys()
    assert 1.0 < left_s < 2.0
    assert reply.headers["trailer-x-served-by"] == "one"
    assert "trailer-endpoint-load-metrics-bin" not in reply.headers


async def test_a_service_that_only_reflection_has_told_of_is_called_by_json(serve_echo: Any, open_door: Any) -> None:
    async with serve_echo() as backend:
        route = RouteSettings(services=("acme.EchoService",), endpoints=(backend.address,))
        async with open_door(routes={"echo": route}) as door:
            await door.gateway.until_methods()
            reply = await door.ask("POST", "/acme.EchoService/Echo", {"text": "hé", "weight": "NaN"})
            wrong = await door.ask("POST", "/acme.EchoService/Echo", {"txt": "x"})
            broken = await door.ask("POST", "/acme.EchoService/Echo", {"text": "garbage"})
    assert reply.json() == {"text": "hé", "weight": "NaN"}
    assert wrong.status == 400 and "txt" in wrong.json()["message"]
    assert (broken.status, broken.json()["message"]) == (500, "internal error")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "said"),
    [
        ("POST", PREDICT, {}, 415, "application/json"),
        ("POST", PREDICT, {"content-type": "application/grpc"}, 415, "gRPC is spoken at port"),
        ("POST", "/acme.None/Ask", {"content-type": "application/json"}, 404, "nobody serves"),
        ("POST", f"{PREDICT}s", {"content-type": "application/json"}, 501, "no method"),
        ("POST", f"{PREDICT}Stream", {"content-type": "application/json"}, 501, "streams both ways"),
        ("POST", "/", {}, 400, "nothing to be posted"),
        ("POST", PREDICT, {"content-type": "application/grpc-web-text"}, 415, "application/grpc-web+proto"),
        ("GET", PREDICT, {}, 405, "by POST"),
        ("PUT", LIST, {}, 405, "by GET or POST"),
        ("GET", LIST, {}, 400, "?encoding=json"),
    ],
)
async def test_a_request_that_cannot_be_right_is_told_what_would_be(
    run_predictor: Any,
    open_door: Any,
    method: str,
    path: str,
    headers: dict[str, str],
    status: int,
    said: str,
) -> None:
    async with run_predictor() as replica, open_door([replica.address]) as door:
        reply = await door.ask(method, path, b"{}", headers)
    assert reply.status == status
    assert said in reply.json()["message"]


async def test_the_first_page_says_what_is_here(run_predictor: Any, open_door: Any) -> None:
    async with run_predictor() as replica, open_door([replica.address]) as door:
        about = (await door.ask("GET", "/")).json()
        live = await door.ask("GET", "/v2/health/live")
        health = await door.ask("POST", "/grpc.health.v1.Health/Check", {"service": "model/predictor"})
        metrics = door.gateway.server.metrics
    assert {"path": PREDICT, "kind": "unary", "get": False} in about["methods"]
    assert about["grpc_port"] == door.gateway.server.port
    assert live.json() == {"live": True}
    assert health.json() == {"status": "SERVING"}
    assert metrics.in_flight == 0


async def test_a_large_message_passes_in_both_forms(run_predictor: Any, open_door: Any) -> None:
    request_id = "r" * 100_000
    async with run_predictor() as replica, open_door([replica.address]) as door:
        reply = await door.ask(
            "POST", PREDICT, json.dumps({"requestId": request_id}).encode(), {"content-type": "application/json"}
        )
    assert reply.json()["receipt"]["predictionId"] == request_id
