"""ORCA: what a server tells about its load with each answer, in the bytes that gRPC's own balancers read.

Source: xds/data/orca/v3/orca_load_report.proto of https://github.com/cncf/xds, and gRPC proposals A51 and A58. So few
of its fields are needed that no stubs are.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from .varint import read_varint, varint

NATIVE_TRAILER = "endpoint-load-metrics-bin"
"""Metadata key of the report for gRPC's own balancers, which keep it from the application."""
TRAILER = "x-meshcast-load-bin"
"""Metadata key of the same bytes for a balancer of ours, the gateway's."""

_RPS, _EPS, _NAMED, _APPLICATION = 6, 7, 8, 9  # rps_fractional, eps, named_metrics, application_utilization
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_REPORT_BYTES_MAX = 4_096
_DOUBLE = struct.Struct("<d")


@dataclass(frozen=True, slots=True)
class LoadReport:
    """A server's load, averaged over about a second.

    Attributes:
        application_utilization: share of what the server can do that is in use; more than 1 where work waits.
        rps: calls that ended, a second.
        eps: those that the server itself failed, a second.
        named_metrics: further figures, as `queue_rows`: rows that wait for a run.
    """

    application_utilization: float = 0.0
    rps: float = 0.0
    eps: float = 0.0
    named_metrics: Mapping[str, float] = field(default_factory=dict)


def encode(report: LoadReport) -> bytes:
    """The report as an encoded `xds.data.orca.v3.OrcaLoadReport`; a field of 0 takes no bytes."""
    parts = []
    for number, value in ((_RPS, report.rps), (_EPS, report.eps), (_APPLICATION, report.application_utilization)):
        if value:
            parts.append(bytes((number << 3 | _FIXED64,)) + _DOUBLE.pack(value))
    for name, value in report.named_metrics.items():
        key = name.encode()
        entry = b"\x0a" + varint(len(key)) + key + b"\x11" + _DOUBLE.pack(value)
        parts.append(bytes((_NAMED << 3 | _BYTES,)) + varint(len(entry)) + entry)
    return b"".join(parts)


@lru_cache(maxsize=256)  # a server says the same for a while
def parse(data: bytes) -> LoadReport | None:
    """Reads an encoded `xds.data.orca.v3.OrcaLoadReport`; None where the bytes are none, or a figure is no number.

    Fields that `LoadReport` does not have are passed over. Equal bytes give the same object, which must not be changed.
    """
    if len(data) > _REPORT_BYTES_MAX:
        return None
    figures: dict[int, float] = {}
    named: dict[str, float] = {}
    try:
        for number, kind, value in _fields(data):
            if kind == _FIXED64 and number in (_RPS, _EPS, _APPLICATION):
                figures[number] = _number(value)
            elif kind == _BYTES and number == _NAMED:
                entry = {(key, of): part for key, of, part in _fields(value)}
                named[entry.get((1, _BYTES), b"").decode()] = _number(entry.get((2, _FIXED64), bytes(8)))
    except (IndexError, ValueError):
        return None
    return LoadReport(figures.get(_APPLICATION, 0.0), figures.get(_RPS, 0.0), figures.get(_EPS, 0.0), named)


def _number(value: bytes) -> float:
    number: float = _DOUBLE.unpack(value)[0]
    if not math.isfinite(number) or number < 0:
        raise ValueError("not a figure of a load")
    return number


def _fields(data: bytes) -> list[tuple[int, int, bytes]]:
    """Number, wire type and bytes of each field; the bytes of a varint are left empty."""
    fields = []
    position, end = 0, len(data)
    while position < end:
        tag, position = read_varint(data, position)
        number, kind = tag >> 3, tag & 7
        size = 0
        if kind == _VARINT:
            _, position = read_varint(data, position)
        elif kind == _BYTES:
            size, position = read_varint(data, position)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if number == 0 or position + size > end:
            raise ValueError("the message is cut off")
        fields.append((number, kind, data[position : position + size]))
        position += size
    return fields
