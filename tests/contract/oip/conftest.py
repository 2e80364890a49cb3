"""A small model behind the Open Inference Protocol, on a real server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from meshcast.api.oip.v2 import grpc_service_pb2 as pb
from meshcast.api.oip.v2 import grpc_service_pb2_grpc as pb_grpc
from meshcast.rpc import RpcSettings, Server, ServingStatus, channel
from meshcast.runtime import (
    Evidence,
    Model,
    Models,
    Recorded,
    Repository,
    RuntimeSettings,
    Signature,
    TapRecord,
    TensorSpec,
)
from meshcast.runtime.evidence import sha256
from meshcast.runtime.oip import OIP_SERVICE, add_oip

SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="history", shape=(3, 2), description="steps of two features"),
        TensorSpec(name="scale", description="a factor"),
        TensorSpec(name="tag", dtype="INT64", shape=(1,), description="added as it is"),
    ),
    outputs=(
        TensorSpec(name="score", description="sum of the history times scale, plus tag, plus the version"),
        TensorSpec(name="pair", shape=(2,), description="sums of the two features"),
    ),
)


def outputs_of(arrays: Mapping[str, NDArray[Any]], version: int) -> dict[str, NDArray[np.float32]]:
    """What the model of a version gives."""
    history = arrays["history"].astype(np.float32)
    score = history.sum(axis=(1, 2)) * arrays["scale"] + arrays["tag"][:, 0] + version
    return {"score": score.astype(np.float32), "pair": history.sum(axis=1)}


def inputs_of(rows: int, *, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Random inputs."""
    rng = np.random.default_rng(seed)
    return {
        "history": rng.normal(size=(rows, 3, 2)).astype(np.float32),
        "scale": rng.normal(size=(rows,)).astype(np.float32),
        "tag": rng.integers(0, 9, size=(rows, 1)).astype(np.int64),
    }


def request_of(arrays: Mapping[str, NDArray[Any]], **fields: Any) -> pb.ModelInferRequest:
    """The request that asks for them, with raw contents."""
    request = pb.ModelInferRequest(model_name="sums", **fields)
    for name, array in arrays.items():
        datatype = {"f": "FP32", "i": "INT64"}[array.dtype.kind]
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


def arrays_of(response: pb.ModelInferResponse) -> dict[str, NDArray[np.float32]]:
    """The outputs of an answer, by name."""
    return {
        output.name: np.frombuffer(raw, dtype="<f4").reshape(tuple(output.shape))
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


async def until(holds: Callable[[], bool]) -> None:
    """Waits until something holds that tells nobody when it does."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.001)


def install(repository: Repository, version: int) -> None:
    """Puts a version of the model in place, with evidence, as an export would."""
    weights: dict[str, NDArray[Any]] = {
        "version": np.array([version], dtype=np.float32),
        "both": np.array([1, 2], dtype=np.int64),
        "steps": np.array([1], dtype=np.int64),
    }
    nodes = [
        helper.make_node("ReduceSum", ["history", "both"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["history", "steps"], ["pair"], keepdims=0),
        helper.make_node("Mul", ["total", "scale"], ["scaled"]),
        helper.make_node("Cast", ["tag"], ["tags"], to=TensorProto.FLOAT),
        helper.make_node("Squeeze", ["tags", "steps"], ["flat"]),
        helper.make_node("Add", ["scaled", "flat"], ["tagged"]),
        helper.make_node("Add", ["tagged", "version"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "sums",
        [
            helper.make_tensor_value_info("history", TensorProto.FLOAT, ["rows", 3, 2]),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, ["rows"]),
            helper.make_tensor_value_info("tag", TensorProto.INT64, ["rows", 1]),
        ],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows"]),
            helper.make_tensor_value_info("pair", TensorProto.FLOAT, ["rows", 2]),
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inputs = inputs_of(64)
    with repository.install("sums", SIGNATURE, version=version) as staged:
        onnx.save(model, staged.version_dir / "model.onnx")
        Recorded(inputs=inputs, outputs=outputs_of(inputs, version)).save(staged.meta_dir / "recorded.npz")
        files = (staged.version_dir / "model.onnx", staged.meta_dir / "recorded.npz")
        Evidence(
            signature=SIGNATURE,
            graph="sums",
            files={path.name: sha256(path) for path in files},
            proofs=(),
            versions={},
            exported_at="2026-01-01T00:00:00+00:00",
        ).save(staged.meta_dir / "export.json")


@dataclass
class Door:
    """A running server with the model `sums`, and a stub of ours to it."""

    address: str
    model: Model
    repository: Repository
    stub: Any  # the stubs' synchronous base hides the calls of grpc.aio
    channel: grpc.aio.Channel
    runs: list[TapRecord]

    def install(self, version: int) -> None:
        """Puts a further version into the repository; it is not loaded."""
        install(self.repository, version)

    async def infer(self, arrays: Mapping[str, NDArray[Any]], **fields: Any) -> pb.ModelInferResponse:
        """One unary call."""
        answer: pb.ModelInferResponse = await self.stub.ModelInfer(request_of(arrays, **fields), timeout=20)
        return answer


Open = Callable[..., Awaitable[Door]]


@pytest.fixture
async def open_door(tmp_path: Path) -> AsyncIterator[Open]:
    """Starts a server with versions of the model `sums`: `await open_door(versions=(1, 2), load=True, **settings)`."""
    async with AsyncExitStack() as stack:

        async def start(*, versions: tuple[int, ...] = (1, 2), load: bool = True, **settings: Any) -> Door:
            repository = Repository(tmp_path / "repository")
            for version in versions:
                install(repository, version)
            runs: list[TapRecord] = []
            model = await stack.enter_async_context(
                Model(
                    name="sums",
                    signature=SIGNATURE,
                    repository=repository,
                    settings=RuntimeSettings(
                        state_dir=tmp_path / "state", backend="onnxruntime", runs_max=1, **settings
                    ),
                    taps=[runs.append],
                )
            )
            if load:
                await model.load()
            server = await stack.enter_async_context(
                Server(
                    RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=1.0),
                    services=[lambda server: add_oip(server, Models([model]), default_deadline_s=10.0)],
                    service_names=[OIP_SERVICE],
                )
            )
            server.health.set("", ServingStatus.SERVING)
            opened = await stack.enter_async_context(channel(server.address))
            stub = pb_grpc.GRPCInferenceServiceStub(opened)
            return Door(server.address, model, repository, stub, opened, runs)

        yield start


@pytest.fixture
async def door(open_door: Open) -> Door:
    """A running server with versions 1 and 2 of the model `sums`; 2 is live."""
    return await open_door()


@pytest.fixture
def oip() -> Any:
    """What tests need to ask and to check: `inputs_of`, `outputs_of`, `request_of`, `arrays_of`, `until`."""
    return sys.modules[__name__]
