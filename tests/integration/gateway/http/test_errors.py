"""One error table for all doors: each failure of the mesh by gRPC, Connect, gRPC-Web, lines of JSON and REST."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import unquote

import grpc
import pytest
from connectrpc._protocol import ConnectWireError
from google.rpc import error_details_pb2, status_pb2

from meshcast.api.drift.v1 import drift_pb2, drift_pb2_grpc
from meshcast.api.oip.v2 import grpc_service_pb2_grpc as oip_grpc
from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.predictor.v1 import predictor_pb2_grpc as pb_grpc
from meshcast.gateway import RouteSettings
from meshcast.gateway.http.errors import HTTP_STATUS, CallFailed
from meshcast.rpc import (
    Internal,
    InvalidInput,
    MeshError,
    NotReady,
    Overloaded,
    RpcSettings,
    Server,
    ServingStatus,
    from_status,
    mesh_errors,
)
from meshcast.rpc.errors import CLASSES

PREDICTOR = "meshcast.api.predictor.v1.PredictorService"
DRIFT = "meshcast.api.drift.v1.DriftService"
OIP = "inference.GRPCInferenceService"
PREDICT, WATCH = f"/{PREDICTOR}/PredictEngagement", f"/{DRIFT}/WatchDrift"
CONNECT_STREAM = {"content-type": "application/connect+json"}
WEB = {"content-type": "application/grpc-web+proto"}
JSON = {"content-type": "application/json"}


def failure_of(name: str) -> Exception:
    """The failure that a request asks for by its name."""
    if name == "bug":
        return ValueError("secret db password")
    kind = next(kind for kind in CLASSES.values() if kind.__name__ == name)
    if kind is InvalidInput:
        return InvalidInput("the täg % is wrong", field="planned.tag", asked="x")
    if kind in (NotReady, Overloaded):
        return kind("come again", retry_after_s=1.5)
    return kind("it is as it is: ü %", where="here")


class FailingPredictor(pb_grpc.PredictorServiceServicer):
    """Fails as each request asks for."""

    async def PredictEngagement(self, request: Any, context: Any) -> Any:
        raise failure_of(request.channel)


class FailingDrift(drift_pb2_grpc.DriftServiceServicer):
    """Fails as each request asks for, before or after its first message."""

    async def WatchDrift(self, request: Any, context: Any) -> AsyncIterator[Any]:
        if request.cursor:
            yield drift_pb2.WatchDriftResponse(cursor=7)
        raise failure_of(request.subject)


class FailingModels(oip_grpc.GRPCInferenceServiceServicer):
    """Fails as each request asks for."""

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        raise failure_of(request.model_name)


@asynccontextmanager
async def failing() -> AsyncIterator[Server]:
    """A server of all three services."""
    kinds: tuple[Any, ...] = (FailingPredictor, FailingDrift, FailingModels)  # the stubs' bases answer the rest
    predictor, drift, models = (kind() for kind in kinds)
    server = Server(
        RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=1.0),
        services=[
            lambda s: pb_grpc.add_PredictorServiceServicer_to_server(predictor, s),
            lambda s: drift_pb2_grpc.add_DriftServiceServicer_to_server(drift, s),
            lambda s: oip_grpc.add_GRPCInferenceServiceServicer_to_server(models, s),
        ],
        service_names=[PREDICTOR, DRIFT, OIP],
    )
    async with server:
        for name in ("", PREDICTOR, DRIFT, OIP):
            server.health.set(name, ServingStatus.SERVING)
        yield server


def of_connect(told: dict[str, Any]) -> status_pb2.Status:
    """The status behind an error in Connect's JSON."""
    code = next(code for code in grpc.StatusCode if CallFailed(_status(code)).code.value == told["code"])
    status = status_pb2.Status(code=code.value[0], message=told["message"])
    for detail in told.get("details", ()):
        value = base64.b64decode(detail["value"] + "=" * (-len(detail["value"]) % 4))
        status.details.add(type_url=f"type.googleapis.com/{detail['type']}", value=value)
    return status


def of_web(trailers: bytes) -> status_pb2.Status:
    """The status behind the trailers of gRPC-Web."""
    found = dict(line.split(": ", 1) for line in trailers.decode().strip().split("\r\n"))
    encoded = found.get("grpc-status-details-bin")
    if encoded is None:
        return status_pb2.Status(code=int(found["grpc-status"]), message=unquote(found["grpc-message"]))
    status = status_pb2.Status.FromString(base64.b64decode(encoded + "=" * (-len(encoded) % 4)))
    assert (str(status.code), status.message) == (found["grpc-status"], unquote(found["grpc-message"]))
    return status


def _status(code: grpc.StatusCode) -> status_pb2.Status:
    return status_pb2.Status(code=code.value[0] or 2)


def same(one: MeshError, other: MeshError) -> bool:
    """Whether two errors say the same; ids of masked bugs differ from call to call."""
    facts = [{key: value for key, value in e.facts.items() if key != "request_id"} for e in (one, other)]
    return (
        (type(one), one.message, one.reason, one.retry_after_s, one.violations)
        == (type(other), other.message, other.reason, other.retry_after_s, other.violations)
    ) and facts[0] == facts[1]


async def test_every_failure_is_the_same_by_every_door(open_door: Any, wire: Any) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(failing())
        services = {"predictor": PREDICTOR, "drift": DRIFT, "models": OIP}
        # A try that failed as the caller's own fault is not repeated; one that a replica refuses would be.
        routes = {
            name: RouteSettings(services=(service,), endpoints=(server.address,)) for name, service in services.items()
        }
        door = await stack.enter_async_context(open_door(routes=routes))
        for name in [*(kind.__name__ for kind in CLASSES.values() if kind is not Internal), "bug"]:
            with pytest.raises(MeshError) as caught, mesh_errors():
                await door.gateway.predictor.PredictEngagement(pb.PredictEngagementRequest(channel=name), timeout=5)
            expected = caught.value
            status = HTTP_STATUS[expected.code]
            message = pb.PredictEngagementRequest(channel=name).SerializeToString()

            unary = await door.ask("POST", PREDICT, {"channel": name})
            assert unary.status == status, name
            assert same(from_status(of_connect(unary.json())), expected), name

            web = await door.ask("POST", PREDICT, wire.envelope(message), WEB)
            assert web.status == 200
            assert same(from_status(of_web(wire.envelopes(web.body)[-1][1])), expected), name

            for sent in (0, 1):
                watch = json.dumps({"subject": name, "cursor": str(sent)}).encode()
                stream = await door.ask("POST", WATCH, wire.envelope(watch), CONNECT_STREAM)
                *messages, (flags, end) = wire.envelopes(stream.body)
                assert (stream.status, len(messages), flags) == (200, sent, 2), name
                assert same(from_status(of_connect(json.loads(end)["error"])), expected), name

            lines = await door.ask("POST", WATCH, {"subject": name, "cursor": "1"})
            first, last = [json.loads(line) for line in lines.body.splitlines()]
            assert first["result"]["cursor"] == "7"
            assert same(from_status(of_connect(last["error"])), expected), name
            early = await door.ask("POST", WATCH, {"subject": name})
            assert early.status == status
            assert same(from_status(of_connect(early.json())), expected), name

            rest = await door.ask("POST", f"/v2/models/{name}/infer", {"inputs": []})
            assert rest.status == status, name
            assert rest.json()["error"] == expected.message
            assert rest.json()["reason"] == expected.reason_name
            assert rest.json().get("retry_after_s") == expected.retry_after_s
            for reply in (unary, rest):
                assert reply.headers.get("retry-after") == ("2" if expected.retry_after_s == 1.5 else None), name
            for reply in (unary, web, stream, lines, rest):
                assert b"secret" not in reply.body


async def test_details_can_be_read_by_a_person(run_predictor: Any, open_door: Any) -> None:
    async with run_predictor() as replica, open_door([replica.address]) as door:
        told = (await door.ask("POST", PREDICT, {"channel": "refuse"})).json()
    info, bad = told["details"]
    assert info["debug"]["metadata"] == {"asked": "24"}
    assert bad["debug"]["fieldViolations"][0]["field"] == "planned.hour_of_day"


async def test_garbage_is_the_callers_fault_and_counted_as_such(run_predictor: Any, open_door: Any, wire: Any) -> None:
    async with run_predictor() as replica, open_door([replica.address]) as door:
        counts = door.gateway.server.metrics.method(PREDICT, "unary")
        replies = [
            await door.ask("POST", PREDICT, body, {"content-type": content_type})
            for content_type, body in (
                ("application/json", b""),
                ("application/json", b"{"),
                ("application/json", b"[1]"),
                ("application/json", b'{"requestId": 5}'),
                ("application/json", b'"\xff"'),
                ("application/json", b'{"planned":' * 3_000),
                ("application/proto", b"\xff\xff"),
            )
        ]
        started = counts.started
        cut = await door.ask("POST", PREDICT, wire.envelope(b"x" * 20)[:-3], WEB)
        timeout = await door.ask("POST", PREDICT, b"{}", JSON | {"connect-timeout-ms": "-1"})
    assert [reply.status for reply in replies] == [400] * 7
    for reply in replies:
        assert InvalidInput is type(from_status(of_connect(reply.json())))
    assert started == 7
    assert b"grpc-status: 3" in cut.body
    assert timeout.status == 400


async def test_a_route_without_replicas_says_when_to_come_again(open_door: Any) -> None:
    async with open_door(["127.0.0.1:9"]) as door:
        reply = await door.ask("POST", PREDICT, {})
        ready = await door.ask("GET", "/v2/health/ready")
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert (ready.status, ready.json()["ready"]) == (400, False)


def test_http_statuses_are_those_of_connect() -> None:
    for code, status in HTTP_STATUS.items():
        error = CallFailed(_status(code))
        assert ConnectWireError.from_exception(error).to_http_status().code == status


def test_a_status_of_a_foreign_server_keeps_its_code() -> None:
    failure = CallFailed.ended(grpc.StatusCode.OUT_OF_RANGE, "past the end", [("grpc-status-details-bin", b"\xff")])
    assert failure.to_json() == {"code": "out_of_range", "message": "past the end"}
    info = error_details_pb2.RetryInfo()
    info.retry_delay.seconds = 0
    status = status_pb2.Status(code=14)
    status.details.add().Pack(info)
    assert CallFailed(status).retry_after_s == 1
