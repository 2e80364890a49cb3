"""What a served model says of itself: health names, reflection, and its description at both doors."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from meshcast.api.oip.v2 import grpc_service_pb2 as oip_pb
from meshcast.api.reflection.v1 import reflection_pb2
from meshcast.rpc import ServingStatus, probe
from meshcast.rpc.orca import TRAILER, parse

pytestmark = pytest.mark.asyncio(loop_scope="session")

REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


async def reflected(served: Any, **question: Any) -> reflection_pb2.ServerReflectionResponse:
    """The answer to one question to reflection."""
    ask = served.peer.channel.stream_stream(
        REFLECTION,
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = [one async for one in ask(iter([reflection_pb2.ServerReflectionRequest(**question)]), timeout=20)]
    return answer  # type: ignore[no-any-return]


async def test_check_watch_and_list_agree_on_every_health_name(served: Any) -> None:
    spec, live = served.case.spec, served.context.model.live
    names = ("", spec.service_name, "inference.GRPCInferenceService", f"model/{spec.name}", f"model/{spec.name}/{live}")
    listed = await served.peer.listed()
    async with served.peer.watching(*listed, "nobody") as seen:
        assert set(names) <= set(listed)
        assert {name: states[-1] for name, states in seen.items()} == {**listed, "nobody": "SERVICE_UNKNOWN"}
    assert {name: await served.peer.check(name) for name in listed} == listed
    assert {listed[name] for name in names} == {"SERVING"}
    assert await served.peer.check(f"model/{spec.name}/{live + 7}") == "UNKNOWN"
    assert await probe(served.server.address, spec.service_name, timeout_s=20) is ServingStatus.SERVING


async def test_reflection_lists_the_service_and_describes_its_rpcs(served: Any) -> None:
    name = served.case.spec.service_name
    listed = await reflected(served, list_services="")
    assert name in {service.name for service in listed.list_services_response.service}
    files = (await reflected(served, file_containing_symbol=name)).file_descriptor_response.file_descriptor_proto
    described = [descriptor_pb2.FileDescriptorProto.FromString(file) for file in files]
    methods = {
        f"{file.package}.{service.name}": {method.name for method in service.method}
        for file in described
        for service in file.service
    }
    assert methods[name] >= {"DescribeModel", *(call.method for call in served.case.calls)}


async def test_both_doors_describe_the_same_model(served: Any) -> None:
    name, live = served.case.spec.name, served.context.model.live
    for version in (0, live):
        typed = (await served.peer.describe(model_version=version)).model
        request = oip_pb.ModelMetadataRequest(name=name, version=str(version) if version else "")
        foreign = await served.peer.oip.ModelMetadata(request, timeout=20)
        assert (typed.name, typed.version, list(typed.loaded_versions)) == (name, live, [live])
        assert (foreign.name, foreign.properties["version"]) == (name, str(live))
        assert list(foreign.versions) == [str(live)]
        for ours, theirs in ((typed.inputs, foreign.inputs), (typed.outputs, foreign.outputs)):
            shapes = [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in ours]
            assert shapes == [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in theirs]
            assert all(tensor.description for tensor in ours)
        assert foreign.properties["backend"] == typed.backend == served.case.backend
        assert foreign.properties["batch_rows_max"] == str(typed.batch_rows_max)
        assert foreign.properties["exported_time"] == typed.exported_time.ToJsonString()
        assert float(foreign.properties["tolerance"]) == typed.tolerance == served.case.signature.tolerance
        told = {key.removeprefix("metrics."): value for key, value in foreign.properties.items() if "metrics." in key}
        assert {name: float(value) for name, value in told.items()} == dict(typed.metrics)
        assert typed.metrics and typed.card
        assert typed.candidates[0].accepted and typed.candidates[0].parity_error <= typed.tolerance


async def test_the_description_is_that_of_the_signature(served: Any) -> None:
    model = (await served.peer.describe()).model
    signature = served.case.signature
    assert [tensor.name for tensor in model.inputs] == list(signature.input_names)
    assert [tensor.name for tensor in model.outputs] == list(signature.output_names)
    assert [list(tensor.shape) for tensor in model.inputs] == [[-1, *spec.shape] for spec in signature.inputs]
    assert 1 <= model.batch_rows_max <= max(signature.rows_max, served.context.settings.gpu_rows_max)


async def test_the_configuration_is_that_of_the_signature(served: Any) -> None:
    request = oip_pb.ModelConfigRequest(name=served.case.spec.name)
    config = (await served.peer.oip.ModelConfig(request, timeout=20)).config
    signature = served.case.signature
    assert [tuple(tensor.dims) for tensor in config.input] == [spec.shape for spec in signature.inputs]
    assert [tensor.name for tensor in config.output] == list(signature.output_names)
    default_us = config.dynamic_batching.default_queue_policy.default_timeout_microseconds
    assert default_us == round(served.context.default_deadline_s * 1e6)


async def test_answers_at_both_doors_tell_the_load(served: Any) -> None:
    await served.peer.single()
    name = served.case.spec.name
    for method, request in (
        (f"/{served.case.spec.service_name}/DescribeModel", b""),
        ("/inference.GRPCInferenceService/ModelReady", oip_pb.ModelReadyRequest(name=name).SerializeToString()),
    ):
        trailers: dict[str, bytes] = {}
        while TRAILER not in trailers:  # after very many answers in a second, not each has it
            call = served.peer.channel.unary_unary(method)(request, timeout=20)
            await call
            trailers = dict(await call.trailing_metadata())
        report = parse(trailers[TRAILER])
        assert report is not None
        assert report.application_utilization > 0
        assert report.named_metrics.keys() == {"queue_rows"}
