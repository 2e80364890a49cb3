"""The process of a service: started as a user starts it, in an interpreter of its own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from meshcast.rpc import InvalidInput, NotFound
from meshcast.runtime import RuntimeSettings, find_service, find_services

SERVES = """
import asyncio, json, sys
from pathlib import Path

import grpc
import numpy as np

from meshcast.api.oip.v2 import grpc_service_pb2 as pb, grpc_service_pb2_grpc as pb_grpc
from meshcast.rpc import Precondition, RpcSettings, mesh_errors
from meshcast.runtime import ModelSpec, Repository, RuntimeSettings, ServiceSpec
from meshcast.runtime.main import serving

root, large, state, backend = sys.argv[1:]

async def main():
    signature = Repository(Path(root)).evidence("small", 1).signature
    spec = ServiceSpec(
        name="small", model="nowhere:Small", signature=signature, register=lambda servicer, server: None,
        servicer=lambda context: object(), service_name="meshcast.test.Small", shipped=Path(root),
        also=(
            ModelSpec(name="large", model="nowhere:Large", signature=signature, shipped=Path(large)),
            ModelSpec(name="absent", model="no:No", signature=signature, is_optional=True, build_command="ask"),
        ),
    )
    settings = RuntimeSettings(state_dir=Path(state), choose_s=0.05, backend=backend)
    rpc = RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=1.0)
    async with serving(spec, settings, rpc) as (server, context):
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = pb_grpc.GRPCInferenceServiceStub(channel)

            def ask(name):
                request = pb.ModelInferRequest(model_name=name)
                for tensor in signature.inputs:
                    array = np.ones((2, *tensor.shape), np.float32)
                    request.inputs.add(name=tensor.name, datatype=tensor.dtype, shape=array.shape)
                    request.raw_input_contents.append(array.tobytes())
                return stub.ModelInfer(request)

            answers = [await ask(name) for name in ("small", "large")]
            try:
                with mesh_errors():
                    await ask("absent")
            except Precondition as error:
                refusal = error.reason_name, error.facts
            index = (await stub.RepositoryIndex(pb.RepositoryIndexRequest())).models
            is_ready = (await stub.ServerReady(pb.ServerReadyRequest())).ready
        states = {name: status.name for name, status in server.health.statuses().items()}
    after = {name: status.name for name, status in server.health.statuses().items()}
    heavy = [name for name in ("torch", "onnx", "onnxscript", "scipy", "pandas") if name in sys.modules]
    print(
        json.dumps(
            {
                "versions": [answer.model_version for answer in answers],
                "refusal": refusal,
                "index": {one.name: [one.state, one.reason] for one in index},
                "is_ready": is_ready,
                "states": states,
                "after": after,
                "heavy": heavy,
            }
        )
    )

asyncio.run(main())
"""


@pytest.mark.parametrize("backend", ["auto", "onnxruntime", "openvino"])
def test_a_process_serves_its_models_without_torch_and_says_how_to_build_the_one_that_is_missing(
    small: Any, tmp_path: Path, backend: str
) -> None:
    large = tmp_path / "large"
    for kind in ("models", "meta"):
        shutil.copytree(small.root / kind / "small" / "1", large / kind / "large" / "1")
    ran = subprocess.run(
        [sys.executable, "-c", SERVES, str(small.root), str(large), str(tmp_path / "state"), backend],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["heavy"] == []
    assert told["versions"] == ["2", "1"]
    assert told["refusal"] == ["ERROR_REASON_MODEL_MISSING", {"model": "absent", "command": "ask"}]
    assert told["index"]["small"] == told["index"]["large"] == ["READY", ""]
    assert told["index"]["absent"] == ["UNAVAILABLE", "Model absent is not on this host; build it with: ask"]
    assert told["is_ready"] and told["states"]["model/absent"] == "NOT_SERVING"
    names = {"", "meshcast.test.Small", "inference.GRPCInferenceService", "model/small", "model/small/2"}
    names |= {"model/large", "model/large/1"}
    assert names <= {name for name, state in told["states"].items() if state == "SERVING"}
    assert {told["after"][name] for name in names} == {"NOT_SERVING"}


def test_an_unknown_service_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(NotFound, match="predictor"):
        find_service("nobody")
    assert "predictor" in find_services()


def test_the_command_fails_with_one_line_for_an_unknown_setting() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "meshcast.services", "predictor", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "", "MESHCAST_RUNTIME_RUNS_MAKS": "1"},
    )
    assert ran.returncode == 2
    assert "MESHCAST_RUNTIME_RUNS_MAKS" in ran.stderr and "runs_max" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_settings_that_make_no_sense_are_refused() -> None:
    for values in ({"rows_max": 0}, {"poll_s": 0.0}, {"wait_ms_max": -1.0}):
        with pytest.raises((ValueError, InvalidInput)):
            RuntimeSettings(**values)
