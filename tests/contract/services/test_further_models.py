"""Further models of a service's process: listed by their names, and what callers are told where one is missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from meshcast.api.oip.v2 import grpc_service_pb2 as oip_pb
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import Precondition, mesh_errors

pytestmark = pytest.mark.asyncio(loop_scope="session")


def missing(served: Any) -> Iterator[Any]:
    """The optional models of the process that its repository lacks: here all, since the suite builds none."""
    found = [spec for spec in served.case.spec.also if spec.is_optional]
    if not found:
        pytest.skip("every model of it is there")
    yield from found


def question(spec: Any) -> oip_pb.ModelInferRequest:
    """A question of one row."""
    request = oip_pb.ModelInferRequest(model_name=spec.name)
    for tensor in spec.signature.inputs:
        array = spec.signature.example(1)[tensor.name]
        request.inputs.add(name=tensor.name, datatype=tensor.dtype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


async def test_every_model_of_the_process_is_listed_by_its_name(served: Any) -> None:
    index = (await served.peer.oip.RepositoryIndex(oip_pb.RepositoryIndexRequest(), timeout=20)).models
    names = {spec.name for spec in served.case.spec.models}
    assert {model.name for model in index} == set(served.context.models.names()) == names
    assert {f"model/{name}" for name in names} <= set(await served.peer.listed())


async def test_a_model_that_nobody_has_built_does_not_keep_the_others_from_serving(served: Any) -> None:
    for spec in missing(served):
        assert await served.peer.check(f"model/{spec.name}") == "NOT_SERVING"
        ready = await served.peer.oip.ModelReady(oip_pb.ModelReadyRequest(name=spec.name), timeout=20)
        assert not ready.ready
    assert await served.peer.check(served.case.spec.service_name) == "SERVING"
    assert (await served.peer.oip.ServerReady(oip_pb.ServerReadyRequest(), timeout=20)).ready


async def test_calls_that_need_a_missing_model_are_told_the_command_that_builds_it(served: Any) -> None:
    stub = served.peer.oip
    for spec in missing(served):
        for method, request in (
            (stub.ModelInfer, question(spec)),
            (stub.ModelMetadata, oip_pb.ModelMetadataRequest(name=spec.name)),
            (stub.RepositoryModelLoad, oip_pb.RepositoryModelLoadRequest(model_name=spec.name)),
        ):
            with pytest.raises(Precondition) as caught, mesh_errors():
                await method(request, timeout=20)
            assert caught.value.reason == ErrorReason.ERROR_REASON_MODEL_MISSING
            assert caught.value.facts == {"model": spec.name, "command": spec.build_command}
            assert spec.build_command in caught.value.message
