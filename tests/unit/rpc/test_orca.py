"""ORCA's bytes, held against the message as its .proto has it."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from meshcast.rpc import LoadReport
from meshcast.rpc.orca import encode, parse

_DOUBLE, _UINT64 = descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE, descriptor_pb2.FieldDescriptorProto.TYPE_UINT64
FIGURES = st.floats(0, 1e12)
REPORTS = st.builds(
    LoadReport,
    application_utilization=FIGURES,
    rps=FIGURES,
    eps=FIGURES,
    named_metrics=st.dictionaries(st.text(max_size=200), FIGURES, max_size=4),
)


def report_class() -> Any:
    """The message of xds/data/orca/v3/orca_load_report.proto (github.com/cncf/xds), made of its fields' numbers."""
    file = descriptor_pb2.FileDescriptorProto(name="orca.proto", package="xds.data.orca.v3", syntax="proto3")
    message = file.message_type.add(name="OrcaLoadReport")
    for name, number, kind in (
        ("cpu_utilization", 1, _DOUBLE),
        ("mem_utilization", 2, _DOUBLE),
        ("rps", 3, _UINT64),
        ("rps_fractional", 6, _DOUBLE),
        ("eps", 7, _DOUBLE),
        ("application_utilization", 9, _DOUBLE),
    ):
        message.field.add(name=name, number=number, type=kind, label=1)
    for name, number in (("request_cost", 4), ("utilization", 5), ("named_metrics", 8)):
        entry_name = "".join(part.capitalize() for part in name.split("_")) + "Entry"
        entry = message.nested_type.add(name=entry_name)
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=descriptor_pb2.FieldDescriptorProto.TYPE_STRING, label=1)
        entry.field.add(name="value", number=2, type=_DOUBLE, label=1)
        type_name = f".xds.data.orca.v3.OrcaLoadReport.{entry_name}"
        message.field.add(
            name=name,
            number=number,
            label=3,
            type=descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE,
            type_name=type_name,
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("xds.data.orca.v3.OrcaLoadReport"))


OrcaLoadReport = report_class()


@given(REPORTS)
def test_what_is_encoded_is_read_by_protobuf(report: LoadReport) -> None:
    message = OrcaLoadReport.FromString(encode(report))
    assert message.application_utilization == report.application_utilization
    assert message.rps_fractional == report.rps
    assert message.eps == report.eps
    assert dict(message.named_metrics) == report.named_metrics


@given(REPORTS, FIGURES, st.integers(0, 2**64 - 1), st.dictionaries(st.text(), FIGURES, max_size=2))
def test_what_protobuf_has_encoded_is_read(report: LoadReport, cpu: float, rps: int, cost: dict[str, float]) -> None:
    message = OrcaLoadReport(
        application_utilization=report.application_utilization,
        rps_fractional=report.rps,
        eps=report.eps,
        named_metrics=dict(report.named_metrics),
        cpu_utilization=cpu,
        rps=rps,
        request_cost=cost,
    )
    data = message.SerializeToString()
    assert parse(data) == report
    assert parse(data) is parse(bytes(data))  # read once


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_never_raise(data: bytes) -> None:
    parse(data)


@pytest.mark.parametrize(
    "data",
    [
        b"load",
        b"\x49\x00",
        b"\x08",
        b"\x00\x00",
        b"\x0b",
        bytes(5_000),
        encode(LoadReport(float("nan"))),
        encode(LoadReport(-1.0)),
        encode(LoadReport(rps=float("inf"))),
        b"\x42\x03\x0a\x01\xff",
    ],
)
def test_what_is_no_report_is_none(data: bytes) -> None:
    assert parse(data) is None


def test_nothing_is_an_idle_server() -> None:
    assert parse(b"") == LoadReport()
    assert encode(LoadReport()) == b""
