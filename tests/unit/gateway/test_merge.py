"""Merging: the parts of a composite answer, and its summary."""

from __future__ import annotations

import pytest

from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.api.type.v1.receipt_pb2 import GatewayReceipt, Receipt
from meshcast.gateway.merge import failed_part, summary, wanted_parts
from meshcast.gateway.parts import BY_PART, PARTS
from meshcast.rpc import InvalidInput, NotReady


def test_no_named_part_means_all() -> None:
    assert wanted_parts(pb.PredictComprehensiveRequest()) == PARTS


def test_a_part_named_twice_is_asked_once() -> None:
    request = pb.PredictComprehensiveRequest(parts=[pb.PART_DRIFT, pb.PART_ENGAGEMENT, pb.PART_DRIFT])
    assert wanted_parts(request) == (pb.PART_DRIFT, pb.PART_ENGAGEMENT)


def test_a_part_that_does_not_exist_is_named() -> None:
    request = pb.PredictComprehensiveRequest()
    request.parts.extend([pb.PART_DRIFT, pb.PART_UNSPECIFIED])
    with pytest.raises(InvalidInput) as caught:
        wanted_parts(request)
    assert [violation.field for violation in caught.value.violations] == ["parts[1]"]


def test_the_summary_says_what_became_of_each_part() -> None:
    parts = [
        failed_part(pb.PART_GROWTH, NotReady("growth is not part of this mesh"), Receipt()),
        BY_PART[pb.PART_ENGAGEMENT].answer(b"", Receipt()),
    ]
    message = summary(parts, elapsed_s=0.25, attempts=1)
    assert message.summary.answered == [pb.PART_ENGAGEMENT]
    assert message.summary.failed == [pb.PART_GROWTH]
    assert message.summary.elapsed_us == message.receipt.gateway.elapsed_us == 250_000
    assert message.receipt.gateway.degraded
    assert message.part == pb.PART_UNSPECIFIED


@pytest.mark.parametrize("is_degraded", [False, True])
def test_the_summary_says_that_a_part_is_degraded(is_degraded: bool) -> None:
    receipt = Receipt(gateway=GatewayReceipt(degraded=is_degraded), notes=["version 2 answered"])
    message = summary([BY_PART[pb.PART_ENGAGEMENT].answer(b"", receipt)], elapsed_s=0.25, attempts=1)
    assert message.summary.answered == [pb.PART_ENGAGEMENT]
    assert message.receipt.gateway.degraded is is_degraded
    assert message.receipt.notes == ["engagement: version 2 answered"] * is_degraded
