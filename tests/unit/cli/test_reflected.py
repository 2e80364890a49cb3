"""Calls by reflection: descriptors from a real server, JSON in and out, all four call kinds."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.api.gateway.v1 import gateway_pb2_grpc as pb_grpc
from meshcast.api.reflection.v1.reflection_pb2_grpc import (
    ServerReflectionServicer as ReflectionServicer,
)
from meshcast.api.reflection.v1.reflection_pb2_grpc import (
    add_ServerReflectionServicer_to_server,
)
from meshcast.cli.call import call, documents
from meshcast.cli.describe import describe
from meshcast.cli.problem import ExitCode, Problem
from meshcast.cli.reflected import Reflected
from meshcast.rpc import ChannelSettings, InvalidInput, Precondition, RpcSettings, channel

Context = grpc.aio.ServicerContext[Any, Any]
GATEWAY = "meshcast.api.gateway.v1.GatewayService"


class Gateway(pb_grpc.GatewayServiceServicer):
    """Answers a few methods, one of each call kind that the contract has; the others stay UNIMPLEMENTED."""

    async def ListServices(self, request: pb.ListServicesRequest, context: Context) -> pb.ListServicesResponse:
        metadata = dict(context.invocation_metadata() or ())
        return pb.ListServicesResponse(services=[pb.ServiceEntry(name=str(metadata.get("x-name", "predictor")))])

    async def WatchMesh(self, request: pb.WatchMeshRequest, context: Context) -> AsyncIterator[pb.WatchMeshResponse]:
        if request.interval_ms < 200:
            raise InvalidInput("interval_ms must be 200 or more", field="interval_ms")
        for serving in (False, True):
            yield pb.WatchMeshResponse(health=pb.MeshHealth(serving=serving))

    async def PredictComprehensiveStream(
        self, requests: AsyncIterator[pb.PredictComprehensiveStreamRequest], context: Context
    ) -> AsyncIterator[pb.PredictComprehensiveStreamResponse]:
        async for request in requests:
            if request.sequence < 0:
                raise InvalidInput("sequence must be 0 or more", field="sequence")
            yield pb.PredictComprehensiveStreamResponse(sequence=request.sequence)


@pytest.fixture
async def address(serve: Any) -> str:
    server = await serve(
        lambda grpc_server: pb_grpc.add_GatewayServiceServicer_to_server(
            Gateway(),  # type: ignore[abstract]  # the methods that are missing stay UNIMPLEMENTED
            grpc_server,
        ),
        service_names=[GATEWAY],
    )
    return str(server.address)


async def shown(capsys: pytest.CaptureFixture[str], address: str, method: str, symbol: str = "", **options: Any) -> str:
    """What the command prints; it runs a loop of its own, so it gets a thread of its own."""
    capsys.readouterr()  # what the server logged while it started
    defaults: dict[str, Any] = {"data": "", "headers": [], "config": None, "state_dir": None, "compact": True}
    await asyncio.to_thread(call, method, symbol, target=address, timeout_s=5.0, **{**defaults, **options})
    return capsys.readouterr().out


async def test_list_names_the_services_and_then_the_methods(capsys: pytest.CaptureFixture[str], address: str) -> None:
    assert GATEWAY in (await shown(capsys, address, "list")).split()
    assert f"{GATEWAY}/WatchMesh" in (await shown(capsys, address, "list", "GatewayService")).split()


async def test_a_unary_call_takes_and_gives_json(capsys: pytest.CaptureFixture[str], address: str) -> None:
    answer = json.loads(await shown(capsys, address, "GatewayService/ListServices", headers=["x-name=drift"]))
    assert answer == {"services": [{"name": "drift"}]}


async def test_a_server_stream_prints_each_answer(capsys: pytest.CaptureFixture[str], address: str) -> None:
    printed = await shown(capsys, address, f"{GATEWAY}/WatchMesh", data='{"interval_ms": 500}')
    assert [json.loads(line)["health"].get("serving", False) for line in printed.splitlines()] == [False, True]


async def test_a_bidirectional_stream_takes_documents_one_after_the_other(
    capsys: pytest.CaptureFixture[str], address: str
) -> None:
    for data in ('{"sequence": 3} {"sequence": 4}', '[{"sequence": 3}, {"sequence": 4}]'):
        printed = await shown(capsys, address, f"/{GATEWAY}/PredictComprehensiveStream", data=data)
        assert [json.loads(line)["sequence"] for line in printed.splitlines()] == ["3", "4"]


async def test_a_request_can_come_from_a_file(capsys: pytest.CaptureFixture[str], address: str, tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text('{"interval_ms": 500}')
    assert (await shown(capsys, address, "GatewayService.WatchMesh", data=f"@{file}")).count("health") == 2


async def test_the_servers_refusal_keeps_its_field(capsys: pytest.CaptureFixture[str], address: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await shown(capsys, address, "GatewayService/WatchMesh", data='{"interval_ms": 1}')
    assert caught.value.violations[0].field == "interval_ms"


@pytest.mark.parametrize(
    ("method", "data", "said"),
    [
        ("GatewayService/Watch", "", "no method 'Watch'"),
        ("Gateways/WatchMesh", "", "no service 'Gateways'"),
        ("WatchMesh", "", "is not SERVICE/METHOD"),
        ("GatewayService/WatchMesh", '{"interval": 1}', 'no field named "interval"'),
        ("GatewayService/WatchMesh", '{"interval_ms": "soon"}', "interval_ms"),
        ("GatewayService/WatchMesh", '{"interval_ms": 1', "no JSON"),
        (
            "GatewayService/PredictComprehensive",
            '{"drift": {"observations": {"numeric": [{"name": "x", "f32": [1.0]}]}}}',
            "f32 is of bytes: JSON has them as a text in base64, not as list",
        ),
        ("GatewayService/WatchMesh", "{} {}", "takes one message"),
    ],
)
async def test_a_wrong_call_is_answered_before_anything_is_sent(
    capsys: pytest.CaptureFixture[str], address: str, method: str, data: str, said: str
) -> None:
    with pytest.raises(Problem) as caught:
        await shown(capsys, address, method, data=data)
    assert said in str(caught.value)
    assert caught.value.exit_code is ExitCode.USAGE


async def test_the_servers_refusal_is_known_though_requests_are_still_being_sent(address: str) -> None:
    async with channel(address, settings=ChannelSettings(plain=True)) as opened:
        reflected = Reflected(opened, timeout_s=5.0)
        method = await reflected.method("GatewayService/PredictComprehensiveStream")
        kind = GetMessageClass(method.input_type)
        requests = [kind(sequence=-1), *(kind(sequence=n) for n in range(300))]
        for _ in range(30):
            with pytest.raises(InvalidInput) as caught:
                _ = [answer async for answer in reflected.call(method, requests, timeout_s=5.0)]
            assert caught.value.violations[0].field == "sequence"


async def test_a_server_that_refuses_to_describe_itself_is_heard(serve: Any) -> None:
    class Refusing(ReflectionServicer):
        async def ServerReflectionInfo(self, request_iterator: Any, context: Any) -> Any:
            raise Precondition("not now", why="on request")
            yield

    server = await serve(
        lambda grpc_server: add_ServerReflectionServicer_to_server(Refusing(), grpc_server),
        settings=RpcSettings(metrics=False, reflection=False),
    )
    async with channel(server.address, settings=ChannelSettings(plain=True)) as opened:
        for _ in range(30):
            with pytest.raises(Precondition) as caught:
                await Reflected(opened, timeout_s=5.0).services()
            assert caught.value.facts == {"why": "on request"}


async def test_describe_shows_a_message_as_it_stands_in_its_file(address: str) -> None:
    async with channel(address, settings=ChannelSettings(plain=True)) as opened:
        reflected = Reflected(opened, timeout_s=5.0)
        message = describe(await reflected.symbol("meshcast.api.gateway.v1.ServiceHealth"))
        assert "  map<string, int64> calls_by_code = 4;" in message
        assert "  optional double latency_ms_p50 = 6;" in message
        assert "  repeated meshcast.api.gateway.v1.ReplicaHealth replicas = 3;" in message
        service = describe(await reflected.symbol(GATEWAY))
        assert "rpc WatchMesh(meshcast.api.gateway.v1.WatchMeshRequest) returns (stream" in service
        assert "SERVING_STATE_SERVING = 1;" in describe(await reflected.symbol("meshcast.api.gateway.v1.ServingState"))
        method = describe(await reflected.symbol("GatewayService/RoutePrediction"))
        assert "oneof question {" in method


def test_documents_stand_apart_wherever_the_blanks_are() -> None:
    assert documents(' {"a": 1}\n\n{"a": 2}[3] ') == [{"a": 1}, {"a": 2}, [3]]
    assert documents("  ") == []
