"""An exchange's priority: what the caller says, wherever it says it."""

from __future__ import annotations

import pytest

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.type.v1 import priority_pb2
from meshcast.gateway import Backend, RouteSettings
from meshcast.gateway.contracts import Contracts
from meshcast.gateway.exchange import Exchange, Priority
from meshcast.gateway.forwarding import Metadata
from meshcast.gateway.policy import MethodPolicy, Tries

SERVICE = "meshcast.api.predictor.v1.PredictorService"


def exchange(method: str, request: bytes, metadata: Metadata = ()) -> Exchange:
    contract = (Contracts().methods(SERVICE) or {})[f"/{SERVICE}/{method}"]
    policy = MethodPolicy(contract=contract, tries=Tries.ONCE, deadline_s=1.0)
    return Exchange(policy, Backend("predictor", RouteSettings()), request, metadata, 0.0, 1.0, 0)


def test_the_numbers_are_those_of_the_contract() -> None:
    assert {f"PRIORITY_{each.name}": each.value for each in Priority} == {
        name: number for name, number in priority_pb2.Priority.items() if number
    }


@pytest.mark.parametrize("priority", [*Priority])
def test_the_request_says_it(priority: Priority) -> None:
    request = pb.PredictEngagementRequest(request_id="one", channel="fox", priority=priority.value)  # type: ignore[arg-type]
    assert exchange("PredictEngagement", request.SerializeToString()).priority is priority


def test_the_metadata_says_it_first() -> None:
    request = pb.PredictEngagementRequest(priority=priority_pb2.PRIORITY_HIGH).SerializeToString()
    assert exchange("PredictEngagement", request, (("meshcast-priority", "low"),)).priority is Priority.LOW


@pytest.mark.parametrize("value", ["urgent", b"high", ""])
def test_what_is_no_priority_counts_as_normal(value: str | bytes) -> None:
    assert exchange("ReadPrediction", b"", (("meshcast-priority", value),)).priority is Priority.NORMAL
    assert exchange("PredictEngagement", b"\x38\x63").priority is Priority.NORMAL


def test_a_method_without_the_field_is_normal() -> None:
    assert exchange("ReadPrediction", b"\x38\x01").priority is Priority.NORMAL
