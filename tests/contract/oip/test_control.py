"""Server, model and repository as the Open Inference Protocol shows and changes them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format

from meshcast.api.oip.v2 import grpc_service_pb2 as pb
from meshcast.api.oip.v2 import model_config_pb2
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import CorruptData, InvalidInput, MeshError, NotFound, Precondition, Unimplemented, mesh_errors


async def load(door: Any, config: str | None = None, **fields: Any) -> None:
    """Loads the model, perhaps with a configuration."""
    request = pb.RepositoryModelLoadRequest(model_name="sums")
    if config is not None:
        request.parameters["config"].string_param = config
    request.MergeFrom(pb.RepositoryModelLoadRequest(**fields))
    with mesh_errors():
        await door.stub.RepositoryModelLoad(request, timeout=30)


async def states(door: Any, **fields: Any) -> dict[str, tuple[str, str]]:
    """State and reason by version."""
    answer = await door.stub.RepositoryIndex(pb.RepositoryIndexRequest(**fields), timeout=10)
    assert {entry.name for entry in answer.models} <= {"sums"}
    return {entry.version: (entry.state, entry.reason) for entry in answer.models}


async def ready(door: Any, version: str = "", name: str = "sums") -> bool:
    """What ModelReady says."""
    answer = await door.stub.ModelReady(pb.ModelReadyRequest(name=name, version=version), timeout=10)
    return bool(answer.ready)


async def test_readiness_follows_the_model(open_door: Any) -> None:
    door = await open_door(load=False)
    assert (await door.stub.ServerLive(pb.ServerLiveRequest(), timeout=10)).live
    assert not (await door.stub.ServerReady(pb.ServerReadyRequest(), timeout=10)).ready
    assert not await ready(door)
    await load(door)
    assert (await door.stub.ServerReady(pb.ServerReadyRequest(), timeout=10)).ready
    assert await ready(door) and await ready(door, "2")
    assert not await ready(door, "1")
    assert not await ready(door, name="nobody")


async def test_what_the_server_says_of_itself_is_true(door: Any) -> None:
    about = await door.stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=10)
    assert (about.name, bool(about.version)) == ("meshcast", True)
    assert set(about.extensions) == {
        "model_configuration",
        "model_repository",
        "model_repository(unload_dependents)",
        "schedule_policy",
    }


async def test_metadata_describes_tensors_versions_and_evidence(door: Any) -> None:
    about = await door.stub.ModelMetadata(pb.ModelMetadataRequest(name="sums"), timeout=10)
    assert [(t.name, t.datatype, list(t.shape)) for t in about.inputs] == [
        ("history", "FP32", [-1, 3, 2]),
        ("scale", "FP32", [-1]),
        ("tag", "INT64", [-1, 1]),
    ]
    assert [(t.name, list(t.shape)) for t in about.outputs] == [("score", [-1]), ("pair", [-1, 2])]
    assert list(about.versions) == ["2"]
    assert about.platform == "onnxruntime_onnx"
    assert about.properties["backend"] == "onnxruntime/cpu/f32"
    assert json.loads(about.properties["candidates"])[0]["accepted"] is True
    for name, version, reason in (
        ("nobody", "", ErrorReason.ERROR_REASON_MODEL_UNKNOWN),
        ("sums", "9", ErrorReason.ERROR_REASON_VERSION_UNKNOWN),
    ):
        for method, request in (
            (door.stub.ModelMetadata, pb.ModelMetadataRequest(name=name, version=version)),
            (door.stub.ModelConfig, pb.ModelConfigRequest(name=name, version=version)),
        ):
            with pytest.raises(NotFound) as caught, mesh_errors():
                await method(request, timeout=10)
            assert caught.value.reason == reason


async def test_the_configuration_states_tensors_batching_and_policy(door: Any) -> None:
    config = (await door.stub.ModelConfig(pb.ModelConfigRequest(name="sums"), timeout=10)).config
    assert (config.name, config.backend, config.max_batch_size) == ("sums", "onnxruntime", 256)
    assert [(t.name, list(t.dims)) for t in config.input] == [("history", [3, 2]), ("scale", []), ("tag", [1])]
    assert config.input[2].data_type == model_config_pb2.TYPE_INT64
    assert config.version_policy.latest.num_versions == 1
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert config.dynamic_batching.priority_levels == 3
    assert config.dynamic_batching.default_queue_policy.default_timeout_microseconds == 10_000_000


async def test_a_load_follows_the_policy_that_it_brings_and_the_next_one_the_stored_policy(door: Any) -> None:
    outside = "the version policy does not ask for it"
    assert await states(door) == {"1": ("UNAVAILABLE", outside), "2": ("READY", "")}
    await load(door, '{"version_policy": {"specific": {"versions": ["1"]}}}')
    assert await states(door) == {"1": ("READY", ""), "2": ("UNAVAILABLE", outside)}
    config = (await door.stub.ModelConfig(pb.ModelConfigRequest(name="sums"), timeout=10)).config
    assert list(config.version_policy.specific.versions) == [1]
    await load(door, '{"version_policy": {"all": {}}}')
    assert await states(door) == {"1": ("READY", ""), "2": ("READY", "")}
    await load(door)
    assert await states(door, ready=True) == {"2": ("READY", "")}


async def test_a_new_version_is_shown_and_then_loaded(door: Any, oip: Any) -> None:
    door.install(3)
    assert (await states(door))["3"][0] == "UNAVAILABLE"
    await load(door)
    assert (await states(door, ready=True)) == {"3": ("READY", "")}
    assert (await door.infer(oip.inputs_of(1))).model_version == "3"


async def test_an_unload_answers_nobody_any_longer_and_a_load_brings_it_back(door: Any, oip: Any) -> None:
    request = pb.RepositoryModelUnloadRequest(model_name="sums")
    request.parameters["unload_dependents"].bool_param = True
    await door.stub.RepositoryModelUnload(request, timeout=20)
    assert await states(door) == {version: ("UNAVAILABLE", "it was unloaded") for version in ("1", "2")}
    assert await states(door, ready=True) == {}
    assert not await ready(door)
    with pytest.raises(Precondition), mesh_errors():
        await door.infer(oip.inputs_of(1))
    with pytest.raises(Precondition), mesh_errors():
        await door.stub.ModelConfig(pb.ModelConfigRequest(name="sums"), timeout=10)
    await load(door)
    assert (await door.infer(oip.inputs_of(1))).model_version == "2"


async def test_a_damaged_version_is_refused_with_its_reason_and_the_old_one_goes_on(door: Any, oip: Any) -> None:
    door.install(3)
    path = door.repository.paths("sums", 3).version_dir / "model.onnx"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorruptData) as caught:
        await load(door)
    assert caught.value.facts["version"] == "3"
    found = await states(door)
    assert found["3"][0] == "UNAVAILABLE" and "model.onnx" in found["3"][1]
    assert found["2"] == ("READY", "")
    assert (await door.infer(oip.inputs_of(1))).model_version == "2"


async def test_a_model_without_any_version_is_shown_without_one(open_door: Any) -> None:
    door = await open_door(versions=(), load=False)
    assert await states(door) == {"": ("UNAVAILABLE", "not loaded")}
    with pytest.raises(NotFound):
        await load(door)


async def test_the_whole_configuration_can_be_sent_back_unchanged(door: Any) -> None:
    config = (await door.stub.ModelConfig(pb.ModelConfigRequest(name="sums"), timeout=10)).config
    await load(door, json_format.MessageToJson(config))
    await load(door, json_format.MessageToJson(config, preserving_proto_field_name=True))
    await load(door, json_format.MessageToJson(door.repository.config("sums")))


@pytest.mark.parametrize(
    "config",
    [
        "",
        "{",
        "[]",
        '"latest"',
        '{"versions": [1]}',
        '{"max_batch_size": 7}',
        '{"name": "another"}',
        '{"input": []  , "backend": "tensorrt"}',
        '{"version_policy": {"specific": {"versions": []}}}',
        '{"version_policy": {"specific": {"versions": [-1]}}}',
        '{"version_policy": {"latest": {"num_versions": -1}}}',
        '{"version_policy": {"latest": {"num_versions": ' + "9" * 5_000 + "}}}",
        "[" * 60_000,
        " " * 100_000,
    ],
)
async def test_a_configuration_that_a_load_cannot_follow_is_refused(door: Any, config: str) -> None:
    with pytest.raises(InvalidInput):
        await load(door, config)
    assert await states(door, ready=True) == {"2": ("READY", "")}


async def test_wrong_names_parameters_and_repositories_are_refused(door: Any) -> None:
    unload = door.stub.RepositoryModelUnload
    number = pb.ModelRepositoryParameter(int64_param=1)
    cases: list[tuple[type[MeshError], Any, Any]] = [
        (NotFound, door.stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name="nobody")),
        (NotFound, door.stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name="../sums")),
        (NotFound, unload, pb.RepositoryModelUnloadRequest(model_name="nobody")),
        (Unimplemented, unload, pb.RepositoryModelUnloadRequest(model_name="sums", repository_name="other")),
        (Unimplemented, door.stub.RepositoryIndex, pb.RepositoryIndexRequest(repository_name="other")),
        (InvalidInput, unload, pb.RepositoryModelUnloadRequest(model_name="sums", parameters={"force": number})),
        (
            InvalidInput,
            unload,
            pb.RepositoryModelUnloadRequest(model_name="sums", parameters={"unload_dependents": number}),
        ),
    ]
    refused: dict[str, type[MeshError]] = {
        "config": InvalidInput,
        "configuration": InvalidInput,
        "file:1/model.onnx": Unimplemented,
    }
    for name, kind in refused.items():
        request = pb.RepositoryModelLoadRequest(model_name="sums", parameters={name: number})
        cases.append((kind, door.stub.RepositoryModelLoad, request))
    for kind, method, request in cases:
        with pytest.raises(kind), mesh_errors():
            await method(request, timeout=10)
    with pytest.raises(NotFound) as caught:
        await load(door, '{"version_policy": {"specific": {"versions": [1, 5]}}}')
    assert caught.value.facts["version"] == "5"
    assert await states(door, ready=True) == {"2": ("READY", "")}
