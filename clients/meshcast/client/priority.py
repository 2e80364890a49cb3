"""Priorities: which rows go first when a queue holds more than a batch."""

from collections.abc import Mapping
from typing import Literal

from meshcast.api.type.v1 import priority_pb2

Priority = Literal["high", "normal", "low"]
"""Which rows go first when the queue holds more than a batch: `high` where a person waits, `low` for bulk work."""

PRIORITIES: Mapping[str, priority_pb2.Priority.ValueType] = {
    "high": priority_pb2.PRIORITY_HIGH,
    "normal": priority_pb2.PRIORITY_NORMAL,
    "low": priority_pb2.PRIORITY_LOW,
}
