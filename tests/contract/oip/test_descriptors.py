"""Our protocol is Triton's: every message, field, enum and method that both have is the same, by its descriptors."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, json_format

from meshcast.api.oip.v2 import grpc_service_pb2, model_config_pb2

File = dict[str, Any]

ADDED = {("ModelMetadataResponse", "properties")}
"""Fields of the Open Inference Protocol that Triton's form of it lacks."""

NOT_SERVED = {
    "ModelStatistics",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
    "LogSettings",
}
"""Methods of Triton's that are no part of this server, and are not advertised."""


@pytest.fixture(scope="module")
def triton(triton_python: Path) -> dict[str, File]:
    """Triton's files by name."""
    script = Path(__file__).with_name("triton_descriptors.py")
    run = subprocess.run([str(triton_python), str(script)], capture_output=True, text=True, check=True, timeout=60)
    files: dict[str, File] = json.loads(run.stdout)
    return files


@pytest.fixture(scope="module")
def ours() -> dict[str, File]:
    """Our files, by the names that Triton gives them."""
    files = {}
    for module in (model_config_pb2, grpc_service_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        files[file.name.rpartition("/")[2]] = json_format.MessageToDict(file, preserving_proto_field_name=True)
    return files


def messages(file: File) -> dict[str, Any]:
    """Every message of a file by its full name, nested ones included."""

    def walk(message: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        name = f"{prefix}{message['name']}"
        yield name, message
        for nested in message.get("nested_type", ()):
            yield from walk(nested, f"{name}.")

    return dict(pair for message in file["message_type"] for pair in walk(message, ""))


def fields(message: Any) -> dict[str, Any]:
    """What matters of a message's fields on the wire and in code, by name."""
    oneofs = [oneof["name"] for oneof in message.get("oneof_decl", ())]
    return {
        field["name"]: {
            "number": field["number"],
            "type": field["type"],
            "label": field["label"],
            "type_name": field.get("type_name"),
            "oneof": oneofs[field["oneof_index"]] if "oneof_index" in field else None,
            "options": field.get("options"),
        }
        for field in message.get("field", ())
    }


def enums(file: File) -> dict[str, dict[str, int]]:
    """Every enum of a file by its full name."""

    def values(enum: Any) -> dict[str, int]:
        return {value["name"]: value.get("number", 0) for value in enum["value"]}

    found = {enum["name"]: values(enum) for enum in file.get("enum_type", ())}
    for name, message in messages(file).items():
        found |= {f"{name}.{enum['name']}": values(enum) for enum in message.get("enum_type", ())}
    return found


def test_the_model_configuration_is_whole_and_the_same(triton: dict[str, File], ours: dict[str, File]) -> None:
    theirs, mine = triton["model_config.proto"], ours["model_config.proto"]
    assert mine["package"] == theirs["package"] == "inference"
    assert {name: fields(message) for name, message in messages(mine).items()} == {
        name: fields(message) for name, message in messages(theirs).items()
    }
    assert enums(mine) == enums(theirs)


def test_every_message_of_the_service_is_the_same_field_for_field(
    triton: dict[str, File], ours: dict[str, File]
) -> None:
    theirs, mine = messages(triton["grpc_service.proto"]), messages(ours["grpc_service.proto"])
    for name, message in mine.items():
        if name.startswith("ModelMetadataResponse.Properties"):  # the entry of the added map
            continue
        own = {field: value for field, value in fields(message).items() if (name, field) not in ADDED}
        assert own == fields(theirs[name]), name


def test_every_method_of_triton_is_served_or_known_to_be_missing(
    triton: dict[str, File], ours: dict[str, File]
) -> None:
    (their_service,), (my_service,) = (files["grpc_service.proto"]["service"] for files in (triton, ours))
    assert my_service["name"] == their_service["name"]

    def shapes(service: Any) -> dict[str, Any]:
        keys = ("input_type", "output_type", "client_streaming", "server_streaming")
        return {method["name"]: {key: method.get(key) for key in keys} for method in service["method"]}

    theirs, mine = shapes(their_service), shapes(my_service)
    assert mine == {name: shape for name, shape in theirs.items() if name not in NOT_SERVED}
    assert set(theirs) - set(mine) == NOT_SERVED
