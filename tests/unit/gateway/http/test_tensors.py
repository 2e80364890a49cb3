"""Tensors between JSON, binary data and messages: what goes in comes out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from meshcast.api.oip.v2 import grpc_service_pb2 as pb
from meshcast.gateway.http.tensors import DTYPES, Wanted, read_request, write_response
from meshcast.rpc import InvalidInput


def echoed(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """The answer of a model that gives what it takes."""
    answer = pb.ModelInferResponse(model_name="m", model_version="1")
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        answer.raw_output_contents.append(raw)
    return answer


@given(st.data(), st.sampled_from(sorted(DTYPES)), st.booleans())
def test_every_array_comes_back_as_it_went(data: Any, datatype: str, is_nested: bool) -> None:
    dtype = DTYPES[datatype]
    array = data.draw(st_numpy.arrays(dtype, st_numpy.array_shapes(max_dims=3, max_side=4)))
    finite = array if dtype.kind != "f" else np.where(np.isfinite(array), array, 0).astype(dtype)
    values = finite.tolist() if is_nested else finite.ravel().tolist()
    body = {"inputs": [{"name": "x", "datatype": datatype, "shape": list(finite.shape), "data": values}]}
    request, wanted = read_request(json.dumps(body).encode(), None, model="m", version="")
    assert request.raw_input_contents[0] == np.ascontiguousarray(finite).tobytes()
    told, size = write_response(echoed(request), wanted)
    assert size is None
    (output,) = json.loads(told)["outputs"]
    assert np.array_equal(np.array(output["data"], dtype).reshape(finite.shape), finite)


@given(st.lists(st.text()))
def test_every_text_comes_back_as_it_went(texts: list[str]) -> None:
    texts = [text.encode(errors="replace").decode() for text in texts]
    body = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [len(texts)], "data": texts}]}
    request, wanted = read_request(json.dumps(body).encode(), None, model="m", version="")
    told, _ = write_response(echoed(request), wanted)
    assert json.loads(told)["outputs"][0]["data"] == texts


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_nothing_else(body: bytes) -> None:
    try:
        read_request(body, None, model="m", version="")
    except InvalidInput:
        pass


@pytest.mark.parametrize("header_bytes", [0, 1, 5, 10_000])
def test_a_wrong_size_of_the_json_is_refused(header_bytes: int) -> None:
    with pytest.raises(InvalidInput):
        read_request(b'{"inputs": []} ', header_bytes, model="m", version="")


def test_numbers_that_json_has_not_are_texts_both_ways() -> None:
    body = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [3], "data": ["NaN", "Infinity", "-Infinity"]}]}
    request, wanted = read_request(json.dumps(body).encode(), None, model="m", version="")
    told, _ = write_response(echoed(request), wanted)
    assert json.loads(told, parse_constant=pytest.fail)["outputs"][0]["data"] == ["NaN", "Infinity", "-Infinity"]


def test_outputs_of_a_foreign_server_may_be_typed_or_bf16() -> None:
    answer = pb.ModelInferResponse(model_name="m")
    answer.outputs.add(name="x", datatype="FP32", shape=[2]).contents.fp32_contents.extend([1.5, 2.5])
    answer.outputs.add(name="s", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"text")
    told, _ = write_response(answer, Wanted(all=False))
    assert [output["data"] for output in json.loads(told)["outputs"]] == [[1.5, 2.5], ["text"]]
    answer = pb.ModelInferResponse(model_name="m", raw_output_contents=[b"\xc0\x3f"])
    answer.outputs.add(name="x", datatype="BF16", shape=[1])
    told, _ = write_response(answer, Wanted(all=False))
    assert json.loads(told)["outputs"][0]["data"] == [1.5]
