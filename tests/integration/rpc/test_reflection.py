"""Reflection on a real server, by its own protocol in both versions and by `buf curl`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from meshcast.api.predictor.v1 import predictor_pb2
from meshcast.api.reflection.v1 import reflection_pb2 as pb
from meshcast.rpc import ChannelSettings, Descriptions, RpcSettings, Server, Unimplemented, channel, mesh_errors

Serve = Callable[..., Awaitable[Server]]
PLAIN = ChannelSettings(plain=True)
PREDICTOR = "meshcast.api.predictor.v1.PredictorService"
VERSIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


async def answers(server: Server, version: str, *requests: pb.ServerReflectionRequest) -> list[Any]:
    async with channel(server.address, settings=PLAIN) as to_server:
        method = to_server.stream_stream(
            f"/{version}/ServerReflectionInfo",
            request_serializer=pb.ServerReflectionRequest.SerializeToString,
            response_deserializer=pb.ServerReflectionResponse.FromString,
        )
        call = method(iter(requests), timeout=10)
        with mesh_errors(call):
            return [answer async for answer in call]


@pytest.mark.parametrize("version", VERSIONS)
async def test_services_are_listed_and_their_files_come_with_their_imports(serve: Serve, version: str) -> None:
    assert predictor_pb2.DESCRIPTOR.package == "meshcast.api.predictor.v1"
    server = await serve(service_names=[PREDICTOR])
    listed, files, unknown = await answers(
        server,
        version,
        pb.ServerReflectionRequest(list_services=""),
        pb.ServerReflectionRequest(file_containing_symbol=f"{PREDICTOR}.PredictEngagement"),
        pb.ServerReflectionRequest(file_by_filename="no/such.proto"),
    )
    names = [service.name for service in listed.list_services_response.service]
    assert names == sorted(["grpc.health.v1.Health", *VERSIONS, PREDICTOR])
    protos = [
        descriptor_pb2.FileDescriptorProto.FromString(file)
        for file in files.file_descriptor_response.file_descriptor_proto
    ]
    known = {proto.name for proto in protos}
    assert protos[0].name == "meshcast/api/predictor/v1/predictor.proto"
    assert all(dependency in known for proto in protos for dependency in proto.dependency)
    assert unknown.error_response.error_code == 5


async def test_a_file_is_sent_once_a_stream_unless_it_is_asked_for(serve: Serve) -> None:
    server = await serve(service_names=[PREDICTOR])
    question = pb.ServerReflectionRequest(file_containing_symbol=PREDICTOR)
    first, second = await answers(server, VERSIONS[0], question, question)
    assert len(first.file_descriptor_response.file_descriptor_proto) > 1
    assert len(second.file_descriptor_response.file_descriptor_proto) == 1


async def test_foreign_files_are_described_too(serve: Serve) -> None:
    descriptions = Descriptions()
    file = descriptor_pb2.FileDescriptorProto(name="far/away.proto", package="far.away", syntax="proto3")
    file.service.add(name="AwayService")
    descriptions.add([file])
    server = await serve(service_names=["far.away.AwayService"], descriptions=descriptions)
    (answer,) = await answers(
        server, VERSIONS[0], pb.ServerReflectionRequest(file_containing_symbol="far.away.AwayService")
    )
    assert answer.file_descriptor_response.file_descriptor_proto == [file.SerializeToString()]


async def test_reflection_can_be_turned_off(serve: Serve) -> None:
    server = await serve(settings=RpcSettings(metrics=False, drain_delay_s=0, reflection=False))
    with pytest.raises(Unimplemented):
        await answers(server, VERSIONS[0], pb.ServerReflectionRequest(list_services=""))


@pytest.mark.skipif(not (Path(sys.executable).parent / "buf").exists(), reason="needs buf (the dev extra)")
async def test_buf_curl_calls_by_reflection_alone(serve: Serve) -> None:
    server = await serve(service_names=[PREDICTOR])
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "buf"),
        *("curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", '{"service": ""}'),
        f"http://{server.address}/grpc.health.v1.Health/Check",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    assert json.loads(out) == {"status": "SERVING"}
