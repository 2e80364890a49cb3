"""Descriptions: this process's files, and foreign ones that are added."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from meshcast.api.type.v1 import status_pb2
from meshcast.rpc import Descriptions

STATUS_FILE = "meshcast/api/type/v1/status.proto"


def foreign() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="far/away.proto", package="far.away", dependency=[STATUS_FILE], syntax="proto3"
    )
    service = file.service.add(name="AwayService")
    service.method.add(name="Go", input_type=".far.away.GoRequest", output_type=".far.away.GoRequest")
    message = file.message_type.add(name="GoRequest")
    message.field.add(name="speed", number=1, type=descriptor_pb2.FieldDescriptorProto.TYPE_INT32)
    message.nested_type.add(name="Stop")
    message.enum_type.add(name="Gear").value.add(name="GEAR_UNSPECIFIED", number=0)
    return file


@pytest.mark.parametrize(
    "symbol",
    [
        "meshcast.api.type.v1.Status",
        "meshcast.api.type.v1.Status.message",
        "meshcast.api.type.v1.FieldViolation",
    ],
)
def test_a_symbol_of_this_process_is_found_in_its_file(symbol: str) -> None:
    assert status_pb2.DESCRIPTOR.package == "meshcast.api.type.v1"
    assert Descriptions().file_of_symbol(symbol) == STATUS_FILE


@pytest.mark.parametrize(
    "symbol",
    [
        "far.away.AwayService",
        "far.away.AwayService.Go",
        "far.away.GoRequest",
        "far.away.GoRequest.speed",
        "far.away.GoRequest.Stop",
        "far.away.GoRequest.Gear",
        "far.away.GoRequest.GEAR_UNSPECIFIED",
    ],
)
def test_a_foreign_symbol_is_found_once_its_file_is_added(symbol: str) -> None:
    descriptions = Descriptions()
    assert descriptions.file_of_symbol(symbol) is None
    descriptions.add([foreign().SerializeToString()])
    assert descriptions.file_of_symbol(symbol) == "far/away.proto"
    assert descriptions.imports("far/away.proto") == (STATUS_FILE,)


def test_a_foreign_file_does_not_replace_one_of_this_process() -> None:
    descriptions = Descriptions()
    descriptions.add([descriptor_pb2.FileDescriptorProto(name=STATUS_FILE, package="not.ours")])
    assert descriptions.file(STATUS_FILE) == status_pb2.DESCRIPTOR.serialized_pb


def test_extensions_are_found_by_message_and_number() -> None:
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(name="ext.proto", package="ext", syntax="proto2")
    message = file.message_type.add(name="Open")
    message.extension_range.add(start=100, end=200)
    file.extension.add(
        name="more",
        number=120,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
        label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
        extendee=".ext.Open",
    )
    pool.AddSerializedFile(file.SerializeToString())
    descriptions = Descriptions(pool)
    assert descriptions.file_of_extension("ext.Open", 120) == "ext.proto"
    assert descriptions.file_of_extension("ext.Open", 121) is None
    assert descriptions.extension_numbers("ext.Open") == [120]
    assert descriptions.extension_numbers("ext.None") is None
