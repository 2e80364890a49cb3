"""Whatever bytes and claims arrive, the answer is a refusal with a meaning, never a bug's, and the server goes on."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshcast.api.oip.v2 import grpc_service_pb2 as pb

SERVICE = "/inference.GRPCInferenceService/"
UNARY = [method.name for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods]
UNARY.remove("ModelStreamInfer")

FORBIDDEN = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE}

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

sizes = st.one_of(st.integers(-3, 4), st.sampled_from([1 << 31, 1 << 32, 1 << 61, (1 << 63) - 1, -(1 << 63)]))
names = st.sampled_from(["history", "scale", "tag", "score", "", "x" * 300, "\u0000", "ü"])
datatypes = st.sampled_from(["FP32", "INT64", "FP16", "BF16", "BYTES", "BOOL", "", "fp32", "\n"])
parameters = st.dictionaries(
    st.sampled_from(["timeout", "priority", "sequence_id", "triton_x", "shared_memory_region", "own"]),
    st.one_of(
        st.builds(pb.InferParameter),
        st.builds(pb.InferParameter, int64_param=st.integers(-(1 << 63), (1 << 63) - 1)),
        st.builds(pb.InferParameter, uint64_param=st.integers(0, (1 << 64) - 1)),
        st.builds(pb.InferParameter, string_param=st.text(max_size=5)),
        st.builds(pb.InferParameter, double_param=st.floats()),
    ),
    max_size=2,
)
contents = st.builds(
    pb.InferTensorContents,
    fp32_contents=st.lists(st.floats(width=32), max_size=8),
    int64_contents=st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=4),
    bytes_contents=st.lists(st.binary(max_size=4), max_size=2),
)
inputs = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=names,
    datatype=datatypes,
    shape=st.lists(sizes, max_size=5),
    parameters=parameters,
    contents=st.one_of(st.none(), contents),
)
outputs = st.builds(pb.ModelInferRequest.InferRequestedOutputTensor, name=names, parameters=parameters)
requests = st.builds(
    pb.ModelInferRequest,
    model_name=st.sampled_from(["sums", "sums", "sums", "", "nobody"]),
    model_version=st.sampled_from(["", "", "2", "1", "-1", "٣", "x"]),
    id=st.text(max_size=8),
    parameters=parameters,
    inputs=st.lists(inputs, max_size=4),
    outputs=st.lists(outputs, max_size=3),
    raw_input_contents=st.lists(st.binary(max_size=64), max_size=4),
)


async def code_of(door: Any, method: str, data: bytes) -> grpc.StatusCode:
    """The status of a call that sends these bytes."""
    try:
        await door.channel.unary_unary(SERVICE + method)(data, timeout=20)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def stream_of(door: Any, *messages: bytes) -> tuple[grpc.StatusCode, list[pb.ModelStreamInferResponse]]:
    """The status of a stream that sends these messages, and what it answered."""
    found: list[pb.ModelStreamInferResponse] = []
    call = door.channel.stream_stream(SERVICE + "ModelStreamInfer")(iter(messages), timeout=20)
    try:
        async for answer in call:
            found.append(pb.ModelStreamInferResponse.FromString(answer))
    except grpc.aio.AioRpcError as error:
        return error.code(), found
    return grpc.StatusCode.OK, found


def sound(oip: Any) -> bytes:
    """A request that is answered."""
    data: bytes = oip.request_of(oip.inputs_of(2)).SerializeToString()
    return data


@pytest.mark.parametrize("method", UNARY)
@quick
@given(data=st.binary(max_size=80))
async def test_random_bytes_are_refused_with_a_meaning(door: Any, method: str, data: bytes) -> None:
    assert await code_of(door, method, data) not in FORBIDDEN


@quick
@given(data=st.data())
async def test_a_damaged_request_is_refused_or_answered(door: Any, oip: Any, data: st.DataObject) -> None:
    request = bytearray(sound(oip))
    for _ in range(data.draw(st.integers(1, 4))):
        request[data.draw(st.integers(0, len(request) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(request)))
    assert await code_of(door, "ModelInfer", bytes(request)) not in FORBIDDEN
    assert await code_of(door, "ModelInfer", bytes(request[:cut])) not in FORBIDDEN


@quick
@given(request=requests)
async def test_shapes_that_lie_are_refused(door: Any, request: pb.ModelInferRequest) -> None:
    data = request.SerializeToString()
    assert await code_of(door, "ModelInfer", data) not in FORBIDDEN
    code, answers = await stream_of(door, data)
    assert code is grpc.StatusCode.OK
    (answer,) = answers
    assert answer.infer_response.parameters["meshcast_code"].string_param not in {one.name for one in FORBIDDEN}


@quick
@given(
    name=st.sampled_from(["sums", "", "nobody", "../.."]),
    parameter=st.sampled_from(["config", "file:1/model.onnx", "x"]),
    text=st.one_of(st.text(max_size=40), st.from_regex(r'\{"version_policy": ?\{"(specific|latest|all)": .{0,20}')),
)
async def test_random_configurations_do_no_harm(door: Any, name: str, parameter: str, text: str) -> None:
    request = pb.RepositoryModelLoadRequest(model_name=name)
    request.parameters[parameter].string_param = text
    assert await code_of(door, "RepositoryModelLoad", request.SerializeToString()) not in FORBIDDEN


async def test_garbage_on_a_stream_ends_that_stream_only(door: Any, oip: Any) -> None:
    code, _ = await stream_of(door, sound(oip), b"\xff\xff\xff", sound(oip))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert await code_of(door, "ModelInfer", sound(oip)) is grpc.StatusCode.OK
