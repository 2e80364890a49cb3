"""REST of the Open Inference Protocol through the gateway, to a scripted model behind gRPC."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from meshcast.api.oip.v2 import grpc_service_pb2 as pb
from meshcast.api.oip.v2 import grpc_service_pb2_grpc as pb_grpc
from meshcast.gateway import RouteSettings
from meshcast.rpc import NotFound, RpcSettings, Server, ServingStatus

OIP = "inference.GRPCInferenceService"
HEADER = "inference-header-content-length"


class Doubling(pb_grpc.GRPCInferenceServiceServicer):
    """A model that gives each input twice over, as raw contents; keeps what it was asked.

    Attributes:
        asked: requests, as they came.
        is_ready: what it says of itself.
    """

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.is_ready = True

    async def ServerReady(self, request: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=self.is_ready)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return pb.ServerMetadataResponse(name="scripted", version="1", extensions=["model_repository"])

    async def ModelReady(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return pb.ModelReadyResponse(ready=request.name == "double" and request.version in ("", "3"))

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        if request.name != "double":
            raise NotFound(f"there is no model {request.name!r}")
        answer = pb.ModelMetadataResponse(name=request.name, versions=["3"], platform="scripted")
        answer.inputs.add(name="x", datatype="FP32", shape=[-1, 2])
        answer.properties["tolerance"] = "1e-05"
        return answer

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        answer = pb.ModelConfigResponse()
        answer.config.name = request.name
        answer.config.max_batch_size = 8
        return answer

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        answer = pb.RepositoryIndexResponse()
        answer.models.add(name="double", version="3", state="READY")
        return answer

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return pb.RepositoryModelUnloadResponse()

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        answer = pb.ModelInferResponse(model_name=request.model_name, model_version="3", id=request.id)
        answer.parameters["meshcast_queue_us"].int64_param = 5
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            shape = [2 * tensor.shape[0], *tensor.shape[1:]]
            answer.outputs.add(name=f"{tensor.name}_twice", datatype=tensor.datatype, shape=shape)
            answer.raw_output_contents.append(raw + raw)
        return answer


@asynccontextmanager
async def doubling() -> AsyncIterator[tuple[Any, Server]]:
    """The script and its server."""
    script: Any = Doubling()  # type: ignore[abstract]  # the stub's base answers the rest with UNIMPLEMENTED
    server = Server(
        RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=1.0),
        services=[lambda s: pb_grpc.add_GRPCInferenceServiceServicer_to_server(script, s)],
        service_names=[OIP],
    )
    async with server:
        for name in ("", OIP):
            server.health.set(name, ServingStatus.SERVING)
        yield script, server


@pytest.fixture
async def rest(open_door: Any) -> AsyncIterator[tuple[Any, Any]]:
    """(script, door)."""
    async with doubling() as (script, server):
        route = RouteSettings(services=(OIP,), endpoints=(server.address,))
        async with open_door(routes={"models": route}) as door:
            yield script, door


async def test_server_and_models_tell_about_themselves(rest: Any) -> None:
    script, door = rest
    server = (await door.ask("GET", "/v2")).json()
    assert server == {"name": "scripted", "version": "1", "extensions": ["model_repository", "binary_tensor_data"]}
    assert (await door.ask("GET", "/v2/health/live")).json() == {"live": True}
    ready = [await door.ask("GET", "/v2/health/ready")]
    script.is_ready = False
    ready.append(await door.ask("GET", "/v2/health/ready"))
    assert [(reply.status, reply.json()["ready"]) for reply in ready] == [(200, True), (400, False)]
    found = [
        (await door.ask("GET", f"/v2/models/{path}/ready")).status
        for path in ("double", "double/versions/3", "double/versions/4", "no%2Fbody")
    ]
    assert found == [200, 200, 400, 400]
    assert [(one.name, one.version) for one in script.asked][-1] == ("no/body", "")
    metadata = (await door.ask("GET", "/v2/models/double")).json()
    assert metadata == {
        "name": "double",
        "versions": ["3"],
        "platform": "scripted",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [],
        "properties": {"tolerance": "1e-05"},
    }
    assert (await door.ask("GET", "/v2/models/double/versions/3/config")).json() == {
        "name": "double",
        "max_batch_size": 8,
    }
    unknown = await door.ask("GET", "/v2/models/nobody")
    assert (unknown.status, unknown.json()["error"]) == (404, "there is no model 'nobody'")


async def test_tensors_in_json_nested_or_flat(rest: Any) -> None:
    script, door = rest
    body = {
        "id": "one",
        "parameters": {"priority": 1, "note": "x", "flag": True},
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2.5], ["NaN", "-Infinity"]]},
            {"name": "n", "datatype": "INT64", "shape": [2], "data": [1, "9007199254740993"]},
            {"name": "b", "datatype": "BOOL", "shape": [1], "data": [True]},
            {"name": "s", "datatype": "BYTES", "shape": [2], "data": ["hé", ""]},
        ],
    }
    reply = await door.ask("POST", "/v2/models/double/versions/3/infer", body)
    assert reply.status == 200, reply.body
    answer = reply.json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("one", "double", "3")
    assert answer["parameters"] == {"meshcast_queue_us": 5}
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["x_twice"] == {
        "name": "x_twice",
        "datatype": "FP32",
        "shape": [4, 2],
        "data": [1.0, 2.5, "NaN", "-Infinity"] * 2,
    }
    assert outputs["n_twice"]["data"] == [1, 9007199254740993] * 2
    assert outputs["b_twice"]["data"] == [True] * 2
    assert outputs["s_twice"]["data"] == ["hé", ""] * 2
    (asked,) = script.asked
    assert asked.model_version == "3"
    assert (asked.parameters["priority"].int64_param, asked.parameters["note"].string_param) == (1, "x")
    assert asked.parameters["flag"].bool_param is True


async def test_binary_tensors_both_ways(rest: Any) -> None:
    script, door = rest
    x = np.arange(6, dtype="<f4").reshape(3, 2)
    document: dict[str, Any] = {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [3, 2], "parameters": {"binary_data_size": x.nbytes}},
            {"name": "n", "datatype": "INT32", "shape": [1], "data": [7]},
        ],
        "outputs": [{"name": "x_twice", "parameters": {"binary_data": True}}, {"name": "n_twice"}],
    }
    text = json.dumps(document).encode()
    reply = await door.ask(
        "POST", "/v2/models/double/infer", text + x.tobytes(), {HEADER: str(len(text)), "content-type": "x/y"}
    )
    assert reply.status == 200, reply.body
    size = int(reply.headers[HEADER])
    first, second = json.loads(reply.body[:size])["outputs"]
    assert first["parameters"] == {"binary_data_size": 2 * x.nbytes} and "data" not in first
    assert second["data"] == [7, 7]
    assert reply.body[size:] == x.tobytes() * 2
    (asked,) = script.asked
    assert [output.name for output in asked.outputs] == ["x_twice", "n_twice"]
    assert not asked.inputs[0].parameters and not asked.outputs[0].parameters

    document = {"parameters": {"binary_data_output": True}, "inputs": [document["inputs"][1]]}
    reply = await door.ask("POST", "/v2/models/double/infer", document)
    assert reply.body[int(reply.headers[HEADER]) :] == struct.pack("<2i", 7, 7)


async def test_a_large_answer_is_whole(rest: Any) -> None:
    _, door = rest
    values = np.linspace(0, 1, 50_000, dtype="<f4")
    document = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [50_000], "data": values.tolist()}]}
    reply = await door.ask("POST", "/v2/models/double/infer", document)
    assert np.array_equal(np.array(reply.json()["outputs"][0]["data"], "<f4"), np.tile(values, 2))


async def test_the_repository_is_listed_and_controlled(rest: Any) -> None:
    script, door = rest
    index = await door.ask("POST", "/v2/repository/index", {"ready": True})
    assert index.json() == [{"name": "double", "version": "3", "state": "READY", "reason": ""}]
    load = await door.ask("POST", "/v2/repository/models/double/load", {"parameters": {"config": "{}"}})
    unload = await door.ask("POST", "/v2/repository/models/double/unload")
    assert (load.status, unload.status) == (200, 200)
    assert script.asked[0].ready is True
    assert script.asked[1].parameters["config"].string_param == "{}"
    assert script.asked[2].model_name == "double"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "no JSON"),
        (b"[]", "no JSON object"),
        (b'{"inputs": {}}', "inputs is a list"),
        (b'{"inputs": [5]}', "inputs[0] is an object"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}', "has no data"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1]}]}', "has 1 elements"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [[1], [1, 2]]}]}', "different lengths"),
        (b'{"inputs": [{"name": "x", "datatype": "INT8", "shape": [1], "data": [128]}]}', "no INT8"),
        (b'{"inputs": [{"name": "x", "datatype": "INT8", "shape": [1], "data": [1.5]}]}', "no INT8"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1e300]}]}', "no FP32"),
        (b'{"inputs": [{"name": "x", "datatype": "BOOL", "shape": [1], "data": [1]}]}', "no BOOL"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [null]}]}', "FP32"),
        (b'{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": [1]}]}', "no text"),
        (b'{"inputs": [{"name": "x", "datatype": "BF16", "shape": [1], "data": [1]}]}', "JSON cannot hold"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": ["1"], "data": [1]}]}', "whole numbers"),
        (
            b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 9}}]}',
            "bytes left",
        ),
        (b'{"parameters": {"a": [1]}, "inputs": []}', "no text, number or boolean"),
        (b'{"id": 5, "inputs": []}', "id is a text"),
        (b'{"id": "\\ud800", "inputs": []}', "surrogates"),
        (b'{"parameters": {"\\udfff": 1}, "inputs": []}', "surrogates"),
        (b'{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["\\ud800"]}]}', "surrogates"),
        (b'{"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": ["1_0"]}]}', "no INT64"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [" 1"]}]}', "no FP32"),
        (b'{"inputs": [' + b"9" * 5_000 + b"]}", "too many digits"),
        (b'{"inputs": ' + b"[" * 100_000, "nested too deeply"),
    ],
)
async def test_what_is_no_request_is_told_why(rest: Any, body: bytes, said: str) -> None:
    script, door = rest
    reply = await door.ask("POST", "/v2/models/double/infer", body, {"content-type": "application/json"})
    assert reply.status == 400
    assert said in reply.json()["error"]
    assert not script.asked


async def test_wrong_routes_and_ways_are_told(rest: Any) -> None:
    _, door = rest
    replies = [
        await door.ask("GET", "/v2/models/double/infer"),
        await door.ask("POST", "/v2/models/double/ready"),
        await door.ask("GET", "/v2/nothing"),
        await door.ask("GET", "/v2/models/double/stats"),
        await door.ask("POST", "/v2/models/double/infer", b"{}x", {HEADER: "9"}),
        await door.ask("POST", "/v2/models/double/infer", b"{}x", {HEADER: "2"}),
        await door.ask("POST", "/v2/models/double/infer", b"{}", {HEADER: "-2"}),
        await door.ask("GET", "/v2/models/infer"),  # a model's name, here
    ]
    assert [reply.status for reply in replies] == [405, 405, 404, 404, 400, 400, 400, 404]
    assert {"error", "code", "reason"} <= replies[0].json().keys()
    assert all(reply.json()["error"] for reply in replies)
